"""Virtual time for real handlers: a simulated world advanced from an asyncio loop, as far as anybody waits for it.

    handlers, clients --wait for--> sleeps, timeouts (user time), answers of nodes (the world's time)
    pump: while code runs, let it; when all of it waits, advance to the next event or timer

User time is the world's time plus what was *skipped*: when every handler only sleeps and the nodes have nothing open, the clock of users
jumps to the next timer and the nodes, whose leases and probes go by the world's time, do not notice. So thirty days pass in milliseconds.
Code that waits for something real (a thread, a file, a socket) is given real time; if it takes long, the world moves on slowly beside it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from mesh.sim.host import Host
from mesh.sim.world import World

ROUNDS = 8
"""Turns of the loop that code gets before it counts as waiting for something real."""
REAL_WAIT_S = 0.005
BESIDE_S = 0.02
"""Virtual time that passes for each REAL_WAIT_S while user code waits for something real."""
SETTLE_S = 1.2
"""Virtual quiet, with nothing open, before time is skipped: longer than a node waits before it says that nobody offers something."""
BOUND_MAX_S = 600.0
"""Timeouts that nodes count are lived through up to here (a second of a small mesh costs a millisecond); longer ones are skipped."""
EVENTS_PER_TURN = 500


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
        self._busy = busy
        self._open_work = open_work
        self._skipped_s = 0.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._count = 0
        self._changed = asyncio.Event()
        self._touched_s = 0.0
        self._touched = False
        self._bounds: list[float] = []
        self.waiting = 0
        """Clients whose answer is out."""

    def now_s(self) -> float:
        """User time."""
        return self._world.now_s + self._skipped_s

    def touch(self) -> None:
        """Something happened that user code will notice, or that it did."""
        self._touched = True
        self._touched_s = self._world.now_s
        self._changed.set()

    def bound(self, seconds: float) -> None:
        """A node counts so many seconds by the world's time: no skip leads past their end, if that is not too far away."""
        heapq.heappush(self._bounds, self.now_s() + seconds)

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
                if not self._busy():
                    break
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
            if alarm_at is not None and until_s is None and self._may_skip(alarm_at):
                self._skipped_s += alarm_at - self.now_s()
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

    def _may_skip(self, alarm_at: float) -> bool:
        """All that is left to wait for is that alarm."""
        now_s, quiet_s = self.now_s(), self._world.now_s - self._touched_s
        while self._bounds and self._bounds[0] < now_s - 1.0:
            heapq.heappop(self._bounds)
        if self._bounds and self._bounds[0] < alarm_at and self._bounds[0] - now_s < BOUND_MAX_S:
            return False
        return alarm_at - self.now_s() > SETTLE_S and quiet_s >= SETTLE_S and not self._open_work()


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
