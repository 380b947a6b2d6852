"""One host of the world: a node's process between its clock, its disk, its workers and its end of the network. Caller two of the node core.

    turn: one envelope or one local input -> node.handle -> Append -> disk ... Synced -> outbox.release -.
                                                        |-> Watermark ------------------> outbox.kept ----+
                                                        `-> effects -> outbox ----------------------------+-> performed, then one flush

The rules are those of runtime/driver.py: nothing leaves before what it depends on is safe, and nothing else waits. There is no decision in
here either. A host that is stopped or slow collects what arrives in its inbox.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.core.company import Company
from mesh.core.inputs import (
    BodyRead,
    DialFailed,
    FileKnown,
    FileRead,
    FileSealed,
    Heard,
    NewHead,
    Outlawed,
    Proclaim,
    Remembered,
    Replay,
    Started,
    TurnEnds,
)
from mesh.core.keeping.inputs import ShelfKnown, Shelved
from mesh.core.node import Node
from mesh.core.outbox import Outbox
from mesh.core.triggers.inputs import ReadWall, WallRead
from mesh.effects import (
    Append,
    Credit,
    Dial,
    Execute,
    Extend,
    FindOpen,
    HangUp,
    Later,
    Price,
    ReadBody,
    ReadFile,
    ReadShelf,
    ReadStory,
    ReadTale,
    Refused,
    Remember,
    Reply,
    Send,
    Shelve,
    Stop,
    Uphold,
    Watermark,
    WriteFile,
)
from mesh.ids import NodeId, content_hash
from mesh.messages.membership import Alive
from mesh.messages.records import Inherited
from mesh.messages.signed import Signed
from mesh.messages.trust import Revocation
from mesh.sim.clock import HostClock
from mesh.sim.disk import Disk, Group
from mesh.sim.history import Answered, Appended, Delivered, KeptUpTo, NodeDown, NodeUp, Outward, RowIssued, Synced, SyncFailed, Upheld
from mesh.sim.network import Envelope

if TYPE_CHECKING:
    from mesh.sim.world import World

BATCH_MAX = 32
TURN_ENDS = TurnEnds()
NEVER = float("inf")
TURN_S = 1e-6
"""Time goes on between two turns, as it does in life: a deadline set to now is over a little later."""


class Wake:
    """The node wants to be called: one of its deadlines is over."""


WAKE = Wake()


class Host:
    """`life` counts processes, so that what was meant for an earlier one is recognised."""

    def __init__(self, world: World, name: NodeId, clock: HostClock, disk: Disk, rng: Random) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.disk = disk
        self.rng = rng
        self.life = 0
        self.up = False
        self.off = False
        self.frozen = False
        self.input_cost_s = 0.0
        self.effect_late_s = 0.0
        self.inbox: deque[tuple[NodeId, Any]] = deque()
        self.node: Node
        self.directory: Any
        self.assembly: Any
        self.outbox = Outbox()
        self.company = Company(self.outbox)
        self._held = self._late = False
        self.refusals: Counter[str] = Counter()
        self.armed_at = NEVER
        self.requests: dict[int, Callable[[bool, dict[str, Any]], None]] = {}
        self.workers: dict[int, Any] = {}
        self.outlaws: dict[NodeId, None] = {}
        """Whose envelopes and links the wire of this process refuses."""
        self._outgoing: dict[NodeId, list[Any]] = {}
        self._heard: dict[NodeId, int] = {}
        self._version = 0
        self._copies = 0
        """How many of the next entries are copied from another author's log."""
        self._last_s = 0.0
        self._draining = False
        self._watched = world.history.watched
        self._perform: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            Dial: self._dial,
            HangUp: lambda effect: world.network.hang_up(self.name, effect.peer),
            Reply: self._reply,
            Execute: self._to_worker,
            Extend: self._to_worker,
            Stop: self._to_worker,
            Credit: self._to_worker,
            Price: self._to_worker,
            ReadFile: self._read_file,
            WriteFile: self._write_file,
            ReadBody: self._read_body,
            ReadStory: self._read_story,
            FindOpen: lambda effect: self.tell(self.disk.find_open(effect, world.limits.records)),
            Remember: self.disk.remember,
            Later: lambda effect: self.tell(effect.fact),
            Uphold: self._uphold,
            Shelve: self._shelve,
            ReadShelf: lambda effect: self.tell(self.disk.read_shelf(effect, world.limits.records)),
            ReadWall: lambda _: self.tell(WallRead(world.wall_ms(self))),
            ReadTale: lambda effect: self.tell(self.disk.read_tale(effect, world.limits.records)),
        }

    # ---- life and death

    def start(self, seeds: tuple[str, ...]) -> None:
        """A new process: the incarnation is raised on disk first, then the journal is replayed, then the node starts."""
        world, disk = self.world, self.disk
        seq, head = disk.seq, disk.head
        incarnation = disk.begin_life()
        self.life += 1
        self.up, self.off = True, False
        self.outbox = Outbox(seq)
        self.company, self._held, self._late = Company(self.outbox), False, False
        self._heard.clear()
        self.outlaws = {one.body.target: None for one in disk.statements if isinstance(one.body, Revocation)}
        self._version = 0
        self.armed_at = NEVER
        me = Alive(self.name, incarnation, 1, self.name, door(self.name), door(self.name))
        self.assembly = world.build(me, Random(self.rng.random()), seq, head)
        self.node, self.directory = self.assembly.node, self.assembly.directory
        world.history.add(NodeUp(world.now_s, self.name, incarnation, seq, head))
        now_s = self.now()
        for number, entry, bodies in disk.replayed():
            effects = self.node.handle(now_s, self.name, Replay(number, entry, bodies))
            assert not effects, f"replay of entry {number} made effects: {effects}"
        if (remembered := disk.remembered()) != Remembered():
            self._feed(now_s, self.name, remembered)
        for author, state in sorted(disk.shelf.states.items()):
            self._feed(now_s, self.name, ShelfKnown(author, state))
        for file, data in disk.files.items():
            self._feed(now_s, self.name, FileKnown(file, len(data)))
        self.turn(self.name, Started(seeds))
        for statement in list(disk.statements):
            self.turn(self.name, Proclaim(statement))

    def stop(self, *, keep_written: bool, power: bool, silent: bool, for_good: bool = False) -> None:
        """The process is gone at once. `power`: so is the machine, workers included; `silent`: nobody is told by a reset."""
        world = self.world
        kept = self.disk.crash(self.clock.wall_ms(world.now_s), keep_written=keep_written)
        if kept is not None:
            self._note_synced(kept)
        self.up, self.off = False, power
        self.frozen = False
        self.life += 1
        self.inbox.clear()
        self._outgoing.clear()
        self.requests.clear()
        world.history.add(NodeDown(world.now_s, self.name, for_good))
        world.network.died(self.name, [peer for peer in world.names if peer != self.name], silent=silent)
        for worker in list(self.workers.values()):
            worker.node_gone(killed=power)
        world.on_down(self.name)

    def now(self) -> float:
        now_s = self.clock.read(self.world.now_s)
        if now_s < self._last_s:
            now_s = self._last_s
        self._last_s = now_s
        return now_s

    # ---- turns

    def arrive(self, sender: NodeId, body: Any) -> None:
        """Handle it now, or keep it while the process is stopped or behind."""
        if self.frozen or self.input_cost_s or self.inbox:
            self.inbox.append((sender, body))
            self.drain_soon()
        elif body is WAKE:
            self._wake()
        else:
            self.turn(sender, body)

    def drain_soon(self) -> None:
        if self._draining or self.frozen or not self.inbox:
            return
        self._draining = True
        life = self.life
        self.world.at(self.world.now_s + self.input_cost_s, lambda: self._drain(life))

    def _drain(self, life: int) -> None:
        self._draining = False
        if life != self.life:
            self.drain_soon()
            return
        while self.inbox and not self.frozen:
            sender, body = self.inbox.popleft()
            if body is WAKE:
                self._wake()
            elif type(body) is Group:
                self.release(body)
            else:
                self.turn(sender, body)
            if self.input_cost_s:
                break
        self.drain_soon()

    def _wake(self) -> None:
        """Due, or only due before a deadline was moved: then ask again."""
        self.armed_at = NEVER
        at = self.node.wake_at()
        if at is not None and self.clock.when(at) <= self.world.now_s:
            self._last_s = max(self._last_s, at)
            self.turn(self.name, None)
        else:
            self._arm()

    def turn(self, sender: NodeId, body: Any) -> None:
        now_s = self.now()
        feed = self._feed
        if type(body) is Envelope:
            if self.refuses(sender):
                self.refusals["revoked"] += 1
                return
            self._heard[sender] = body.stamp_ms
            feed(now_s, sender, Heard(body.stamp_ms, body.echo_ms))
            watched = self._watched
            for message in body.messages:
                if type(message) in watched:
                    self.world.history.add(Delivered(self.world.now_s, self.name, sender, message))
                feed(now_s, sender, message)
        else:
            if type(body) is Outlawed:
                self.world.history.add(Upheld(self.world.now_s, self.name, body.node))
            if type(body) is NewHead:
                self.company.committed(body)
            else:
                feed(now_s, sender, body)
        feed(now_s, self.name, TURN_ENDS)
        self._write(now_s)
        self._end_turn()

    def _feed(self, now_s: float, sender: NodeId, body: Any) -> None:
        self.world.trace.add(self.world.now_s, self.name, sender, body)
        effects = self.node.handle(now_s, sender, body)
        if effects:
            perform, outbox = self._perform, self.outbox
            for effect in effects:
                kind = type(effect)
                if kind is Append:
                    self._append(effect)
                elif kind is Refused:
                    self.refusals[effect.reason] += 1
                elif kind is Watermark:
                    self.world.history.add(KeptUpTo(self.world.now_s, self.name, effect.kept, effect.taken))
                    self._release(outbox.kept(effect.kept, forsaken=effect.taken > 0, lost=effect.lost))
                elif outbox.may_leave(effect):
                    perform[kind](effect)

    def _write(self, now_s: float) -> None:
        late, self._late = self._late, False
        for head in self.company.heads(late=late):
            self._feed(now_s, self.name, head)
        if self.company.write(late=late):
            self._sync()
        if self.company and not self._held:
            self._held, life = True, self.life
            self.world.at(self.world.now_s + self.world.limits.records.company_s, lambda: self._hurry(life))

    def _hurry(self, life: int) -> None:
        if life == self.life:
            self._held, self._late = False, True
            self.arrive(self.name, None)

    def _end_turn(self) -> None:
        if self._outgoing:
            self._flush()
        row = self.directory.get(self.name)
        if row is not None and row.version != self._version:
            self._version = row.version
            self.world.history.add(RowIssued(self.world.now_s, self.name, row.incarnation, row.version))
        self._arm()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        stamp_ms = int(self._last_s * 1000)
        send, heard = self.world.network.send, self._heard
        for peer, messages in outgoing.items():
            echo_ms = heard.get(peer, 0)
            if len(messages) <= BATCH_MAX:
                send(self.name, peer, stamp_ms, echo_ms, tuple(messages))
            else:
                for at in range(0, len(messages), BATCH_MAX):
                    send(self.name, peer, stamp_ms, echo_ms, tuple(messages[at : at + BATCH_MAX]))

    def _arm(self) -> None:
        at = self.node.wake_at()
        if at is None:
            return
        when, soon_s = self.clock.when(at), self.world.now_s + TURN_S
        if when < soon_s:
            when = soon_s
        if when < self.armed_at:
            self.armed_at = when
            self.world.push(when, self.name, self.name, WAKE)

    # ---- the disk

    def _append(self, effect: Append) -> None:
        seq = self.disk.add(effect.entry, effect.bodies)
        self.world.history.add(Appended(self.world.now_s, self.name, self.disk.incarnation, seq, effect.entry, self._copies > 0))
        begins = type(effect.entry) is Inherited and not self._copies
        self._copies = effect.entry.count if begins else max(0, self._copies - 1)
        self.company.appended(seq, effect)

    def _sync(self) -> None:
        disk, world = self.disk, self.world
        if disk.begin_sync(world.limits.records):
            takes_s = disk.sync_s * (0.5 + self.rng.random()) + disk.slow_s * self.rng.random()
            life = self.life
            world.at(world.now_s + takes_s, lambda: self._synced(life))

    def _synced(self, life: int) -> None:
        if life != self.life:
            return
        if self.disk.failing:
            self._step_down()
            return
        group, shelved = self.disk.end_sync(self.clock.wall_ms(self.world.now_s))
        if group is not None:
            self._committed(group)
        for effect in shelved:
            self.world.push(self.world.now_s, self.name, self.name, Shelved(effect.author, effect.ticket))
        self._sync()

    def _committed(self, group: Group) -> None:
        self._note_synced(group)
        self.world.push(self.world.now_s, self.name, self.name, NewHead(group.signed, group.entries, group.bodies))
        if self.frozen or self.inbox:  # a sync that ended earlier may still wait there to be heard of
            self.inbox.append((self.name, group))
            self.drain_soon()
        else:
            self.release(group)

    def _step_down(self) -> None:
        """A sync failed: nobody knows what the disk holds, so this process ends, and the next one looks. Workers live on."""
        self.world.history.add(SyncFailed(self.world.now_s, self.name))
        self.world.crash(self.name, keep_written=self.disk.failing == "broken" and self.rng.random() < 0.5)

    def release(self, group: Group) -> None:
        self.now()
        self._release(self.outbox.release(group.last))
        if self._outgoing:
            self._flush()

    def _release(self, effects: list[Any]) -> None:
        for effect in effects:
            self._perform[type(effect)](effect)

    def _note_synced(self, group: Group) -> None:
        self.world.history.add(Synced(self.world.now_s, self.name, group.last, group.signed, group.hash, group.entries))

    # ---- effects

    def _send(self, effect: Send) -> None:
        if type(effect.message) in self._watched:
            self.world.history.add(Outward(self.world.now_s, self.name, effect))
        outgoing = self._outgoing.get(effect.to)
        if outgoing is None:
            self._outgoing[effect.to] = [effect.message]
        else:
            outgoing.append(effect.message)

    def _dial(self, effect: Dial) -> None:
        target = effect.address.removesuffix(PORT)
        if target == self.name:
            self.world.push(self.world.now_s, self.name, self.name, DialFailed(effect.address, "self"))
        elif target not in self.world.hosts:
            self.world.push(self.world.now_s + 0.001, self.name, self.name, DialFailed(effect.address, "refused"))
        else:
            self.world.network.dial(self.name, target)

    def _reply(self, effect: Reply) -> None:
        self.world.history.add(Outward(self.world.now_s, self.name, effect))
        self.world.history.add(Answered(self.world.now_s, self.name, effect.request, effect.ok, effect.body))
        waiting = self.requests.pop(effect.request, None)
        if waiting is not None:
            waiting(effect.ok, effect.body)

    def _to_worker(self, effect: Any) -> None:
        if type(effect) in self._watched:
            self.world.history.add(Outward(self.world.now_s, self.name, effect))
        worker = self.workers.get(effect.worker)
        if worker is not None:
            worker.take(effect)

    def _read_file(self, effect: ReadFile) -> None:
        data = self.disk.files.get(effect.file)
        part = None if data is None else data[effect.offset : effect.offset + effect.size]
        total = -1 if data is None else len(data)
        self.tell(FileRead(effect.to, effect.file, effect.offset, total, part))

    def _write_file(self, effect: WriteFile) -> None:
        partial = self.disk.partial.setdefault(effect.file, bytearray())
        if len(partial) < effect.offset + len(effect.data):
            partial.extend(bytes(effect.offset + len(effect.data) - len(partial)))
        partial[effect.offset : effect.offset + len(effect.data)] = effect.data
        if effect.last:
            data = bytes(self.disk.partial.pop(effect.file))
            good = content_hash(data) == effect.file
            if good:
                self.disk.files[effect.file] = data
            self.tell(FileSealed(effect.file, good))

    def _read_body(self, effect: ReadBody) -> None:
        self.tell(BodyRead(effect.token, self.disk.bodies.get(effect.hash)))

    def _read_story(self, effect: ReadStory) -> None:
        self.tell(self.world.story(self, effect))

    def _shelve(self, effect: Shelve) -> None:
        self.disk.shelve(effect)
        self._sync()

    def _uphold(self, effect: Uphold) -> None:
        """Kept and enforced at once. Only single nodes are revoked here."""
        if effect.signed not in self.disk.statements:
            self.disk.statements.append(effect.signed)
        if isinstance(body := effect.signed.body, Revocation):
            self.outlaws[body.target] = self.world.revoked[body.target] = None
            self.tell(Outlawed(body.target))

    # ---- for the world, its clients and workers

    def refuses(self, peer: NodeId) -> bool:
        """What the wire does with all that comes from a revoked node, HELLO included."""
        return peer in self.outlaws

    def tell(self, body: Any) -> None:
        """A completion, a little later."""
        self.world.push(self.world.now_s + 0.00005, self.name, self.name, body)

    def link_changed(self, peer: NodeId) -> None:
        """A new session: stamps of the old one mean nothing."""
        self._heard.pop(peer, None)

    def rearm(self) -> None:
        """The clock was changed: what the node waits for comes at another time now."""
        self.armed_at = NEVER
        if self.up:
            self._arm()

    def signed_row(self) -> Signed:
        """What this node says of itself in HELLO and WELCOME."""
        row = self.directory.get(self.name)
        offers = tuple(row.offers.values())
        return Signed(self.name, Alive(self.name, row.incarnation, row.version, row.name, row.door, row.router, offers, keeps=row.keeps))


PORT = ":7710"


def door(name: NodeId) -> str:
    return name + PORT
