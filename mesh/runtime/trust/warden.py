"""Trust, kept on one node: what the core upholds is enforced here, certificates are renewed in time, and new ones are taken into use.

    Uphold(revocation)  --> keyring, ROUTER, links, door, disk --> Outlawed for every node it concerns
    half of a certificate's life is over --> own issuer, or RenewAsk to a member that may issue --> Granted --> new chain, new row

Invariant: a statement is enforced before anything else is handled, and on disk soon after; a granted certificate counts only if it is for
this home's key and later than the one in use. Does not decide who is revoked or admitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from mesh.core.audit import Tally
from mesh.core.inputs import Audit, Outlawed, Proclaim, RowChanged
from mesh.effects import Uphold
from mesh.errors import MeshError
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.enrol import Renewal
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Granted, RenewAsk, Revocation
from mesh.runtime import clock
from mesh.runtime.home import NodeFolder, write_atomic
from mesh.runtime.links.links import Links
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.identity import Identity, chain_of_node, keep_chains
from mesh.runtime.trust.keyfiles import public_of, read_key
from mesh.runtime.trust.registrar import Registrar
from mesh.runtime.trust.succession import adopt_home_key, keep_issuer
from mesh.wire.chain import Chain, join_chain
from mesh.wire.enrolment import home_proof_bytes
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal

LOOK_EVERY_S = 30.0
"""How often certificates are looked at, and members remembered."""


@dataclass(frozen=True, slots=True)
class WardenStatistics:
    """What was not upheld, or could not be kept on disk, by reason."""

    refusals: dict[str, int]


class Warden:
    """`tell` hands an input to the node; `restart` begins its next life, under what is on disk; `wall_ms` gives Unix time."""

    def __init__(
        self,
        folder: NodeFolder,
        identity: Identity,
        links: Links,
        registrar: Registrar,
        tell: Callable[[NodeId, Any], None],
        restart: Callable[[], None],
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        self._folder, self._identity, self._links, self._registrar, self._tell = folder, identity, links, registrar, tell
        self._restart, self._wall_ms = restart, wall_ms
        self._tasks: anyio.abc.TaskGroup | None = None
        self._kept: list[bytes] = []
        self.refusals: Counter[str] = Counter()
        self.renewal = ""
        """Why the last attempt to renew failed; empty while all is well."""
        self.damage: list[MeshError] = []
        """What is wrong with the keys that lie here to admit others with."""
        self.effects: dict[type, Callable[[Any], None]] = {Uphold: self._do_uphold}
        self._tally = Tally(identity.node, RecordsLimits())
        links.noted = self._note
        links.handlers |= {RenewAsk: self._on_renew_ask, Granted: self._on_granted}

    def flush(self) -> None:
        """Nothing is collected here."""

    def statistics(self) -> WardenStatistics:
        return WardenStatistics(dict(self.refusals))

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            while True:
                await self.look()
                await anyio.to_thread.run_sync(self._keep_members)
                if self._tally.due_s is not None and clock.now_s() >= self._tally.due_s:
                    self.tell_refusals()
                await anyio.sleep(LOOK_EVERY_S)

    def proclaim_kept(self) -> None:
        """What was upheld in earlier lives is told to the core: it tells the others. After `Started`."""
        for signed in self._identity.keyring.authorities.statements():
            self._tell(self._identity.node, Proclaim(signed))

    def _note(self, reason: str, who: str) -> None:
        self._tally.note(clock.now_s(), reason, who)

    def tell_refusals(self) -> None:
        """What was refused since the last time goes on record."""
        for audit in self._tally.take():
            self._tell(self._identity.node, audit)

    # ---- statements

    def _do_uphold(self, effect: Uphold) -> None:
        signed: Signed = effect.signed
        keyring = self._identity.keyring
        try:
            keyring.authorities.open(signed.raw)
        except Refusal as refusal:
            self.refusals[refusal.reason] += 1
            return
        gone = keyring.forget_revoked()
        body = signed.body
        if isinstance(body, Revocation) and body.level == NODE and body.target not in gone:
            gone.append(body.target)
        for node in gone:
            self._links.expel(node)
            self._tell(self._identity.node, Outlawed(node, body.reason))
        self._start(self._keep_statement, signed.raw)

    async def _keep_statement(self, raw: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(self._keep_statement_now, raw)
        except (Refusal, MeshError) as error:  # said again at the next start, by whoever has it
            self.refusals["statement_not_kept"] += 1
            self.renewal = str(error)
        await self.look()

    def _keep_statement_now(self, raw: bytes) -> None:
        with self._folder.home.lock():
            credentials = Credentials(self._folder.home)
            if all(signed.raw != raw for signed in credentials.authorities.statements()):
                credentials.authorities.open(raw)
                credentials.keep_statements()
            self._identity.credentials = credentials

    def _start(self, method: Callable[..., Any], *args: Any) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(method, *args)

    # ---- members

    def _keep_members(self) -> None:
        chains = self._identity.keyring.chains()
        if chains != self._kept:
            try:
                keep_chains(self._folder, chains)
                self._kept = chains
            except MeshError:  # a cache: without it, they introduce themselves again
                self.refusals["members_not_kept"] += 1

    # ---- renewal

    async def look(self) -> None:
        """Take over what others have changed on disk, and see to it that certificates are renewed in time."""
        try:
            fresh = await anyio.to_thread.run_sync(Credentials.current, self._folder.home)
            if fresh.mesh != self._identity.credentials.mesh:  # the home has joined another mesh
                self._restart()
                return
            if fresh.chain.raw != self._identity.credentials.chain.raw:  # another node of this home has renewed
                await self.take_into_use()
            self.damage = [found for signer in (fresh.issuer_signer, fresh.root_signer) if (found := fresh.damage_of(signer))]
        except MeshError as error:
            self.renewal = error.message
            return
        except Refusal as refusal:  # this node was revoked
            self.refusals[f"own_{refusal.reason}"] += 1
            return
        if fresh.authorities.revocation_of(fresh.chain.subjects) is None:
            self._renew_if_due(fresh)

    def _renew_if_due(self, credentials: Credentials) -> None:
        """Half of a certificate's life is over, or it begins under a root key that is on its way out."""
        chain, issuer = credentials.chain, credentials.issuer_chain()
        has_root = Authority(credentials).can_make_issuers
        if not self._under_newest_root(credentials, chain):
            self.renew(from_others=not has_root)
        elif issuer is not None and self._is_due(issuer) and not has_root:
            self.renew(from_others=True)
        elif self._is_due(chain):
            self.renew()

    def _is_due(self, chain: Chain) -> bool:
        return bool(chain.expires_ms) and self._wall_ms() > (chain.begins_ms + chain.expires_ms) // 2

    @staticmethod
    def _under_newest_root(credentials: Credentials, chain: Chain) -> bool:
        authorities = credentials.authorities
        return authorities.chains.root_of(chain.raw) == authorities.root_ids[-1]

    def renew(self, *, home_seed: bytes = b"", issuer_seed: bytes = b"", from_others: bool = False) -> bool:
        """Get new certificates: from the own issuer's key, else from any linked member that may issue. Seeds: keys that are to follow those
        of today. False if there is nobody to ask."""
        if Authority(self._identity.credentials).can_admit and not from_others:
            self._start(self.renew_self)
            return True
        asked = False
        for member in self._identity.keyring.members():
            if ISSUER_ROLE in member.rights.roles and self._links.is_up(member.node):
                self._links.say(member.node, RenewAsk(self._renewal(home_seed, issuer_seed)))
                asked = True
        self.renewal = "a member that may renew has not answered yet" if asked else "no member that may renew certificates is linked"
        return asked

    async def renew_self(self) -> None:
        """New certificates for this home by its own issuer's key."""
        try:
            await anyio.to_thread.run_sync(self._renew_self_now)
            await self.take_into_use()
        except MeshError as error:
            self.renewal = error.message

    def _renew_self_now(self) -> None:
        with self._folder.home.lock():
            credentials = Credentials(self._folder.home)
            authority, today = Authority(credentials, self._wall_ms), credentials.chain.last
            if authority.can_make_issuers:
                issuer = credentials.issuer_signer()
                assert issuer is not None, "who can admit has an issuer's key"
                write_atomic(credentials.paths.issuer, authority.certify_issuer(issuer[0].public_key, today.name))
            fresh = authority.admit(credentials.home_id, credentials.home_key, today.name, Grant(today.roles, today.offers, today.requests))
            credentials.keep_chain(fresh)

    def _renewal(self, home_seed: bytes, issuer_seed: bytes) -> bytes:
        credentials = self._identity.credentials
        signer = credentials.home_signer()
        seed = issuer_seed or read_key(credentials.paths.issuer_key)
        issuer_key = public_of(seed) if seed else b""
        body = Renewal(credentials.mesh, credentials.home_id, credentials.home_key, issuer_key, b"", self._wall_ms())
        if home_seed:
            following = Signer("", home_seed, "")
            body.home_key = following.public_key
            body.home_proof = following.sign(home_proof_bytes(body))
        return signer.seal(Signed(signer.node, body))

    def _on_renew_ask(self, sender: NodeId, ask: RenewAsk) -> None:
        self._start(self._grant_renewal, sender, ask.renewal)

    async def _grant_renewal(self, sender: NodeId, renewal: bytes) -> None:
        member = self._identity.keyring.member(sender)
        if member is None:
            return
        try:
            chain, issuer = await anyio.to_thread.run_sync(self._registrar.renew, renewal, member.home, member.chain)
        except Refusal as refusal:
            self.refusals[f"renewal_{refusal.reason}"] += 1
            return
        except MeshError as error:
            self.refusals[f"renewal_{error.code}"] += 1
            return
        self._tell(self._identity.node, Audit("role_used", member.home, self._identity.node, "renewed"))
        self._links.say(sender, Granted(chain, issuer))

    # ---- new certificates

    def _on_granted(self, sender: NodeId, granted: Granted) -> None:
        self._start(self._install, sender, granted)

    async def _install(self, sender: NodeId, granted: Granted) -> None:
        try:
            await anyio.to_thread.run_sync(self._install_now, granted)
            self.renewal = ""
            self._tell(self._identity.node, Audit("renewed", self._identity.credentials.home_id, sender))
            await self.take_into_use()
        except Refusal as refusal:
            self.refusals[f"granted_{refusal.reason}"] += 1
        except MeshError as error:
            self.renewal = error.message

    def _install_now(self, granted: Granted) -> None:
        with self._folder.home.lock():
            credentials = Credentials(self._folder.home)
            fresh = credentials.authorities.chains.read(granted.chain)
            if fresh.last.subject != credentials.home_id:
                raise Refusal("not_own", fresh.last.subject)
            issuer = credentials.authorities.chains.read(join_chain((granted.issuer,))) if granted.issuer else None
            counts, issuer_counts = self._replaces(fresh, credentials.chain), self._replaces(issuer, credentials.issuer_chain())
            if not counts and not issuer_counts:
                raise Refusal("old", fresh.last.subject)
            if issuer_counts:  # whoever has the root gives it, and his answer may come after a later one of somebody else
                keep_issuer(credentials, granted.issuer)
            if counts:
                adopt_home_key(credentials, fresh)
                Credentials(self._folder.home).keep_chain(granted.chain)

    def _replaces(self, fresh: Chain | None, today: Chain | None) -> bool:
        """Whether it begins under a newer root key than the one in use, or was made later."""
        if fresh is None or today is None:
            return fresh is not None
        newest, is_later = self._identity.keyring.authorities.root_ids[-1], fresh.last.serial > today.last.serial
        roots = self._identity.keyring.authorities.chains
        return (roots.root_of(fresh.raw) == newest, is_later) > (roots.root_of(today.raw) == newest, False)

    async def take_into_use(self) -> None:
        """The home's certificates changed: a new chain for this node, and a row that shows it. Raises MeshError."""
        identity = self._identity
        identity.credentials, chain = await anyio.to_thread.run_sync(self._own_chain)
        identity.chain, identity.serial, identity.expires_ms = chain.raw, chain.last.serial, chain.expires_ms
        identity.keyring.introduce(chain.raw, recalled=True)
        self._tell(identity.node, RowChanged(certificate=chain.raw))

    def _own_chain(self) -> tuple[Credentials, Chain]:
        with self._folder.home.lock():
            credentials = Credentials(self._folder.home)
            return credentials, chain_of_node(self._folder, credentials)
