"""What the owner of a node asks it over the local socket about trust: invite, let in, revoke, grant, rotate, and look.

Invariant: only the node's own account reaches this (`local.py`); every act is a line in the journal. Waits for disks in threads, never on
the loop.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mesh.errors import Refused, UsageError
from mesh.ids import begins
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Granted, Revocation
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.registrar import Waiting
from mesh.wire.authorization import ROLES
from mesh.wire.chain import Chain, join_chain, split_chain
from mesh.wire.keyring import Member
from mesh.wire.packing import Refusal
from mesh.wire.patterns import is_pattern

if TYPE_CHECKING:
    from mesh.runtime.app import NodeProcess

Document = dict[str, Any]
INVITE_LIFE_MAX_S = 30 * 86400.0
ROTATED = ("transport", "identity", "home", "issuer", "root")


class Office:
    """`table` maps a verb of the local socket to the coroutine function that answers it."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self.table = {
            "invite": self.invite,
            "trust": self.trust,
            "admit": self.admit,
            "revoke": self.revoke,
            "grant": self.grant,
            "rotate": self.rotate,
            "restart": self.restart,
        }

    # ---- letting in

    def _stand(self) -> None:
        """Raises Refused if this node was revoked: what it says counts nowhere."""
        identity = self._process.identity
        subjects = (*identity.credentials.chain.subjects, identity.node)
        if identity.keyring.authorities.revocation_of(subjects) is not None:
            raise Refused("this node was revoked: what it says counts nowhere", fix="mesh status", code="revoked")

    async def invite(self, params: Document) -> Document:
        self._stand()
        life_s = _number(params, "life_s", 900.0)
        if not 0 < life_s <= INVITE_LIFE_MAX_S:
            raise UsageError(f"an invitation lasts at most {INVITE_LIFE_MAX_S / 86400:g} days", fix="mesh invite --ttl 15m")
        issuer = params.get("issuer", "auto")
        if issuer not in ("auto", "yes", "no"):
            raise UsageError(f"issuer is auto, yes or no, not {issuer!r}", fix="mesh invite --issuer")
        grant, registrar = _grant(params), self._process.registrar
        if issuer == "yes" and "member" not in grant.roles:
            raise UsageError("who admits others is a member itself", fix="mesh invite --issuer --role member")
        token, expires_ms = await anyio.to_thread.run_sync(lambda: registrar.invite(grant, int(life_s * 1000), issuer))
        return {"schema": "mesh.invite/1", "token": token, "expires": _stamp(expires_ms), "roles": list(grant.roles)}

    async def admit(self, params: Document) -> Document:
        self._stand()
        grant, code, registrar = _grant(params), str(params.get("code", "")), self._process.registrar
        waiting: Waiting = await anyio.to_thread.run_sync(lambda: registrar.confirm(code, grant))
        return {"schema": "mesh.trust/1", "admitted": waiting.ask.name, "home": waiting.home, "code": waiting.code}

    # ---- looking

    async def trust(self, _: Document) -> Document:
        process, identity = self._process, self._process.identity
        credentials, keyring = identity.credentials, identity.keyring
        directory = process.assembly.directory
        waiting = await anyio.to_thread.run_sync(process.registrar.waiting)
        return {
            "schema": "mesh.trust/1",
            "mesh": credentials.mesh,
            "name": credentials.name,
            "mode": credentials.mode,
            "home": credentials.home_id,
            "admits": Authority(credentials).can_admit,
            "root": Authority(credentials).can_make_issuers,
            "members": [self._member(member, directory.name_of(member.node)) for member in keyring.members()],
            "waiting": [{"name": one.ask.name, "home": one.home, "code": one.code} for one in waiting],
            "revoked": [
                {"name": signed.body.name, "id": signed.body.target, "level": signed.body.level, "reason": signed.body.reason}
                for signed in keyring.authorities.statements()
                if hasattr(signed.body, "target")
            ],
        }

    @staticmethod
    def _member(member: Member, name: str) -> Document:
        return {
            "name": name,
            "id": member.node,
            "home": member.home,
            "home_name": member.home_name,
            "roles": list(member.rights.roles),
            "offers": list(member.rights.offers),
            "requests": list(member.rights.requests),
            "expires": _stamp(member.expires_ms),
        }

    # ---- taking back, and giving

    async def revoke(self, params: Document) -> Document:
        who = str(params.get("who", ""))
        chain = self._whom(who, params.get("home"))
        self._meant(chain, who, params.get("home"))
        reason = str(params.get("reason", ""))[:200]
        statements = await anyio.to_thread.run_sync(self._revoke_now, chain, reason)
        issuers = [signed.body.target for signed in statements if signed.body.level == ISSUER]
        names = self._process.assembly.directory.name_of
        also = [names(member.node) for member in self._process.identity.keyring.members() if member.issuer in issuers]
        for signed in statements:
            self._process.proclaim(signed)
        target = chain.last
        document: Document = {"schema": "mesh.revoke/1", "revoked": target.name, "id": target.subject, "level": target.level}
        document |= {"by": statements[0].author, "issuers": len(issuers), "also": also}
        if target.level == NODE:
            document["home"] = chain.subjects[1]  # is believed as before, and may start other nodes
        return document

    def _whom(self, who: str, home: object) -> Chain:
        """The chain to end. By default a machine goes as a whole, and of this home's own nodes the one that was named."""
        chain = self._chain_of(who, HOME)
        is_own = chain.last.subject == self._process.identity.credentials.home_id
        return chain if home or (home is None and not is_own) else self._chain_of(who, NODE)

    def _meant(self, chain: Chain, who: str, home: object) -> None:
        """Raises Refused where the very node that is asked would go, and nobody said so in so many words: there is no way back."""
        identity = self._process.identity
        if identity.credentials.mode == "open":
            raise Refused("an open mesh stays on this machine: nobody is kept out of it", fix="mesh down --node NAME", code="open_mesh")
        own = chain.last.subject in (identity.node, identity.credentials.home_id)
        if own and home is None:
            what = f"{who} is this node itself: once revoked, nobody believes it again"
            raise Refused(what, fix=f"ask another node, or, if it is meant: mesh revoke {who} --only-node", code="own_node")

    def _revoke_now(self, chain: Chain, reason: str) -> list[Signed]:
        """A home goes with every issuer's key that it was given here: who has them could let anybody in again."""
        process = self._process
        with process.folder.home.lock():
            credentials = process.fresh_credentials()
            authority = Authority(credentials)
            keys = process.registrar.issuer_keys(credentials, chain.last.subject) if chain.last.level == HOME else []
            said = [authority.revoke(chain, reason)]
            if authority.can_make_issuers:
                said += [authority.revoke_issuer(key, chain.last.name, reason) for key in keys]
            return said

    async def grant(self, params: Document) -> Document:
        self._stand()
        if params.get("right") != ISSUER_ROLE:
            raise UsageError(f"what can be granted is 'issuer', not {params.get('right')!r}", fix="mesh grant issuer NODE")
        chain = self._chain_of(str(params.get("who", "")), HOME)
        home, process = chain.last.subject, self._process
        if home == process.identity.credentials.home_id and Authority(process.identity.credentials).can_admit:
            raise Refused("this machine admits members already", fix="mesh trust", code="issuer_already")
        fresh, issuer = await anyio.to_thread.run_sync(process.registrar.grant_issuer, home, chain.raw)
        told = [member.node for member in process.identity.keyring.members() if member.home == home and process.links.is_up(member.node)]
        if not told:
            raise Refused(f"no node of {chain.last.name} is linked now, so it cannot be told", fix="mesh nodes, then this again")
        for node in told:
            process.links.say(node, Granted(fresh, issuer))
        names = ", ".join(process.assembly.directory.name_of(node) for node in told)
        return {"schema": "mesh.grant/1", "granted": ISSUER_ROLE, "to": names, "home": home}

    def _chain_of(self, who: str, level: str) -> Chain:
        """The chain of the node (or its home) that people call `who`: a node's name, its home's, or the beginning of an id
        (6 characters or more).

        The home of a node that was revoked is found too. Raises Refused, UsageError.
        """
        chains = self._process.identity.keyring.authorities.chains
        try:
            found = [chains.read(member.chain) for member in self._called(who)]
        except Refusal as refusal:
            what = f"the certificate of {who} holds no more ({refusal.reason}): nobody new believes it"
            raise Refused(what, fix="mesh trust", code=refusal.reason) from None
        if level == HOME:
            found = found or self._revoked_as(who)
            found = list({chain.subjects[1]: chains.read(join_chain(split_chain(chain.raw)[:2])) for chain in found}.values())
        if not found:
            raise Refused(f"no member is called {who!r}", fix="mesh trust", code="no_such_member")
        if len(found) > 1:
            raise UsageError(f"{who!r} could be any of {len(found)} members", fix="give its whole id: mesh trust --json")
        return found[0]

    def _called(self, who: str) -> list[Member]:
        known, name_of = self._process.identity.keyring.members(), self._process.assembly.directory.name_of
        if found := [member for member in known if who in (member.node, member.home)]:
            return found
        named = [member for member in known if who and name_of(member.node) == who]
        named = named or [member for member in known if who and member.home_name == who]
        # Also whose id begins so: a name may be chosen to look like an id.
        return [member for member in known if member in named or begins(member.node, who) or begins(member.home, who)]

    def _revoked_as(self, who: str) -> list[Chain]:
        """The chains of revoked nodes that were called `who` in their revocations, or whose ids, or their homes', begin so."""
        authorities = self._process.identity.keyring.authorities
        found = []
        for signed in authorities.statements():
            said = signed.body
            if isinstance(said, Revocation) and said.level == NODE and said.certificate and who:
                with suppress(Refusal):  # its root may count no more: then its home is believed no more either
                    chain = authorities.chains.read(said.certificate)
                    if said.name == who or any(begins(one, who) for one in chain.subjects[1:]):
                        found.append(chain)
        return found

    # ---- keys, and the process

    async def rotate(self, params: Document) -> Document:
        what = params.get("what", "")
        if what not in ROTATED:
            raise UsageError(f"there is no key called {what!r}", fix=f"mesh rotate {' | '.join(ROTATED)}")
        self._stand()
        return await self._process.rotation.rotate(str(what), finish=bool(params.get("finish")))

    async def restart(self, _: Document) -> Document:
        """Begin anew under the credentials that are on disk now: the same process, another life."""
        self._process.restart()
        return {"schema": "mesh.restart/1", "node": self._process.info["name"]}


def _number(params: Document, name: str, default: float) -> float:
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} is a number", fix="mesh invite --ttl 15m")
    return float(value)


def _grant(params: Document) -> Grant:
    roles = tuple(params.get("roles") or ("member",))
    known = sorted(set(ROLES) - {ISSUER_ROLE})
    for role in roles:
        if role not in known:
            raise UsageError(f"there is no role {role!r}; there are {', '.join(known)}", fix="mesh invite --role member")
    grant = Grant(tuple(dict.fromkeys(roles)), tuple(params.get("offers") or ("*",)), tuple(params.get("requests") or ("*",)))
    for option, right, patterns in (("--offer", "offer", grant.offers), ("--request", "request", grant.requests)):
        for pattern in patterns:
            if not is_pattern(pattern):
                what = f"{option} {pattern!r} is no capability's name, nor a beginning followed by *"
                raise UsageError(what, fix=f"mesh invite {option} 'ocr.*'")
        if patterns != ("*",) and not any(right in ROLES[role] for role in roles):
            raise UsageError(f"a {' and '.join(roles)} has no use for {option}", fix=f"leave out {option}, or --role member")
    return grant


def _stamp(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_ms / 1000)) if unix_ms else ""
