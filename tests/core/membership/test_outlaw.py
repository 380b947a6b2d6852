"""A revoked node in membership: dead for good, unlinked, undialled, in no quorum, whatever is said of it. And this node itself."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.inputs import Found, LinkDown, LinkUp, MemberDied, MemberRevoked, Outlawed
from mesh.core.membership.addresses import DialDue
from mesh.effects import Dial, HangUp, Need, Refused, Send
from mesh.messages.membership import Ack, Alive, Dead, Digest, Left, Ping, Rumours, Suspect
from mesh.messages.signed import Signed

FREE = Need.FREE


def outlawed(solo: Any, *names: str) -> Any:
    """A bench linked with b, c and d, one of which is revoked."""
    bench = solo()
    bench.meet("b", "c", "d")
    bench.calm()
    bench.take_facts()
    return bench


def test_its_row_dies_its_link_is_cut_and_the_others_hear_of_it(solo: Any) -> None:
    bench = outlawed(solo)
    assert bench.feed("a", Outlawed("b")) == [HangUp("b", need=FREE)]
    assert bench.take_facts() == [MemberRevoked("b"), MemberDied("b")]
    row = bench.row("b")
    assert (row.state, row.linked, row.revoked) == ("dead", False, True)
    assert bench.machine.statistics().revoked == 1


def test_once_is_enough(solo: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    bench.take_facts()
    assert bench.feed("a", Outlawed("b")) == [] and bench.take_facts() == []


def test_one_that_was_dead_or_never_known_is_revoked_all_the_same(solo: Any) -> None:
    bench = outlawed(solo)
    assert bench.feed("a", Outlawed("stranger")) == []
    assert bench.take_facts() == [MemberRevoked("stranger")]
    assert bench.row("stranger").revoked and bench.row("stranger").state == "dead"


@pytest.mark.parametrize("incarnation", [1, 9])
def test_nothing_that_is_said_of_it_brings_it_back(solo: Any, row_of: Any, incarnation: int) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    bench.take_facts()
    said = (
        row_of("b", incarnation, 7),
        Signed("c", Suspect("b", incarnation, 7)),
        Signed("b", Suspect("c", 1, 1)),
        Signed("b", Left("b", incarnation)),
    )
    refused = [Refused("revoked", signed.author) for signed in said]
    assert bench.feed("c", Rumours(said, (Dead("b", incarnation, 7),))) == refused
    assert bench.take_facts() == [] and bench.row("b").state == "dead" and bench.row("c").state == "alive"


def test_a_link_that_was_on_its_way_is_cut(solo: Any, row_of: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    assert bench.feed("b", LinkUp(row_of("b", 4))) == [Refused("revoked", "b"), HangUp("b", need=FREE)]
    assert not bench.row("b").linked


def test_it_is_never_dialled_or_watched_again_but_its_door_may_be_anothers(solo: Any, row_of: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    bench.feed("b", LinkDown())
    made = [effect for _, effect in bench.run(bench.now_s + 60.0, quiet=("c", "d"))]
    assert Dial("b:1", need=FREE) not in made
    assert not [effect for effect in made if type(effect) is Send and effect.to == "b"]
    bench.feed("c", Rumours((row_of("e", at="b:1"),)))
    assert Dial("b:1", need=FREE) in [effect for _, effect in bench.run(bench.now_s + 5.0, quiet=("c", "d"))]


def test_a_hint_at_its_door_is_a_hint_like_any_other(solo: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    bench.feed("a", Found("b:1"))
    assert bench.deadlines.when(DialDue("b:1")) is not None


def test_it_is_in_no_quorum_and_its_vote_counts_for_nothing(solo: Any) -> None:
    """Of a, b, c, d two others must vote. Without b, one of a, c, d besides the voter: two of three, the subject included."""
    bench = outlawed(solo)
    before = bench.machine._members.quorum()
    bench.feed("b", Rumours((Signed("b", Suspect("c", 1, 1)),)))
    bench.feed("a", Outlawed("b"))
    members = bench.machine._members
    assert (before, members.roster(), members.quorum()) == (2, 3, 2)
    assert not members.in_roster("b") and members.votes(members.get("c")) == []


def test_tables_are_compared_without_it(solo: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    rows = (("a", 1, 1, "alive"), ("c", 1, 1, "alive"), ("d", 1, 1, "alive"))
    assert bench.machine._gossip.digest(True) == Digest(rows, True)
    assert bench.feed("c", Digest((*rows, ("b", 8, 8, "alive")), True)) == [], "nothing is lacking here, and nothing to correct there"


def test_forgotten_and_met_again_it_is_still_revoked(solo: Any) -> None:
    bench = outlawed(solo)
    bench.feed("a", Outlawed("b"))
    bench.directory.forget("b")
    assert bench.directory.revoked("b") and bench.directory.ensure("b").revoked


def test_when_it_is_this_node_it_takes_itself_out_and_leaves_the_links_to_the_others(solo: Any) -> None:
    bench = outlawed(solo)
    effects = bench.feed("a", Outlawed("a"))
    left = Rumours((Signed("a", Left("a", 1)),))
    assert effects == [Refused("own_revocation", "a"), *(Send(peer, left, need=FREE) for peer in ("b", "c", "d"))]
    assert bench.take_facts() == [MemberRevoked("a")]
    assert bench.row("a").revoked and bench.row("a").state == "left"


def test_beats_carry_the_digest_of_what_is_held(solo: Any) -> None:
    bench = outlawed(solo)
    bench.directory.trust = 77
    assert bench.feed("b", Ping(5)) == [Send("b", Ack(5, 77), need=FREE)]
    made = bench.feed("e", LinkUp(Signed("e", Alive("e", 1, 1, "e", "e:1", "e:1")))) + [e for _, e in bench.run(bench.now_s + 2.0)]
    beats = [effect.message for effect in made if type(effect) is Send and type(effect.message) in (Ping, Digest)]
    assert {type(beat) for beat in beats} == {Ping, Digest} and {beat.trust for beat in beats} == {77}
