"""Whatever comes, in whatever order: fences grow, a task ends once, one result at most is committed, no AWARD before its decision."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manager_bench import Bench

from mesh.core.inputs import (
    Call,
    FileFetched,
    MemberAlive,
    MemberDied,
    MemberLinked,
    MemberRestarted,
    MemberSuspected,
    OffersChanged,
    RequestGone,
    Submit,
)
from mesh.core.work.fold import Fold
from mesh.core.work.task import TERMINAL
from mesh.effects import Append, Reply, Send
from mesh.ids import content_hash
from mesh.messages.membership import Offer
from mesh.messages.records import Decided, Finished
from mesh.messages.work import (
    Accept,
    Ask,
    Award,
    Beat,
    BeatItem,
    Bid,
    BidItem,
    Cancelled,
    Cfp,
    Decline,
    Failure,
    Reclaimed,
    Refuse,
    Release,
    Result,
    Revoked,
    StepAsk,
)

NODES = ("a", "b", "c")
OFFERS = (
    Offer("greet", "g"),
    Offer("greet", "g", idempotent=True, retries=2),
    Offer("greet", "g", on_lost="fail"),
    Offer("greet", "g", priced=True),
)
KINDS = ("error", "worker_lost", "invalid_argument", "no_file", "cancelled")
STATUSES = ("running", "result", "unknown")
FILE = "f" * 64

move = st.tuples(st.sampled_from(range(24)), st.integers(0, 5), st.integers(0, 3), st.sampled_from(NODES))


class Laws:
    """Reads effects only."""

    def __init__(self) -> None:
        self.fences: dict[str, int] = {}
        self.decided: set[tuple[str, int, str]] = set()
        self.awarded: dict[tuple[str, int], str] = {}
        self.finished: dict[str, str] = {}
        self.replied: list[int] = []

    def read(self, bench: Bench, effects: list[Any]) -> None:
        for effect in effects:
            if type(effect) is Append:
                self._entry(effect.entry)
            elif type(effect) is Reply:
                self.replied.append(effect.request)
            elif type(effect) is Send and type(effect.message) is Award:
                for item in effect.message.items:
                    self._award(bench, effect.to, item)
        assert len(self.replied) == len(set(self.replied)), "a request is answered once"

    def _entry(self, entry: Any) -> None:
        if type(entry) is Decided:
            assert entry.fence > self.fences.get(entry.task, 0), "fences grow"
            assert entry.task not in self.finished
            self.fences[entry.task] = entry.fence
            self.decided.add((entry.task, entry.fence, entry.winner))
        elif type(entry) is Finished:
            assert entry.task not in self.finished, "a task ends once"
            if entry.state == "done":
                assert entry.fence == self.fences[entry.task], "only the newest fence commits"
            self.finished[entry.task] = entry.state

    def _award(self, bench: Bench, to: str, item: Any) -> None:
        before = self.awarded.setdefault((item.task, item.fence), to)
        assert before == to, "one fence, one holder"
        if item.durable:
            assert (item.task, item.fence, to) in self.decided, "the decision is written before the AWARD leaves"
        else:
            assert any(d.fence == item.fence and d.winner == to for d in bench.task(item.task).decisions)


class Play:
    """Turns small numbers into inputs that refer to what was said before, rightly or wrongly."""

    def __init__(self) -> None:
        self.bench = Bench(ended_remembered=50, calls_remembered=4, auctions_max=2)
        self.laws = Laws()
        self.requests = 0
        self.awards: list[tuple[str, Any]] = []
        self.rounds: list[tuple[str, Any]] = []
        self.ends: dict[str, str] = {}
        self.take(self.bench.start())
        for node in NODES[:2]:
            self.bench.row(node, OFFERS[0])

    def take(self, effects: list[Any]) -> None:
        self.laws.read(self.bench, effects)
        self.awards += [(to, item) for to, message in self.bench.sends(effects, Award) for item in message.items]
        self.rounds += self.bench.sends(effects, Cfp)
        for name, task in self.bench.manager.book.ended.items():
            assert self.ends.setdefault(name, task.state) == task.state, "an ended task stays as it ended"

    def give(self, body: Any, sender: str = "me") -> None:
        self.take(self.bench.give(body, sender))

    def play(self, kind: int, which: int, what: int, node: str) -> None:
        if kind < 9:
            self.world(kind, which, what, node)
        elif kind < 11:
            self.auction(kind, which, what, node)
        elif self.awards:
            to, item = self.awards[-1 - which % len(self.awards)]
            self.holder(kind, what, to if what < 3 else node, item, node)

    def world(self, kind: int, which: int, what: int, node: str) -> None:
        bench, row = self.bench, self.bench.directory.ensure(node)
        self.requests += 1
        if kind == 0:
            self.give(Submit(self.requests, "greet", b"{}", timeout_ms=(0, 700)[what == 3], retries=which - 1))
        elif kind == 1:
            self.give(Call(self.requests, "greet" if what else "gret", b"{}", timeout_ms=(0, 900)[what == 3]))
        elif kind == 2:
            self.take(bench.after((0.01, 0.2, 1.1, 3.7)[what], hear=NODES[: which % 4]))
        elif kind == 3:
            bench.row(node, OFFERS[what], room=which)
            self.give(OffersChanged(node))
        elif kind == 4:
            row.linked, row.state = False, ("dead", "suspect", "unreachable", "alive")[what]
            self.give((MemberDied(node), MemberSuspected(node, True), MemberSuspected(node, False), MemberAlive(node))[what])
        elif kind == 5:
            row.linked, row.state = True, "alive"
            bench.hear(node)
            self.give(MemberLinked(node) if what else MemberRestarted(node, which + 2))
        elif kind == 6:
            self.give(RequestGone(which * 2 + what))
        elif kind == 7:
            self.give(FileFetched(FILE, what > 0))
        else:
            self.give(Ask(self.requests, ("cancel", "task", "result", "tasks")[what], f"me.1.{which + 1}"), node)

    def auction(self, kind: int, which: int, what: int, node: str) -> None:
        if self.rounds:
            to, cfp = self.rounds[-1 - which % len(self.rounds)]
            task = cfp.items[0].task
            if kind == 9:
                self.give(Bid(cfp.round, (BidItem(task, what * 10, what, what / 10, "g"),), 1000), to if what else node)
            else:
                self.give(Refuse(cfp.round, ((task, ("busy", "incapable", "declined", "draining")[what]),), what * 100), to)

    def holder(self, kind: int, what: int, to: str, item: Any, node: str) -> None:
        self.bench.hear(to)
        key = (item.task, item.fence)
        message: Any
        if kind <= 13:
            output = b'"%d"' % what
            message = Result(*key, content_hash(output), output, "g", ((FILE, 1),) if what == 2 else ())
        elif kind <= 15:
            message = Accept((key,))
        elif kind == 16:
            message = Decline(((*key, ("busy", "not_ready", "stale_fence", "lease_past")[what]),))
        elif kind == 17:
            message = Failure(*key, KINDS[what + 1], "boom", what % 2 == 0)
        elif kind == 18:
            message = Beat((BeatItem(*key, "running"),))
        elif kind == 19:
            message = Release(((*key, "draining"),))
        elif kind == 20:
            message = Revoked((key,)) if what else Failure(*key, "error", "boom", True)
        elif kind == 21:
            message = Cancelled((key,))
        elif kind == 22:
            message = Reclaimed(((*key, STATUSES[what % 3]),))
        else:
            message = StepAsk(1, item.task, item.fence, "one", "greet", b"%d" % (what // 3))
        self.give(message, to)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(move, min_size=5, max_size=60))
def test_no_order_of_inputs_breaks_the_laws(moves):
    play = Play()
    for one in moves:
        play.play(*one)
    bench = play.bench
    # What the book says of lines and holders agrees with each task's state.
    book = bench.manager.book
    for task in book.tasks.values():
        assert task.state not in TERMINAL
        assert bool(task.holder) == (task.state in ("offered", "held", "committing", "cancelling"))
        line = book.lines.get(task.capability)
        in_line = line is not None and line.stands(task)
        assert in_line == (task.state in ("pending", "parked")), (task.id, task.state)
    for holder in book.holders.values():
        assert sum(holder.out.values()) == len(holder.tasks) and all(n >= 0 for n in holder.out.values())
    # A restart from the journal ends no task otherwise and raises every fence from where it was.
    fold = Fold()
    for entry in bench.journal:
        fold.apply(entry, bench.bodies)
    for name, state in play.laws.finished.items():
        assert fold.tasks[name].state == state
    for name, fence in play.laws.fences.items():
        assert fold.tasks[name].fence == fence


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(move, min_size=5, max_size=40))
def test_after_any_storm_every_task_ends_when_one_node_is_left_that_works(moves):
    play = Play()
    for one in moves:
        play.play(*one)
    bench = play.bench
    for node in NODES:
        bench.directory.ensure(node).linked = False
        bench.directory.ensure(node).state = "dead"
        play.give(MemberDied(node))
    bench.row("z", OFFERS[0], room=1000)
    play.give(MemberLinked("z"))
    for _ in range(400):
        if not bench.manager.book.tasks:
            break
        del play.awards[:]
        play.take(bench.after(0.1, hear=("z",)))
        bench.load("z", 1000)
        play.give(FileFetched(FILE, True))
        for to, cfp in play.rounds:
            if to == "z":
                play.give(Bid(cfp.round, (BidItem(cfp.items[0].task, 0, 1, 0.0, "g"),), 1000), "z")
        del play.rounds[:]
        for holder in list(bench.manager.book.holders.values()):
            for task in list(holder.tasks.values()):
                if holder.node == "z":
                    play.give(Result(task.id, task.fence, content_hash(b"1"), b"1", "g"), "z")
    assert {task.id: task.state for task in bench.manager.book.tasks.values()} == {}
