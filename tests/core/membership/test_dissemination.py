"""Rumours and digests: bounded, whole, and each side gets what it lacks."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.inputs import DialFailed, LinkDown, Started
from mesh.core.membership.dissemination import BYTES_MAX, STATEMENTS_MAX, pack, size_of
from mesh.effects import Need, Refused, Send
from mesh.messages.membership import Alive, Dead, Digest, Left, Offer, Rumours, Suspect
from mesh.messages.signed import Signed


def digest(*rows: tuple[str, int, int, str], answer: bool = False) -> Digest:
    return Digest(rows, answer)


@pytest.fixture
def three(solo: Any) -> Any:
    node = solo()
    node.meet("b", "c")
    node.take_facts()
    return node


def test_a_digest_brings_what_the_sender_lacks(three: Any, row_of: Any) -> None:
    effects = three.feed("b", digest(("b", 1, 1, "alive")))
    assert effects == [Send("b", Rumours((three.machine.own, row_of("c"))), need=Need.FREE)]


def test_an_equal_digest_brings_nothing(three: Any) -> None:
    same = digest(("a", 1, 1, "alive"), ("b", 1, 1, "alive"), ("c", 1, 1, "alive"), answer=True)
    assert three.feed("b", same) == []


@pytest.mark.parametrize(
    "row", [("b", 1, 2, "alive"), ("c", 1, 1, "suspect"), ("c", 1, 1, "dead"), ("c", 1, 0, "left"), ("z", 1, 1, "alive")]
)
def test_who_lacks_something_answers_with_a_digest_of_its_own(three: Any, row: tuple[str, int, int, str]) -> None:
    rows = {"a": ("a", 1, 1, "alive"), "b": ("b", 1, 1, "alive"), "c": ("c", 1, 1, "alive"), row[0]: row}
    own = Digest((("a", 1, 1, "alive"), ("b", 1, 1, "alive"), ("c", 1, 1, "alive")), False)
    assert three.feed("b", digest(*rows.values(), answer=True)) == [Send("b", own, need=Need.FREE)]
    assert three.feed("b", digest(*rows.values(), answer=False)) == []


def test_proofs_come_with_lives_first(three: Any, row_of: Any) -> None:
    three.feed("b", Rumours((row_of("d"), row_of("e"))))
    three.feed("b", Rumours((Signed("d", Left("d", 1)), Signed("b", Suspect("e", 1, 1)))))
    three.calm()
    (effect,) = three.feed("c", digest(("a", 1, 1, "alive")))
    assert effect.message == Rumours(
        (row_of("b"), row_of("c"), row_of("d"), row_of("e"), Signed("d", Left("d", 1)), Signed("b", Suspect("e", 1, 1))), ()
    )


def test_a_death_travels_as_its_certificate(three: Any) -> None:
    votes = (Signed("a", Suspect("c", 1, 1, True)), Signed("b", Suspect("c", 1, 1)))
    three.feed("c", LinkDown())
    three.feed("a", DialFailed("c:1", "refused"))
    three.feed("b", Rumours(votes[1:]))
    three.run(101.0, quiet=("b",))
    (effect,) = three.feed("b", digest(("a", 1, 1, "alive"), ("b", 1, 1, "alive"), ("c", 1, 1, "alive")))
    assert effect.message == Rumours((), (Dead("c", 1, 1, votes),))


def test_a_digest_with_a_state_that_is_none_is_refused(three: Any) -> None:
    assert three.feed("b", digest(("c", 1, 1, "zombie"), answer=True)) == [Refused("bad_state", "b")]


def test_unreachable_is_an_opinion_and_travels_as_suspect(three: Any) -> None:
    three.feed("c", LinkDown())
    three.feed("a", DialFailed("c:1", "refused"))
    three.run(101.0, quiet=("b",))
    assert three.row("c").state == "unreachable"
    effects = three.feed("b", digest(("z", 1, 1, "alive"), answer=True))
    assert ("c", 1, 1, "suspect") in effects[-1].message.rows


def test_tables_are_compared_for_ever_and_own_votes_said_again(solo: Any) -> None:
    node = solo()
    node.meet("b", "c")
    node.feed("a", Started())
    node.feed("c", LinkDown())
    node.feed("a", DialFailed("c:1", "refused"))
    effects = node.run(200.0, quiet=("b",))
    digests = [at for at, e in effects if isinstance(e, Send) and isinstance(e.message, Digest)]
    assert 15 <= len(digests) <= 28, "about every 5 s"
    again = [e for at, e in effects if at > 150.0 and isinstance(e, Send) and isinstance(e.message, Rumours)]
    assert again and all(e.message == Rumours((Signed("a", Suspect("c", 1, 1, True)),)) for e in again)


def test_a_rumour_is_passed_on_a_bounded_number_of_times(solo: Any, row_of: Any) -> None:
    node = solo()
    peers = ("b", "c", "d", "e", "f")
    node.meet(*peers)
    node.run(130.0, quiet=peers)
    node.feed("b", Rumours((row_of("z"),)))
    effects = node.run(160.0, quiet=peers)
    passed = [e.to for _, e in effects if isinstance(e, Send) and isinstance(e.message, Rumours) and row_of("z") in e.message.statements]
    assert 1 <= len(passed) <= 4
    assert "b" not in passed, "not to who told it"
    assert node.machine.statistics().rumours_hot == 0


def test_messages_are_bounded_in_count_and_bytes(row_of: Any) -> None:
    many = [row_of(f"n{i}") for i in range(3 * STATEMENTS_MAX + 1)]
    packed = list(pack(many))
    assert [len(message.statements) for message in packed] == [STATEMENTS_MAX] * 3 + [1]
    schema = "x" * 10_000
    fat = [row_of(f"n{i}", offers=(Offer("c", "a", input_schema=schema),)) for i in range(10)]
    for message in pack(fat):
        assert sum(size_of(item) for item in message.statements) <= BYTES_MAX
    alone = row_of("huge", offers=tuple(Offer(f"c{i}", "a", input_schema=schema) for i in range(10)))
    assert list(pack([alone])) == [Rumours((alone,))]
    assert isinstance(alone.body, Alive)
    assert list(pack([])) == []
