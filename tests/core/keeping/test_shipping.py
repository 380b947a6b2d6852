"""What a leader ships is in the log as it is now, whatever was noted or read before others led it."""

from __future__ import annotations

from mesh.core.keeping.log import Log
from mesh.core.keeping.shipping import Shipping
from mesh.limits import KeepingLimits
from mesh.messages.keeping import Block, Yield
from mesh.messages.records import Commit
from mesh.messages.signed import Signed


def block(term: int, first: int, last: int) -> Block:
    commit = Commit("A", 1, 0, first, last - first + 1, b"", b"", 0)
    return Block(term, Signed("A", commit), tuple(b"e" for _ in range(first, last + 1)))


def deposed() -> Log:
    """The author had written 21 to 24 in term 1; in term 2 another took over what was kept, up to 20; now the author leads again."""
    log = Log("A")
    log.append(1, "A", 24)
    log.truncate((1, 24))
    log.runs, log.seq = log.runs[:1], 20
    log.append(2, "K", 20)
    log.append(3, "A", 24)
    return log


def test_recent_blocks_of_a_term_that_was_cut_short_are_not_shipped() -> None:
    """Seed 270356: a keeper with an old disk was sent the author's own of term 1, and then what stands in the log."""
    shipping = Shipping("A", KeepingLimits(), 64)
    shipping.note((1, 0), block(1, 1, 20))
    shipping.note((1, 20), block(1, 21, 24))
    before = Log("A")
    before.append(1, "A", 24)
    assert [one.head.body.first for one in shipping.blocks(before, (1, 20))] == [21]
    assert shipping.blocks(deposed(), (1, 20)) == ()
    [read] = shipping.wanted()
    assert (read.author, read.since) == ("A", (1, 20))


def test_a_page_that_was_read_before_the_log_was_cut_short_is_read_again() -> None:
    shipping = Shipping("K", KeepingLimits(), 64)
    before = Log("A")
    before.append(1, "A", 24)
    assert shipping.blocks(before, (1, 20)) == ()
    [asked] = shipping.wanted()
    shipping.read(asked.token, (block(1, 21, 24),))
    assert [one.term for one in shipping.blocks(before, (1, 20))] == [1]
    log = deposed()
    assert shipping.blocks(log, (1, 20)) == ()
    [asked] = shipping.wanted()
    taken = Block(2, Signed("K", Yield("A", 2, 20, "K")))
    shipping.read(asked.token, (taken,))
    assert shipping.blocks(log, (1, 20)) == (taken,)
