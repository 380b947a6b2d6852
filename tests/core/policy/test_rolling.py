"""Staged rollouts: which work is on which side; and three nodes, their journals and what gets lost between them, against a model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, Directory
from mesh.core.inputs import MemberLinked, Replay
from mesh.core.policy.fields import Bad
from mesh.core.policy.flags import chosen, flags_of
from mesh.core.policy.flags import section as flag_section
from mesh.core.policy.inputs import PolicyChanged, Ran
from mesh.core.policy.rolling import STOPPED, WIDENED, Rolling, rank
from mesh.core.policy.rollouts import Figures, broken, rollouts_of, section
from mesh.core.policy.rules import Rulebook
from mesh.core.policy.steering import Steering, steered
from mesh.core.records.still_open import StillOpen
from mesh.effects import Append, Send
from mesh.ids import flags_in
from mesh.limits import Limits
from mesh.messages.records import Audited, Rolled
from mesh.messages.rollouts import Mark, Seen
from mesh.messages.work import Placement

NODES = ("a", "b", "c")
ROW = {"capability": "job", "from": "1", "to": "2.0", "stages": [10, 50, 100], "hold": "10m", "failure_pct_max": 20, "runs_min": 5}
HOLD_S = 600.0
ROLLOUT = rollouts_of((ROW,))["job"]


def side(pins: tuple[str, ...]) -> str:
    (where,) = steered(Placement(), "job", pins).where
    return {"@1": "old", "@2.0|1": "new"}[where]


# ---- the values


def test_shares_are_kept_and_who_was_in_a_smaller_one_stays_in_a_greater_one() -> None:
    tasks = [f"n.1.{i}" for i in range(4000)]
    for share in (0, 5, 25, 100):
        count = sum(chosen("job", task, share) for task in tasks)
        assert abs(count - 40 * share) <= 80, (share, count)
        assert all(chosen("job", task, 100 if share > 25 else share + 5) for task in tasks if chosen("job", task, share))
    assert [chosen("a", task, 50) for task in tasks] != [chosen("b", task, 50) for task in tasks]


def test_a_flag_is_the_same_for_one_share_key_and_its_default_for_what_does_not_match() -> None:
    rows = (
        {"name": "plain", "default": True},
        {"name": "some", "share": 50, "by": "share", "match": {"capability": "report.*", "from": ["desk"]}},
    )
    plain, some = flags_of(flag_section(list(rows)))
    assert plain.value("x", (), "t", "") is True
    assert len({some.value("report.render", ("id", "desk"), f"t{i}", "tenant") for i in range(20)}) == 1
    assert len({some.value("report.render", ("id", "desk"), f"t{i}", "") for i in range(20)}) == 2
    assert not any(some.value(name, ("desk",), f"t{i}", "") for i in range(20) for name in ("other", "report"))
    assert not any(some.value("report.render", ("laptop",), f"t{i}", "") for i in range(20))
    steering = Steering((plain, some), {"job": ROLLOUT})
    pins = steering.pins("report.render", ("desk",), "t1", "")
    assert flags_in(pins) == {"plain": True, "some": some.value("report.render", ("desk",), "t1", "")} and pins[2].startswith("job@")


def test_work_that_asks_for_a_version_itself_is_on_no_side() -> None:
    assert steered(Placement(("@1.5", "gpu")), "job", ("job@2.0|1",)).where == ("@1.5", "gpu")
    assert steered(Placement(("gpu",)), "job", ("+x", "jobs@3", "job@2.0|1")).where == ("@2.0|1", "gpu")
    assert steered(Placement(), "other", ("job@2.0|1",)) == Placement()


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (Seen(5, 1, 4), Seen(), ""),
        (Seen(5, 2, 3), Seen(), "more than 20 % fail"),
        (Seen(2, 2, 0), Seen(), "more than 20 % fail"),  # three good ones to come would not mend it
        (Seen(1, 1, 0), Seen(), ""),
        (Seen(100, 20, 80), Seen(), ""),
        (Seen(100, 21, 79), Seen(), "more than 20 % fail"),
        (Seen(5, 0, 800), Seen(5, 0, 500), ""),
        (Seen(5, 0, 1001), Seen(5, 0, 500), "it takes more than 200 % of what the old version takes"),
        (Seen(5, 0, 1001), Seen(4, 0, 400), ""),
        (Seen(9, 0, 5), Seen(9, 0, 0), ""),  # below a millisecond all are alike
    ],
)
def test_when_a_limit_is_broken(new: Seen, old: Seen, why: str) -> None:
    rollout = rollouts_of((ROW | {"latency_pct_max": 200},))["job"]
    assert broken(rollout, Figures(new, old)) == why


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"capability": "a b"}, "is no capability's name"),
        ({"from": "one"}, "is no range of versions"),
        ({"to": "2|1"}, "is no range of versions"),
        ({"to": "1"}, "it is the version that it comes from"),
        ({"stages": [50, 10]}, "are no stages"),
        ({"stages": [0]}, "are no stages"),
        ({"stages": []}, "are no stages"),
        ({"stages": [10, 10]}, "are no stages"),
        ({"stages": "10"}, "are no stages"),
        ({"share": 10}, "there are stages, too"),
        ({"hold": "ten"}, "is no time"),
        ({"failure_pct_max": 101}, "is no number from 0 to 100"),
        ({"latency_pct_max": 90}, "is no number from 100 to 10000"),
        ({"runs_min": 0}, "is no number from 1 to"),
        ({"step": 1}, "there is no such key"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Bad, match=reason):
        section([ROW | change])


def test_what_else_is_refused() -> None:
    with pytest.raises(Bad, match="nothing says how much"):
        section([{key: value for key, value in ROW.items() if key != "stages"}])
    with pytest.raises(Bad, match="two rollouts of job"):
        section([ROW, ROW])
    for row, reason in (
        ({"name": "a b"}, "is no name"),
        ({"name": "x", "by": "moon"}, "cannot stand"),
        ({"name": "x", "share": 101}, "0 to 100"),
    ):
        with pytest.raises(Bad, match=reason):
            flag_section([row])
    with pytest.raises(Bad, match="two flags 'x'"):
        flag_section([{"name": "x"}, {"name": "x"}])
    with pytest.raises(Bad, match="65 flags"):
        flag_section([{"name": f"x{i}"} for i in range(65)])


# ---- the machines


class Bench:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.version = self.attempt = 1
        self.nodes: dict[str, tuple[Rolling, Deadlines, Directory]] = {}
        self.journals: dict[str, list[Any]] = {node: [] for node in NODES}
        self.lives = dict.fromkeys(NODES, 0)
        self.lossy = False

    def start(self, node: str) -> None:
        directory, deadlines = Directory(node), Deadlines()
        self.lives[node] += 1
        self.nodes[node] = Rolling(directory, deadlines, Limits(), self.lives[node]), deadlines, directory
        for seq, entry in enumerate(self.journals[node], 1):
            self.feed(node, node, Replay(seq, entry))
        self.rule(node)
        for other in [other for other in self.nodes if other != node]:
            for here, there in ((node, other), (other, node)):
                row = self.nodes[here][2].ensure(there)
                row.state, row.linked = ALIVE, True
                self.feed(here, here, MemberLinked(there))

    def rule(self, node: str) -> None:
        self.nodes[node][2].rulebook = Rulebook(self.version, rollouts=(ROW | {"attempt": self.attempt},))
        self.feed(node, node, PolicyChanged(self.version))

    def kill(self, node: str) -> None:
        del self.nodes[node]
        for _, _, directory in self.nodes.values():
            row = directory.ensure(node)
            row.state, row.linked = DEAD, False

    def feed(self, node: str, sender: str, body: Any) -> None:
        if node not in self.nodes:
            return
        for effect in list(self.nodes[node][0].inputs[type(body)](self.now_s, sender, body) or ()):
            if isinstance(effect, Append):
                self.journals[node].append(effect.entry)
            elif not self.lossy:
                assert isinstance(effect, Send)
                self.feed(effect.to, node, effect.message)

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

    def mark(self, node: str) -> Mark:
        return self.nodes[node][2].steering.marks["job"]

    def pins(self, node: str, task: str) -> tuple[str, ...]:
        return self.nodes[node][2].steering.pins("job", (node,), task, "")

    def ran(self, node: str, version: str, *, failed: bool = False, ms: int = 10, times: int = 1) -> None:
        for _ in range(times):
            self.feed(node, node, Ran("job", version, failed, ms))


def bench() -> Bench:
    found = Bench()
    for node in NODES:
        found.start(node)
    return found


def test_what_one_node_sees_of_all_together_ends_it_everywhere_for_good() -> None:
    b = bench()
    b.ran("a", "2.0", failed=True)
    b.advance(2)
    assert not b.mark("b").reason
    b.ran("b", "2.0", failed=True)
    assert [bool(b.mark(node).reason) for node in NODES] == [True, True, True]
    assert b.mark("c").by == "b" and b.mark("c").reason == "more than 20 % fail: 2 of 2 runs of the new version failed"
    (stopped,) = [entry for entry in b.journals["b"] if type(entry) is Audited]
    assert (stopped.what, stopped.about, stopped.by) == (STOPPED, "job", "b") and "policy 1, from 1 to 2.0 at 10 %: more" in stopped.note
    b.kill("c")
    b.start("c")
    assert {side(b.pins("c", f"t{i}")) for i in range(100)} == {"old"}
    for b.version, b.attempt, sides in ((2, 1, {"old"}), (3, 2, {"old", "new"})):
        for node in NODES:
            b.rule(node)
        assert {side(b.pins("c", f"t{i}")) for i in range(100)} == sides, "another rule begins nothing anew, another attempt does"


def test_a_stage_follows_when_its_time_is_over_and_enough_was_seen() -> None:
    b = bench()
    b.advance(HOLD_S + 10)
    assert b.mark("a").stage == 0
    b.ran("a", "2.0", times=4)
    b.advance(2)
    assert b.mark("a").stage == 0
    b.ran("b", "2.0")
    b.advance(2)
    assert [b.mark(node).stage for node in NODES] == [1, 1, 1], "its time was over: the runs were missing"
    b.ran("c", "2.0.0", times=5)
    b.advance(HOLD_S - 10)
    assert b.mark("a").stage == 1
    b.advance(20)
    assert [b.mark(node).stage for node in NODES] == [2, 2, 2]
    b.ran("c", "2.0", times=50)
    b.advance(5 * HOLD_S)
    assert b.mark("a").stage == 2
    assert sum(type(entry) is Audited and entry.what == WIDENED for node in NODES for entry in b.journals[node]) == 2


def test_what_a_node_forgot_at_its_restart_the_others_tell_it() -> None:
    b = bench()
    b.ran("a", "1", ms=20, times=3)
    b.ran("a", "2.0", ms=40, times=2)
    b.ran("a", "7", times=2)  # neither of the two
    b.advance(2)
    b.kill("a")
    b.start("a")
    b.ran("a", "2.0", ms=10)
    b.advance(2)
    for node in NODES:
        (row,) = b.nodes[node][0].told()
        assert (row["runs"], row["failed"], row["took_ms"], row["share"]) == ([3, 3], [0, 0], [20, 30], 10)


def test_of_what_the_journal_says_of_rollouts_the_newest_is_still_needed() -> None:
    entries = [Rolled(Mark(1, "job", 1)), Rolled(Mark(1, "job", 2)), Rolled(Mark(2, "job")), Rolled(Mark(1, "other"))]
    found = StillOpen("a", Limits().records)
    for seq, entry in enumerate(entries, 1):
        found.add(seq, entry)
    assert sorted(found.numbers(0) or ()) == [2, 3, 4]


class Rolls(RuleBasedStateMachine):
    """The model: the greatest mark that any node had written down, what each life of a node saw, and the pins of the work that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.b = Bench()
        self.made: list[tuple[str, tuple[str, ...]]] = []
        self.greatest: dict[str, Mark] = {}

    @initialize()
    def begin(self) -> None:
        for node in NODES:
            self.b.start(node)

    @rule(node=st.sampled_from(NODES))
    def new_work(self, node: str) -> None:
        if node not in self.b.nodes:
            return
        task = f"{node}.1.{len(self.made)}"
        pins, mark = self.b.pins(node, task), self.b.mark(node)
        self.made.append((task, pins))
        share = 0 if mark.reason else ROLLOUT.stages[mark.stage]
        assert (side(pins) == "new") == chosen("job", task, share)
        assert not (mark.reason and side(pins) == "new"), "after its end no new work goes to the new version"

    @rule(node=st.sampled_from(NODES), number=st.integers(0, 30), failed=st.booleans(), ms=st.integers(0, 50))
    def work_ends(self, node: str, number: int, failed: bool, ms: int) -> None:
        """Whoever drives it now: what it is pinned to stays."""
        if number < len(self.made):
            self.b.ran(node, "2.0" if side(self.made[number][1]) == "new" else "1", failed=failed, ms=ms)

    @rule(node=st.sampled_from(NODES), version=st.sampled_from(["1", "2.0"]), failed=st.integers(0, 3), good=st.integers(0, 8))
    def much_ends(self, node: str, version: str, failed: int, good: int) -> None:
        self.b.ran(node, version, times=good)
        self.b.ran(node, version, failed=True, times=failed)

    @rule(seconds=st.sampled_from([1.5, 60.0, HOLD_S, 3 * HOLD_S]))
    def time_passes(self, seconds: float) -> None:
        self.b.advance(seconds)

    @rule()
    def lose(self) -> None:
        self.b.lossy = not self.b.lossy

    @precondition(lambda self: len(self.b.nodes) > 1)
    @rule(node=st.sampled_from(NODES))
    def die(self, node: str) -> None:
        if node in self.b.nodes:
            self.b.kill(node)

    @rule(node=st.sampled_from(NODES))
    def come_back(self, node: str) -> None:
        if node not in self.b.nodes:
            self.b.start(node)

    @precondition(lambda self: self.b.version < 3)
    @rule()
    def another_policy(self) -> None:
        self.b.version += 1
        for node in list(self.b.nodes):
            self.b.rule(node)

    @precondition(lambda self: self.b.attempt < 3)
    @rule()
    def another_rollout(self) -> None:
        self.b.attempt += 1
        self.greatest = {}
        self.another_policy()

    @rule()
    def all_meet(self) -> None:
        self.b.lossy = False
        for node in NODES:
            if node in self.b.nodes:
                self.b.kill(node)
        for node in NODES:
            self.b.start(node)
        self.b.advance(2.0)
        marks = [self.b.mark(node) for node in NODES]
        assert marks[0] == marks[1] == marks[2]
        for mark in self.greatest.values():
            assert rank(marks[0]) >= rank(mark), "nothing that was written down is forgotten"

    @invariant()
    def marks_only_grow(self) -> None:
        for node in self.b.nodes:
            mark, before = self.b.mark(node), self.greatest.get(node)
            assert before is None or rank(mark) >= rank(before)
            self.greatest[node] = mark
            assert mark.edition == rollouts_of((ROW | {"attempt": self.b.attempt},))["job"].edition

    @invariant()
    def no_limit_is_broken_unnoticed(self) -> None:
        for node, (rolling, _, _) in self.b.nodes.items():
            (row,) = rolling.told()
            figures = Figures(Seen(row["runs"][1], row["failed"][1]), Seen(row["runs"][0], row["failed"][0]))
            assert self.b.mark(node).reason or not broken(ROLLOUT, figures)


TestRolls = Rolls.TestCase
TestRolls.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
