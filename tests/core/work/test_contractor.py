"""The contractor's rules, one by one: input in, effects out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import workbench
from workbench import BOSS, INPUT, ME, NOW_MS, OTHER, Bench, award_of, entries, fence, item_of, of, sent, started, stopped, task_of

from mesh.core.directory import Heir
from mesh.core.inputs import (
    FileFetched,
    FileWanted,
    HandlerEnded,
    HandlerProgress,
    Leave,
    MemberDied,
    MemberLinked,
    MemberRestarted,
    OffersSet,
    Priced,
    Replay,
    Started,
    TurnEnds,
    WorkerAttached,
    WorkerGone,
)
from mesh.effects import Append, Execute, Extend, Need, Price, Refused, Send, Stop
from mesh.ids import content_hash
from mesh.limits import WorkLimits
from mesh.messages.membership import Load, LoadRow, Offer
from mesh.messages.records import Accepted, Closed, Ended
from mesh.messages.work import (
    Accept,
    Award,
    Beat,
    BeatItem,
    Bid,
    BidItem,
    Cancel,
    Cancelled,
    Cfp,
    CfpItem,
    Decline,
    Failure,
    Reclaim,
    Reclaimed,
    Refuse,
    Release,
    Renew,
    Result,
    ResultAck,
    Revoke,
    Revoked,
    Superseded,
)

T1, T2, F1, F2 = task_of(1), task_of(2), fence(1), fence(2)
OUT = b'"hello"'


def attached(**options: Any) -> Bench:
    made = Bench()
    made.attach("greet", **options)
    return made


def ended(counter: int = 1, number: int = 1, outcome: str = "ok", worker: int = 1, **more: Any) -> HandlerEnded:
    output = OUT if outcome == "ok" else b""
    return HandlerEnded(worker, task_of(counter), fence(number), outcome, more.pop("output", output), **more)


def execute(counter: int = 1, number: int = 1, lease_end_ms: int = NOW_MS + 3000, need: Need = Need.FREE, **more: Any) -> Execute:
    return Execute(1, task_of(counter), fence(number), "greet", INPUT, lease_end_ms, need=need, **more)


# ---- the straight way


def test_a_plain_award_is_executed_accepted_and_reported() -> None:
    b = attached()
    assert b.give(b.award(), BOSS) == [execute()]
    assert b.at(b.now + b.limits.accept_wait_s) == [Send(BOSS, Accept(((T1, F1),)), need=Need.FREE)]
    result = Result(T1, F1, content_hash(OUT), OUT, "agent", (), 7, "1")
    assert b.turn(ended(service_ms=7)) == [Send(BOSS, result, need=Need.FREE)]
    assert b.turn(ResultAck(((T1, F1),)), BOSS) == []
    assert b.contractor.statistics().held == 0
    assert b.at(b.now + 20) == []


def test_a_plain_call_that_ends_at_once_is_answered_by_its_result_alone() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    assert sent(b.turn(ended()), Result)
    assert b.at(b.now + b.limits.accept_wait_s) == []


def test_durable_work_writes_before_it_speaks() -> None:
    b = attached()
    accepted = Append(Accepted(T1, F1, BOSS, "greet", content_hash(INPUT), NOW_MS))
    assert b.give(b.award(durable=True), BOSS) == [accepted, execute(need=Need.SYNCED, after=1)]
    assert b.give(TurnEnds()) == [Send(BOSS, Accept(((T1, F1),)), after=1)]
    digest = content_hash(OUT)
    effects = b.turn(ended(service_ms=7, files=((digest, 7),)))
    assert effects == [
        Append(Ended(T1, F1, "ok", digest, ((digest, 7),), "", "agent", 7, NOW_MS, "1"), {digest: OUT}),
        Send(BOSS, Result(T1, F1, digest, OUT, "agent", ((digest, 7),), 7, "1"), after=2),
    ]
    assert b.turn(ResultAck(((T1, F1),)), BOSS) == [Append(Closed(T1, F1), lazy=True)]


def test_one_accept_per_manager_and_turn_and_the_disk_holds_back_only_what_is_durable() -> None:
    b = attached(concurrency=8)
    b.give(award_of(b.now, item_of(1), item_of(2), item_of(3, durable=True)), BOSS)
    b.give(award_of(b.now, item_of(4)), BOSS)
    assert b.give(TurnEnds()) == [Send(BOSS, Accept(((task_of(3), F1),)), after=1)]
    assert b.at(b.now + b.limits.accept_wait_s) == [Send(BOSS, Accept(((T1, F1), (T2, F1), (task_of(4), F1))), need=Need.FREE)]


def test_whose_work_it_is_right_now() -> None:
    """Who asks is told a secret only for what he runs: that worker, that fence, a lease that holds, not told to stop."""
    b = attached()
    b.attach("greet", worker=2)
    runs = b.contractor.runs
    assert runs(1, T1, F1, NOW_MS) == ""
    b.turn(b.award(), BOSS)
    assert runs(1, T1, F1, NOW_MS) == runs(1, T1, F1, NOW_MS + 2999) == "greet"
    assert runs(1, T1, F1, NOW_MS + 3000) == "", "the lease is over"
    assert runs(2, T1, F1, NOW_MS) == runs(1, T1, F2, NOW_MS) == runs(1, T2, F1, NOW_MS) == runs(0, T1, F1, NOW_MS) == ""
    b.turn(Revoke(((T1, F1),)), BOSS)
    assert runs(1, T1, F1, NOW_MS) == "", "it shall stop"
    b.turn(ended(outcome="cancelled"))
    assert runs(1, T1, F1, NOW_MS) == ""


def test_work_of_its_own_manager_is_accepted_at_once() -> None:
    b = attached()
    b.give(award_of(b.now, item_of(1, author=ME)), ME)
    assert Accept(((task_of(1, ME), F1),)) in b.sink.caught
    b.give(HandlerEnded(1, task_of(1, ME), F1, "ok", OUT))
    assert [item.output for item in b.sink.caught if isinstance(item, Result)] == [OUT]


def test_slots_are_shared_by_the_capabilities_of_a_worker_and_the_queue_is_fair() -> None:
    b = Bench()
    b.attach("greet", "wave", concurrency=2)
    effects = []
    for counter, capability in enumerate(("greet", "wave", "wave", "greet", "wave"), 1):
        effects += b.turn(b.award(counter, capability=capability), BOSS)
    assert started(effects) == [(task_of(1), F1), (task_of(2), F1)]
    order = []
    for counter in (1, 2, 3, 4):
        order += started(b.turn(ended(counter)))
    assert order == [(task_of(3), F1), (task_of(4), F1), (task_of(5), F1)]


def test_two_workers_with_one_capability_share_its_queue() -> None:
    b = attached()
    b.attach("greet", worker=2)
    effects = b.turn(award_of(b.now, *(item_of(counter) for counter in (1, 2, 3))), BOSS)
    assert [effect.worker for effect in of(effects, Execute)] == [1, 2]
    assert [effect.worker for effect in of(b.turn(ended(2, worker=2)), Execute)] == [2]


def test_offers_are_the_union_and_are_told_only_when_they_change() -> None:
    b = attached()
    b.attach("wave", "greet", worker=2)
    told = [item for item in b.sink.caught if isinstance(item, OffersSet)]
    assert [[offer.capability for offer in fact.offers] for fact in told] == [["greet"], ["greet", "wave"]]
    b.sink.caught.clear()
    b.attach("greet", worker=3)
    assert not [item for item in b.sink.caught if isinstance(item, OffersSet)]
    b.turn(WorkerGone(2, 1002))
    (fact,) = [item for item in b.sink.caught if isinstance(item, OffersSet)]
    assert [offer.capability for offer in fact.offers] == ["greet"]


# ---- refusals of an award


def declined(b: Bench, award: Award, manager: str = BOSS) -> str:
    (decline,) = sent(b.turn(award, manager), Decline)
    ((task, number, reason),) = decline.items
    assert (task, number) == (award.items[0].task, award.items[0].fence)
    return str(reason)


def test_declines_with_reasons() -> None:
    b = attached()
    assert declined(b, b.award(1, capability="juggle")) == "incapable"
    assert declined(b, award_of(b.now - 3, item_of(2))) == "lease_past"
    assert declined(b, award_of(b.now, item_of(3, durable=True, input_hash="0" * 64))) == "input_hash_wrong"
    b.turn(b.award(4, 2), BOSS)
    assert declined(b, b.award(4, 1)) == "stale_fence"
    assert declined(b, b.award(5), OTHER) == "not_manager"


def test_a_stamp_from_the_future_is_declined_and_counted() -> None:
    b = attached()
    effects = b.turn(Award((item_of(),), 3000, NOW_MS + 1), BOSS)
    assert effects == [Refused("future_stamp", BOSS), Send(BOSS, Decline(((T1, F1, "future_stamp"),)), need=Need.FREE)]


def test_a_declined_fence_is_never_accepted_afterwards() -> None:
    b = attached()
    b.turn(b.award(1), BOSS)
    b.turn(b.award(2), BOSS)
    conditional = award_of(b.now, item_of(3), conditional=True)
    assert declined(b, conditional) == "busy"
    b.turn(ended(1))
    b.turn(ended(2))
    assert declined(b, conditional) == "stale_fence"
    assert started(b.turn(award_of(b.now, item_of(3, 2), conditional=True), BOSS)) == [(task_of(3), F2)]


def test_unconditional_awards_queue_up_to_the_limit() -> None:
    b = Bench(WorkLimits(queue_max=3))
    b.attach("greet")
    effects = b.turn(award_of(b.now, *(item_of(counter) for counter in range(1, 7))), BOSS)
    assert sent(b.at(b.now + b.limits.accept_wait_s), Accept)[0].items == tuple((task_of(counter), F1) for counter in range(1, 5))
    assert [reason for _, _, reason in sent(effects, Decline)[0].items] == ["busy", "busy"]
    assert sent(effects, Decline)[0].retry_after_ms > 0


def test_a_repeated_award_is_accepted_again_and_not_executed_twice() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    b.at(b.now + 0.1)
    effects = b.turn(b.award(), BOSS)
    assert effects == [
        Extend(1, ((T1, F1, NOW_MS + 3100),), need=Need.FREE),
        Send(BOSS, Accept(((T1, F1),)), need=Need.FREE),
    ]
    b.turn(ended())
    b.turn(ResultAck(((T1, F1),)), BOSS)
    assert declined(b, b.award()) == "stale_fence"


def test_while_draining_nothing_is_taken_and_what_has_not_started_is_given_back() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2, durable=True), item_of(3)), BOSS)
    effects = b.turn(Leave(9))
    assert entries(effects) == [Ended(T2, F1, "released", error='{"kind": "draining"}', at_ms=NOW_MS)]
    assert [message.items for message in sent(effects, Release)] == [((T2, F1, "draining"),), ((task_of(3), F1, "draining"),)]
    assert declined(b, b.award(4)) == "draining"
    assert sent(b.turn(cfp(5), BOSS), Refuse) == [Refuse(1, ((task_of(5), "draining"),))]
    assert sent(b.turn(ended()), Result)


# ---- fences, and being taken away


def test_a_higher_fence_stops_the_old_handler_before_it_starts() -> None:
    b = attached(concurrency=4)
    b.turn(b.award(), BOSS)
    effects = b.turn(b.award(1, 2), BOSS)
    assert (stopped(effects), started(effects)) == ([(T1, F1)], [])
    assert sent(b.at(b.now + b.limits.accept_wait_s), Accept) == [Accept(((T1, F2),))]
    effects = b.turn(ended(outcome="cancelled"))
    assert started(effects) == [(T1, F2)]
    assert not sent(effects, Failure), "the old fence is owed nothing"


def test_a_handler_that_does_not_stop_sends_its_successor_elsewhere() -> None:
    b = attached(concurrency=4)
    b.turn(b.award(), BOSS)
    b.turn(b.award(1, 2), BOSS)
    b.turn(Renew(((T1, F2),), 30_000, NOW_MS), BOSS)
    assert sent(b.at(b.now + b.limits.stop_s), Release) == [Release(((T1, F2, "still_running"),))]
    assert started(b.turn(ended(outcome="cancelled"))) == []


def test_revoked_is_said_when_the_handler_has_ended() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    assert b.turn(Revoke(((T1, F1), (T2, F1), (task_of(3), F1))), BOSS) == [
        Stop(1, T1, F1, "revoked", need=Need.FREE),
        Send(BOSS, Revoked(((T2, F1), (task_of(3), F1))), need=Need.FREE),
    ]
    assert b.turn(ended(outcome="cancelled")) == [Send(BOSS, Revoked(((T1, F1),)), need=Need.FREE)]
    assert declined(b, b.award(3)) == "stale_fence"
    assert declined(b, b.award(1)) == "stale_fence"


def test_revoking_a_fence_waits_for_the_handler_of_an_older_one() -> None:
    b = attached()
    b.turn(b.award(1, 1), BOSS)
    b.turn(b.award(1, 2), BOSS)
    assert sent(b.turn(Revoke(((T1, F2),)), BOSS), Revoked) == []
    assert b.turn(ended(outcome="cancelled")) == [Send(BOSS, Revoked(((T1, F2),)), need=Need.FREE)]
    assert b.contractor.statistics().busy == 0


def test_a_result_that_was_ready_when_revoked_goes_first() -> None:
    b = attached()
    b.turn(b.award(durable=True), BOSS)
    b.turn(Revoke(((T1, F1),)), BOSS)
    effects = b.turn(ended())
    assert [type(effect.message) for effect in of(effects, Send)] == [Result, Revoked]
    assert type(effects[0]) is Append


def test_cancel_is_answered_after_the_end_or_after_its_bound() -> None:
    b = attached(concurrency=2)
    b.turn(award_of(b.now, item_of(1, durable=True), item_of(2)), BOSS)
    assert stopped(b.turn(Cancel(((T1, F1), (T2, F1)), "enough"), BOSS)) == [(T1, F1), (T2, F1)]
    effects = b.turn(ended(outcome="cancelled"))
    assert entries(effects) == [Ended(T1, F1, "cancelled", at_ms=NOW_MS), Closed(T1, F1)]
    assert sent(effects, Cancelled) == [Cancelled(((T1, F1),))]
    assert sent(b.at(b.now + b.limits.stop_s), Cancelled) == [Cancelled(((T2, F1),))]
    assert b.contractor.statistics().busy == 1, "the slot stays taken until the handler ends"
    assert b.turn(ended(2)) == []


def test_cancelling_what_is_unknown_or_queued_is_answered_at_once() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    effects = b.turn(Cancel(((T2, F1), (task_of(3), F1)), "enough"), BOSS)
    assert effects == [Send(BOSS, Cancelled(((T2, F1), (task_of(3), F1))), need=Need.FREE)]


def test_superseded_stops_and_forgets() -> None:
    b = attached()
    b.turn(b.award(durable=True), BOSS)
    assert b.turn(Superseded(((T1, F1),)), BOSS) == [Stop(1, T1, F1, "superseded", after=1), Append(Closed(T1, F1), lazy=True)]
    assert b.turn(ended()) == []


def test_nobody_but_the_manager_speaks_about_a_task() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    items = ((T1, F2),)
    for message in (Revoke(items), Cancel(items, ""), Superseded(items), Reclaim(items, 3000, NOW_MS), Renew(items, 3000, NOW_MS)):
        effects = b.turn(message, OTHER)
        assert Refused("not_manager", OTHER) in effects
        assert not of(effects, Stop) and not of(effects, Send)


# ---- leases


def test_a_renewal_extends_what_is_executing() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    b.at(b.now + 0.1)
    effects = b.turn(Renew(((T1, F1), (T2, F1)), 3000, NOW_MS + 100), BOSS)
    assert effects == [Extend(1, ((T1, F1, NOW_MS + 3100),), need=Need.FREE)]
    assert b.turn(Renew(((T1, F1),), 3000, NOW_MS + 5000), BOSS) == [Refused("future_stamp", BOSS)]
    assert b.turn(Renew(((T1, F2),), 3000, NOW_MS), BOSS) == [Refused("renew_unknown", BOSS)]


def test_under_a_lapsed_lease_nothing_starts_until_it_is_renewed() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    beats = sent(b.at(b.now + 3.2), Beat)
    assert beats[0] == Beat((BeatItem(T1, F1, "running"), BeatItem(T2, F1, "queued")))
    assert beats[-1] == Beat((BeatItem(T1, F1, "suspended"), BeatItem(T2, F1, "suspended")))
    effects = b.turn(ended())
    assert (started(effects), len(sent(effects, Result))) == ([], 1)
    effects = b.turn(Renew(((T2, F1),), 3000, int(b.now * 1000)), BOSS)
    assert started(effects) == [(T2, F1)]


def test_beats_carry_progress() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    b.turn(HandlerProgress(1, T1, F1, 0.25, "half way to half"))
    assert sent(b.at(b.now + 0.5), Beat) == [Beat((BeatItem(T1, F1, "running", 0.25, "half way to half"),))]
    b.turn(ended())
    assert sent(b.at(b.now + 0.5), Beat) == [Beat((BeatItem(T1, F1, "ended", 1.0),))]


def test_after_the_grace_a_suspended_handler_is_stopped_and_queued_work_given_back() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2, durable=True)), BOSS)
    assert not stopped(b.at(b.now + 32.9))
    effects = b.at(b.now + 0.2)
    assert stopped(effects) == [(T1, F1)]
    assert sent(effects, Release) == [Release(((T2, F1, "abandoned"),))]
    (failure,) = sent(b.turn(ended(outcome="cancelled")), Failure)
    assert (failure.kind, failure.retryable) == ("cancelled", True)


# ---- reports


def test_results_are_repeated_until_acknowledged_and_when_the_link_returns() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    first = sent(b.turn(ended()), Result)
    assert sent(b.at(b.now + 1.0), Result) == first
    b.directory.ensure(BOSS).linked = False
    assert sent(b.at(b.now + 3.0), Result) == []
    b.directory.ensure(BOSS).linked = True
    assert sent(b.turn(MemberLinked(BOSS)), Result) == first
    b.turn(ResultAck(((T1, F1),)), BOSS)
    assert sent(b.at(b.now + 5.0), Result) == []


@pytest.mark.parametrize(
    ("outcome", "error", "kind", "retryable"),
    [
        ("error", {"kind": "error", "message": "no", "retryable": False}, "error", False),
        ("error", {"kind": "invalid_argument", "message": "n"}, "invalid_argument", False),
        ("timeout", {}, "timeout", True),
        ("cancelled", {}, "cancelled", True),
        ("error", {"kind": 5, "message": ["odd"], "details": None}, "error", True),
    ],
)
def test_failures(outcome: str, error: dict[str, Any], kind: str, retryable: bool) -> None:
    b = attached()
    b.turn(b.award(durable=True), BOSS)
    effects = b.turn(ended(outcome=outcome, error=error))
    (failure,) = sent(effects, Failure)
    assert (failure.kind, failure.retryable) == (kind, retryable)
    (entry,) = entries(effects)
    assert (entry.outcome, json.loads(entry.error)["kind"]) == (outcome, kind)


def test_a_result_that_is_too_big_is_a_failure() -> None:
    b = Bench(WorkLimits(body_bytes_max=10))
    b.attach("greet")
    b.turn(b.award(), BOSS)
    (failure,) = sent(b.turn(ended(output=b'"' + b"x" * 20 + b'"')), Failure)
    assert (failure.kind, failure.retryable) == ("too_big", False)


def test_a_handler_that_outruns_its_timeout_in_silence_is_reported_and_keeps_its_slot() -> None:
    b = attached()
    effects = b.turn(award_of(b.now, item_of(1, timeout_ms=1000), item_of(2), grant_ms=60_000), BOSS)
    effects = b.at(b.now + 2.1)
    assert stopped(effects) == [(T1, F1)]
    assert [failure.kind for failure in sent(effects, Failure)][:1] == ["timeout"]
    assert started(effects) == []
    assert started(b.turn(ended(outcome="cancelled"))) == [(T2, F1)]


# ---- workers


def test_a_worker_that_is_gone_fails_what_it_ran_and_gives_back_what_nobody_else_can_run() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1, durable=True), item_of(2)), BOSS)
    effects = b.turn(WorkerGone(1, 1001))
    assert [(type(effect), getattr(effect, "message", None) and type(effect.message)) for effect in effects] == [
        (Append, None),
        (Send, Failure),
        (Send, Release),
    ]
    assert entries(effects)[0].outcome == "worker_lost"
    assert sent(effects, Failure)[0].kind == "worker_lost"
    assert declined(b, b.award(3)) == "incapable"


def test_queued_work_waits_for_another_worker_of_the_capability() -> None:
    b = attached()
    b.attach("greet", worker=2)
    b.turn(award_of(b.now, *(item_of(counter) for counter in (1, 2, 3))), BOSS)
    effects = b.turn(WorkerGone(1, 1001))
    assert sent(effects, Release) == []
    assert [effect.worker for effect in of(b.turn(ended(2, worker=2)), Execute)] == [2]


def test_an_end_that_nobody_asked_for_is_counted() -> None:
    b = attached()
    assert b.turn(ended()) == [Refused("unknown_handler")]
    b.turn(b.award(), BOSS)
    assert b.turn(ended(number=2)) == [Refused("unknown_handler")]
    assert b.turn(ended(worker=2)) == [Refused("unknown_handler")]
    assert b.turn(WorkerGone(7, 7)) == [Refused("unknown_worker")]


# ---- files


def test_input_files_come_first() -> None:
    b = attached(concurrency=2)
    file = content_hash(b"file")
    effects = b.turn(award_of(b.now, item_of(1, files=((file, 4),), sources=(BOSS, OTHER)), item_of(2, files=((file, 4),))), BOSS)
    assert started(effects) == []
    wanted = [item for item in b.sink.caught if isinstance(item, FileWanted)]
    assert wanted == [FileWanted(file, 4, (BOSS, OTHER)), FileWanted(file, 4, (BOSS,))]
    assert started(b.turn(FileFetched(file, True))) == [(T1, F1), (T2, F1)]
    assert b.turn(FileFetched(file, True)) == []


def test_a_file_that_is_not_to_be_had_fails_the_task() -> None:
    b = attached()
    file = content_hash(b"file")
    b.turn(b.award(files=((file, 4),)), BOSS)
    (failure,) = sent(b.turn(FileFetched(file, False)), Failure)
    assert (failure.kind, failure.retryable) == ("no_file", True)


# ---- bids


def cfp(*counters: int, capability: str = "greet", round: int = 1) -> Cfp:
    return Cfp(round, tuple(CfpItem(task_of(counter), capability, content_hash(INPUT), INPUT, 7) for counter in counters))


def test_bids_come_from_the_true_queue() -> None:
    b = attached(concurrency=2)
    assert b.turn(cfp(1), BOSS) == [Send(BOSS, Bid(1, (BidItem(T1, 0, 0, 0.0, "agent"),), 1000), need=Need.FREE)]
    b.turn(b.award(1), BOSS)
    b.now += 0.04
    b.turn(ended(1, service_ms=40))
    b.turn(award_of(b.now, item_of(2), item_of(3), item_of(4), grant_ms=60_000), BOSS)
    b.now += 0.01
    # Both slots free in 30 ms, one task waits and takes the first of them: the next starts at 30, the one after at 70.
    (bid,) = sent(b.turn(cfp(5, round=2), BOSS), Bid)
    assert [(item.start_ms, item.service_ms) for item in bid.items] == [(30, 40)]


def test_one_cfp_for_many_counts_its_own_items() -> None:
    b = attached()
    effects = b.turn(cfp(1, 2, 3), BOSS)
    assert [item.task for item in sent(effects, Bid)[0].items] == [T1, T2]
    assert sent(effects, Refuse)[0].items == ((task_of(3), "busy"),)


def lot(count: int, round: int = 1) -> Cfp:
    return Cfp(round, (CfpItem(T1, "greet", content_hash(INPUT), b"", 7, count),))


def test_a_lot_is_answered_with_a_capacity_curve() -> None:
    b = attached(concurrency=2)
    (bid,) = sent(b.turn(lot(9), BOSS), Bid)
    # Never measured: two slots, and one may wait.
    assert [(item.start_ms, item.starts_ms) for item in bid.items] == [(0, (0, 0))]
    b.turn(b.award(2), BOSS)
    b.now += 0.02
    b.turn(ended(2, service_ms=20))
    b.turn(b.award(3, 1), BOSS)
    b.now += 0.005
    (bid,) = sent(b.turn(lot(256, round=2), BOSS), Bid)
    assert [(item.start_ms, item.starts_ms) for item in bid.items] == [(0, (15, 20, 35, 40, 55))]
    (bid,) = sent(b.turn(lot(2, round=3), BOSS), Bid)
    assert [(item.start_ms, item.starts_ms) for item in bid.items] == [(0, (15,))]


def test_of_a_lot_that_the_agent_prices_only_the_first_is_bid_for() -> None:
    b = attached(priced=True, concurrency=8)
    b.turn(lot(5), BOSS)
    assert b.turn(Priced(1, 1, T1, 0.5, 120)) == [Send(BOSS, Bid(1, (BidItem(T1, 0, 120, 0.5, "agent"),), 1000), need=Need.FREE)]


def test_refusals_tell_busy_from_incapable() -> None:
    b = attached()
    assert sent(b.turn(cfp(1, capability="juggle"), BOSS), Refuse) == [Refuse(1, ((T1, "incapable"),))]
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    (refuse,) = sent(b.turn(cfp(3, round=2), BOSS), Refuse)
    assert (refuse.items, refuse.retry_after_ms > 0) == (((task_of(3), "busy"),), True)


def test_agents_price_their_work() -> None:
    b = attached(priced=True, concurrency=8)
    assert b.turn(cfp(1, 2), BOSS) == [
        Price(1, 1, T1, "greet", INPUT, need=Need.FREE),
        Price(1, 1, T2, "greet", INPUT, need=Need.FREE),
    ]
    assert b.turn(Priced(1, 1, T1, 0.5, 120)) == []
    assert b.turn(Priced(1, 1, T2, None)) == [
        Send(BOSS, Bid(1, (BidItem(T1, 0, 120, 0.5, "agent"),), 1000), need=Need.FREE),
        Send(BOSS, Refuse(1, ((T2, "declined"),)), need=Need.FREE),
    ]
    assert b.turn(Priced(1, 1, T2, 1.0)) == [Refused("price_not_asked")]


def test_an_agent_that_thinks_too_long_costs_only_its_own_bid() -> None:
    b = attached(priced=True)
    b.turn(cfp(1), BOSS)
    assert sent(b.at(b.now + 0.29), Refuse) == []
    assert sent(b.at(b.now + 0.02), Refuse) == [Refuse(1, ((T1, "not_ready"),))]
    b.turn(cfp(2, round=2), BOSS)
    assert sent(b.turn(WorkerGone(1, 1001)), Refuse) == [Refuse(2, ((T2, "not_ready"),))]
    assert b.at(b.now + 1) == []


def test_two_managers_may_use_the_same_round() -> None:
    b = attached(priced=True, concurrency=8)
    b.turn(cfp(1), BOSS)
    b.turn(cfp(1), OTHER)
    assert [effect.to for effect in of(b.turn(Priced(1, 1, T1, 0.5)), Send)] == [BOSS]
    assert [effect.to for effect in of(b.turn(Priced(1, 1, T1, 0.5)), Send)] == [OTHER]


# ---- load


def loads(b: Bench, effects: list[Any]) -> list[tuple[str, Load]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Load)]


def test_load_is_told_on_change_and_no_more_often_than_every_half_second() -> None:
    b = Bench()
    b.node.handle(b.now, ME, WorkerAttached(1, 1, "agent", (Offer("greet", "agent"),), 2))
    effects = b.node.handle(b.now, ME)
    assert loads(b, effects) == [(BOSS, Load(1, (LoadRow("greet", 2, 0, 0, 3, 0),))), (OTHER, Load(1, (LoadRow("greet", 2, 0, 0, 3, 0),)))]
    assert Load(1, (LoadRow("greet", 2, 0, 0, 3, 0),)) in b.sink.caught
    told = 0
    for counter in range(1, 1001):
        b.now += 0.0001
        for item, sender in (
            (b.award(counter), BOSS),
            (ended(counter), ME),
            (ResultAck(((task_of(counter), F1),)), BOSS),
            (TurnEnds(), ME),
        ):
            told += len(loads(b, b.node.handle(b.now, sender, item)))
    assert told == 0
    b.now += 0.5
    assert [to for to, _ in loads(b, b.node.handle(b.now, ME))] == [BOSS, OTHER]


def test_who_was_turned_away_hears_of_room_in_the_same_turn() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2)), BOSS)
    b.now += 0.01
    assert declined(b, award_of(b.now, item_of(1, author=OTHER), conditional=True), OTHER) == "busy"
    effects = b.node.handle(b.now, ME, ended(1)) + b.node.handle(b.now, ME, TurnEnds())
    ((to, load),) = loads(b, effects)
    assert (to, load.rows[0].room > 0) == (OTHER, True)
    effects = b.node.handle(b.now, ME, ended(2)) + b.node.handle(b.now, ME, TurnEnds())
    assert loads(b, effects) == []


def test_all_hear_at_once_when_they_were_told_of_no_room() -> None:
    b = attached()
    b.turn(award_of(b.now, item_of(1), item_of(2), grant_ms=60_000), BOSS)
    b.at(b.now + 1)
    effects = b.node.handle(b.now, ME, ended(1)) + b.node.handle(b.now, ME, TurnEnds())
    assert [(to, load.rows[0].room > 0) for to, load in loads(b, effects)] == [(BOSS, True), (OTHER, True)]


def test_a_quiet_node_stays_fit_for_awards_and_greets_whoever_links() -> None:
    b = attached()
    b.at(b.now + 0.1)
    effects = []
    while b.now < workbench.NOW + 10:
        b.now += 0.5
        effects += b.node.handle(b.now, ME)
    assert 2 <= len([to for to, _ in loads(b, effects) if to == BOSS]) <= 5
    assert [to for to, _ in loads(b, b.node.handle(b.now, ME, MemberLinked(OTHER)))] == [OTHER]


def test_room_grows_with_short_work() -> None:
    b = attached(concurrency=2)
    b.turn(b.award(1), BOSS)
    b.turn(ended(1, service_ms=10))
    b.at(b.now + 0.6)
    row = b.contractor._slots.load_rows(False)[0]
    assert (row.room, row.service_ms) == (12, 10)  # two free slots, and 50 ms of waiting at 10 ms on two slots


# ---- members


def test_a_plain_call_dies_with_its_caller_and_durable_work_does_not() -> None:
    b = attached(concurrency=2)
    b.turn(award_of(b.now, item_of(1), item_of(2, durable=True)), BOSS)
    assert stopped(b.turn(MemberRestarted(BOSS, 2))) == [(T1, F1)]
    assert b.turn(ended(1)) == []
    assert sent(b.turn(ended(2)), Result)


def test_a_death_that_may_be_false_takes_nothing_away() -> None:
    b = attached()
    b.turn(b.award(), BOSS)
    assert MemberDied not in b.contractor.inputs
    assert sent(b.turn(ended()), Result)


# ---- restarts


def test_a_restarted_manager_asks_and_is_told() -> None:
    b = attached(concurrency=1)
    b.turn(award_of(b.now, *(item_of(counter, durable=True) for counter in (1, 2, 3))), BOSS)
    b.turn(ended(1))
    b.at(b.now + 4)
    now_ms = int(b.now * 1000)
    effects = b.turn(Reclaim(tuple((task_of(counter), F1) for counter in (1, 2, 3, 4)), 3000, now_ms), BOSS)
    statuses = [item for message in sent(effects, Reclaimed) for item in message.items]
    assert statuses == [(T1, F1, "result"), (T2, F1, "running"), (task_of(3), F1, "running"), (task_of(4), F1, "unknown")]
    assert sent(effects, Result)[0].task == T1
    assert of(effects, Extend)[0].items == ((T2, F1, now_ms + 3000),)
    assert declined(b, b.award(4)) == "stale_fence"


def replayed(*more: Any, output: bytes = b"") -> Bench:
    b = Bench()
    history = [Accepted(T1, F1, BOSS, "greet", content_hash(INPUT)), Accepted(T2, F1, BOSS, "greet", content_hash(INPUT)), *more]
    for seq, entry in enumerate(history, 1):
        assert b.give(Replay(seq, entry, {content_hash(output): output} if output else {})) == []
    assert b.give(Started()) == []
    return b


def test_after_a_restart_results_are_still_owed() -> None:
    b = replayed(Ended(T1, F1, "ok", content_hash(OUT), agent="agent", service_ms=7), Closed(T2, F1), output=OUT)
    assert sent(b.turn(MemberLinked(BOSS)), Result) == [Result(T1, F1, content_hash(OUT), OUT, "agent", (), 7)]
    assert b.contractor.statistics().held == 1
    assert b.turn(ResultAck(((T1, F1),)), BOSS) == [Append(Closed(T1, F1), lazy=True)]


def test_after_a_restart_failures_are_still_owed_and_released_work_is_not() -> None:
    b = replayed(Ended(T1, F1, "timeout", error='{"kind": "timeout", "message": "slow", "retryable": true}'), Ended(T2, F1, "released"))
    assert sent(b.turn(MemberLinked(BOSS)), Failure) == [Failure(T1, F1, "timeout", "slow", True)]
    assert b.contractor.statistics().held == 1


def test_work_goes_on_under_its_old_fence_when_its_worker_comes_back() -> None:
    b = replayed()
    asked = Reclaim(((T1, F1), (T2, F1)), 30_000, NOW_MS)
    assert sent(b.turn(asked, BOSS), Reclaimed) == []
    attached = WorkerAttached(1, 1, "agent", (Offer("greet", "agent"),), 2, ((T1, F1), (task_of(9), F1)))
    effects = b.turn(attached)
    assert effects == [
        Extend(1, ((T1, F1, NOW_MS + 30_000),), need=Need.FREE),
        Stop(1, task_of(9), F1, "unknown", need=Need.FREE),
        Send(BOSS, Reclaimed(((T1, F1, "running"),))),
    ]
    assert b.contractor.statistics().busy == 2, "what is being stopped still keeps its slot"
    effects = b.at(b.now + b.limits.reattach_s)
    assert [entry.outcome for entry in entries(effects)] == ["worker_lost"]
    assert sent(effects, Reclaimed) == [Reclaimed(((T2, F1, "result"),))]
    assert sent(effects, Failure)[0].kind == "worker_lost"
    assert sent(b.turn(ended(1)), Result)[0].task == T1
    assert b.turn(HandlerEnded(1, task_of(9), F1, "cancelled")) == []
    assert b.contractor.statistics().busy == 0


def test_while_workers_may_come_back_no_new_fence_of_the_same_task_is_taken() -> None:
    b = replayed()
    b.attach("greet")
    assert declined(b, b.award(1, 2)) == "not_ready"
    assert started(b.turn(b.award(3), BOSS)) == [(task_of(3), F1)]


def test_an_award_that_was_declined_while_workers_may_come_back_is_not_taken_when_its_duplicate_comes_later() -> None:
    b = replayed()
    b.attach("greet")
    late = b.award(1, 2)
    assert declined(b, late) == "not_ready"
    b.at(b.now + b.limits.reattach_s)
    assert declined(b, late) == "stale_fence"
    assert started(b.turn(b.award(1, 3), BOSS)) == [(T1, fence(3))]


def test_what_was_awarded_to_an_earlier_life_is_no_offer_any_more() -> None:
    """It may have been declined then, or run; a disk that was put back does not know."""
    b = Bench()
    b.give(Started())
    b.attach("greet")
    assert declined(b, award_of(b.now - 1, item_of(1))) == "lease_past"
    assert started(b.turn(b.award(1, 2), BOSS)) == [(T1, F2)]


def test_a_worker_that_comes_back_too_late_is_stopped() -> None:
    b = replayed()
    b.at(b.now + b.limits.reattach_s)
    effects = b.turn(WorkerAttached(1, 1, "agent", (Offer("greet", "agent"),), 1, ((T1, F1),)))
    assert stopped(effects) == [(T1, F1)]
    assert started(b.turn(b.award(1, 2), BOSS)) == [], "never two fences of one task at once"
    assert started(b.turn(HandlerEnded(1, T1, F1, "cancelled"))) == [(T1, F2)]


def test_who_awarded_it_is_asked_though_another_had_taken_over_before() -> None:
    """The author got it back from who had taken over from him, and drives it again."""
    b = attached()
    b.directory.inherit(BOSS, Heir(1, 9, 2, OTHER))
    assert b.directory.manager_of(T1) == OTHER
    b.turn(b.award(), BOSS)
    assert b.directory.manager_of(T1) == BOSS


def test_who_awarded_it_is_asked_though_it_is_heard_later_that_another_had_taken_over_before() -> None:
    b = replayed()
    b.directory.inherit(BOSS, Heir(1, 9, 2, OTHER))
    assert b.directory.manager_of(T1) == BOSS


def test_the_fence_that_is_held_is_not_begun_again_for_another_manager() -> None:
    """OTHER took over from BOSS, and is gone in turn; what BOSS had awarded before comes late, and he may speak for OTHER's work."""
    b = attached()
    b.directory.inherit(BOSS, Heir(1, 9, 2, OTHER))
    b.directory.inherit(OTHER, Heir(1, 9, 2, BOSS))
    b.turn(b.award(durable=True), BOSS)
    b.turn(Reclaim(((T1, F1),), 3000, NOW_MS), OTHER)
    effects = b.turn(b.award(durable=True), BOSS)
    assert [decline.items for decline in sent(effects, Decline)] == [((T1, F1, "stale_fence"),)]
    assert started(effects) == [] and stopped(effects) == []
