"""Statements, order, votes, certificates, the own row: literal effects of one machine."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.inputs import (
    DialFailed,
    Leave,
    LinkDown,
    LinkUp,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberLinked,
    MemberRestarted,
    MemberSuspected,
    MemberUnreachable,
    OffersChanged,
    OffersSet,
)
from mesh.core.membership.members import order, votes_needed
from mesh.effects import HangUp, Need, Refused, Reply, Send
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Dead, Digest, Left, Offer, Rumours, Suspect
from mesh.messages.records import Commit
from mesh.messages.signed import Signed


def vote(by: str, node: str, version: int = 1, *, hard: bool = False, incarnation: int = 1) -> Signed:
    return Signed(by, Suspect(node, incarnation, version, hard))


def left(node: str, incarnation: int = 1) -> Signed:
    return Signed(node, Left(node, incarnation))


def rumour(to: str, *items: Any) -> Send:
    statements = tuple(item for item in items if isinstance(item, Signed))
    return Send(to, Rumours(statements, tuple(item for item in items if isinstance(item, Dead))), need=Need.FREE)


@pytest.fixture
def five(solo: Any) -> Any:
    node = solo()
    node.meet("b", "c", "d", "e")
    node.take_facts()
    return node


def test_a_node_says_whether_it_keeps_others_journals(five: Any) -> None:
    assert five.directory.get("b").keeps and five.directory.get("a").keeps
    row = Signed("b", Alive("b", 1, 2, "b", "b:1", "b:1", keeps=False))
    five.feed("c", Rumours((row,)))
    assert not five.directory.get("b").keeps
    five.feed("c", Rumours((Signed("b", Alive("b", 2, 1, "b", "b:1", "b:1")),)))
    assert five.directory.get("b").keeps


# ---- order


def test_the_order_of_statements() -> None:
    rows = [(1, 1, "alive"), (1, 1, "suspect"), (1, 1, "dead"), (1, 2, "alive"), (1, 9, "dead"), (1, 1, "left"), (2, 1, "alive")]
    keys = [order(*row) for row in rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("roster", "needed"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 4), (8, 4), (9, 5)])
def test_votes_needed(roster: int, needed: int) -> None:
    assert votes_needed(roster) == needed


def test_a_newcomer_is_told_dialled_and_watched(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b")
    node.take_facts()
    greet = Offer("greet", "greeter")
    assert node.feed("b", Rumours((row_of("c", 3, 4, (greet,)),))) == []
    assert node.take_facts() == [MemberAlive("c"), OffersChanged("c")]
    row = node.row("c")
    assert (row.name, row.state, row.incarnation, row.version, row.door, row.linked) == ("c", "alive", 3, 4, "c:1", False)
    assert node.directory.offering("greet") == [row]


def test_older_and_equal_statements_change_nothing(five: Any, row_of: Any) -> None:
    five.feed("b", Rumours((row_of("c", 1, 5),)))
    five.take_facts()
    for version in (4, 5):
        assert five.feed("d", Rumours((row_of("c", 1, version),))) == []
    assert five.feed("d", Rumours((row_of("c", 0, 99),))) == []
    assert five.row("c").version == 5
    assert five.take_facts() == []


def test_a_larger_incarnation_is_a_restart_and_ends_the_old_link(five: Any, row_of: Any) -> None:
    assert five.feed("b", Rumours((row_of("c", 2, 1, at="c:9"),))) == []
    assert five.take_facts() == [MemberRestarted("c", 2)]
    row = five.row("c")
    assert (row.incarnation, row.version, row.door, row.linked) == (2, 1, "c:9", False)


def test_an_author_speaks_for_himself_only(five: Any) -> None:
    lie = Signed("b", Alive("c", 9, 9, "c", "x:1", "x:1"))
    assert five.feed("b", Rumours((lie,))) == [Refused("not_author", "b")]
    assert five.feed("b", Rumours((Signed("b", Left("c", 1)),))) == [Refused("not_author", "b")]
    assert five.feed("b", Rumours((Signed("b", Suspect("b", 1, 1)),))) == [Refused("own_suspect", "b")]
    stray = Signed("b", Commit("b", 1, 1, 1, 1, b"", b"", 0))
    assert five.feed("b", Rumours((stray,))) == [Refused("not_membership", "b")]
    assert five.take_facts() == []


# ---- suspicion and death


def test_a_vote_of_another_opens_a_window_and_goes_to_the_subject(five: Any) -> None:
    five.feed("c", LinkUp(Signed("c", Alive("c", 1, 1, "c", "c:1", "c:1"))))
    five.take_facts()
    assert five.feed("b", Rumours((vote("b", "c"),))) == [rumour("c", vote("b", "c"))]
    assert five.take_facts() == [MemberSuspected("c", False)]
    assert five.row("c").state == "suspect"


def test_a_refutation_ends_it(five: Any, row_of: Any) -> None:
    five.feed("b", Rumours((vote("b", "c"),)))
    five.take_facts()
    five.feed("c", Rumours((row_of("c", 1, 2),)))
    assert five.take_facts() == [MemberAlive("c")]
    assert five.row("c").state == "alive"
    assert five.feed("d", Rumours((vote("d", "c"),))) == [rumour("d", row_of("c", 1, 2))], "who accuses on old knowledge gets the newer"


def test_hard_evidence_is_told_at_once_and_to_the_subject_first(five: Any) -> None:
    five.feed("c", LinkDown())
    five.calm()
    effects = five.feed("a", DialFailed("c:1", "refused"))
    said = vote("a", "c", hard=True)
    assert effects == [rumour("b", said), rumour("d", said), rumour("e", said)]
    assert five.take_facts() == [MemberSuspected("c", True)]


def test_link_down_with_refusal_counts_the_same_even_after_the_first_news(five: Any) -> None:
    assert five.feed("c", LinkDown()) == []
    five.calm()
    effects = five.feed("c", LinkDown(refused=True))
    assert effects[0] == rumour("b", vote("a", "c", hard=True))
    assert five.feed("c", LinkDown(refused=True)) == [], "once per link"


def test_refused_without_ever_having_been_linked_is_no_evidence(five: Any, row_of: Any) -> None:
    five.feed("b", Rumours((row_of("f"),)))
    five.calm()
    five.take_facts()
    assert five.feed("a", DialFailed("f:1", "refused")) == []
    assert five.take_facts() == []
    assert five.row("f").state == "alive"


def test_enough_votes_after_the_window_make_a_certificate(five: Any) -> None:
    five.feed("c", LinkDown())
    five.feed("a", DialFailed("c:1", "refused"))
    five.feed("b", Rumours((vote("b", "c", hard=True),)))
    five.feed("d", Rumours((vote("d", "c"),)))
    five.take_facts()
    before = five.run(five.now_s + 0.49, quiet=("b", "d", "e"))
    assert five.row("c").state == "suspect"
    after = [effect for _, effect in five.run(five.now_s + 0.02, quiet=("b", "d", "e"))]
    dead = Dead("c", 1, 1, (vote("a", "c", hard=True), vote("b", "c", hard=True), vote("d", "c")))
    assert [rumour(to, dead) for to in "bde"] == [e for e in after if isinstance(e, Send) and getattr(e.message, "deaths", ())]
    assert not any(getattr(getattr(e, "message", None), "deaths", ()) for _, e in before)
    assert five.take_facts() == [MemberDied("c")]


def test_without_the_quorum_it_is_only_unreachable_until_the_last_vote_comes(five: Any) -> None:
    five.feed("c", LinkDown())
    five.feed("a", DialFailed("c:1", "refused"))
    five.feed("b", Rumours((vote("b", "c"),)))
    five.take_facts()
    five.run(five.now_s + 0.6, quiet=("b", "d", "e"))
    assert five.take_facts() == [MemberUnreachable("c")]
    assert five.row("c").state == "unreachable"
    five.feed("e", Rumours((vote("e", "c"),)))
    assert five.take_facts() == [MemberDied("c")]


def test_the_dead_stay_in_the_roster_so_the_quorum_never_shrinks(five: Any) -> None:
    for gone in "bc":
        five.feed(gone, LinkDown())
        five.feed("a", DialFailed(gone + ":1", "refused"))
        for by in "de":
            five.feed(by, Rumours((vote(by, gone),)))
    five.run(five.now_s + 1.0, quiet=("d", "e"))
    assert five.states() == {"a": "alive", "b": "dead", "c": "dead", "d": "alive", "e": "alive"}
    five.feed("d", LinkDown())
    five.feed("a", DialFailed("d:1", "refused"))
    five.feed("e", Rumours((vote("e", "d"),)))
    five.run(five.now_s + 5.0, quiet=("e",))
    assert five.row("d").state == "unreachable", "2 of 4 others are no majority, though 2 is all there are"


def test_the_left_are_not_in_the_roster(five: Any) -> None:
    five.feed("b", Rumours((left("b"),)))
    five.feed("c", Rumours((left("c"),)))
    five.take_facts()
    five.feed("d", LinkDown())
    five.feed("a", DialFailed("d:1", "refused"))
    five.feed("e", Rumours((vote("e", "d"), vote("b", "d"))))
    five.run(five.now_s + 0.6, quiet=("e",))
    assert five.take_facts()[-1] == MemberDied("d")


def test_two_nodes_one_vote(solo: Any) -> None:
    node = solo()
    node.meet("b")
    node.feed("b", LinkDown())
    node.feed("a", DialFailed("b:1", "refused"))
    node.run(node.now_s + 0.6)
    assert node.row("b").state == "dead"


def test_a_certificate_is_believed_at_once_if_its_votes_are_good(five: Any) -> None:
    dead = Dead("c", 1, 1, (vote("b", "c"), vote("d", "c"), vote("e", "c")))
    effects = five.feed("b", Rumours((), (dead,)))
    assert effects == [rumour("c", dead)], "the subject hears of it, so that it can refute"
    assert five.take_facts() == [MemberDied("c")]
    assert five.feed("d", Rumours((), (dead,))) == []


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ((vote("b", "c"), vote("d", "c")), "few_votes"),
        ((vote("b", "c"), vote("b", "c"), vote("b", "c")), "few_votes"),
        ((vote("b", "c"), vote("d", "c"), vote("c", "c")), "few_votes"),
        ((vote("b", "c"), vote("d", "c"), vote("stranger", "c")), "few_votes"),
        ((vote("b", "c"), vote("d", "c"), vote("e", "d")), "bad_certificate"),
        ((vote("b", "c"), vote("d", "c"), vote("e", "c", 2)), "bad_certificate"),
        ((vote("b", "c"), vote("d", "c"), left("e")), "bad_certificate"),
        ((), "few_votes"),
    ],
)
def test_a_false_certificate_is_refused(five: Any, votes: tuple[Signed, ...], reason: str) -> None:
    effects = five.feed("b", Rumours((), (Dead("c", 1, 1, votes),)))
    assert effects[0] == Refused(reason, "b")
    assert five.row("c").state == "alive"
    assert five.take_facts() == []


def test_votes_of_an_older_row_do_not_count(five: Any, row_of: Any) -> None:
    five.feed("c", Rumours((row_of("c", 1, 2),)))
    dead = Dead("c", 1, 1, (vote("b", "c"), vote("d", "c"), vote("e", "c")))
    assert five.feed("b", Rumours((), (dead,))) == [rumour("b", row_of("c", 1, 2))]
    assert five.row("c").state == "alive"


def test_a_vote_on_a_row_not_known_here_asks_for_it_once_a_second(five: Any) -> None:
    effects = five.feed("b", Rumours((vote("b", "c", 7),)))
    assert [type(effect.message) for effect in effects] == [Digest]
    assert five.feed("b", Rumours((vote("b", "d", 7),))) == []
    assert five.row("c").state == "alive" and five.row("c").version == 1, "nobody but c raises its version"


# ---- leaving


def test_left_is_told_and_ends_the_incarnation(five: Any, row_of: Any) -> None:
    assert five.feed("c", Rumours((left("c"),))) == []
    assert five.take_facts() == [MemberLeft("c")]
    five.feed("b", Rumours((row_of("c", 1, 50), vote("b", "c"))))
    assert five.row("c").state == "left"
    assert five.feed("c", LinkDown(refused=True)) == []
    five.feed("b", Rumours((row_of("c", 2, 1),)))
    assert five.take_facts() == [MemberRestarted("c", 2), MemberAlive("c")]


def test_left_may_come_before_anything_else_is_known(solo: Any, row_of: Any) -> None:
    node = solo()
    node.meet("b")
    node.take_facts()
    node.feed("b", Rumours((left("z", 4),)))
    assert node.take_facts() == [MemberLeft("z")]
    node.feed("b", Rumours((row_of("z", 4, 9),)))
    assert node.row("z").state == "left"


def test_leave_says_left_to_all_then_answers(five: Any) -> None:
    said = Signed("a", Left("a", 1))
    assert five.feed("a", Leave(7)) == [*(rumour(to, said) for to in "bcde"), Reply(7, True, {}, need=Need.FREE)]
    assert five.row("a").state == "left"
    assert five.feed("a", Leave(8)) == [Reply(8, True, {}, need=Need.FREE)]
    five.take_facts()
    five.run(five.now_s + 60.0)
    assert five.take_facts() == [], "who has left suspects nobody"
    assert five.feed("b", Rumours((vote("b", "a"),))) == [rumour("b", said)]


# ---- the own row


def test_accused_it_refutes_with_the_next_version(five: Any) -> None:
    effects = five.feed("c", Rumours((vote("b", "a"), vote("c", "a"))))
    own = five.machine.own
    assert own.body.version == 2
    assert effects == [*(rumour(to, own) for to in "bcde"), rumour("c", own)], "the second accuser is behind already"
    assert five.machine.statistics().refutations == 1


def test_seen_dead_it_refutes_too(five: Any) -> None:
    dead = Dead("a", 1, 1, (vote("b", "a"), vote("c", "a"), vote("d", "a")))
    five.feed("c", Rumours((), (dead,)))
    assert five.machine.own.body.version == 2
    five.feed("d", Digest((("a", 1, 2, "dead"),), False))
    assert five.machine.own.body.version == 3


def test_it_never_jumps_to_a_version_it_is_told(five: Any) -> None:
    assert five.feed("b", Rumours((vote("b", "a", 1 << 40),))) == [Refused("unknown_version", "b")]
    assert five.feed("b", Rumours((vote("b", "a", 1, incarnation=5),))) == [Refused("unknown_version", "b")]
    assert five.machine.own.body.version == 1


def test_offers_raise_the_version_and_travel(five: Any, offer: Offer) -> None:
    effects = five.feed("a", OffersSet((offer,)))
    own = five.machine.own
    assert own.body == Alive("a", 1, 2, "a", "a:1", "a:1", (offer,))
    assert effects == [rumour(to, own) for to in "bcde"]
    assert five.take_facts() == [OffersChanged("a")]
    assert five.feed("a", OffersSet((offer,))) == []
    assert five.row("a").offers == {"greet": offer}


def test_a_clone_of_the_same_life_is_counted_and_outbid_three_times(five: Any) -> None:
    for attempt in range(5):
        version = five.machine.own.body.version + 1
        clone = Signed("a", Alive("a", 1, version, "a", "elsewhere:1", "elsewhere:1"))
        effects = five.feed("b", Rumours((clone,)))
        assert effects[0] == Refused("clone_seen", "a")
        assert (five.machine.own.body.version == version + 1) == (attempt < 3)
    assert five.machine.statistics().clones_seen == 5


def test_a_clone_of_a_later_life_is_counted_and_left_alone(five: Any) -> None:
    clone = Signed("a", Alive("a", 2, 1, "a", "elsewhere:1", "elsewhere:1"))
    assert five.feed("b", Rumours((clone,))) == [Refused("clone_seen", "a")]
    assert five.machine.own.body.version == 1


def test_two_rows_for_one_place_show_a_clone_to_others(five: Any) -> None:
    clone = Signed("c", Alive("c", 1, 1, "c", "elsewhere:1", "elsewhere:1"))
    assert five.feed("b", Rumours((clone,))) == [Refused("clone_seen", "c")]
    assert five.row("c").door == "c:1"
    assert five.machine.statistics().clones_seen == 1


def test_its_own_words_coming_back_are_no_clone(five: Any, row_of: Any) -> None:
    assert five.feed("b", Rumours((row_of("a"),))) == []
    assert five.machine.statistics().clones_seen == 0


# ---- bounds and names


def test_the_table_is_bounded_and_the_longest_gone_go_first(solo: Any, row_of: Any) -> None:
    node = solo(limits=MembershipLimits(rows_max=4))
    node.meet("b")
    node.feed("b", Rumours((row_of("c"), row_of("d"))))
    node.calm()
    assert node.feed("b", Rumours((row_of("e"),))) == [Refused("rows_full", "b")]
    node.feed("b", Rumours((left("d"),)), at_s=101.0)
    node.feed("b", Rumours((left("c"),)), at_s=102.0)
    node.feed("b", Rumours((row_of("e"),)))
    assert sorted(node.states()) == ["a", "b", "c", "e"]
    assert node.machine.statistics().forgotten == 1
    node.feed("b", Rumours((row_of("d"),)))
    assert "d" not in node.states(), "the forgotten do not come back by hearsay of the same life"
    node.feed("b", Rumours((row_of("d", 2),)))
    assert sorted(node.states()) == ["a", "b", "d", "e"]


def test_a_link_brings_a_forgotten_node_back(solo: Any, row_of: Any) -> None:
    node = solo(limits=MembershipLimits(rows_max=3))
    node.meet("b", "c")
    node.feed("c", Rumours((left("c"),)))
    node.feed("c", LinkDown())
    node.feed("b", Rumours((row_of("d"),)))
    node.feed("b", Rumours((left("d"),)))
    node.take_facts()
    node.feed("c", LinkUp(row_of("c")))
    assert node.take_facts() == [MemberAlive("c"), MemberLinked("c")]


def test_two_of_one_name_are_both_shown(five: Any) -> None:
    five.feed("b", Rumours((Signed("x", Alive("x", 1, 1, "c", "x:1", "x:1")),)))
    assert [row.node for row in five.directory.rows() if row.name == "c"] == ["c", "x"]
    assert five.machine.statistics().name_clashes == 1


def test_an_old_life_gets_no_link(five: Any, row_of: Any) -> None:
    five.feed("b", Rumours((row_of("c", 3),)))
    five.calm()
    five.take_facts()
    assert five.feed("c", LinkUp(row_of("c", 2))) == [Refused("old_life", "c"), HangUp("c", need=Need.FREE)]
    assert five.feed("c", LinkUp(row_of("d"))) == [Refused("not_author", "c"), HangUp("c", need=Need.FREE)]
    assert five.take_facts() == []
