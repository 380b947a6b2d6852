"""Whatever managers, workers and the clock do, in whatever order: the contractor's laws hold after every input."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbench import BOSS, ME, OTHER, Bench, item_of

from mesh.core.inputs import (
    FileFetched,
    HandlerEnded,
    Leave,
    MemberLinked,
    MemberRestarted,
    TurnEnds,
    WorkerAttached,
    WorkerGone,
)
from mesh.effects import Append, Execute, Send, Stop
from mesh.ids import content_hash
from mesh.messages.membership import Offer
from mesh.messages.records import Accepted, Ended
from mesh.messages.work import (
    Accept,
    Award,
    Cancel,
    Decline,
    Failure,
    Reclaim,
    Renew,
    Result,
    ResultAck,
    Revoke,
    Revoked,
    Superseded,
)

FILE = content_hash(b"file")
TASKS, WORKERS = 2, 2
_small = st.integers(1, TASKS)

steps = st.one_of(
    st.tuples(st.just("award"), _small, st.booleans(), st.booleans(), st.sampled_from((300, 3000, 60_000)), st.booleans()),
    st.tuples(st.just("again"), _small),
    st.tuples(st.just("attach"), st.integers(1, WORKERS), st.integers(1, 2), st.sampled_from((("greet",), ("greet", "wave"), ("wave",)))),
    st.tuples(st.just("gone"), st.integers(1, WORKERS)),
    st.tuples(st.just("end"), st.integers(0, 5), st.sampled_from(("ok", "error", "timeout", "cancelled"))),
    *(st.tuples(st.just(verb), _small) for verb in ("renew", "revoke", "cancel", "superseded", "reclaim", "ack")),
    st.tuples(st.just("wait"), st.sampled_from((0.01, 0.4, 3.1, 31.0))),
    st.tuples(st.sampled_from(("turn", "linked", "restarted", "file", "leave"))),
)


class Story:
    """Drives a bench and keeps, from the effects alone, what must be true."""

    def __init__(self) -> None:
        self.b = Bench()
        self.numbers = dict.fromkeys(range(1, TASKS + 1), 0)
        self.awards: dict[tuple[str, int], Award] = {}
        self.open: dict[tuple[str, int], None] = {}
        """Awards without an answer yet."""
        self.leases: dict[tuple[str, int], int] = {}
        self.handlers: dict[str, tuple[int, int]] = {}
        """Task -> (fence, worker) of what really runs."""
        self.concurrency: dict[int, int] = {}
        self.entered: dict[tuple[str, int], None] = {}
        self.durable: dict[tuple[str, int], None] = {}
        self.accepted_entries: dict[tuple[str, int], None] = {}

    def give(self, item: Any, sender: str = ME) -> None:
        self.check(self.b.give(item, sender))

    def check(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Execute):
                self.executes(effect)
            elif isinstance(effect, Stop):
                assert effect.worker in self.concurrency
            elif isinstance(effect, Append):
                entry = effect.entry
                if isinstance(entry, Ended):
                    self.entered[entry.task, entry.fence] = None
                elif isinstance(entry, Accepted):
                    self.accepted_entries[entry.task, entry.fence] = None
            elif isinstance(effect, Send):
                self.says(effect.message)

    def executes(self, effect: Execute) -> None:
        assert effect.task not in self.handlers, "never two handlers of one task at once"
        key = (effect.task, effect.fence)
        assert self.leases[key] > int(self.b.now * 1000), "nothing starts under a lease that has ended"
        assert effect.lease_end_ms == self.leases[key]
        self.handlers[effect.task] = (effect.fence, effect.worker)
        running = [worker for _, worker in self.handlers.values() if worker == effect.worker]
        assert len(running) <= self.concurrency[effect.worker]

    def says(self, message: Any) -> None:
        if isinstance(message, Accept):
            for key in message.items:
                self.open.pop(key, None)
                assert key in self.accepted_entries or key not in self.durable, "Accepted is written before it is said"
        elif isinstance(message, Decline):
            for task, fence, reason in message.items:
                assert reason == "stale_fence" or (task, fence) in self.open, "one answer to an award, and never both"
                self.open.pop((task, fence), None)
        elif isinstance(message, Result | Failure):
            key = (message.task, message.fence)
            self.open.pop(key, None)
            assert key in self.entered or key not in self.durable, "Ended is written before it is said"
        elif isinstance(message, Revoked):
            for task, fence in message.items:
                running = self.handlers.get(task)
                assert running is None or running[0] > fence, "revoked only when no handler runs"

    # ---- what may happen

    def award(self, counter: int, durable: bool, conditional: bool, grant_ms: int, with_file: bool) -> None:
        self.numbers[counter] += 1
        files = ((FILE, 4),) if with_file else ()
        item = item_of(counter, self.numbers[counter], durable=durable, files=files)
        award = Award((item,), grant_ms, int(self.b.now * 1000), conditional)
        key = (item.task, item.fence)
        self.awards[key] = award
        self.open[key] = None
        self.leases[key] = award.echo_ms + grant_ms
        if durable:
            self.durable[key] = None
        self.give(award, BOSS)

    def newest(self, counter: int) -> tuple[str, int]:
        item = item_of(counter, max(1, self.numbers[counter]))
        return item.task, item.fence

    def again(self, counter: int) -> None:
        if award := self.awards.get(self.newest(counter)):
            self.give(award, BOSS)

    def attach(self, worker: int, concurrency: int, names: tuple[str, ...]) -> None:
        if worker not in self.concurrency:
            self.concurrency[worker] = concurrency
            self.give(WorkerAttached(worker, worker, "agent", tuple(Offer(name, "agent") for name in names), concurrency))

    def gone(self, worker: int) -> None:
        if self.concurrency.pop(worker, None):
            self.handlers = {task: run for task, run in self.handlers.items() if run[1] != worker}
            self.give(WorkerGone(worker, worker))

    def end(self, which: int, outcome: str) -> None:
        if self.handlers:
            task = sorted(self.handlers)[which % len(self.handlers)]
            fence, worker = self.handlers.pop(task)
            self.give(HandlerEnded(worker, task, fence, outcome, b"1" if outcome == "ok" else b""))

    def manage(self, verb: str, counter: int) -> None:
        key = self.newest(counter)
        now_ms = int(self.b.now * 1000)
        if verb in ("renew", "reclaim"):
            if key in self.leases:
                self.leases[key] = max(self.leases[key], now_ms + 3000)
            kind = Renew if verb == "renew" else Reclaim
            self.give(kind((key,), 3000, now_ms), BOSS)
        elif verb == "cancel":
            self.give(Cancel((key,), "enough"), BOSS)
        else:
            self.give({"revoke": Revoke, "superseded": Superseded, "ack": ResultAck}[verb]((key,)), BOSS)

    def wait(self, seconds: float) -> None:
        until = self.b.now + seconds
        while (due := self.b.node.wake_at()) is not None and due <= until:
            self.b.now = max(self.b.now, due)
            self.check(self.b.node.handle(self.b.now, ME))
            self.give(TurnEnds())
        self.b.now = until

    def happen(self, step: tuple[Any, ...]) -> None:
        kind, rest = step[0], step[1:]
        if kind in ("award", "again", "attach", "gone", "end", "wait"):
            getattr(self, kind)(*rest)
        elif kind == "turn":
            self.give(TurnEnds())
            assert not self.open.keys() & self.durable.keys(), "every durable award is answered by the end of its turn"
        elif kind == "linked":
            self.give(MemberLinked(BOSS))
        elif kind == "restarted":
            self.give(MemberRestarted(BOSS, 2))
        elif kind == "file":
            self.give(FileFetched(FILE, True))
        elif kind == "leave":
            self.give(Leave(1))
        else:
            self.manage(kind, *rest)


@settings(max_examples=250, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=15, max_size=60))
def test_laws(history: list[tuple[Any, ...]]) -> None:
    story = Story()
    story.attach(1, 1, ("greet",))
    for step in history:
        story.happen(step)
    story.give(TurnEnds())
    story.wait(story.b.limits.accept_wait_s)
    books = story.b.contractor._holdings
    for task, fence in story.open:
        held = books.by_task.get(task)
        assert held is None or held.fence != fence, "a plain award is answered too, unless it was taken back meanwhile"
    statistics = story.b.contractor.statistics()
    assert statistics.busy == len(story.handlers), "a slot is busy exactly while a handler runs"
    assert {task for pair in books.by_manager.values() for task in pair.tasks} == set(books.by_task)
    assert sum(capability.queued for capability in story.b.contractor._slots.capabilities.values()) == statistics.queued


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=30))
def test_nothing_is_held_for_ever_when_managers_fall_silent(history: list[tuple[Any, ...]]) -> None:
    """All handlers end, nobody renews: after the grace only reports are left, and those are acknowledged away."""
    story = Story()
    story.attach(1, 2, ("greet", "wave"))
    for step in history:
        if step[0] != "leave":
            story.happen(step)
    story.give(FileFetched(FILE, True))
    story.wait(100.0)
    while story.handlers:
        story.end(0, "cancelled")
    story.wait(100.0)
    for counter in range(1, TASKS + 1):
        for number in range(1, story.numbers[counter] + 1):
            item = item_of(counter, number)
            story.give(ResultAck(((item.task, item.fence),)), BOSS)
    story.wait(40.0)
    statistics = story.b.contractor.statistics()
    assert (statistics.held, statistics.busy, statistics.queued) == (0, 0, 0)
    story.b.directory.ensure(BOSS).linked = False
    story.b.directory.ensure(OTHER).linked = False
    assert story.b.contractor.statistics().managers == 0
