"""The two watermarks: what the disk has, and what a majority of the keepers has."""

from __future__ import annotations

from typing import Any

from mesh.core.outbox import NOBODY, Outbox
from mesh.effects import Effect, Later, Need, Reply, Send


def send(number: int, after: int, need: Need = Need.KEPT) -> Send:
    return Send("b", number, need=need, after=after)


def give(outbox: Outbox, *effects: Effect) -> list[Any]:
    """What leaves at once."""
    return [effect for effect in effects if outbox.may_leave(effect)]


def numbers(effects: list[Any]) -> list[int]:
    return [effect.message if type(effect) is Send else effect.request for effect in effects]


def test_what_needs_nothing_never_waits() -> None:
    outbox = Outbox(3)
    outbox.kept(0)
    free = send(1, 0, Need.FREE)
    assert give(outbox, free, send(2, 3, Need.SYNCED)) == [free, send(2, 3, Need.SYNCED)]
    assert outbox.statistics().waiting == 0


def test_while_nobody_keeps_all_leave_once_synced_in_the_order_they_were_made() -> None:
    outbox = Outbox()
    assert give(outbox, send(1, 1), send(2, 1, Need.SYNCED), send(3, 2), send(4, 2, Need.SYNCED)) == []
    assert numbers(outbox.release(1)) == [1, 2]
    assert numbers(outbox.release(2)) == [3, 4]
    assert outbox.statistics().kept == NOBODY


def test_what_must_be_kept_waits_for_the_keepers_and_for_nothing_else() -> None:
    outbox = Outbox()
    assert outbox.kept(0) == []
    give(outbox, send(1, 1), send(2, 1, Need.SYNCED), send(3, 2), send(4, 2, Need.SYNCED))
    assert numbers(outbox.release(2)) == [2, 4]
    assert numbers(outbox.kept(1)) == [1]
    assert numbers(outbox.kept(2)) == [3]
    assert give(outbox, send(5, 2)) == [send(5, 2)]


def test_what_the_keepers_have_before_the_own_disk_waits_for_that() -> None:
    outbox = Outbox()
    outbox.kept(0)
    give(outbox, send(1, 1), send(2, 2))
    assert outbox.kept(2) == []
    assert not outbox.may_leave(send(3, 2))
    assert numbers(outbox.release(1)) == [1]
    assert numbers(outbox.release(2)) == [2, 3]


def test_keepers_come_and_go() -> None:
    outbox = Outbox(5)
    assert give(outbox, send(1, 5)) == [send(1, 5)]
    outbox.kept(3)
    assert give(outbox, send(2, 5), send(3, 5, Need.SYNCED)) == [send(3, 5, Need.SYNCED)], "from now on a majority is asked"
    assert numbers(outbox.kept(NOBODY)) == [2], "the last keeper has left the roster: the own disk is all there is"


def test_forsaken_messages_never_leave_and_answers_go_on_waiting() -> None:
    outbox = Outbox()
    outbox.kept(0)
    give(outbox, send(1, 1), send(2, 2), Reply(7, True, {}, need=Need.KEPT, after=2), send(3, 3, Need.SYNCED), send(4, 3))
    outbox.release(2)
    assert numbers(outbox.kept(1, forsaken=True)) == [1], "what is kept leaves: whoever took over knows it"
    assert outbox.statistics().forsaken == 2 and outbox.statistics().waiting == 2
    assert numbers(outbox.release(3)) == [3], "what needs the own disk alone is not concerned"
    assert give(outbox, send(5, 3)) == []
    assert numbers(outbox.kept(3)) == [7, 5]


def test_what_the_node_says_to_itself_waits_and_is_forsaken_like_any_message() -> None:
    outbox = Outbox(2)
    outbox.kept(0)
    one, other = Later("award", need=Need.KEPT, after=1), Later("award", need=Need.KEPT, after=2)
    assert give(outbox, one, other) == []
    assert outbox.kept(1) == [one]
    assert outbox.kept(1, forsaken=True) == []
    assert outbox.kept(2) == []


def test_released_are_counted() -> None:
    outbox = Outbox()
    give(outbox, send(1, 1, Need.SYNCED), send(2, 1))
    outbox.kept(0)
    assert (outbox.statistics().waiting, outbox.statistics().released) == (2, 0)
    outbox.release(1)
    outbox.kept(1)
    assert (outbox.statistics().waiting, outbox.statistics().released, outbox.statistics().synced) == (0, 2, 1)


def test_what_waits_for_keepers_who_have_another_journal_is_refused_to_clients_and_never_leaves() -> None:
    outbox = Outbox(1)
    outbox.kept(1)
    waiting = (Reply(7, True, {}, need=Need.KEPT, after=2), send(1, 2))
    assert not any(outbox.may_leave(effect) for effect in waiting)
    assert [(one.request, one.ok, one.body["code"]) for one in outbox.kept(0, lost=True)] == [(7, False, "rolled_back")]
    assert outbox.release(9) == [] and outbox.statistics().waiting == 0
