"""The manager's and the contractor's rules for streams: what is taken as the next item, what is said of it, and what is turned down."""

from __future__ import annotations

from typing import Any

import pytest
import workbench
from manager_bench import Bench, started
from workbench import BOSS, OTHER, fence, of, task_of

from mesh.core.inputs import Call, HandlerEnded, HandlerItems, MemberLinked, RequestGone, StreamNext, Submit
from mesh.core.work.stream import Stream
from mesh.effects import Credit, Execute, Need, Refused, Send
from mesh.ids import content_hash
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.work import AwardItem, Failure, Items, Result, Taken

LIMITS = WorkLimits()
QUARTER = LIMITS.stream_items_max // 4


class Reading(Bench):
    """One streaming call, number 1, at node `a`."""

    item: AwardItem

    def make(self, first: int, *items: bytes, last: bool = False, node: str = "a", **changed: Any) -> list[Any]:
        fields = {"task": self.item.task, "fence": self.item.fence} | changed
        return self.give(Items(first=first, items=items, last=last, **fields), node)

    def next(self, after: int = 0, epoch: int = 0, request: int = 2) -> list[Any]:
        return self.give(StreamNext(request, 1, after, epoch))

    def again(self, *, retry: Failure | None = None) -> list[Any]:
        """Its worker was lost: awarded again."""
        failure = Failure(self.item.task, self.item.fence, "worker_lost", "gone", True)
        effects = self.give(retry or failure, "a")
        _, self.item = self.awarded(effects)
        return effects

    @property
    def stream(self) -> Stream:
        found = self.task(self.item.task).stream
        assert found is not None
        return found


def reading(*, idempotent: bool = True) -> Reading:
    bench = Reading()
    bench.start()
    bench.after(100)
    bench.row("a", Offer("greet", "greeter", idempotent=idempotent), room=4)
    _, bench.item = bench.awarded(bench.give(Call(1, "greet", b"{}", stream=True)))
    return bench


def got(bench: Bench, effects: list[Any]) -> list[bytes]:
    [(ok, body)] = bench.replies(effects)
    assert ok
    items: list[bytes] = body["items"]
    return items


def test_an_award_says_that_it_streams_and_a_submission_does_not() -> None:
    bench = reading()
    assert (bench.item.stream, bench.item.skip, bench.item.durable) == (True, 0, False)
    plain = started()
    assert plain.awarded(plain.give(Submit(1, "greet", b"{}")))[1].stream is False


def test_items_reach_a_reader_who_waits_and_wait_for_one_who_does_not() -> None:
    bench = reading()
    assert bench.replies(bench.next()) == []
    assert got(bench, bench.make(1, b"1", b"2")) == [b"1", b"2"], "and the first of them counts as ACCEPT"
    assert bench.task(bench.item.task).state == "held"
    assert bench.replies(bench.make(3, b"3")) == []
    assert got(bench, bench.next(after=2)) == [b"3"]
    assert got(bench, bench.next(after=2)) == [b"3"], "asked again, it is answered again"
    assert bench.replies(bench.next(after=3)) == []


def test_a_repeated_item_is_passed_over_and_a_gap_is_asked_for_once() -> None:
    bench = reading()
    bench.make(1, b"1", b"2")
    bench.make(2, b"2", b"3")
    assert got(bench, bench.next()) == [b"1", b"2", b"3"]
    again = ("a", Taken(bench.item.task, bench.item.fence, 0, True))
    assert bench.sends(bench.make(5, b"5"), Taken) == [again]
    assert bench.sends(bench.make(6, b"6"), Taken) == [], "not for each of them"
    assert bench.replies(bench.make(7, b"7")) == [] and bench.stream.received == 3
    bench.make(4, b"4", b"5")
    assert bench.stream.received == 5


def test_the_handler_hears_now_and_then_and_at_the_end_what_is_taken() -> None:
    bench = reading()
    bench.make(1, *[b"x"] * QUARTER)
    bench.next()
    assert bench.sends(bench.next(after=QUARTER - 1), Taken) == []
    assert bench.sends(bench.next(after=QUARTER), Taken) == [("a", Taken(bench.item.task, bench.item.fence, QUARTER))]
    bench.make(QUARTER + 1, b"y" * (LIMITS.stream_bytes_max // 4))
    assert bench.sends(bench.next(after=QUARTER + 1), Taken) == [("a", Taken(bench.item.task, bench.item.fence, QUARTER + 1))]
    bench.make(QUARTER + 2, b"z", last=True)
    bench.next(after=QUARTER + 1)
    assert bench.sends(bench.next(after=QUARTER + 2), Taken) == [("a", Taken(bench.item.task, bench.item.fence, QUARTER + 2))]


def test_a_reader_takes_no_more_than_he_was_given() -> None:
    bench = reading()
    bench.make(1, b"1", b"2")
    bench.next()
    bench.make(3, b"3")
    assert got(bench, bench.next(after=99)) == [b"3"] and bench.stream.taken == 2


def test_silence_and_a_new_link_are_answered_by_asking_again() -> None:
    bench = reading()
    bench.make(1, b"1")
    bench.next()
    bench.next(after=1)
    again = [("a", Taken(bench.item.task, bench.item.fence, 1, True))]
    assert bench.sends(bench.after(LIMITS.stream_repeat_s, hear=("a",)), Taken) == [], "it is quiet since a moment only"
    assert bench.sends(bench.after(LIMITS.stream_repeat_s, hear=("a",)), Taken) == again
    assert bench.sends(bench.give(MemberLinked("a")), Taken) == again
    assert bench.sends(bench.give(MemberLinked("b")), Taken) == []


def test_of_a_stream_that_can_be_replayed_the_next_attempt_passes_over_what_came() -> None:
    bench = reading()
    bench.make(1, b"1", b"2")
    bench.next()
    bench.make(3, b"3")
    old = bench.item
    bench.again()
    assert (bench.item.skip, bench.item.attempt) == (3, 2)
    assert bench.refused(bench.make(4, b"stale", fence=old.fence)) == ["stale_items"]
    bench.make(4, b"4")
    assert got(bench, bench.next(after=2)) == [b"3", b"4"]


def test_of_one_that_cannot_the_reader_hears_that_it_begins_anew() -> None:
    bench = reading(idempotent=False)
    bench.make(1, b"1", b"2")
    bench.next()
    bench.make(3, b"3")
    bench.again()
    assert bench.item.skip == 0
    bench.make(1, b"new")
    effects = bench.next(after=2)
    assert bench.replies(effects) == [(True, {"epoch": 1, "attempt": 2, "items": [b"new"]})]
    assert bench.replies(bench.next(after=1, epoch=1)) == []
    effects = bench.again()
    assert bench.replies(effects) == [(True, {"epoch": 2, "attempt": 3, "items": []})], "he who waits hears it at once"


def test_what_no_reader_has_seen_begins_anew_without_a_word() -> None:
    bench = reading(idempotent=False)
    bench.make(1, b"1", b"2")
    bench.again()
    bench.make(1, b"new")
    assert bench.replies(bench.next()) == [(True, {"epoch": 0, "attempt": 2, "items": [b"new"]})]


def test_strangers_old_fences_and_floods_are_refused() -> None:
    bench = reading()
    for changed in ({"node": "b"}, {"fence": bench.item.fence - 1}, {"task": "me.1.99"}):
        assert bench.refused(bench.make(1, b"1", **changed)) == ["stale_items"]
    room = 2 * LIMITS.stream_items_max
    bench.make(1, *[b"x"] * room)
    assert bench.refused(bench.make(room + 1, b"x")) == ["stream_flood"] and bench.stream.received == room
    other = reading()
    assert other.refused(other.make(1, b"x" * (LIMITS.body_bytes_max + 1))) == ["stream_flood"]
    many = [b"x" * LIMITS.body_bytes_max] * 8
    assert other.refused(other.make(1, *many)) == ["stream_flood"] and other.stream.bytes < 8 * LIMITS.body_bytes_max


def test_the_end_of_the_call_ends_the_reading() -> None:
    bench = reading()
    bench.make(1, b"1", last=True)
    bench.next()
    bench.next(after=1)
    effects = bench.give(Result(bench.item.task, bench.item.fence, content_hash(b"1"), b"1"), "a")
    assert (True, {"end": True}) in bench.replies(effects)
    assert bench.replies(bench.next(after=1)) == [(True, {"end": True})], "and whoever asks later hears so at once"
    bench.after(2 * LIMITS.stream_repeat_s)
    assert bench.manager.statistics().streams == 0


def test_a_reader_who_is_gone_ends_it() -> None:
    bench = reading()
    bench.make(1, b"1")
    bench.give(RequestGone(1))
    assert bench.task(bench.item.task).state == "cancelling"
    assert bench.refused(bench.make(2, b"2")) == ["stale_items"]


# ---- the contractor


@pytest.fixture
def holder() -> workbench.Bench:
    it = workbench.Bench()
    it.attach("greet")
    it.turn(it.award(stream=True, skip=3), BOSS)
    return it


def test_it_passes_on_what_its_worker_makes_and_what_the_manager_says(holder: workbench.Bench) -> None:
    again = workbench.Bench()
    again.attach("greet")
    [execute] = of(again.turn(again.award(stream=True, skip=3), BOSS), Execute)
    assert (execute.stream, execute.skip) == (True, 3)
    made = HandlerItems(1, task_of(), fence(), 4, (b"4", b"5"), True)
    assert holder.give(made) == [Send(BOSS, Items(task_of(), fence(), 4, (b"4", b"5"), True), need=Need.FREE)]
    assert holder.give(Taken(task_of(), fence(), 5, True), BOSS) == [Credit(1, task_of(), fence(), 5, True, need=Need.FREE)]


def test_it_listens_to_the_runs_worker_and_to_the_tasks_manager_alone(holder: workbench.Bench) -> None:
    for made in (HandlerItems(2, task_of(), fence(), 1, ()), HandlerItems(1, task_of(), fence(2), 1, ()), HandlerItems(1, "x", 1, 1, ())):
        assert holder.give(made) == [Refused("unknown_handler")]
    assert holder.give(Taken(task_of(), fence(), 1), OTHER) == [Refused("not_manager", OTHER)]
    assert holder.give(Taken(task_of(), fence(2), 1), BOSS) == []
    holder.turn(HandlerEnded(1, task_of(), fence(), "ok", b"1"))
    assert holder.give(Taken(task_of(), fence(), 1), BOSS) == [], "it has ended"


def test_what_nobody_reads_goes_nowhere() -> None:
    it = workbench.Bench()
    it.attach("greet")
    it.turn(it.award(), BOSS)
    assert it.give(HandlerItems(1, task_of(), fence(), 1, (b"1",))) == []
