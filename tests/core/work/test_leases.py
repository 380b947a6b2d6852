"""Leases: renewal, lapse, early re-award of what is idempotent, revocation, and members that come and go."""

from __future__ import annotations

import json

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Call, MemberDied, MemberLeft, MemberLinked, MemberRestarted, MemberSuspected, MemberUnreachable
from mesh.effects import Append, Need, Send
from mesh.messages.membership import Offer
from mesh.messages.records import Finished, Lost
from mesh.messages.work import (
    Accept,
    Award,
    Beat,
    BeatItem,
    Decline,
    Reclaim,
    Reclaimed,
    Release,
    Renew,
    Revoke,
    Revoked,
    Superseded,
)

GREET = Offer("greet", "greeter")


@pytest.fixture
def bench() -> Bench:
    return started()


def beat(bench: Bench, item, node: str = "a", state: str = "running"):
    bench.hear(node)
    return bench.give(Beat((BeatItem(item.task, item.fence, state, 0.5, "half"),)), node)


def lost(bench: Bench, effects) -> list[str]:
    return [entry.reason for entry in bench.entries(effects, Lost)]


# ---- renewal


def test_a_beat_is_renewed_with_the_newest_stamp(bench):
    item = bench.held()
    bench.now += 0.5
    assert beat(bench, item) == [Send("a", Renew(((item.task, item.fence),), 3000, 110_507), need=Need.FREE)]
    assert (bench.task(item.task).progress, bench.task(item.task).note) == (0.5, "half")


def test_renewed_work_is_never_taken_away(bench):
    item = bench.held()
    for _ in range(40):
        assert lost(bench, bench.after(0.5)) == []
        beat(bench, item)
    assert bench.task(item.task).state == "held"


def test_a_beat_counts_as_the_accept_that_was_lost(bench):
    _, item = bench.awarded(bench.submit())
    beat(bench, item, state="queued")
    assert bench.task(item.task).state == "held"


def test_a_beat_of_what_is_not_held_there_is_superseded(bench):
    item = bench.held()
    bench.row("b", GREET)
    assert bench.sends(beat(bench, item, "b")) == [("b", Superseded(((item.task, item.fence),)))]
    assert bench.refused(bench.give(Beat((BeatItem("other.1.1", 1, "running"),)), "b")) == ["not_my_task"]


def test_a_holder_that_does_not_hear_us_is_not_renewed(bench):
    item = bench.held()
    row = bench.directory.get("a")
    for _ in range(6):
        bench.now += 0.5
        row.stamp_ms, row.stamp_at_s = int(bench.now * 1000), bench.now  # its envelopes come, with old echoes
        effects = bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a")
    assert len(bench.sends(effects, Renew)) == 1
    bench.now += 0.6
    row.stamp_ms, row.stamp_at_s = int(bench.now * 1000), bench.now
    effects = bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a")
    assert bench.sends(effects, Renew) == [] and bench.refused(effects) == ["echo_old"]
    assert lost(bench, bench.after(3.6)) == ["lease_over"]


# ---- a manager that was away


def test_a_manager_that_was_stopped_waits_for_the_beats_before_it_judges(bench):
    item = bench.held()
    bench.row("b", GREET, room=1)
    bench.now += 60  # its holder was not heard meanwhile, and neither would anybody have been
    assert lost(bench, bench.give()) == []
    beat(bench, item)
    assert lost(bench, bench.after(3.4)) == []
    assert bench.task(item.task).state == "held"


def test_a_holder_that_died_while_the_manager_was_stopped_gets_one_lease_more(bench):
    bench.held()
    bench.now += 60
    assert lost(bench, bench.give()) == []
    assert lost(bench, bench.after(3.49)) == []
    assert lost(bench, bench.after(0.02)) == ["lease_over"]


def test_a_manager_that_is_always_late_is_patient_once(bench):
    bench.held()
    found = []
    for _ in range(8):
        bench.now += 2
        found += lost(bench, bench.give())
    assert found == ["lease_over"]


def test_the_lease_may_be_looked_at_before_the_pulse(bench):
    item = bench.held()
    for _ in range(6):
        bench.after(0.55)
        beat(bench, item)
    bench.now += 60  # the first look, 3.5 s after the award, and the pulse are both over
    assert lost(bench, bench.give()) == []
    assert lost(bench, bench.after(3.49)) == []
    assert lost(bench, bench.after(0.02)) == ["lease_over"]


def test_patience_begins_anew_with_new_work(bench):
    for _ in range(2):
        bench.load("a", room=4)
        item = bench.held()
        bench.now += 60
        bench.hear("a")
        assert lost(bench, bench.give()) == []
        bench.result(item, "a")
        bench.after(5, hear=("a",))


def test_a_manager_that_holds_nothing_has_no_pulse(bench):
    item = bench.held()
    bench.result(item, "a")
    bench.after(5)
    assert bench.node.wake_at() is None


# ---- the end of a lease


def test_a_lease_is_over_after_the_grant_and_the_margin_and_not_before(bench):
    item = bench.held()
    bench.row("b", GREET, room=1)
    assert bench.sends(bench.after(3.49, hear=("b",))) == []
    effects = bench.after(0.02)
    assert lost(bench, effects) == ["lease_over"]
    assert bench.sends(effects)[0] == ("a", Revoke(((item.task, item.fence),)))
    node, again = bench.awarded(effects)
    assert (node, again.fence, again.attempt) == ("b", item.fence + 1, 2)


def test_the_granter_counts_from_when_the_stamp_came_not_from_the_award(bench):
    bench.now += 1.0
    bench.held()
    assert lost(bench, bench.after(2.49)) == []
    assert lost(bench, bench.after(0.02)) == ["lease_over"]


def test_an_unanswered_award_is_sent_again_as_it_was_and_counts_as_held(bench):
    effects = bench.submit()
    ((_, award),) = bench.sends(effects, Award)
    bench.hear("a")
    bench.now += 0.5
    bench.hear("a")
    assert bench.sends(bench.give()) == [("a", award)]
    assert lost(bench, bench.after(2.9)) == []
    assert lost(bench, bench.after(0.2)) == ["lease_over"]


def test_an_answered_award_is_not_sent_again(bench):
    bench.held()
    assert bench.sends(bench.after(2.0), Award) == []


def test_who_must_not_repeat_fails_when_its_lease_is_over(bench):
    bench.row("a", Offer("greet", "greeter", on_lost="fail"), room=4)
    bench.held()
    (entry,) = bench.entries(bench.after(3.6), Finished)
    assert (entry.state, json.loads(entry.error)["code"]) == ("failed", "node_lost")


# ---- what membership says

GONE = [MemberDied("a"), MemberUnreachable("a"), MemberSuspected("a", True), MemberLeft("a"), MemberRestarted("a", 2)]


@pytest.mark.parametrize("fact", GONE, ids=lambda fact: type(fact).__name__)
def test_idempotent_work_goes_elsewhere_at_once(bench, fact):
    bench.row("a", Offer("greet", "greeter", idempotent=True), room=4)
    item = bench.held()
    bench.row("b", GREET, room=1)
    bench.directory.get("a").state, bench.directory.get("a").linked = "dead", False
    node, again = bench.awarded(bench.give(fact))
    assert (node, again.fence) == ("b", item.fence + 1)


@pytest.mark.parametrize("fact", GONE[:4], ids=lambda fact: type(fact).__name__)
def test_other_work_waits_for_its_lease_whatever_membership_says(bench, fact):
    bench.held()
    bench.row("b", GREET, room=1)
    bench.directory.get("a").state, bench.directory.get("a").linked = "dead", False
    assert bench.sends(bench.give(fact)) == []
    assert bench.sends(bench.after(3.4, hear=("b",))) == []
    assert bench.awarded(bench.after(0.2))[0] == "b"


def test_a_soft_suspicion_takes_nothing_away(bench):
    bench.row("a", Offer("greet", "greeter", idempotent=True), room=4)
    bench.held()
    assert bench.give(MemberSuspected("a", False)) == []


def test_a_restarted_holder_is_asked_and_unknown_frees_what_is_durable(bench):
    item = bench.held()
    effects = bench.give(MemberRestarted("a", 2))
    assert bench.sends(effects) == [("a", Reclaim(((item.task, item.fence),), 0, 110_007))]
    effects = bench.give(Reclaimed(((item.task, item.fence, "unknown"),)), "a")
    assert lost(bench, effects) == ["unknown"]
    assert bench.awarded(effects)[1].fence == item.fence + 1


def test_a_restarted_holder_that_waits_for_its_worker_has_the_old_lease_and_no_other(bench):
    item = bench.held()
    bench.row("b", GREET, room=1)
    bench.after(1.0, hear=("a", "b"))
    bench.give(MemberRestarted("a", 2))
    bench.after(1.0, hear=("a", "b"))
    assert bench.sends(bench.give(Beat((BeatItem(item.task, item.fence, "suspended"),)), "a"), Renew) == []
    assert lost(bench, bench.after(1.4, hear=("a", "b"))) == []
    effects = bench.after(0.2)
    assert lost(bench, effects) == ["lease_over"]
    assert bench.awarded(effects)[1].fence == item.fence + 1


def test_a_restarted_holder_whose_worker_came_back_has_a_new_lease_at_once(bench):
    item = bench.held()
    bench.after(1.0, hear=("a",))
    bench.give(MemberRestarted("a", 2))
    effects = bench.give(Reclaimed(((item.task, item.fence, "running"),)), "a")
    assert bench.sends(effects) == [("a", Renew(((item.task, item.fence),), 3000, 111_007))]
    assert lost(bench, bench.after(3.4)) == []


def test_unknown_of_a_plain_call_that_may_not_repeat_waits_for_the_lease(bench):
    _, item = bench.awarded(bench.give(Call(1, "greet", b"{}")))
    bench.give(Accept(((item.task, item.fence),)), "a")
    bench.give(MemberRestarted("a", 2))
    assert bench.sends(bench.give(Reclaimed(((item.task, item.fence, "unknown"),)), "a")) == []
    assert bench.sends(bench.after(3.4, hear=("a",)), Award) == []
    assert bench.awarded(bench.after(0.2))[1].fence == item.fence + 1


# ---- the old holder


def test_an_old_holder_is_revoked_when_it_is_back(bench):
    item = bench.held()
    bench.row("b", GREET, room=1)
    bench.directory.get("a").linked = False
    bench.after(3.0, hear=("b",))
    assert bench.awarded(bench.after(0.6))[0] == "b"
    bench.directory.get("a").linked = True
    bench.hear("a")
    assert bench.sends(bench.give(MemberLinked("a"))) == [("a", Revoke(((item.task, item.fence),)))]
    effects = bench.result(item, "a")
    assert bench.sends(effects) == [("a", Superseded(((item.task, item.fence),)))]
    assert bench.task(item.task).holder == "b"
    bench.give(Revoked(((item.task, item.fence),)), "a")
    assert bench.sends(bench.give(MemberLinked("a"))) == []


def test_a_late_accept_is_revoked(bench):
    _, item = bench.awarded(bench.submit())
    bench.row("b", GREET, room=1)
    bench.give(Decline(((item.task, item.fence, "not_ready"),)), "a")
    effects = bench.give(Accept(((item.task, item.fence),)), "a")
    assert bench.sends(effects) == [("a", Revoke(((item.task, item.fence),)))]
    assert bench.refused(effects) == ["late_accept"]
    assert bench.sends(bench.give(Accept((("me.1.99", 5),)), "a")) == [("a", Revoke((("me.1.99", 5),)))]


def test_a_decline_behind_its_accept_changes_nothing(bench):
    item = bench.held()
    assert bench.refused(bench.give(Decline(((item.task, item.fence, "busy"),)), "a")) == ["late_decline"]
    assert bench.task(item.task).state == "held"


def test_released_work_goes_elsewhere_at_once(bench):
    item = bench.held()
    bench.row("b", GREET, room=1)
    effects = bench.give(Release(((item.task, item.fence, "draining"),)), "a")
    assert lost(bench, effects) == ["released:draining"]
    assert bench.awarded(effects)[0] == "b"


def test_revoked_of_the_newest_fence_frees_the_task(bench):
    item = bench.held()
    effects = bench.give(Revoked(((item.task, item.fence),)), "a")
    assert lost(bench, effects) == ["revoked"]
    assert bench.awarded(effects)[1].fence == item.fence + 1
    assert bench.give(Revoked(((item.task, item.fence),)), "a") == []  # of the old fence: nothing


def test_a_committing_task_is_not_taken_away_by_time(bench):
    item = bench.held()
    bench.result(item, "a", files=(("f" * 64, 1),))
    assert [e for e in bench.after(20.0) if type(e) is Append] == []
    assert bench.task(item.task).state == "committing"


def test_a_new_link_brings_unanswered_awards_again_at_once(bench):
    ((_, award),) = bench.sends(bench.submit(), Award)
    bench.now += 0.1
    bench.hear("a")
    assert bench.sends(bench.give(MemberLinked("a"))) == [("a", award)]
    assert bench.sends(bench.give(MemberLinked("a"))) == []


def test_each_lease_has_its_own_margin_whatever_else_lies_there(bench):
    bench.held()
    bench.now += 0.3
    bench.hear("a")
    second = bench.held()
    assert [entry.task for entry in bench.entries(bench.after(3.3), Lost)] == ["me.1.1"]
    assert lost(bench, bench.after(0.15)) == []
    assert [entry.task for entry in bench.entries(bench.after(0.1), Lost)] == [second.task]


def test_an_old_fence_of_the_present_holder_commits_nothing(bench):
    old = bench.held()
    new = bench.awarded(bench.give(Release(((old.task, old.fence, "draining"),)), "a"))[1]
    assert bench.sends(bench.result(old, "a")) == [("a", Superseded(((old.task, old.fence),)))]
    assert bench.task(old.task).fence == new.fence and bench.task(old.task).state == "offered"
