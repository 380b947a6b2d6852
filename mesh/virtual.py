"""Virtual time for real handlers: a simulated world advanced from an asyncio loop, as far as anybody waits for it.

    handlers, clients --wait for--> sleeps, timeouts (user time), answers of nodes (the world's time)
    pump: while code runs, let it; when all of it waits, advance to the next event or timer

User time is the world's time plus what was *skipped*: when every handler only sleeps, and the nodes only wait for the time of a retry or
for a timeout, the clock of users jumps to the first of these. What nodes wait for in user time comes nearer by as much; their leases and
probes go by the world's time, and do not notice. So thirty days pass in milliseconds.
Code that waits for something real (a thread, a file, a socket) is given real time; if it takes long, the world moves on slowly beside it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace

from mesh.core.triggers.inputs import TicksDue
from mesh.core.work.book import QueuesDue
from mesh.core.work.meter import TimeUp
from mesh.core.work.task import BACKOFF, GATED, HELD, WAITING
from mesh.core.work.waits import BackoffEnds
from mesh.core.work.wheel import TimeoutsDue
from mesh.sim.host import Host
from mesh.sim.world import World

ROUNDS = 8
"""Turns of the loop that code gets before it counts as waiting for something real."""
REAL_WAIT_S = 0.005
BESIDE_S = 0.02
"""Virtual time that passes for each REAL_WAIT_S while user code waits for something real."""
SETTLE_S = 0.25
"""Virtual quiet, with nothing open, before time is skipped."""
SETTLE_IN_LINE_S = 1.2
"""The same while tasks are in line: longer than a node waits before it says that nobody offers something."""
LIVED_S = 60.0
"""So much of a test's own sleep the nodes live through (a second costs a small mesh half a millisecond): leases end, the dead are found."""
PATIENT = (BackoffEnds, QueuesDue, TicksDue, TimeoutsDue, TimeUp)
"""What nodes wait for in user time: however long it is, nothing else of theirs depends on it."""
EVENTS_PER_TURN = 500
NEVER_S = 366 * 86_400.0


class Alarm:
    """A pending call at a user time."""

    __slots__ = ("call", "cancelled")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualTime:
    """`busy()`: does user code run that waits for no virtual time. `open_work()`: have the nodes more to do than to wait for user code."""

    def __init__(self, world: World, *, busy: Callable[[], bool], open_work: Callable[[], bool]) -> None:
        self._world = world
        world.wall_ms = self._wall_ms
        # Nobody sets a clock here: only ticks are looked for.
        world.limits = replace(world.limits, triggers=replace(world.limits.triggers, look_s=NEVER_S))
        self._busy = busy
        self._open_work = open_work
        self._skipped_s = 0.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._count = 0
        self._changed = asyncio.Event()
        self._touched_s = 0.0
        self._caught_up: dict[str, float] = {}
        self._touched = False
        self.waiting = 0
        """Clients whose answer is out."""
        self.dealing = False
        """A handler that waits for several things has got one of them, and does not look busy while it deals with that."""
        self.living = 0
        """Sleeps of the test that the nodes live through."""

    def now_s(self) -> float:
        """User time."""
        return self._world.now_s + self._skipped_s

    def _wall_ms(self, host: Host) -> int:
        """A node asks for it, and waits for nothing until it knows: no time may be skipped meanwhile."""
        self._touched_s = self._world.now_s
        return host.clock.wall_ms(self.now_s())

    def touch(self) -> None:
        """Something happened that user code will notice, or that it did."""
        self._touched = True
        self._touched_s = self._world.now_s
        self._changed.set()

    def nudge(self) -> None:
        """Let the loop run before more time passes; in itself that is no news (a lease was renewed)."""
        self._touched = True

    def call_at(self, at_s: float, call: Callable[[], None]) -> Alarm:
        self._count += 1
        alarm = Alarm(call)
        heapq.heappush(self._alarms, (at_s, self._count, alarm))
        self._changed.set()
        return alarm

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self.call_at(self.now_s() + seconds, call)

    async def sleep(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def over() -> None:
            if not done.done():
                done.set_result(None)

        alarm = self.call_later(max(0.0, seconds), over)
        try:
            await done
        finally:
            alarm.cancel()

    async def pump(self) -> None:
        """Until cancelled. Time stands still while nobody waits for it."""
        while True:
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
                if not self._busy() and not self.dealing:
                    break
            self.dealing = False
            if self._busy():
                if not await self._changes_within(REAL_WAIT_S):
                    self._advance(self._world.now_s + BESIDE_S)
            elif self.waiting or self._next_alarm() is not None or self._open_work():
                self._advance(None)
            else:
                self._changed.clear()
                await self._changed.wait()

    async def _changes_within(self, seconds: float) -> bool:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _next_alarm(self) -> float | None:
        while self._alarms and self._alarms[0][2].cancelled:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def _advance(self, until_s: float | None) -> None:
        """Up to the next moment that user code can notice, or `until_s`, or for a while."""
        world = self._world
        self._touched = False
        for _ in range(EVENTS_PER_TURN):
            alarm_at = self._next_alarm()
            if until_s is None and self._may_skip():
                self._skip(alarm_at)
            event_at = world.next_at()
            if alarm_at is not None and (event_at is None or alarm_at - self._skipped_s <= event_at):
                if until_s is not None and alarm_at - self._skipped_s > until_s:
                    break
                world.run(max(world.now_s, alarm_at - self._skipped_s))
                heapq.heappop(self._alarms)[2].call()
                self.touch()
                return
            if event_at is None or (until_s is not None and event_at > until_s):
                break
            world.run(event_at)
            if self._touched:
                return
        if until_s is not None and world.now_s < until_s:
            world.run(until_s)

    def _may_skip(self) -> bool:
        """All that is left to wait for is what waits in user time."""
        quiet_s = self._world.now_s - self._touched_s
        if self.living or quiet_s < SETTLE_S or self._open_work():
            return False
        in_line = any(host.assembly.manager.statistics().waiting for host in self._world.living())
        return quiet_s >= SETTLE_IN_LINE_S or not in_line

    def _skip(self, alarm_at: float | None) -> None:
        """To the next timer, or the next thing that a node waits for, if it is far enough away."""
        now_s = self.now_s()
        waits = [left_s for host in self._world.living() for left_s in waits_of(host)]
        if alarm_at is not None:
            waits.append(alarm_at - now_s)
        left_s = min(waits, default=0.0)
        if left_s > SETTLE_S:
            self._skipped_s += left_s
            self._touched_s = self._world.now_s  # what is due now has to be told to whoever waits for it, before more is skipped
            for host in self._world.living():
                hasten(host, left_s)

    def catch_up(self, host: Host) -> None:
        """A process starts: its clock shows what was skipped as gone by, as after a long sleep; nothing in it has seen another time."""
        ahead_s = self._skipped_s - self._caught_up.get(host.name, 0.0)
        self._caught_up[host.name] = self._skipped_s
        host.clock.leap(self._world.now_s, ahead_s)
        host.clock.wall_offset_s -= ahead_s


def waits_of(host: Host) -> list[float]:
    """How long this node will wait for each thing that it waits for in user time, in seconds."""
    now_s, book = host.clock.read(host.world.now_s), host.assembly.manager.book
    for task in book.tasks.values():
        if task.state == HELD:
            book.meter.runs(now_s, task.account)  # nothing is told of it while time is skipped
    return [at_s - now_s for _, at_s in host.assembly.deadlines.of(PATIENT)]


def hasten(host: Host, by_s: float) -> None:
    """So much user time has passed at once: what waits in it is that much nearer, and tasks are that much older."""
    for deadline, at_s in host.assembly.deadlines.of(PATIENT):
        host.assembly.deadlines.set(deadline, at_s - by_s)
    for task in host.assembly.manager.book.tasks.values():
        task.submitted_at_s -= by_s
        if task.account is not None:
            host.assembly.manager.book.meter.hasten(task.account, by_s)
    host.rearm()


def resting(host: Host) -> int:
    """Tasks that wait for the time of their next try, or for somebody outside, and for nothing else: not for the coordinator, who is one
    of the nodes. (Two each: what waits, and its gate.)"""
    return -2 * len(host.assembly.manager.admitting) + sum(
        task.state in (BACKOFF, WAITING, GATED) for task in host.assembly.manager.book.tasks.values()
    )


def has_own_work(hosts: Iterable[Host], running: int, for_readers: bool) -> bool:
    """Whether these nodes have more to do than to wait for `running` handlers, some of which may wait for the readers of their streams."""
    live = waits = held = readers = asked = 0
    hosts = list(hosts)
    living = [host.name for host in hosts]
    for host in hosts:
        statistics, desk = host.assembly.manager.statistics(), host.assembly.desk.statistics()
        live, held = live + statistics.live + statistics.claiming, held + statistics.held
        waits += statistics.waiting + resting(host)
        readers += statistics.readers_waiting
        asked += desk.asking - desk.waiting + host.assembly.manager.forwarding.astray(living)
    # A handler waits for its reader, and he for it: their messages are on the way, or were lost and are sent again.
    return live > held + waits or held != running or bool(readers and for_readers) or asked > 0


class HostTime:
    """The clock that one host's handlers see: leases on the machine's clock, sleeps in user time."""

    def __init__(self, time: VirtualTime, host: Host) -> None:
        self._time = time
        self._host = host

    def now_ms(self) -> int:
        return int(self._host.clock.read(self._host.world.now_s) * 1000)

    def wall_ms(self) -> int:
        return self._host.clock.wall_ms(self._time.now_s())

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self._time.call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        await self._time.sleep(seconds)
