"""A node's process: everything of one node put together, started, served, and taken down in the right order.

    lock -> identity, vault -> listeners -> store (raises the incarnation) -> machines -> replay -> links, discovery, local socket -> ready

Nothing listens to clients before the journal has been replayed, and nothing leaves before the incarnation is on disk.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any

import anyio
import anyio.abc

from mesh.core.assembly import Assembly, build
from mesh.core.inputs import Audit, Found, Proclaim, Replay, Started
from mesh.core.outbox import Outbox
from mesh.core.work.contractor import ReattachOver
from mesh.ids import OURS, Fence, NodeId, TaskId
from mesh.limits import Limits
from mesh.messages.membership import Alive
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict
from mesh.runtime import clock, ended
from mesh.runtime.almanac import Almanac, CronTicks
from mesh.runtime.disk.blobs import Blobs
from mesh.runtime.disk.kek import Prompt
from mesh.runtime.disk.secrets import SecretDesk, Secrets
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_newest import Newest
from mesh.runtime.disk.vault import Vault, open_vault
from mesh.runtime.driver import Driver
from mesh.runtime.hands import Hands
from mesh.runtime.home import ASKS_AROUND, Home, HomeError, NodeFolder
from mesh.runtime.lan.blinding import Blinding
from mesh.runtime.lan.discovery import Discovery
from mesh.runtime.links.door import DoorKeys
from mesh.runtime.links.links import Links
from mesh.runtime.links.listening import Listening, listen
from mesh.runtime.links.tls import server_context
from mesh.runtime.local import LocalServer
from mesh.runtime.notices import Notices
from mesh.runtime.restored import ask_around
from mesh.runtime.settings import Place, Settings, load_settings, place, ports_taken
from mesh.runtime.sockets.addresses import split_address
from mesh.runtime.stock import Stock, StockWorkers
from mesh.runtime.trust import uninvited
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.identity import Identity, load_identity
from mesh.runtime.trust.keyfiles import Lives
from mesh.runtime.trust.office import Office
from mesh.runtime.trust.policies import PolicyDesk
from mesh.runtime.trust.registrar import Registrar
from mesh.runtime.trust.rotation import Rotation
from mesh.runtime.trust.warden import Warden
from mesh.runtime.views import Views
from mesh.runtime.workers import Workers
from mesh.wire.objects import Signer

PEERS_SAVED_EVERY_S = 5.0
KIN_EVERY_S = 1.0
COLLECT_AFTER = 20_000
"""Young objects before the collector looks: almost nothing here is in a cycle, and a look between two envelopes is a pause for all."""
UNUSED_S = 30.0
"""A node that was started for a worker waits for it so long."""
LINGER_S = 0.1
"""What was said last (LEFT, the answer to `down`) has so long to leave."""
RESTART_LINGER_S = 0.02
"""The same before another life, where only a client on this machine is to be answered."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """As the command line gives them; None and "" stand for the configuration file's word, or the default."""

    home: Path | None = None
    name: str = ""
    bind: str | None = None
    port: int | None = None
    join: tuple[str, ...] = ()
    mdns: bool | None = None
    mesh: str = ""
    while_used: bool = False
    """End when the last worker has left."""
    accept_rollback: bool = False
    """Go on with a journal that is older than what this node remembers of it."""
    prompt: Prompt | None = None
    """Asks for the passphrase, where the vault opens with one."""
    stock: tuple[Stock, ...] = ()
    """What it offers by itself, with processes that it starts when there is work for them."""
    role: tuple[str, ...] = ()
    """What it offers to be besides: ``coordinator``."""
    first_port: int = 0
    """Of the door in the life before: tried first, so that others find the node again where it was."""


async def serve(options: NodeOptions, ready: Callable[[dict[str, Any]], None]) -> NodeOptions | None:
    """Run one node until it is told to stop (`down`, SIGTERM, SIGINT). `ready` is called once it answers, with what is in ``node.json``.

    Options: it wants to begin anew, under other credentials (`mesh init`, `mesh join`): call `serve` with them.
    Raises MeshError: bad settings, a second process on this node's folder, no free port, a journal that cannot be read or written.
    """
    home = Home.locate(options.home, options.mesh)
    settings = load_settings(home, bind=options.bind, port=options.port, join=options.join, mdns=options.mdns, role=options.role)
    folder = home.node(options.name).make()
    with folder.lock():
        identity = load_identity(folder)
        vault = open_vault(home, settings.kek, prompt=options.prompt)
        if identity.credentials.mode == "open" and settings.bind and not ipaddress.ip_address(settings.bind).is_loopback:
            raise await uninvited.explain(settings.bind)
        where = place(settings, identity.credentials.mode)
        listening = await _listen(settings, where, identity, options.first_port)
        try:
            node = NodeProcess(folder, identity, vault, settings, where, listening, options)
        except BaseException as error:
            await listening.aclose()
            if isinstance(error, Exception):
                ended.note(folder, error)
            raise
        try:
            again = await node.run(ready)
        except Exception as error:
            ended.note(folder, error)
            raise
        finally:
            folder.clear_info()
            gc.unfreeze()
        _, port = split_address(listening.door_address)
        return replace(options, first_port=port) if again else None


async def _listen(settings: Settings, where: Place, identity: Identity, first_port: int) -> Listening:
    curve = None if settings.plain else identity.curve
    links = Limits().links
    try:
        return await listen(links, where.bind, settings.port or None, curve=curve, advertise=where.address, first=first_port)
    except OSError as error:
        raise ports_taken(settings.port) from error


class NodeProcess:
    """The components of one node, and their life."""

    def __init__(
        self,
        folder: NodeFolder,
        identity: Identity,
        vault: Vault,
        settings: Settings,
        where: Place,
        listening: Listening,
        options: NodeOptions,
    ) -> None:
        limits, while_used = Limits(), options.while_used
        limits = replace(limits, work=replace(limits.work, separate_duties=identity.credentials.mode == "ca"))
        self.folder, self.identity, self.listening = folder, identity, listening
        self._settings, self._where = settings, where
        self._stop = anyio.Event()
        self._restarts = self._told_to_end = False
        self._while_used = while_used
        self.keyring, self.signer = identity.keyring, identity.signer
        self.renew_door_keys()
        self.office = Office(self)
        self.vault = vault
        self.store = self._open_journal(limits, options)
        self.assembly: Assembly = build(
            self._first_row(),
            random=SystemRandom(),
            limits=limits,
            journal_seq=self.store.head_seq,
            head=self.store.head,
            begins=self.store.begins,
            cron=CronTicks(),
        )
        self.registrar = Registrar(
            self.fresh_credentials,
            lambda: self.identity.signer.public_key,
            lambda: (listening.door_address,),
            clock.wall_ms,
            lambda what, about, note: self._audit(what=what, about=about, by="", note=note),
        )
        self.links = self._make_links(limits)
        self.driver = Driver(self.assembly.node, clock.now_s, self.store, self.links, Outbox(self.store.head_seq), limits.records.company_s)
        self.links.wake, self.links.arrived = self.driver.wake, self.driver.arrived
        tell = self.driver.tell
        self.warden = Warden(folder, identity, self.links, self.registrar, tell, self.restart)
        self.rotation = Rotation(self)
        self.blobs = Blobs(folder.files_path, identity.node, tell, limits.files)
        self.hands = Hands(folder.workers_path)
        gone = self._leave if while_used else None
        self.workers = Workers(identity.node, tell, on_last_gone=gone, may_offer=identity.may_offer, comes=self.hands.add)
        self.stock = self._make_stock(options.stock)
        self.notices = Notices(settings.notify, lambda: self.assembly.manager.waiting.rows(clock.now_s()))
        self.views = Views(self)
        self.local = self._make_local(limits)
        self.discovery = self._discovery(limits)
        # In the order in which they flush: what leaves for this machine's own processes does not wait for a signature.
        almanac = Almanac(identity.node, tell, clock.wall_ms, lambda: [self.links.clocks.get(node, 0) for node in self._linked()])
        for component in (self.store, self.blobs, self.workers, self.local, self.links, self.warden, almanac):
            self.driver.add(component)

    # ---- parts

    def _first_row(self) -> Alive:
        listening, identity = self.listening, self.identity
        return Alive(
            node=identity.node,
            incarnation=self.store.incarnation,
            version=1,
            name=self.folder.name,
            door=listening.door_address,
            router=listening.router_address,
            certificate=identity.chain,
            keeps=identity.may_keep(),
        )

    def _make_links(self, limits: Limits) -> Links:
        return Links(
            self.listening,
            self.identity.signer,
            self.identity.keyring,
            lambda: self.assembly.membership.own,
            lambda: self.identity.binding,
            lambda: self._door_keys,
            limits.links,
            journal_head=lambda: self.store.durable_head,
            cert_serial=lambda: self.identity.serial,
            enrol=self.registrar.answer,
        )

    def _make_local(self, limits: Limits) -> LocalServer:
        return LocalServer(
            self.folder.make_socket_folder(),
            self.identity.node,
            self.driver.tell,
            self.workers,
            self.blobs,
            self.views.table | self.office.table | PolicyDesk(self).table | {"coordinator": self.views.coordinator},
            limits.work,
            name=self.folder.name,
            stop=self._stop.set,
            decoders={"story": self.views.story, "audit": self.views.audit},
            sources=self._linked,
            may_request=self.identity.may_request,
            may_ask=self.identity.may_ask,
            seal=self._sealed,
            secret=SecretDesk(Secrets(self.folder.home, lambda: self.vault), self._held, self._audit, self._noted, self._secret_ruled).read,
        )

    def _make_stock(self, stock: tuple[Stock, ...]) -> StockWorkers:
        """Whoever may not ask for work cannot drive any: what is in stock asks for that of others."""
        identity = self.identity
        may = lambda capability: identity.may_offer(capability) and identity.may_request("*")  # noqa: E731
        log = self.folder.path / "stock.log"
        role = self._settings.role
        kept = tuple(one for one in stock if (one.role in role if one.role else self._settings.stock))
        return StockWorkers(kept, self.workers, self.folder.socket_path, log, may)

    def _sealed(self, verdict: Verdict) -> Signed:
        """A person's word at this node, as it goes on record elsewhere."""
        unsigned = Signed(self.identity.node, replace(verdict, certificate=self.identity.chain))
        return replace(unsigned, raw=self.identity.signer.seal(unsigned))

    def _discovery(self, limits: Limits) -> Discovery | None:
        """None where a node is to be found by seeds alone: on request, and over IPv6."""
        identity, where = self.identity, self._where
        if not self._settings.mdns or ":" in where.interface.address:
            return None
        advertise = self._settings.advertise or ("public" if identity.credentials.mode == "open" else "blinded")
        return Discovery(
            identity.node,
            Blinding(identity.credentials.discovery_key),
            self.listening.door_address,
            limits.discovery,
            self.driver.tell,
            interface=where.interface,
            public=advertise == "public",
        )

    # ---- trust

    def renew_door_keys(self) -> None:
        """The door shows the identity key of today from now on."""
        identity = self.identity
        tls = None if self._settings.plain else server_context(identity.seed)
        self._door_keys = DoorKeys(tls, b"" if tls is None else identity.signer.public_key, identity.credentials.discovery_key)

    def fresh_credentials(self) -> Credentials:
        """The home's credentials as they are on disk now. Raises HomeError."""
        return Credentials(self.folder.home)

    def proclaim(self, signed: Signed) -> None:
        """A trust statement was made here: uphold it, and tell everybody."""
        self.driver.tell(self.identity.node, Proclaim(signed))

    def restart(self) -> None:
        """End this life without a farewell: the next one begins at once, and its workers come back to it."""
        self._restarts = True
        if self.discovery is not None:
            self.discovery.in_haste = True
        self._stop.set()

    def _open_journal(self, limits: Limits, options: NodeOptions) -> Store:
        identity = self.identity
        # Of its own: the journal takes a new key into use where its entry stands, not at the moment of the rotation.
        writer = Signer(identity.node, identity.seed, identity.credentials.mesh)
        return Store(
            self.folder.journal_path,
            writer,
            self._tell_threadsafe,
            limits.records,
            lives=Lives(identity.past, identity.credentials.past),
            sealer=self.vault.sealer("journal", identity.node),
            newest=Newest(self.folder.incarnation_path),
            accept_rollback=options.accept_rollback,
        )

    def _tell_threadsafe(self, sender: NodeId, body: Any) -> None:
        self.driver.tell_threadsafe(sender, body)

    def _secret_ruled(self, task: TaskId, name: str) -> dict[str, Any] | None:
        return self.assembly.contractor.secret_error(task, name)

    def _held(self, worker: int, task: TaskId, fence: Fence) -> str:
        return self.assembly.contractor.runs(worker, task, fence, clock.now_ms())

    def _noted(self, reason: str, who: str) -> None:
        """A refusal that goes on record, with others of its kind."""
        self.links.noted(reason, who)

    def _audit(self, *, what: str, about: str, by: str, note: str) -> None:
        """Something security depends on goes on record. From any thread."""
        me = self.identity.node
        self._tell_threadsafe(me, Audit(what, about, by or me, note, clock.wall_ms()))

    def _leave(self) -> None:
        self.local.leave()

    def _linked(self) -> tuple[NodeId, ...]:
        """The other nodes a file may be asked from."""
        directory = self.assembly.directory
        return tuple(row.node for row in directory.rows() if row.linked and row.node != directory.me)

    @property
    def info(self) -> dict[str, Any]:
        """What ``node.json`` says, for the command line to find this node."""
        return {
            "name": self.folder.name,
            "node": self.identity.node,
            "mesh": self.identity.genesis.mesh,
            "pid": os.getpid(),
            "door": self.listening.door_address,
            "router": self.listening.router_address,
            "socket": str(self.folder.socket_path),
            "home": str(self.folder.home.path),
        }

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> bool:
        """Until stopped; True if it is to begin anew. Raises StoreError if the disk fails: the node steps down rather than go on unsure."""
        for seq, entry, bodies in self.store.replay():
            self.driver.feed(Replay(seq, entry, bodies))
        self.driver.feed(self.store.remembered())
        for known in self.store.shelf_known():
            self.driver.feed(known)
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.store.run)
            # Before anybody can reach us: the first input of a life is `Started`.
            self.driver.tell(self.identity.node, Started((*self._settings.join, *self.folder.peers())))
            if not self.hands.any_left():
                self.driver.tell(self.identity.node, ReattachOver())
            self.warden.proclaim_kept()
            if accepted := self.store.statistics().rollback_accepted:
                self._audit(what="rollback_accepted", about=self.identity.node, by="", note=accepted)
            for component in (self.links, self.blobs, self.local, self.warden):
                await tasks.start(component.run)
            tasks.start_soon(self.driver.run)
            if self.discovery is not None:
                await tasks.start(self.discovery.run)
                tasks.start_soon(self._advertise, self.discovery)
            tasks.start_soon(self.stock.run)
            tasks.start_soon(self.notices.run)
            tasks.start_soon(self._find_kin)
            tasks.start_soon(self._save_peers)
            tasks.start_soon(self._obey_signals)
            if self._while_used:
                tasks.start_soon(self._leave_if_never_used)
            self.folder.write_info(self.info | {ASKS_AROUND: self.store.held})
            gc.freeze()  # modules and machines live as long as the node
            gc.set_threshold(COLLECT_AFTER, 20, 20)
            tasks.start_soon(self._begin, ready)
            await self._stop.wait()
            await anyio.sleep(RESTART_LINGER_S if self._restarts else LINGER_S)
            tasks.cancel_scope.cancel()
        return self._restarts

    async def _begin(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Say that the node is up, once nothing can keep it from working."""
        if self.store.held:
            await ask_around(self)
            self.folder.write_info(self.info | {ASKS_AROUND: False})
        ended.clear(self.folder)
        ready(self.info)

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                # Told to end: what runs may end first. Ctrl-C, or told again: at once.
                is_first = number == signal.SIGTERM and not self._told_to_end
                self._told_to_end = True
                self.local.leave(round(1000 * Limits().work.drain_s) if is_first else 0)

    async def _leave_if_never_used(self) -> None:
        """The worker this node was started for may have died before it attached."""
        await anyio.sleep(UNUSED_S)
        if not self.workers.in_use():
            self.local.leave()

    async def _advertise(self, discovery: Discovery) -> None:
        """Keep the mDNS record's capability names those of the directory's own row."""
        directory = self.assembly.directory
        while True:
            row = directory.get(directory.me)
            assert row is not None, "a node knows itself"
            discovery.advertise([name for name in row.offers if not name.startswith(OURS)])
            await anyio.sleep(1.0)

    async def _find_kin(self) -> None:
        """The other nodes of this home need no mDNS and no seeds: where they listen stands in their folders."""
        told: set[str] = {self.listening.door_address}
        while True:
            for folder in self.folder.home.running():
                door = (folder.info() or {}).get("door", "")
                if isinstance(door, str) and door and door not in told:
                    told.add(door)
                    self.driver.tell(self.identity.node, Found(door))
            await anyio.sleep(KIN_EVERY_S)

    async def _save_peers(self) -> None:
        """Remember the doors of linked nodes, for the day when all seeds are gone."""
        directory = self.assembly.directory
        saved: list[str] = list(self.folder.peers())
        while True:
            await anyio.sleep(PEERS_SAVED_EVERY_S)
            doors = [row.door for row in directory.rows() if row.linked and row.node != directory.me]
            if doors and doors != saved:
                try:
                    self.folder.save_peers(doors)
                except HomeError:  # a cache: without it, the seeds and mDNS are what there is
                    self.warden.refusals["peers_not_kept"] += 1
                    continue
                saved = doors
