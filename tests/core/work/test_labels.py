"""Labels and resources: who may be given what, what is held while it runs, and what is said when nobody fits."""

from __future__ import annotations

from typing import Any

import pytest
import workbench
from manager_bench import Bench, started
from workbench import BOSS, award_of, fence, item_of, sent, task_of

from mesh.core.inputs import Call, HandlerEnded, MemberLinked, OffersChanged, Replay, Started, WorkerAttached, WorkerGone
from mesh.core.work.fitting import fits, lacks, unmet
from mesh.core.work.resources import Resources
from mesh.messages.membership import Load, Offer
from mesh.messages.records import Accepted, Decided, Parked, Submitted
from mesh.messages.work import Award, Decline, Placement, Pull, Release, Revoke

EU = Placement(("zone=eu",))


def offer(*kinds: tuple[str, ...], needs: tuple[tuple[str, int], ...] = ()) -> Offer:
    return Offer("greet", "greeter", labels=kinds, needs=needs)


# ---- the manager


@pytest.fixture
def bench() -> Bench:
    return started()


def test_a_name_alone_asks_for_whatever_value_and_one_worker_must_have_them_all():
    here = offer(("gpu=a100", "zone=us"), ("zone=eu",))
    assert fits(here, ()) and fits(here, ("gpu",)) and fits(here, ("gpu=a100", "zone=us")) and fits(here, ("zone=eu",))
    assert not fits(here, ("gpu=h100",)) and not fits(here, ("gpu", "zone=eu")) and not fits(offer(), ("gpu",))
    assert lacks(here, ("gpu", "zone=jp")) == "lacks zone=jp"


def test_work_goes_only_to_who_has_the_label_and_the_record_says_why_not_to_the_others(bench):
    bench.row("b", offer(("zone=eu",)), room=1)
    bench.row("c", offer(("zone=us",)), room=9)
    node, item = bench.awarded(bench.submit(placement=EU))
    assert (node, item.where) == ("b", ("zone=eu",))
    (decided,) = [entry for entry in bench.journal if type(entry) is Decided]
    assert decided.refusals == (("a", "A", "lacks zone=eu"), ("c", "C", "lacks zone=eu"))
    assert next(entry for entry in bench.journal if type(entry) is Submitted).placement == EU


def test_work_that_waits_for_a_label_is_in_nobodys_way(bench):
    effects = bench.submit(placement=EU)
    assert bench.entries(effects, Parked) == [Parked("me.1.1", "no_label: nobody has zone=eu", 110_000)]
    assert bench.awarded(bench.submit())[0] == "a"
    bench.row("b", offer(("zone=eu",)), room=1)
    assert bench.awarded(bench.give(OffersChanged("b")))[0] == "b"
    assert bench.manager.book.lines_for("greet") == [bench.manager.book.lines["greet"]]


def test_the_reason_names_the_nearest(bench):
    bench.row("b", offer(("gpu=a100", "zone=us"), ("zone=jp",)), room=1)
    bench.submit(placement=EU)
    assert bench.task("me.1.1").reason == "no_label: nobody has zone=eu; nearest: zone=jp, zone=us"
    assert unmet(bench.directory, "greet", ("gpu", "zone=jp")) == "nobody has gpu and zone=jp together"
    assert unmet(bench.directory, "greet", ("gpus",)) == "nobody has gpus; nearest: gpu=a100"
    assert unmet(bench.directory, "greet", ("gpv=a100",)) == "nobody has gpv=a100; nearest: gpu=a100"
    assert unmet(bench.directory, "paint", ("gpu",)) == ""


def test_a_call_that_asks_for_a_label_nobody_has_ends_at_once(bench):
    bench.row("b", offer(("zone=us",)), room=1)
    error = {
        "code": "no_such_label",
        "message": "of those who offer 'greet' nobody has zone=eu; nearest: zone=us",
        "fix": "mesh caps",
    }
    assert bench.replies(bench.give(Call(3, "greet", b"{}", placement=EU))) == [(False, error)]


def test_busy_where_the_label_is_waits_and_room_there_wakes_it(bench):
    bench.row("b", offer(("zone=eu",)), room=0)
    bench.submit(placement=EU)
    assert bench.task("me.1.1").reason == "busy"
    bench.load("b", 1)
    assert bench.awarded(bench.give(Load(2, ()), "b"))[0] == "b"


def test_an_idle_node_pulls_only_what_fits_it(bench):
    bench.row("b", offer(("zone=eu",)), room=0, service_ms=500)
    bench.load("b", 0, service_ms=500)
    bench.submit(placement=EU), bench.submit(placement=EU)
    assert bench.sends(bench.give(Pull("greet", "a", 500), "a"), Award) == []
    assert bench.awarded(bench.give(Pull("greet", "b", 500), "b"))[0] == "b"


def test_what_was_given_back_for_who_does_not_fit_goes_through_the_market(bench):
    bench.row("b", offer(("zone=eu",)), room=1)
    item = bench.held(placement=EU)
    effects = bench.give(Release(((item.task, item.fence, "pulled"),), "a", 5, 900, 5), "b")
    assert [to for to, _ in bench.sends(effects, Award)] in ([], ["b"])


def test_the_label_is_known_again_after_a_restart():
    old = started()
    old.submit(placement=EU)
    bench = Bench(incarnation=2)
    bench.now = old.now
    bench.row("a", Offer("greet", "greeter"), room=4)
    bench.start(*old.journal, bodies=old.bodies)
    assert bench.task("me.1.1").placement == EU
    assert bench.log == [] or not bench.sends(bench.log, Award)
    bench.row("b", offer(("zone=eu",)), room=1)
    assert bench.awarded(bench.give(MemberLinked("b")))[0] == "b"


# ---- the contractor


GPU = (("gpu", 1000),)


def attached(bench: workbench.Bench, worker: int, needs: Any, resources: Any, labels: Any = (), slots: int = 4) -> list[Any]:
    offers = tuple(Offer(name, "agent", needs=need) for name, need in needs.items())
    return bench.turn(WorkerAttached(worker, 1000 + worker, "agent", offers, slots, (), labels, resources))


def ended(bench: workbench.Bench, counter: int, worker: int = 1, outcome: str = "ok") -> list[Any]:
    return bench.turn(HandlerEnded(worker, task_of(counter), fence(), outcome, b"1"))


def test_what_is_held_is_given_back_however_the_run_ends():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": GPU}, GPU)
    assert workbench.started(bench.turn(award_of(bench.now, item_of(1), item_of(2), item_of(3)), BOSS)) == [(task_of(1), fence())]
    assert bench.contractor.statistics().resources == (("gpu", 1000, 1000),)
    assert workbench.started(ended(bench, 1, outcome="error")) == [(task_of(2), fence())]
    bench.turn(Revoke(((task_of(2), fence()),)), BOSS)
    assert bench.contractor.statistics().resources == (("gpu", 1000, 1000),), "its handler has not ended yet"
    assert workbench.started(ended(bench, 2, outcome="cancelled")) == [(task_of(3), fence())]
    bench.turn(WorkerGone(1, 1001))
    assert bench.contractor.statistics().resources == ()


def test_workers_of_one_node_share_what_they_name_alike():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": GPU}, GPU)
    attached(bench, 2, {"wave": GPU}, GPU)
    bench.turn(award_of(bench.now, item_of(1)), BOSS)
    assert workbench.started(bench.turn(award_of(bench.now, item_of(2, capability="wave")), BOSS)) == []
    assert workbench.started(ended(bench, 1)) == [(task_of(2), fence())]


def test_older_work_that_needs_more_is_not_overtaken_for_ever():
    bench = workbench.Bench()
    attached(bench, 1, {"small": GPU, "large": (("gpu", 2000),)}, (("gpu", 2000),))
    bench.turn(award_of(bench.now, item_of(1, capability="small"), item_of(2, capability="large")), BOSS)
    assert workbench.started(bench.turn(award_of(bench.now, item_of(3, capability="small")), BOSS)) == []
    assert workbench.started(ended(bench, 1)) == [(task_of(2), fence())]
    assert workbench.started(ended(bench, 2)) == [(task_of(3), fence())]


def test_what_is_needed_goes_to_whose_turn_it_is():
    bench = workbench.Bench()
    attached(bench, 1, {"small": GPU, "large": (("gpu", 2000),)}, (("gpu", 2000),))
    low = [item_of(1, capability="small"), item_of(2, capability="large", rank=(2, ""))]
    bench.turn(award_of(bench.now, *low), BOSS)
    assert workbench.started(bench.turn(award_of(bench.now, item_of(3, capability="small", rank=(9, ""))), BOSS)) == [(task_of(3), fence())]
    assert workbench.started(bench.turn(award_of(bench.now, item_of(4, capability="small", rank=(1, ""))), BOSS)) == []
    assert workbench.started(ended(bench, 1)) == []
    assert workbench.started(ended(bench, 3)) == [(task_of(2), fence())]


def test_room_and_slots_are_what_the_resources_leave():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": (("gpu", 500),), "free": ()}, GPU)
    rows = {row.capability: row for row in bench.contractor._load._slots.load_rows(False)}
    assert (rows["greet"].slots, rows["greet"].room, rows["free"].slots) == (2, 3, 4)
    bench.turn(award_of(bench.now, item_of(1), item_of(2)), BOSS)
    assert bench.contractor._slots.capabilities["greet"].free() == 0 and bench.contractor._slots.capabilities["free"].free() == 2


def test_what_nothing_here_suffices_for_is_not_offered():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": GPU, "wave": ()}, ())
    assert [offer.capability for told in bench.sink.caught if hasattr(told, "offers") for offer in told.offers] == ["wave"]


def test_work_runs_in_the_worker_with_its_labels_and_is_in_nobodys_way():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": ()}, (), ("zone=eu",), slots=1)
    attached(bench, 2, {"greet": ()}, (), ("zone=us",), slots=1)
    where = ("zone=eu",)
    began = bench.turn(award_of(bench.now, item_of(1, where=where), item_of(2, where=where), item_of(3)), BOSS)
    assert [(e.worker, e.task) for e in workbench.of(began, workbench.Execute)] == [(1, task_of(1)), (2, task_of(3))]
    assert workbench.started(ended(bench, 3, worker=2)) == []
    assert workbench.started(ended(bench, 1)) == [(task_of(2), fence())]
    assert bench.contractor._slots.offers()[0].labels == (("zone=eu",), ("zone=us",))


def test_an_award_for_labels_that_are_gone_is_declined():
    bench = workbench.Bench()
    attached(bench, 1, {"greet": ()}, (), ("zone=us",))
    (decline,) = sent(bench.turn(award_of(bench.now, item_of(1, where=("zone=eu",))), BOSS), Decline)
    assert decline.items == ((task_of(1), fence(), "unlabelled"),)


def test_after_a_restart_nothing_that_needs_anything_begins_before_earlier_runs_are_known():
    bench = workbench.Bench()
    bench.give(Replay(1, Accepted(task_of(9), fence(), BOSS, "greet", "")))
    bench.give(Started())
    attached(bench, 1, {"greet": GPU}, GPU)
    assert workbench.started(bench.turn(award_of(bench.now, item_of(1), grant_ms=60_000), BOSS)) == []
    assert workbench.started(bench.at(bench.now + 5.1)) == [(task_of(1), fence())]


def test_amounts_add_up_in_thousandths():
    pool = Resources()
    pool.state([(("gpu", 1000),), (("gpu", 3000), ("ram", 10))])
    tenth = (("gpu", 100),)
    assert pool.most(tenth) == 30 and pool.most((("gpu", 1000), ("ram", 20))) == 0
    for _ in range(30):
        pool.take(tenth)
    assert pool.more(tenth) == 0 and pool.rows() == (("gpu", 3000, 3000), ("ram", 0, 10))
    pool.give(tenth)
    assert pool.more(tenth) == 1
