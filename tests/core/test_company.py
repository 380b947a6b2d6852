"""What nothing waits for is held back, and no longer than until something does, or for a while."""

from __future__ import annotations

from mesh.core.company import Company
from mesh.core.inputs import NewHead
from mesh.core.outbox import Outbox
from mesh.effects import Append, Need, Reply
from mesh.messages.signed import Signed

LAZY = Append("entry", lazy=True)


def reply(after: int, need: Need) -> Reply:
    return Reply(1, True, {}, after=after, need=need)


def test_a_lazy_entry_is_written_once_something_waits_for_it_or_for_a_later_one() -> None:
    outbox = Outbox()
    company = Company(outbox)
    assert not company and not company.write(late=True), "nothing is held"
    company.appended(1, LAZY)
    company.appended(2, LAZY)
    assert company and not company.write(late=False)
    assert not outbox.may_leave(reply(2, Need.SYNCED))
    assert company.write(late=False) and not company
    company.appended(3, LAZY)
    assert not company.write(late=False), "who waits for an earlier one is served already"
    assert company.write(late=True)
    company.appended(4, LAZY)
    assert not outbox.may_leave(reply(4, Need.KEPT))
    assert company.write(late=False)


def test_any_other_entry_takes_the_lazy_ones_along() -> None:
    company = Company(Outbox())
    company.appended(1, LAZY)
    company.appended(2, Append("entry"))
    company.appended(3, LAZY)
    assert company.write(late=False)
    company.appended(4, LAZY)
    assert not company.write(late=False)


def test_heads_are_told_in_order_once_something_waits_for_the_keepers_or_late() -> None:
    outbox = Outbox()
    outbox.kept(0)
    company = Company(outbox)
    first, second, third = (NewHead(Signed("a", number)) for number in range(3))
    company.committed(first)
    company.committed(second)
    outbox.may_leave(reply(9, Need.SYNCED))
    assert company and company.heads(late=False) == []
    outbox.may_leave(reply(1, Need.KEPT))
    assert company.heads(late=False) == [first, second] and not company
    outbox.release(9)
    outbox.kept(9)
    company.committed(third)
    assert company.heads(late=False) == [] and company.heads(late=True) == [third]
