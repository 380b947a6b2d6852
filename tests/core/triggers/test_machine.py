"""Three nodes that act on one schedule, their journals, and what gets lost between them, against a model of a page.

The keys are a dictionary here: what makes them one over the mesh is tested in `tests/core/keeping`. This is about which ticks are acted on.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, Directory
from mesh.core.inputs import Enquire, MemberLinked, Replay, Started, Submit
from mesh.core.records.still_open import StillOpen
from mesh.core.triggers.calendar import NoCron, moment
from mesh.core.triggers.inputs import ReadWall, ScheduleAsk, WallRead
from mesh.core.triggers.ticker import Ticker
from mesh.effects import Append, Refused, Reply, Send, Tell
from mesh.limits import RecordsLimits, TriggerLimits
from mesh.messages.records import Planned, Ticked
from mesh.messages.triggers import Mark, Plan, Schedules

NODES = ("a", "b", "c")
MINUTE_MS = 60_000
LONG_MS = 5 * MINUTE_MS
FIRST_MS = 1_750_000_200_000 // LONG_MS * LONG_MS
CATCH_UP_MAX = 3


def plan(**fields: Any) -> Plan:
    return Plan("p", "c", **{"every_ms": MINUTE_MS, "catch_up_max": CATCH_UP_MAX, "overlap": "allow"} | fields)


class Bench:
    """Tickers with their clocks, links and disks. It begins between two ticks: there falls what people and machines do."""

    def __init__(self, every_ms: int = MINUTE_MS) -> None:
        self.now_s = 100.0
        self.every_ms = every_ms
        self.nodes: dict[str, tuple[Ticker, Deadlines, Directory]] = {}
        self.journals: dict[str, list[Any]] = {node: [] for node in NODES}
        self.skew_ms = dict.fromkeys(NODES, 0)
        self.tasks: dict[str, str] = {}
        self.answers: list[Reply] = []
        self.refused: list[str] = []
        self.lossy = False
        self.running = False

    @property
    def wall_ms(self) -> int:
        return FIRST_MS + self.every_ms // 2 + round((self.now_s - 100.0) * 1000)

    def start(self, node: str) -> None:
        directory, deadlines = Directory(node), Deadlines()
        ticker = Ticker(directory, deadlines, TriggerLimits(), NoCron())
        self.nodes[node] = ticker, deadlines, directory
        for seq, entry in enumerate(self.journals[node], 1):
            self.feed(node, node, Replay(seq, entry))
        self.feed(node, node, Started())
        for other in [other for other in self.nodes if other != node]:
            for here, there in ((node, other), (other, node)):
                row = self.nodes[here][2].ensure(there)
                row.state, row.linked = ALIVE, True
                self.feed(here, here, MemberLinked(there))

    def kill(self, node: str) -> None:
        del self.nodes[node]
        for _, _, directory in self.nodes.values():
            row = directory.ensure(node)
            row.state, row.linked = DEAD, False

    def feed(self, node: str, sender: str, body: Any) -> None:
        if node not in self.nodes:
            return
        # One input to its end before what follows from it, as in a node.
        for effect in list(self.nodes[node][0].inputs[type(body)](self.now_s, sender, body) or ()):
            self.perform(node, effect)

    def perform(self, node: str, effect: Any) -> None:
        match effect:
            case Append():
                self.journals[node].append(effect.entry)
            case Send():
                self.feed(effect.to, node, Schedules(effect.message.rows) if self.lossy else effect.message)
            case ReadWall():
                self.feed(node, node, WallRead(self.wall_ms + self.skew_ms[node]))
            case Reply():
                self.answers.append(effect)
            case Refused():
                self.refused.append(effect.reason)
            case Tell(Submit() as submit):
                task = self.tasks.setdefault(submit.key, f"{node}.1.{len(self.tasks)}")
                self.feed(node, node, Reply(submit.request, True, {"task": task}))
            case Tell(Enquire() as enquire):
                self.feed(node, node, Reply(enquire.request, True, {"state": "held" if self.running else "done"}))
            case _:
                raise AssertionError(effect)

    def advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while due := [(at, node) for node, (_, deadlines, _) in self.nodes.items() if (at := deadlines.next()) is not None]:
            at_s, node = min(due)
            if at_s > until_s:
                break
            self.now_s = max(self.now_s, at_s)
            for deadline in list(self.nodes[node][1].pop_due(self.now_s)):
                self.feed(node, node, deadline)
        self.now_s = until_s

    def say(self, action: str, name: str = "p", *plans: Plan) -> Reply:
        node = min(self.nodes)
        self.feed(node, node, ScheduleAsk(1, action, name, plans))
        return self.answers[-1]

    @property
    def ticks(self) -> list[int]:
        """Of those that have a task: how many intervals after the start."""
        known = {f"every/p/{moment(FIRST_MS + tick * self.every_ms)}": tick for tick in range(-5, 500)}
        return sorted(known[key] for key in self.tasks)


class Model:
    """Intervals pass; the tick of each is acted on if anybody is up who was not told otherwise."""

    def __init__(self, catch_up: str) -> None:
        self.catch_up = catch_up
        self.tick = 0
        self.fired: set[int] = set()
        self.said: dict[str, tuple[int, str, bool, int]] = {}
        """What each node knows of what people said: version, at which node, paused, since which tick."""
        self.upto: dict[str, int] = {}
        self.up: set[str] = set()

    def know(self) -> None:
        """Those who are up know the same."""
        for table in (self.said, self.upto):
            known: list[Any] = [table[node] for node in self.up if node in table]
            if known:
                table.update(dict.fromkeys(self.up, max(known)))  # type: ignore[arg-type]

    def look(self, *, in_time: bool) -> None:
        """Act on what is due: of several ticks only the newest may be in time."""
        self.know()
        said = next((self.said[node] for node in self.up if node in self.said), None)
        if said is None or said[2]:
            return
        base = max(said[3], *(self.upto.setdefault(node, self.tick) for node in self.up))
        keep = CATCH_UP_MAX if self.catch_up == "all" else int(in_time or self.catch_up == "last")
        if base < self.tick and keep:
            self.fired.update(range(max(base, self.tick - keep) + 1, self.tick + 1))
            self.upto.update(dict.fromkeys(self.up, self.tick))


class Schedule(RuleBasedStateMachine):
    @initialize(catch_up=st.sampled_from(["none", "last", "all"]))
    def begin(self, catch_up: str) -> None:
        self.bench, self.model = Bench(LONG_MS), Model(catch_up)
        for node in NODES:
            self.bench.start(node)
            self.model.up.add(node)
        self.bench.advance(5)
        assert self.bench.say("add", "p", plan(every_ms=LONG_MS, catch_up=catch_up)).ok
        self.model.said = dict.fromkeys(NODES, (1, min(NODES), False, 0))
        self.model.look(in_time=False)
        self.settle()

    def settle(self) -> None:
        """Over the next tick, to the middle of its interval."""
        every_s = LONG_MS / 1000
        self.bench.advance(every_s - (self.bench.now_s - 100.0) % every_s)
        self.model.tick += 1
        self.model.look(in_time=True)

    @rule(intervals=st.integers(1, 5))
    def pass_time(self, intervals: int) -> None:
        for _ in range(intervals):
            self.settle()

    @precondition(lambda self: self.model.up)
    @rule(pick=st.integers(0, 2))
    def kill(self, pick: int) -> None:
        node = sorted(self.model.up)[pick % len(self.model.up)]
        self.bench.kill(node)
        self.model.up.remove(node)
        self.settle()

    @precondition(lambda self: len(self.model.up) < 3)
    @rule(pick=st.integers(0, 2))
    def start(self, pick: int) -> None:
        down = sorted(set(NODES) - self.model.up)
        node = down[pick % len(down)]
        self.bench.start(node)
        self.model.up.add(node)
        self.model.look(in_time=False)
        self.settle()

    @precondition(lambda self: self.model.up)
    @rule(paused=st.booleans())
    def pause_or_resume(self, paused: bool) -> None:
        assert self.bench.say("pause" if paused else "resume").ok
        self.model.know()
        at = min(self.model.up)
        version, _, _, since = self.model.said[at]
        after = version + 1, at, paused, since if paused else self.model.tick
        self.model.said.update(dict.fromkeys(self.model.up, after))
        self.settle()

    @rule(lossy=st.booleans())
    def lose_marks(self, lossy: bool) -> None:
        """The keys hold without them."""
        self.bench.lossy = lossy

    @invariant()
    def the_same_ticks_have_tasks(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.ticks == sorted(self.model.fired)


TestSchedule = Schedule.TestCase
TestSchedule.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


# ---- single turns


def three(**fields: Any) -> Bench:
    bench = Bench()
    for node in NODES:
        bench.start(node)
    bench.advance(5)
    assert bench.say("add", "p", plan(**fields)).ok
    bench.advance(120)
    return bench


def test_a_clock_that_is_an_hour_ahead_makes_no_second_task() -> None:
    """It acts early (nothing here keeps it from linking); the others find the key taken when it is time."""
    bench = three()
    for node in NODES:
        bench.skew_ms[node] = 3_600_000 if node == "a" else 0
    bench.advance(3 * 3600)
    assert len(bench.ticks) == len(set(bench.ticks)) and bench.ticks == list(range(1, max(bench.ticks) + 1))
    assert max(bench.ticks) <= 60 * 4 + 3


def test_a_mark_from_far_ahead_silences_nobody() -> None:
    bench = three()
    bench.feed("a", "b", Schedules((), (Mark("p", bench.wall_ms + 10**9, bench.wall_ms + 10**9, "t"),)))
    before = bench.ticks
    bench.kill("b")
    bench.kill("c")
    bench.advance(120)
    assert "mark_from_future" in bench.refused and len(bench.ticks) == len(before) + 2


def test_what_is_not_json_runs_with_no_arguments_and_raises_nothing() -> None:
    bench = three(input=b"\xff", wants_tick=True)
    assert bench.ticks == [1, 2]


@pytest.mark.parametrize("running", [True, False])
def test_overlap(running: bool) -> None:
    bench = Bench()
    bench.start("a")
    bench.advance(5)
    assert bench.say("add", "p", Plan("p", "c", every_ms=MINUTE_MS)).ok
    bench.running = running
    bench.advance(300)
    assert bench.ticks == ([1] if running else [1, 2, 3, 4, 5])


def test_an_answer_that_never_comes_is_not_waited_for_for_ever() -> None:
    bench = three(catch_up="all")
    for node in ("b", "c"):
        bench.kill(node)
    ticker, deadlines, _ = bench.nodes["a"]
    swallowed: list[Any] = []
    perform, bench.perform = bench.perform, lambda node, effect: swallowed.append(effect) if type(effect) is Tell else perform(node, effect)  # type: ignore[method-assign]
    bench.advance(120)
    asked = [effect.fact.key for effect in swallowed]
    assert len(asked) > 2 and len(set(asked)) == 1, "the same tick, again and again"
    bench.perform = perform  # type: ignore[method-assign]
    before = len(bench.ticks)
    bench.advance(60)
    assert len(bench.ticks) >= before + 3
    assert ticker.statistics().acted >= len(asked) and deadlines.next() is not None


def test_who_may_manage_no_work_acts_on_nothing_and_says_nothing() -> None:
    bench = Bench()
    for node in NODES:
        bench.start(node)
        for _, _, directory in bench.nodes.values():
            directory.ensure("a").keeps = False
    bench.advance(5)
    refused = bench.say("add", "p", plan())
    assert not refused.ok and refused.body["code"] == "not_granted"
    bench.feed("b", "b", ScheduleAsk(1, "add", "p", (plan(),)))
    bench.advance(300)
    assert bench.ticks == [1, 2, 3, 4, 5] and all(task[0] in "bc" for task in bench.tasks.values())


def test_a_start_reads_the_newest_of_each_schedule_and_no_more() -> None:
    bench = three()
    assert bench.say("pause").ok and bench.say("resume").ok
    bench.advance(300)
    still = StillOpen("a", RecordsLimits())
    for seq, entry in enumerate(bench.journals["a"], 1):
        still.add(seq, entry)
    numbers = still.numbers(0)
    assert numbers is not None and [type(bench.journals["a"][seq - 1]) for seq in numbers] == [Planned, Ticked]
    kept = [bench.journals["a"][seq - 1] for seq in numbers]
    table = bench.nodes["a"][0]._book.table
    assert kept[0].row == table.rows["p"] and kept[1].mark == table.marks["p"]
