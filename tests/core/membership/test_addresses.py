"""The address book through the machine: what is dialled, when, and how often."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mesh.core.inputs import DialFailed, Found, LinkDown, LinkUp, MemberSuspected, Started
from mesh.effects import Dial, Need, Refused
from mesh.messages.membership import Left, Rumours
from mesh.messages.signed import Signed


def dials(node: Any, until_s: float, answer: str = "", quiet: tuple[str, ...] = ()) -> list[tuple[float, str]]:
    """When what is dialled until then. Each dial fails at once with `answer`, if that is given."""
    made = []
    while True:
        at = node.deadlines.next()
        if at is None or at > until_s:
            node.now_s = until_s
            return made
        for at_s, effect in node.run(at, quiet):
            if isinstance(effect, Dial):
                assert effect.need is Need.FREE
                made.append((at_s, effect.address))
                if answer:
                    node.feed(node.name, DialFailed(effect.address, answer))


def test_seeds_are_dialled_at_once_and_for_ever(solo: Any) -> None:
    node = solo()
    node.feed("a", Started(("s:1",)))
    made = dials(node, 1000.0, "timeout")
    assert made[0] == (100.0, "s:1")
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(made)]
    assert gaps[0] < 0.5 and 15.0 <= gaps[-1] <= 30.0
    assert made[-1][0] > 960.0
    assert len(set(gaps)) == len(gaps), "jittered"


def test_a_dial_that_never_ends_is_given_up(solo: Any) -> None:
    node = solo()
    node.feed("a", Started(("s:1",)))
    made = dials(node, 130.0)
    assert [address for _, address in made] == ["s:1"] * len(made)
    assert 2 <= len(made) <= 4


def test_its_own_door_is_not_dialled(solo: Any) -> None:
    node = solo()
    node.feed("a", Found("a:1"))
    node.feed("a", Found("alias:1"))
    assert dials(node, 160.0, "self") == [(100.0, "alias:1")]
    node.feed("a", Found("alias:1"))
    assert dials(node, 300.0) == []


def test_another_mesh_is_asked_again_only_now_and_then(solo: Any) -> None:
    node = solo()
    node.feed("a", Started(("s:1",)))
    made = dials(node, 400.0, "other_mesh")
    assert all(later - sooner >= 30.0 for (sooner, _), (later, _) in pairwise(made))
    assert len(made) >= 5


def test_hints_are_paced_bounded_and_dropped(solo: Any) -> None:
    node = solo()
    effects = [effect for i in range(300) for effect in node.feed("a", Found(f"h{i}:1"))]
    assert effects == [Dial("h0:1", need=Need.FREE)] + [Refused("address_book_full")] * 44
    made = dials(node, 101.99, "timeout")
    assert 9 <= len(made) <= 11, "5 a second"
    dials(node, 2000.0, "timeout")
    assert node.machine.statistics().addresses == 0, "discovery will find them again"
    assert node.feed("a", Found("fresh:1")) == []
    assert [address for _, address in dials(node, 2001.0)] == ["fresh:1"]


def test_a_full_book_of_failures_makes_room(solo: Any) -> None:
    node = solo()
    for i in range(256):
        node.feed("a", Found(f"h{i}:1"))
    dials(node, 101.0, "timeout")
    assert node.feed("a", Found("new:1")) == []
    assert node.machine.statistics().addresses == 256


def test_a_rumoured_node_is_dialled_the_lower_id_first(solo: Any, row_of: Any) -> None:
    for name, soonest in (("a", 0.0), ("z", 0.1)):
        node = solo(name)
        node.feed("b", LinkUp(row_of("b")))
        node.feed("b", Rumours((row_of("m"),)))
        made = dials(node, 100.5)
        assert made[0][1] == "m:1"
        assert soonest <= made[0][0] - 100.0 <= soonest * 2 + 0.001


def test_a_lost_link_is_dialled_at_once_and_a_linked_node_never(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b", "c")
    assert dials(node, 105.0, quiet=("b", "c")) == []
    node.feed("b", LinkDown())
    assert dials(node, 105.05, quiet=("c",)) == [(105.0, "b:1")]


def test_the_dead_are_dialled_for_ever(solo: Any) -> None:
    node = solo()
    node.meet("b")
    node.feed("b", LinkDown(refused=True))
    made = dials(node, 1100.0, "refused")
    assert node.row("b").state == "dead"
    late = [at for at, _ in made if at > 1000.0]
    assert 18 <= len(late) <= 42, "about every 5 s, jittered"


def test_whoever_answers_in_a_peers_place_for_a_moment_does_not_keep_us_apart(solo: Any) -> None:
    """That the door is of another mesh, somebody said who stood between: anybody can."""
    node = solo()
    node.meet("b")
    node.feed("b", LinkDown())
    answered = dials(node, 110.0, "other_mesh")
    assert len(answered) >= 3, "it is asked again as after any failure"
    assert dials(node, 116.0)[0][0] < 116.0


def test_the_left_are_not_dialled(solo: Any) -> None:
    node = solo()
    node.meet("b", "c")
    node.feed("b", Rumours((Signed("b", Left("b", 1)),)))
    node.feed("b", LinkDown())
    assert [address for _, address in dials(node, 200.0, quiet=("c",)) if address == "b:1"] == []


def test_a_new_address_of_a_node_replaces_the_old(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b", "c")
    node.feed("c", Rumours((row_of("b", 1, 2, at="moved:1"),)))
    node.feed("b", LinkDown())
    assert [address for _, address in dials(node, 130.0, "timeout", quiet=("c",))].count("b:1") == 0


def test_a_dead_node_whose_door_has_a_new_owner_is_not_dialled_there(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b")
    node.feed("b", LinkDown(refused=True))
    dials(node, 102.0, "refused")
    node.feed("c", LinkUp(row_of("c", at="b:1")))
    assert dials(node, 200.0, quiet=("c",)) == []


def test_a_firewall_is_not_a_death_at_each_redial(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b", "c", "d")
    node.feed("b", LinkDown(refused=True))
    node.feed("c", Rumours((row_of("b", 1, 2),)))  # b refutes through c
    node.take_facts()
    for _ in range(10):
        node.feed("a", DialFailed("b:1", "refused"))
    assert node.take_facts() == []
    node.feed("b", LinkUp(row_of("b", 1, 2)))
    node.feed("b", LinkDown())
    node.take_facts()
    node.feed("a", DialFailed("b:1", "refused"))
    assert node.take_facts() == [MemberSuspected("b", True)]


def test_a_found_door_of_a_lost_node_is_dialled_now(solo: Any) -> None:
    node = solo()
    node.meet("b")
    node.feed("b", LinkDown(refused=True))
    dials(node, 300.0, "refused")
    node.deadlines.clear(next(d for d in node.deadlines._due if getattr(d, "address", "") == "b:1"))
    node.feed("a", Found("b:1"), at_s=302.0)
    assert dials(node, 302.0) == [(302.0, "b:1")]
