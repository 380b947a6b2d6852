"""``on_lost="fail"``: what must not repeat is never awarded a second time once a handler may have run, however its end is heard of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import FileFetched, MemberLinked, OffersChanged
from mesh.messages.membership import Offer
from mesh.messages.records import Decided, Finished
from mesh.messages.work import Failure, Reclaimed, Release, Revoked

GREET = Offer("greet", "greeter", on_lost="fail")


@pytest.fixture
def bench() -> Bench:
    bench = started()
    bench.row("a", GREET, room=4)
    return bench


def again(before: Bench) -> Bench:
    """The same node, a moment later, from the journal that `before` wrote; nobody is known yet."""
    bench = Bench(incarnation=2)
    bench.now = before.now + 1.0
    bench.start(*before.journal, bodies=before.bodies)
    bench.journal = before.journal + bench.journal
    return bench


def back(bench: Bench, item: Any, offer: Offer = GREET) -> list[Any]:
    """Its holder is met again, and still runs it."""
    bench.row("a", offer, room=4)
    return bench.give(MemberLinked("a")) + bench.give(Reclaimed(((item.task, item.fence, "running"),)), "a")


def code(bench: Bench, effects: list[Any]) -> str:
    """How it ended: failed for good, and awarded to nobody."""
    (end,) = bench.entries(effects, Finished)
    assert bench.entries(effects, Decided) == []
    return str(json.loads(end.error)["code"])


def failure(item: Any, kind: str) -> Failure:
    return Failure(item.task, item.fence, kind, "gone", True)


LOSSES = {
    "its worker died": lambda bench, item: bench.give(failure(item, "worker_lost"), "a"),
    "its handler was ended by nobody here": lambda bench, item: bench.give(failure(item, "cancelled"), "a"),
    "it was taken away while it ran": lambda bench, item: bench.give(Revoked(((item.task, item.fence),)), "a"),
    "its lease is over": lambda bench, item: bench.after(4.6),
}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("restarted", [False, True], ids=["", "after the manager's restart"])
def test_it_fails_with_a_node_that_was_lost(bench: Bench, how: str, restarted: bool) -> None:
    item = bench.held()
    if restarted:
        bench = again(bench)
        back(bench, item)
    bench.row("b", GREET, room=4)
    assert code(bench, LOSSES[how](bench, item)) == "node_lost"


def test_it_fails_with_the_files_of_its_result_after_the_managers_restart(bench: Bench) -> None:
    item = bench.held()
    bench = again(bench)
    back(bench, item)
    bench.row("b", GREET, room=4)
    bench.result(item, "a", files=(("ab" * 32, 4),))
    effects: list[Any] = []
    for _ in range(3):
        effects += bench.give(FileFetched("ab" * 32, False)) + bench.after(1.1)
    assert code(bench, effects) == "no_file"


@pytest.mark.parametrize("how", ["its worker died", "its handler was ended by nobody here"])
def test_where_nobody_says_any_more_what_it_is_it_waits_for_somebody_who_does(bench: Bench, how: str) -> None:
    """The manager came back, and so did the holder, whose worker is gone and offers nothing."""
    item = bench.held()
    bench = again(bench)
    bench.row("a")
    back(bench, item, Offer("other", "greeter"))
    effects = LOSSES[how](bench, item)
    assert bench.entries(effects, Finished) == []
    bench.row("b", GREET, room=4)
    assert code(bench, bench.give(OffersChanged("b"))) == "node_lost"


def test_it_is_on_record_that_it_was_lost(bench: Bench) -> None:
    item = bench.held()
    bench = again(bench)
    back(bench, item, Offer("other", "greeter"))
    bench.give(failure(item, "worker_lost"), "a")
    later = again(bench)
    later.row("b", GREET, room=4)
    assert code(later, later.give(OffersChanged("b"))) == "node_lost"


def test_what_never_ran_is_awarded_again(bench: Bench) -> None:
    item = bench.held()
    bench.row("b", GREET, room=4)
    node, second = bench.awarded(bench.give(Release(((item.task, item.fence, "draining"),)), "a"))
    assert (node, second.fence) == ("b", item.fence + 1)
