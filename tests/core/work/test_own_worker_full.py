"""Manager and contractor of one node, together: work that its own worker has no room for waits. It must not go round and round."""

from __future__ import annotations

from random import Random

from mesh.core.assembly import build
from mesh.core.inputs import Started, Submit, TurnEnds, WorkerAttached
from mesh.effects import Execute
from mesh.limits import Limits
from mesh.messages.membership import Alive, Offer


def test_a_worker_that_comes_back_busy_leaves_the_rest_waiting() -> None:
    """Found by the simulator: with two tasks waiting, each DECLINE woke the other, for ever, within one input."""
    node = build(Alive("a", 1, 1, "a", "a:1", "a:2"), random=Random(1), limits=Limits()).node
    node.handle(0.0, "a", Started())
    for number in range(4):
        node.handle(0.1, "a", Submit(number, "slow", b"{}"))
        node.handle(0.1, "a", TurnEnds())

    running = (("b.1.1", 1 << 32),)
    effects = node.handle(10.0, "a", WorkerAttached(1, 99, "agent", (Offer("slow", "agent"),), 1, running))
    effects += node.handle(10.0, "a", TurnEnds())

    assert len(effects) < 200
    assert not [effect for effect in effects if type(effect) is Execute], "its one slot is taken by what it brought along"
