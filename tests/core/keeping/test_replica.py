"""The rules of the consensus, one by one."""

from __future__ import annotations

import pytest

from mesh.core.keeping.log import Log
from mesh.core.keeping.replica import CANDIDATE, FOLLOWER, LEADER, Keep, Peer, Replica, Say
from mesh.messages.keeping import Ballot, Block, Ship, Shipped, Vote, VoteAsk, Yield
from mesh.messages.records import Commit
from mesh.messages.signed import Signed


def block(term, seq, members=()):
    return Block(term, Signed("A", Commit("A", 1, 0, seq, 1, b"", b"", 0)), members=members)


def replica(me="A", *, members=("A", "K1", "K2"), seq=3, term=1, role=FOLLOWER):
    log = Log("A")
    log.append(1, "A", seq, members)
    made = Replica("A", me, lambda at: (), log, term=term, role=role, stored=log.last)
    if role == LEADER:
        made.peers = {name: Peer(next=log.last) for name in members if name != me}
    return made


def test_a_vote_is_kept_before_it_is_said():
    voter = replica("K1")
    ballot = Signed("K1", Ballot("A", 2, "K2"))
    assert list(voter.on_vote_ask("K2", VoteAsk("A", 2, 1, 3), willing=False)) == [
        Keep(2, ""),
        Keep(2, "K2"),
        Say("K2", Vote("A", 2, True, False, (ballot,))),
    ]
    assert list(voter.on_vote_ask("A", VoteAsk("A", 2, 1, 3), willing=True)) == [Say("A", Vote("A", 2, False))]


@pytest.mark.parametrize(("ask", "willing"), [((1, 1, 3), True), ((2, 1, 2), True), ((2, 1, 3), False)])
def test_nobody_would_follow_an_old_term_or_a_shorter_log_or_while_a_leader_lives(ask, willing):
    voter = replica("K1")
    assert list(voter.on_vote_ask("K2", VoteAsk("A", *ask, True), willing=willing)) == [Say("K2", Vote("A", 1, False, True))]
    assert (voter.term, voter.voted) == (1, "")


def test_who_has_a_majority_of_votes_leads():
    candidate = replica("K1", term=2, role=CANDIDATE)
    candidate.votes = {"K1": None}
    list(candidate.on_vote("K2", Vote("A", 1, True)))
    assert candidate.role == CANDIDATE
    assert [out.to for out in candidate.on_vote("K2", Vote("A", 2, True))] == ["A", "K2"]
    assert candidate.role == LEADER


def test_kept_is_what_a_majority_of_members_has_in_the_leaders_own_term():
    leader = replica(term=2, role=LEADER)
    list(leader.teach("K3"))
    list(leader.on_shipped("K1", Shipped("A", 2, True, 1, 3)))
    assert leader.kept == (0, 0)
    list(leader.wrote(4))
    list(leader.on_shipped("K3", Shipped("A", 2, True, 2, 4)))
    assert leader.kept == (0, 0)
    list(leader.on_shipped("K1", Shipped("A", 2, True, 2, 4)))
    assert leader.kept == (2, 4)


def test_members_change_one_at_a_time_and_only_after_a_block_of_the_own_term_is_kept():
    leader = replica(term=2, role=LEADER)
    assert not leader.may_change(("A", "K1"))
    list(leader.wrote(4))
    list(leader.on_shipped("K1", Shipped("A", 2, True, 2, 4)))
    assert leader.may_change(("A", "K1")) and not leader.may_change(("A",)) and not leader.may_change(("K1", "K2"))
    list(leader.wrote(5, ("A", "K1")))
    assert not leader.may_change(("A",))


def test_a_term_in_which_the_author_has_written_nothing_leaves_no_trace_in_his_log():
    """It would be a position that no block can bring to anybody else."""
    leader = replica(term=2, role=LEADER)
    assert list(leader.wrote(3)) == []
    assert leader.log.last == (1, 3)


def test_only_a_conflict_truncates():
    keeper = replica("K1", seq=3)
    keeper.log.append(1, "A", 4)
    assert list(keeper.on_ship("A", Ship("A", 1, 1, 3, 1, 3, ()))) == [Say("A", Shipped("A", 1, True, 1, 3))]
    assert keeper.log.last == (1, 4) and keeper.kept == (1, 3)
    gone = Block(2, Signed("K2", Yield("A", 2, 3, "K2")))
    assert list(keeper.on_ship("K2", Ship("A", 2, 1, 3, 1, 3, (gone,)))) == [
        Keep(2, ""),
        Keep(2, "", (1, 3), (gone,)),
        Say("K2", Shipped("A", 2, True, 2, 3)),
    ]
    assert list(keeper.on_ship("A", Ship("A", 1, 1, 3, 1, 3, ()))) == [Say("A", Shipped("A", 2, False, 2, 3))]


def test_what_is_kept_is_never_forgotten():
    keeper = replica("K1")
    keeper.kept = (1, 3)
    before = keeper.log.last
    said = list(keeper.on_ship("K2", Ship("A", 2, 0, 0, 0, 0, (block(2, 1),))))
    assert [type(out) for out in said] == [Keep] and keeper.betrayed, "nothing is acknowledged"
    assert keeper.log.last == before


def test_who_was_let_go_is_shipped_to_again_when_a_revocation_makes_his_word_count():
    outlaws: dict[str, None] = {}
    leader = replica(term=2, role=LEADER)
    leader.log = Log("A", outlaws)
    leader.log.append(1, "A", 3, ("A", "K1", "K2", "K3"))
    list(leader.wrote(4))
    for keeper in ("K1", "K3"):
        list(leader.on_shipped(keeper, Shipped("A", 2, True, 2, 4)))
    list(leader.wrote(5, ("A", "K2", "K3")))
    assert {said.to for said in leader.ship_all()} == {"K2", "K3"}
    outlaws["K2"] = None
    assert "K1" in {said.to for said in leader.ship_all()}
    for keeper in ("K1", "K3"):
        list(leader.on_shipped(keeper, Shipped("A", 2, True, 2, 5)))
    assert leader.kept == (2, 5)


def of_two(*, kept: bool) -> Replica:
    """Of three that kept this log K2 has been let go; `kept`: and the author has seen that this is safe."""
    author = replica(term=2, role=LEADER)
    author.log.append(1, "A", 3, ("A", "K1", "K2"))
    list(author.wrote(4))
    list(author.on_shipped("K1", Shipped("A", 2, True, 2, 4)))
    list(author.wrote(5, ("A", "K1")))
    if kept:
        list(author.on_shipped("K1", Shipped("A", 2, True, 2, 5)))
    return author


def test_of_two_the_author_is_enough_once_it_is_safe_that_there_are_two():
    author = of_two(kept=True)
    list(author.wrote(6))
    assert author.kept == (2, 6)
    author.resign()
    list(author.campaign())
    assert author.role == LEADER


def test_of_two_the_author_goes_on_with_one_of_the_roster_before():
    """K1 has lost its memory, or is gone, right after K2 was let go."""
    author = of_two(kept=False)
    list(author.wrote(6))
    assert author.kept == (2, 4)
    author.resign()
    asked = {said.to for said in author.campaign()}
    assert asked == {"K1", "K2"} and author.role == "asking"
    list(author.on_vote("K2", Vote("A", 3, True, True)))
    list(author.on_vote("K2", Vote("A", 3, True, False)))
    assert author.role == LEADER
    list(author.wrote(7))
    assert author.kept < (3, 7)
    list(author.on_shipped("K2", Shipped("A", 3, True, 3, 7)))
    assert author.kept == (3, 7)
