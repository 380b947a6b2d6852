"""Who lets homes in: answers `Join` and `Ask` at the door, renews certificates of members, and keeps the list of whom it admitted.

    Join + proof of an open invitation --> admission             Ask --(a person compares the code: `confirm`)--> admission
    Renewal of a member's home         --> new certificates

Invariant: an admission leaves only after it is on disk who got it, and never grants more than this home's issuer may. Strangers are told
one word. Blocking (files, signatures): call it in a thread; one lock makes its acts one after the other.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesh.errors import MeshError, Refused
from mesh.ids import NodeId
from mesh.messages.enrol import Admission, Ask, Join
from mesh.messages.policy import Policy
from mesh.runtime.home import HomeError, read_private, write_atomic
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.invites import Invites
from mesh.wire.enrolment import open_renewal, open_request, pack_admission
from mesh.wire.packing import Refusal
from mesh.wire.token import Token, code, proof, same

ASKS_MAX = 32
ASK_LIFE_MS = 600_000
ASK_SILENT_MS = 15_000
"""Who asks says so again every second or two: who has been silent for so long has given up, and is shown to nobody any more."""
ADMITTED_BYTES_MAX = 4 * 1024 * 1024
Audit = Callable[[str, str, str], None]
"""``(what, about, note)``."""


@dataclass(slots=True)
class Waiting:
    """A home that asks to be let in without a token. `grant` is set when a person has said yes."""

    home: NodeId
    ask: Ask
    code: str
    at_ms: int
    heard_ms: int
    grant: Grant | None = None
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class RegistrarStatistics:
    admitted: int
    renewed: int
    asks: int
    refusals: dict[str, int]


class Registrar:
    """Of one node. `doors()` are addresses where members are met; `door_key()` the node's own public key, which its TLS shows."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        door_key: Callable[[], bytes],
        doors: Callable[[], tuple[str, ...]],
        wall_ms: Callable[[], int],
        audit: Audit,
    ) -> None:
        self._credentials, self._door_key, self._doors, self._wall_ms, self._audit = credentials, door_key, doors, wall_ms, audit
        self._lock = threading.Lock()
        self._asks: OrderedDict[NodeId, Waiting] = OrderedDict()
        self._admitted = self._renewed = 0
        self.refusals: Counter[str] = Counter()

    # ---- people

    def invite(self, grant: Grant, life_ms: int, issuer: str) -> tuple[str, int]:
        """A token and when it expires (Unix ms). Raises Refused: nobody is admitted here, or not so widely; HomeError."""
        with self._lock:
            credentials = self._credentials()
            if credentials.mode == "open":
                raise Refused("this mesh is open: it stays on this machine and invites nobody", fix="mesh init", code="open_mesh")
            authority = Authority(credentials, self._wall_ms)
            if issuer == "yes" and not authority.can_make_issuers:
                raise Refused("issuers are made only where the root key is", fix="mesh invite, without --issuer", code="no_root")
            authority.admit("probe", credentials.home_key, "probe", grant)  # raises if that is more than may be given
            with credentials.home.lock():
                made = Invites(credentials.paths, self._wall_ms).make(grant, life_ms, issuer)
            token = Token(
                credentials.mesh,
                self._door_key(),
                self._doors()[:1],
                bytes.fromhex(made.invite),
                bytes.fromhex(made.secret),
                made.expires_ms,
            )
            self._audit("invited", made.invite, f"roles {', '.join(grant.roles)}")
            return token.encode(), made.expires_ms

    def waiting(self) -> list[Waiting]:
        """Homes that ask to be let in now, and that nobody has said yes to yet."""
        with self._lock:
            self._forget_old()
            return [one for one in self._asks.values() if one.grant is None]

    def confirm(self, said: str, grant: Grant) -> Waiting:
        """Let in the home that shows this code. Raises Refused if none does."""
        with self._lock:
            self._forget_old()
            wanted = said.strip().lower()
            found = next((one for one in self._asks.values() if one.code == wanted), None)
            if found is None:
                raise Refused(f"nobody who asks to join shows the code {said!r}", fix="mesh trust", code="no_such_code")
            found.grant = grant
            return found

    # ---- at the door

    def answer(self, frame: bytes) -> bytes:
        """The admission for a `Join` or `Ask`. Raises Refusal: ``expired``, ``used``, ``unknown_invite``, ``bad_proof``, ``wait``,
        ``no_issuer``, and those of `open_request`."""
        with self._lock:
            try:
                credentials = self._credentials()
                request = open_request(frame, credentials.mesh)
                if isinstance(request.body, Join):
                    return self._join(credentials, request.author, request.body)
                return self._ask(credentials, request.author, request.body)
            except Refusal as refusal:
                if refusal.reason != "wait":
                    self.refusals[refusal.reason] += 1
                raise
            except MeshError as error:
                self.refusals[error.code] += 1
                raise Refusal(error.code if error.code.isidentifier() else "failed") from error

    def _join(self, credentials: Credentials, home: NodeId, join: Join) -> bytes:
        if join.mesh != credentials.mesh:
            raise Refusal("other_mesh", home)
        invites = Invites(credentials.paths, self._wall_ms)
        with credentials.home.lock():
            invite = invites.find(join.invite)
            if invite is None:
                raise Refusal("unknown_invite", home)
            if invite.used_by and invite.used_by != home:
                raise Refusal("used", home)
            if not invite.used_by:  # who used it needs no secret to get his answer again: he signs with his home's key
                if not same(proof(bytes.fromhex(invite.secret), self._door_key(), join), join.proof):
                    raise Refusal("bad_proof", home)
                if self._wall_ms() > invite.expires_ms:
                    raise Refusal("expired", home)
                chain, own_issuer = self._admit(credentials, home, join, invite.grant, invite.issuer)
                invites.use(invite, home, chain, own_issuer)
                self._audit("joined", home, f"{join.name}, by invitation {invite.invite}")
            return self._admission(credentials, bytes.fromhex(invite.chain), bytes.fromhex(invite.own_issuer))

    def _ask(self, credentials: Credentials, home: NodeId, ask: Ask) -> bytes:
        if credentials.mode == "open" or not Authority(credentials, self._wall_ms).can_admit:
            raise Refusal("no_issuer", home)
        self._forget_old()
        waiting = self._asks.get(home)
        if waiting is None or waiting.ask.nonce != ask.nonce:
            if waiting is None and len(self._asks) >= ASKS_MAX:
                raise Refusal("busy", home)
            now_ms = self._wall_ms()
            self._asks[home] = Waiting(home, ask, code(self._door_key(), ask.home_key, ask.nonce), now_ms, now_ms)
            raise Refusal("wait", home)
        waiting.heard_ms = self._wall_ms()
        if waiting.grant is None:
            raise Refusal("wait", home)
        if not waiting.answer:
            with credentials.home.lock():
                chain, own_issuer = self._admit(credentials, home, ask, waiting.grant, "auto")
            waiting.answer = self._admission(credentials, chain, own_issuer)
            self._audit("joined", home, f"{ask.name}, by code")
        return waiting.answer

    def _forget_old(self) -> None:
        now_ms = self._wall_ms()
        for home, one in list(self._asks.items()):
            if now_ms - one.at_ms > ASK_LIFE_MS or (one.grant is None and now_ms - one.heard_ms > ASK_SILENT_MS):
                del self._asks[home]

    def _admit(self, credentials: Credentials, home: NodeId, who: Join | Ask, grant: Grant, issuer: str) -> tuple[bytes, bytes]:
        authority = Authority(credentials, self._wall_ms)
        if credentials.authorities.revocation_of(("", home)) is not None:
            raise Refusal("revoked", home)
        admitted = self._list(credentials)
        others = any(one["issuer"] for who, one in admitted.items() if who != home)  # a crash may have come after its own row
        wanted = issuer == "yes" or (issuer == "auto" and not others and "member" in grant.roles)
        own_issuer = b""
        if wanted and who.issuer_key and authority.can_make_issuers:
            own_issuer = authority.certify_issuer(who.issuer_key, who.name)
            grant = Grant((*grant.roles, ISSUER_ROLE), grant.offers, grant.requests)
        chain = authority.admit(home, who.home_key, who.name, grant)
        row = {"name": who.name, "issuer": bool(own_issuer), "issuer_key": who.issuer_key.hex(), "at_ms": self._wall_ms()}
        row |= {"roles": list(grant.roles), "offers": list(grant.offers), "requests": list(grant.requests)}
        self._keep(credentials, admitted | {home: row})
        self._admitted += 1
        return chain, own_issuer

    def _admission(self, credentials: Credentials, chain: bytes, own_issuer: bytes) -> bytes:
        said = credentials.authorities.statements()
        statements = tuple(signed.raw for signed in said if not isinstance(signed.body, Policy))  # those come with the first link
        return pack_admission(
            Admission(credentials.genesis.raw, statements, chain, own_issuer, credentials.discovery_key, self._doors()[:8])
        )

    # ---- members

    def renew(self, raw: bytes, home: NodeId, chain: bytes) -> tuple[bytes, bytes]:
        """New certificates for a member's home, whose chain of today is `chain`: ``(chain, issuer)``. Nothing is widened.

        Raises Refusal, also ``no_issuer`` and ``revoked``; MeshError.
        """
        with self._lock:
            credentials = self._credentials()
            authorities = credentials.authorities
            known = authorities.chains.read(chain)
            today = known.certificates[1]
            if authorities.revocation_of(known.subjects) is not None:
                raise Refusal("revoked", home)
            renewal = open_renewal(raw, credentials.mesh, home, today.key)
            authority = Authority(credentials, self._wall_ms)
            grant = Grant(today.roles, today.offers, today.requests)
            own_issuer = b""
            if ISSUER_ROLE in today.roles and renewal.issuer_key and authority.can_make_issuers:
                own_issuer = authority.certify_issuer(renewal.issuer_key, today.name)
                self._remember_key(credentials, home, today.name, renewal.issuer_key)
            fresh = authority.admit(home, renewal.home_key, today.name, grant)
            self._renewed += 1
            return fresh, own_issuer

    def grant_issuer(self, home: NodeId, chain: bytes) -> tuple[bytes, bytes]:
        """Certificates that make a member's home an issuer. Raises Refused: not where the root key is, or its issuer key is not known."""
        with self._lock:
            credentials = self._credentials()
            authority = Authority(credentials, self._wall_ms)
            today = credentials.authorities.chains.read(chain).certificates[1]
            admitted = self._list(credentials)
            key = bytes.fromhex(admitted.get(home, {}).get("issuer_key", ""))
            if not key:
                raise Refused(f"{today.name} was admitted elsewhere, so its issuer key is not known here", fix="mesh invite --issuer")
            own_issuer = authority.certify_issuer(key, today.name)
            roles = tuple(dict.fromkeys((*today.roles, ISSUER_ROLE)))
            fresh = authority.admit(home, today.key, today.name, Grant(roles, today.offers, today.requests))
            self._keep(credentials, admitted | {home: admitted[home] | {"issuer": True, "roles": list(roles)}})
            self._audit("role_used", home, "granted issuer")
            return fresh, own_issuer

    # ---- the list

    def issuer_keys(self, credentials: Credentials, home: NodeId) -> list[bytes]:
        """Every issuer's key that was certified here for the home."""
        row = self._list(credentials).get(home, {})
        first = [row["issuer_key"]] if row.get("issuer") and row.get("issuer_key") else []
        return [bytes.fromhex(key) for key in dict.fromkeys((*first, *row.get("issuer_keys", ())))]

    def _remember_key(self, credentials: Credentials, home: NodeId, name: str, key: bytes) -> None:
        homes = self._list(credentials)
        row = homes.setdefault(home, {"name": name, "issuer": True, "issuer_key": key.hex(), "roles": [], "offers": [], "requests": []})
        row["issuer_keys"] = list(dict.fromkeys((*row.get("issuer_keys", ()), key.hex())))
        self._keep(credentials, homes)

    def _list(self, credentials: Credentials) -> dict[str, dict[str, Any]]:
        path = credentials.paths.admitted
        raw = read_private(path, ADMITTED_BYTES_MAX)
        try:
            found = json.loads(raw)["homes"] if raw is not None else {}
        except (ValueError, KeyError, TypeError) as error:
            raise HomeError(f"{path} is damaged: {error}", fix=f"remove {path}: who was admitted stays a member") from None
        return dict(found)

    def _keep(self, credentials: Credentials, homes: dict[str, dict[str, Any]]) -> None:
        write_atomic(credentials.paths.admitted, json.dumps({"homes": homes}, indent=1).encode())

    def statistics(self) -> RegistrarStatistics:
        return RegistrarStatistics(self._admitted, self._renewed, len(self._asks), dict(self.refusals))
