"""Circuit breakers: when one opens, what it lets in, and how everybody learns of it."""

from __future__ import annotations

import pytest
from manager_bench import Bench, started
from workbench import BOSS, OTHER, fence, sent, task_of
from workbench import Bench as Contractors
from workbench import started as runs_of

from mesh.core.inputs import HandlerEnded, TurnEnds, WorkerAttached, WorkerGone
from mesh.core.work.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from mesh.effects import Send
from mesh.limits import WorkLimits
from mesh.messages.membership import Load, LoadRow, Offer
from mesh.messages.work import Accept, Bid, BidItem, Cfp, CfpItem, Decline, Refuse, Release, ResultAck

LIMITS = WorkLimits()


def tripped() -> Breaker:
    breaker = Breaker()
    assert [breaker.fault(at_s, LIMITS) for at_s in (10.0, 20.0, 30.0)] == [False, False, True]
    return breaker


# ---- one breaker


def test_three_faults_in_a_row_open_it_and_a_success_between_them_counts():
    assert tripped().state == OPEN
    breaker = Breaker()
    breaker.fault(10.0, LIMITS)
    breaker.fault(20.0, LIMITS)
    breaker.ran(True, None, LIMITS)
    assert not breaker.fault(30.0, LIMITS) and breaker.admits()


def test_faults_at_the_same_time_are_one():
    breaker = Breaker()
    for at_s in (10.0, 10.1, 10.2, 10.3):
        assert not breaker.fault(at_s, LIMITS)


def test_half_open_lets_one_in_and_its_end_decides():
    breaker = tripped()
    assert not breaker.admits()
    breaker.cool()
    assert (breaker.state, breaker.admits()) == (HALF_OPEN, True)
    breaker.probe = "t"
    assert not breaker.admits()
    breaker.ran(True, 0, LIMITS)
    assert (breaker.state, breaker.admits(), breaker.probe) == (CLOSED, True, "")


def test_a_failed_probe_doubles_the_pause_and_a_good_one_begins_anew():
    breaker, pauses = tripped(), []
    for _ in range(6):
        pauses.append(breaker.pause_s(LIMITS))
        breaker.cool()
        assert breaker.fault(1000.0, LIMITS)
    assert pauses == [5, 10, 20, 40, 60, 60]
    breaker.cool()
    breaker.ran(True, 0, LIMITS)
    assert breaker.pause_s(LIMITS) == 5


@pytest.mark.parametrize(
    ("others", "opens"), [(0, True), (25, True), (26, False), (100, False), (None, False)], ids=["good", "half", "worse", "all", "nobody"]
)
def test_failures_open_it_only_where_others_do_better(others, opens):
    breaker = Breaker()
    opened = [breaker.ran(False, others, LIMITS) for _ in range(15)]
    assert any(opened) == opens
    assert opened.index(True) == 9 if opens else breaker.state == CLOSED


def test_a_probe_that_fails_as_everywhere_else_closes_it():
    breaker = tripped()
    breaker.cool()
    assert not breaker.ran(False, 90, LIMITS)
    assert breaker.state == CLOSED


# ---- at the node


def lose_workers(contractor: Contractors, times: int, first: int = 1) -> list:
    effects: list = []
    for number in range(first, first + times):
        contractor.attach("greet", worker=number)
        contractor.turn(contractor.award(number), BOSS)
        effects = contractor.turn(WorkerGone(number, 1000 + number))
        contractor.at(contractor.now + 2)
    return effects


def state(contractor: Contractors) -> str:
    return contractor.contractor._slots.capabilities["greet"].breaker.state  # type: ignore[attr-defined]


def test_a_node_whose_workers_die_takes_no_more_until_one_has_gone_well():
    contractor = Contractors()
    lose_workers(contractor, 3)
    contractor.attach("greet", worker=9, concurrency=4)
    assert contractor.contractor.statistics().breakers_opened == 1
    (decline,) = sent(contractor.turn(contractor.award(10), BOSS), Decline)
    assert decline.items == ((task_of(10), fence(), "breaker_open"),)
    (refuse,) = sent(contractor.turn(Cfp(1, (CfpItem(task_of(11), "greet", "", b"", 0),)), OTHER), Refuse)
    assert refuse.items == ((task_of(11), "breaker_open"),)
    contractor.at(contractor.now + 5)
    assert runs_of(contractor.turn(contractor.award(12), BOSS)) == [(task_of(12), fence())]
    assert sent(contractor.turn(contractor.award(13), BOSS), Decline)  # one at a time
    contractor.turn(HandlerEnded(9, task_of(12), fence(), "ok", b"1"))
    assert state(contractor) == CLOSED
    assert len(runs_of(contractor.turn(contractor.award(14), BOSS) + contractor.turn(contractor.award(15), BOSS))) == 2


def test_what_waits_in_its_queue_goes_back_when_it_opens():
    contractor = Contractors(WorkLimits(breaker_faults=1))
    contractor.attach("greet", worker=1)
    contractor.attach("greet", worker=2)
    for counter in (1, 2, 3):
        contractor.turn(contractor.award(counter), BOSS)
    (release,) = sent(contractor.turn(WorkerGone(1, 1001)), Release)
    assert release.items == ((task_of(3), fence(), "breaker_open"),)


def test_a_probe_that_says_nothing_makes_room_for_the_next():
    contractor = Contractors(WorkLimits(breaker_faults=1))
    lose_workers(contractor, 1)
    contractor.attach("greet", worker=9)
    contractor.at(contractor.now + 5)
    contractor.turn(contractor.award(12), BOSS)
    contractor.turn(HandlerEnded(9, task_of(12), fence(), "cancelled"))
    assert state(contractor) == HALF_OPEN

    contractor.turn(ResultAck(((task_of(12), fence()),)), BOSS)
    assert runs_of(contractor.turn(contractor.award(13), BOSS))


def test_its_load_tells_of_it_and_of_how_much_fails():
    contractor = Contractors(WorkLimits(breaker_faults=1))
    contractor.attach("greet", worker=1)
    for counter in range(1, 11):
        contractor.turn(contractor.award(counter), BOSS)
        contractor.turn(HandlerEnded(1, task_of(counter), fence(), "error", error={"message": "no", "retryable": counter % 2 == 0}))
    contractor.turn(contractor.award(20), BOSS)
    contractor.turn(WorkerGone(1, 1001))
    offers = (Offer("greet", "agent"),)
    contractor.node.handle(contractor.now, "me", WorkerAttached(2, 1002, "agent", offers, 1))
    effects = []
    for _ in range(3):
        contractor.now += 0.5
        effects += contractor.node.handle(contractor.now, "me", TurnEnds())
    rows = [e.message.rows for e in effects if isinstance(e, Send) and isinstance(e.message, Load) and e.to == BOSS]
    assert rows[-1] == (LoadRow("greet", 1, 0, 0, 0, rows[-1][0].service_ms, "open", 50),)


# ---- at the manager


@pytest.fixture
def bench() -> Bench:
    bench = started()
    bench.row("b", Offer("greet", "greeter"), room=4)
    return bench


def opens(bench: Bench, node: str, breaker: str = "open", room: int = 0) -> None:
    row = bench.row(node, Offer("greet", "greeter"))
    row.load = {"greet": LoadRow("greet", 1, 0, 0, room, 10, breaker)}
    row.load_at_s = bench.now


def test_an_open_breaker_is_a_hard_filter_with_a_reason(bench):
    opens(bench, "a")
    to, item = bench.awarded(bench.submit())
    assert to == "b"
    assert bench.journal[-1].refusals == (("a", "A", "breaker_open"),)
    assert item.task == "me.1.1"


def test_if_all_are_open_work_waits_for_that_reason_and_half_open_wakes_it(bench):
    opens(bench, "a")
    opens(bench, "b")
    bench.submit()
    assert (bench.task("me.1.1").state, bench.task("me.1.1").reason) == ("parked", "breaker_open")
    opens(bench, "a", "half_open", room=1)
    assert bench.awarded(bench.give(Load(2, ()), "a"))[0] == "a"


def test_a_bid_of_a_node_whose_breaker_has_opened_since_is_no_bid(bench):
    for node in ("a", "b"):
        bench.row(node, Offer("greet", "greeter", priced=True), room=4)
    cfps = bench.sends(bench.submit(), Cfp)
    round_ = cfps[0][1].round
    bench.give(Bid(round_, (BidItem("me.1.1", 0, 1, 0.0, "greeter"),), 1000), "a")
    bench.directory.ensure("a").load = {"greet": LoadRow("greet", 1, 0, 0, 0, 10, "open")}
    to, item = bench.awarded(bench.give(Bid(round_, (BidItem("me.1.1", 900, 1, 0.0, "greeter"),), 1000), "b"))
    assert to == "b" and bench.give(Accept(((item.task, item.fence),)), "b")
