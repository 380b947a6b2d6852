"""Rotation of keys under load, each make-before-break and resumable: the next key is on disk before anybody hears of it.

    transport   second endpoint of the same ROUTER --> binding --> HELLO to every peer, both directions anew --> old endpoint goes
    identity    next key, the old one's word for it --> certificate --> shown to every peer --> row, door and journal go on under it
    issuer      next key --> certificate by the root (here, or asked for) --> in use
    root        amendment: old and new --> issuers get certificates by the new --> `finish`: amendment: new alone

Invariant: nothing is signed with a key, and nothing of the old is taken away, before every linked peer has answered that it knows the new
one, or `GRACE_S` is over; old keys are believed for a while (`Keyring`). A peer that did not answer loses its link and is met again at the
door. Saying a rotation again after a crash completes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from mesh.core.inputs import Audit, KeyReplaced, RowChanged
from mesh.errors import Refused
from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.runtime import clock
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.trust.authority import Authority
from mesh.runtime.trust.identity import chain_of_node, make_binding, past_keys, replace_identity
from mesh.runtime.trust.keyfiles import TRANSPORT, adopt_key, prepare_key, read_key
from mesh.runtime.trust.succession import amend_root, finish_root, replace_home_key, replace_issuer_key
from mesh.wire.chain import Chain
from mesh.wire.objects import Signer, node_id

if TYPE_CHECKING:
    from mesh.runtime.app import NodeProcess

GRACE_S = 5.0
"""How long peers have to answer: more than it takes to time out once at a door."""
Document = dict[str, Any]


class Rotation:
    """Of one node. One rotation at a time; each returns what it did, for people."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self._busy = anyio.Lock()

    async def rotate(self, what: str, *, finish: bool = False) -> Document:
        """Rotate ``transport``, ``identity``, ``issuer``, ``home`` or ``root``. Raises Refused, MeshError."""
        acts = {
            "transport": self._transport,
            "identity": self._identity,
            "issuer": self._issuer,
            "home": self._home,
            "root": self._finish_root if finish else self._root,
        }
        async with self._busy:
            done = await acts[what]()
        process = self._process
        if "unchanged" not in done:
            process.driver.tell(process.identity.node, Audit("rotated", what, process.identity.node, str(done.get("note", ""))))
        return {"schema": "mesh.rotate/1", "rotated": what, **done}

    # ---- transport

    async def _transport(self) -> Document:
        process, folder, identity = self._process, self._process.folder, self._process.identity
        listening = process.listening
        if listening.sockets.statistics() is None:
            raise Refused("nothing is encrypted here", fix="remove plain from config.toml", code="plain")
        fresh = CurveKey.of(await anyio.to_thread.run_sync(prepare_key, folder.transport_path, TRANSPORT))
        old, old_address = identity.curve, listening.receiver.address
        address = listening.add_router(fresh)
        await anyio.to_thread.run_sync(adopt_key, folder.transport_path)
        listening.sockets.rekey(fresh)
        identity.curve = fresh
        identity.binding = make_binding(folder, identity.signer, fresh, identity.binding.body.seq)
        process.driver.tell(identity.node, RowChanged(router=address))
        moved, late = await self._tell_all(process.links.renew)
        listening.receiver.drop_endpoint(old_address)
        return {"note": f"{old.public.hex()[:8]} to {fresh.public.hex()[:8]}", "moved": moved, "late": late}

    async def _tell_all(self, tell: Callable[[NodeId], Awaitable[bool]]) -> tuple[list[str], list[str]]:
        """`tell` every linked peer, all at once. Names of those who knew it within the grace, and of those who did not."""
        directory, links = self._process.assembly.directory, self._process.links
        peers = [row.node for row in directory.rows() if row.linked and row.node != directory.me]
        moved: list[NodeId] = []

        async def one(peer: NodeId) -> None:
            if await tell(peer):
                moved.append(peer)

        with anyio.move_on_after(GRACE_S):
            async with anyio.create_task_group() as tasks:
                for peer in peers:
                    tasks.start_soon(one, peer)
        late = [peer for peer in peers if peer not in moved]
        for peer in late:
            links.lose(peer)
        return [directory.name_of(peer) for peer in moved], [directory.name_of(peer) for peer in late]

    # ---- identity

    async def _identity(self) -> Document:
        process, folder, identity = self._process, self._process.folder, self._process.identity
        old = identity.signer.public_key
        seed = await anyio.to_thread.run_sync(replace_identity, folder)
        chain = await anyio.to_thread.run_sync(chain_of_node, folder, identity.credentials)
        row = self._row_under(seed, chain.raw)
        moved, late = await self._tell_all(lambda peer: process.links.introduce(peer, row))
        self._sign_with(seed, chain)
        return {"note": f"{old.hex()[:8]} to {identity.signer.public_key.hex()[:8]}", "moved": moved, "late": late}

    def _row_under(self, seed: bytes, chain: bytes) -> Signed:
        """The own row of today with another chain, signed with the key that the chain is for."""
        own, identity = self._process.assembly.membership.own, self._process.identity
        row = Signed(identity.node, replace(own.body, version=0, offers=(), certificate=chain))
        Signer(identity.node, seed, identity.signer.mesh).seal(row)
        return row

    def _sign_with(self, seed: bytes, chain: Chain) -> None:
        """Everything of this node is signed with the new key from now on: in one piece, nothing else comes in between."""
        process, folder, identity = self._process, self._process.folder, self._process.identity
        past = past_keys(folder)
        process.store.rekey(seed)
        process.driver.tell(identity.node, KeyReplaced(past[-1].old, past[-1].new, past[-1].proof, clock.wall_ms()))
        identity.signer.rekey(seed)
        identity.seed, identity.past = seed, past
        identity.chain, identity.serial, identity.expires_ms = chain.raw, chain.last.serial, chain.expires_ms
        identity.keyring.introduce(chain.raw, recalled=True)
        identity.binding = make_binding(folder, identity.signer, identity.curve, identity.binding.body.seq)
        process.renew_door_keys()
        process.driver.tell(identity.node, RowChanged(certificate=chain.raw))

    # ---- home and issuer

    async def _home(self) -> Document:
        process = self._process
        credentials = process.identity.credentials
        if credentials.mode == "open":  # a node's deed names its home by the first key, under which alone an open home can join a mesh
            raise Refused("this mesh is open: its keys are throw-away", fix="mesh init, or mesh join TOKEN", code="open_mesh")
        if not Authority(credentials).can_admit:
            self._ask(home_seed=await anyio.to_thread.run_sync(prepare_key, credentials.paths.home_key))
            return {"note": "asked a member that may issue", "pending": True}
        public = await anyio.to_thread.run_sync(replace_home_key, process.folder.home)
        await process.warden.take_into_use()
        return {"note": public.hex()[:8]}

    async def _issuer(self) -> Document:
        process = self._process
        credentials = process.identity.credentials
        path = credentials.paths.issuer_key
        if read_key(path) is None:
            raise Refused("this machine admits nobody, so it has no issuer's key", fix="mesh grant issuer NODE, where the mesh was made")
        if not Authority(credentials).can_make_issuers:
            self._ask(issuer_seed=await anyio.to_thread.run_sync(prepare_key, path), from_others=True)
            return {"note": "asked a member that holds the root key", "pending": True}
        public = await anyio.to_thread.run_sync(replace_issuer_key, process.folder.home)
        await process.warden.renew_self()
        return {"note": public.hex()[:8]}

    def _ask(self, **words: Any) -> None:
        """Raises Refused if nobody can be asked. The next key stays prepared."""
        warden = self._process.warden
        if not warden.renew(**words):
            raise Refused(f"not rotated: {warden.renewal}", fix="mesh nodes: wait until one is linked, then this again", code="no_issuer")

    # ---- root

    async def _root(self) -> Document:
        """The next root key counts beside the one of today; this home's issuer gets a certificate by it."""
        signed = await anyio.to_thread.run_sync(amend_root, self._process.folder.home)
        self._process.proclaim(signed)
        await self._process.warden.renew_self()
        return {"note": "old and new count; when every issuer has moved: mesh rotate root --finish", "late": self._under_old_roots()}

    def _under_old_roots(self) -> list[str]:
        """Members whose chain still begins under a root key other than the newest."""
        identity = self._process.identity
        authorities = identity.keyring.authorities
        newest = node_id(authorities.roots[-1])
        directory = self._process.assembly.directory
        members = identity.keyring.members()
        return sorted(directory.name_of(one.node) for one in members if authorities.chains.root_of(one.chain) != newest)

    async def _finish_root(self) -> Document:
        if late := self._under_old_roots():
            raise Refused(
                f"the old root key is still in use by {', '.join(late)}",
                fix="mesh rotate issuer, on those that admit; then this again",
                code="in_use",
            )
        signed = await anyio.to_thread.run_sync(finish_root, self._process.folder.home)
        if signed is None:
            return {"note": "one root key counts already", "unchanged": True}
        self._process.proclaim(signed)
        return {"note": "the old root key counts no more"}
