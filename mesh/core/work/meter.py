"""Seconds, the one thing of a budget that goes by itself: whose time runs, and when a budget of time is over.

    a beat says: running --> its time runs      a step below it begins --> it stands      the step has ended --> it runs again
    its attempt is over --> what its handler took, but for the time it stood, is on record (`Spent`)
    what is left, by as many as run on it --TimeUp--> its task fails, and all below it

Invariant: seconds are kept only where somebody has set a budget of them, at the nearest one above. Who waits for steps does not run: their
time is counted, not his. What was not on record when another took over is lost, and he counts from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.work.spending import TIME_S, Account, Watch
from mesh.effects import Append
from mesh.ids import TaskId
from mesh.messages.records import Spent


@dataclass(frozen=True, slots=True)
class TimeUp:
    """The budget of seconds of this task may be over."""

    task: TaskId


class Meter:
    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines

    # ---- what happens to a task

    def awarded(self, account: Account | None) -> None:
        """A new attempt, whose beginning is seen."""
        if account is not None and account.holder(TIME_S) is not None:
            watch = self._watch(account)
            watch.ran_ms = watch.waited_ms = 0
            watch.seen = True

    def runs(self, now_s: float, account: Account | None) -> None:
        """Its holder says so."""
        if account is None or account.closed or (holder := account.holder(TIME_S)) is None:
            return
        watch = self._watch(account)
        if not watch.since_ms and not account.below:
            self._start(now_s, watch, holder)

    def stands(self, now_s: float, account: Account | None) -> None:
        """A step of it begins."""
        if account is None or (holder := account.holder(TIME_S)) is None:
            return
        watch = self._watch(account)
        if not watch.waits_since_ms:
            self._stop(now_s, account, holder)
            watch.waits_since_ms = int(now_s * 1000)

    def goes_on(self, now_s: float, account: Account | None) -> None:
        """A step of it has ended."""
        if account is None or account.below or (watch := account.watch) is None or not watch.waits_since_ms:
            return
        watch.waited_ms += int(now_s * 1000) - watch.waits_since_ms
        watch.waits_since_ms = 0  # its time runs again with the next beat

    def over(self, now_s: float, account: Account | None, durable: bool, service_ms: int = 0) -> Iterator[Any]:
        """This attempt is over, and its handler took so long; 0: nobody knows."""
        if account is None or account.closed or (watch := account.watch) is None or (holder := account.holder(TIME_S)) is None:
            return
        self._stop(now_s, account, holder)
        if watch.waits_since_ms:
            watch.waited_ms += int(now_s * 1000) - watch.waits_since_ms
            watch.waits_since_ms = int(now_s * 1000) if account.below else 0
        if watch.seen:
            account.use(TIME_S, max(0, service_ms - watch.waited_ms - watch.ran_ms))
        if account is not holder and holder.left(TIME_S) <= 0:
            self._deadlines.set(TimeUp(holder.task), now_s)
        ran, watch.seen, watch.ran_ms, watch.waited_ms = watch.ran_ms or service_ms, False, 0, 0
        if durable and ran:
            yield Append(Spent(account.task, 0, 0, "", (), account.total(), int(now_s * 1000)))

    def ended(self, now_s: float, account: Account, durable: bool) -> Iterator[Any]:
        """The task has ended, and all below it with it."""
        for below in list(account.below.values()):
            yield from self.ended(now_s, below, durable)
        yield from self.over(now_s, account, durable)

    def hasten(self, account: Account, by_s: float) -> None:
        """So much time has passed for it at once."""
        watch, holder = account.watch, account.holder(TIME_S)
        if watch is not None and watch.since_ms and holder is not None:
            watch.since_ms -= round(1000 * by_s)
            self._watch(holder).since_sum_ms -= round(1000 * by_s)

    # ---- time

    def left_ms(self, now_s: float, holder: Account) -> int:
        watch = self._watch(holder)
        return holder.left(TIME_S) - (watch.running * int(now_s * 1000) - watch.since_sum_ms)

    def is_over(self, now_s: float, account: Account | None) -> bool:
        """Whether its own seconds are all gone; sets the deadline anew if not."""
        if account is None or account.closed or TIME_S not in account.limit:
            return False
        if self.left_ms(now_s, account) > 0:
            if self._watch(account).running:
                self._expect(now_s, account)
            return False
        return True

    def _expect(self, now_s: float, holder: Account) -> None:
        watch = self._watch(holder)
        self._deadlines.set(TimeUp(holder.task), now_s + max(1, self.left_ms(now_s, holder) / watch.running) / 1000)

    def _watch(self, account: Account) -> Watch:
        if account.watch is None:
            account.watch = Watch()
        return account.watch

    def _start(self, now_s: float, watch: Watch, holder: Account) -> None:
        watch.since_ms = int(now_s * 1000)
        pool = self._watch(holder)
        pool.running += 1
        pool.since_sum_ms += watch.since_ms
        self._expect(now_s, holder)

    def _stop(self, now_s: float, account: Account, holder: Account) -> None:
        watch = self._watch(account)
        if not watch.since_ms:
            return
        ran_ms = int(now_s * 1000) - watch.since_ms
        pool = self._watch(holder)
        pool.running -= 1
        pool.since_sum_ms -= watch.since_ms
        watch.since_ms = 0
        watch.ran_ms += ran_ms
        account.use(TIME_S, ran_ms)
        if not pool.running:
            self._deadlines.clear(TimeUp(holder.task))
