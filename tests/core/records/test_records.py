"""The records machine by literal effects: opening, gossip of heads, forks, restored disks, questions; and its bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import BodyRead, MemberLinked, NewHead, Remembered, Replay, Started, StoreFailed, StoryRead
from mesh.core.keeping.inputs import RolledBack
from mesh.core.node import Node
from mesh.core.records.records import FIRST_TOKEN, HeadsDue, Records, TableDue
from mesh.effects import Append, Need, ReadBody, ReadStory, Refused, Remember, Send, Tell
from mesh.limits import RecordsLimits
from mesh.messages.membership import Ping
from mesh.messages.records import Audited, Commit, Fork, Heads, Opened, Parked
from mesh.messages.signed import Signed
from mesh.messages.work import Answer, Ask

FREE = Need.FREE
HEAD = b"h" * 32


def commit(author: str, first: int, count: int = 1, incarnation: int = 1, root: bytes = b"r") -> Signed:
    return Signed(author, Commit(author, incarnation, 0, first, count, b"p", root, first << 16), raw=b"%d" % first)


class Bench:
    """A records machine of node `me` (incarnation 3, 20 entries on disk), linked to b and c."""

    def __init__(self, **limits: Any) -> None:
        self.deadlines = Deadlines()
        self.directory = Directory("me", "otter")
        for node in ("b", "c", "d"):
            self.directory.ensure(node).linked = node != "d"
        self.limits = RecordsLimits(**limits)
        self.records = Records(self.directory, self.deadlines, self.limits, incarnation=3, name="otter", head=HEAD, head_seq=20)

    def give(self, item: Any, sender: str = "me", now_s: float = 0.0) -> list[Any]:
        return list(self.records.inputs[type(item)](now_s, sender, item) or ())

    def due(self, now_s: float) -> list[Any]:
        effects: list[Any] = []
        for deadline in self.deadlines.pop_due(now_s):
            effects += self.give(deadline, now_s=now_s)
        return effects

    def refusals(self, item: Any, sender: str = "b") -> list[str]:
        return [effect.reason for effect in self.give(item, sender) if isinstance(effect, Refused)]


# ---- the own journal


def test_a_life_begins_by_citing_the_last_durable_head() -> None:
    assert Bench().give(Started()) == [Append(Opened(3, HEAD, 20, "otter"))]


def test_replay_yields_nothing() -> None:
    assert Bench().give(Replay(1, Parked("t", "r"))) == []


def test_the_first_head_is_told_at_once_and_the_next_ones_once_a_second() -> None:
    bench = Bench()
    bench.give(NewHead(commit("me", 21, incarnation=3)), now_s=5.0)
    newest = commit("me", 22, incarnation=3)
    bench.give(NewHead(newest), now_s=5.0)
    assert bench.due(5.0) == [Send("b", Heads((newest,)), need=FREE), Send("c", Heads((newest,)), need=FREE)]
    later = commit("me", 23, incarnation=3)
    bench.give(NewHead(later), now_s=5.4)
    assert bench.due(5.99) == []
    assert bench.due(6.0) == [Send("b", Heads((later,)), need=FREE), Send("c", Heads((later,)), need=FREE)]
    assert bench.due(60.0) == [], "an idle journal is silent"
    assert bench.records.statistics().head_seq == 23


def test_a_failed_disk_is_shown() -> None:
    bench = Bench()
    bench.give(StoreFailed("disk_full", "no space left", "free some"))
    assert bench.records.statistics().failed == "no space left"


# ---- gossip


def test_a_new_link_gets_all_newest_heads_and_every_known_one_of_its_own() -> None:
    bench = Bench()
    own, before, theirs, dead = commit("me", 21, incarnation=3), commit("b", 5), commit("b", 7), commit("gone", 4)
    bench.give(NewHead(own))
    bench.give(Heads((before, theirs, dead)), "c")
    assert bench.give(MemberLinked("b")) == [Send("b", Heads((dead, before, theirs, own)), need=FREE)]
    assert bench.give(MemberLinked("c")) == [Send("c", Heads((theirs, dead, own)), need=FREE)]


def test_a_large_table_travels_in_lots() -> None:
    bench = Bench(heads_message_max=2)
    for number in range(5):
        bench.give(Heads((commit(f"n{number}", 1),)), "c")
    assert [len(send.message.heads) for send in bench.give(MemberLinked("b"))] == [2, 2, 1]


def test_an_older_head_changes_nothing() -> None:
    bench = Bench()
    bench.give(Heads((commit("b", 7),)), "b")
    bench.give(Heads((commit("b", 5),)), "b")
    assert bench.give(MemberLinked("c")) == [Send("c", Heads((commit("b", 7),)), need=FREE)]


def test_the_table_goes_to_one_peer_in_turn_and_to_disk() -> None:
    bench = Bench()
    bench.give(Started(), now_s=100.0)
    bench.give(Heads((commit("gone", 4),)), "c", now_s=100.0)
    table = Heads((commit("gone", 4),))
    assert bench.due(107.9) == []
    assert bench.due(108.0) == [Remember((commit("gone", 4),), (), need=FREE), Send("c", table, need=FREE)]
    kept = Remember((commit("gone", 4),), soon=True, need=FREE)
    assert bench.due(116.0) == [kept, Send("b", table, need=FREE)], "kept before anything is said of it: see test_witness.py"
    assert bench.due(124.0) == [Send("c", table, need=FREE)]


def test_what_an_earlier_life_kept_is_known_again() -> None:
    bench = Bench()
    fork = Fork("x", commit("x", 1), commit("x", 1, root=b"s"))
    bench.give(Remembered((commit("gone", 4), commit("me", 400)), (fork,)))
    assert bench.give(MemberLinked("b")) == [Send("b", Heads((commit("gone", 4),)), need=FREE), Send("b", fork, need=FREE)]


@pytest.mark.parametrize(
    "head",
    [
        Signed("b", Ping(1)),
        Signed("b", commit("c", 1).body),
        Signed("b", commit("b", 1, count=0).body),
        Signed("b", commit("b", 0).body),
    ],
)
def test_what_is_no_head_is_refused(head: Signed) -> None:
    bench = Bench()
    assert bench.refusals(Heads((head,))) == ["bad_head"]
    assert bench.records.statistics().authors == 0


def test_heads_are_bounded() -> None:
    bench = Bench(heads_max=2, heads_message_max=3)
    assert bench.refusals(Heads(tuple(commit(f"n{number}", 1) for number in range(4)))) == ["too_many_heads"]
    assert bench.refusals(Heads(tuple(commit(f"n{number}", 1) for number in range(3)))) == ["heads_full"]
    assert bench.records.statistics().authors == 2


# ---- forks


ONE, OTHER = commit("x", 5, 2, root=b"a"), commit("x", 6, 1, root=b"b")
PROOF = Fork("x", ONE, OTHER)


@pytest.mark.parametrize("order", [(ONE, OTHER), (OTHER, ONE)])
def test_two_commits_for_one_place_are_proof_kept_and_passed_on_once(order: tuple[Signed, Signed]) -> None:
    bench = Bench()
    assert bench.give(Heads(order[:1]), "b") == []
    assert bench.give(Heads(order[1:]), "c") == [
        Refused("fork", "x"),
        Remember((), (PROOF,), need=FREE),
        Send("b", PROOF, need=FREE),
        Send("c", PROOF, need=FREE),
    ]
    assert bench.give(Heads(order[1:]), "c") == []
    assert (bench.records.statistics().forks, bench.records.statistics().forked) == (1, ("x",))


def test_a_fork_against_an_older_head_shows_too() -> None:
    bench = Bench()
    bench.give(Heads((ONE, commit("x", 9), commit("x", 12))), "b")
    assert bench.refusals(Heads((OTHER,)), "c") == ["fork"]


def test_a_proof_from_a_peer_is_checked_kept_and_passed_on_once() -> None:
    bench = Bench()
    assert len(bench.give(PROOF, "b")) == 4
    assert bench.give(PROOF, "c") == []
    assert bench.give(MemberLinked("b")) == [Send("b", PROOF, need=FREE)]


@pytest.mark.parametrize(
    "fork",
    [
        Fork("x", ONE, ONE),
        Fork("x", ONE, commit("x", 9)),
        Fork("y", ONE, OTHER),
        Fork("x", ONE, commit("y", 6)),
        Fork("x", Signed("x", Ping(1)), OTHER),
    ],
)
def test_a_false_proof_is_refused(fork: Fork) -> None:
    bench = Bench()
    assert bench.refusals(fork) == ["no_fork"]
    assert bench.records.statistics().forks == 0


def test_proofs_are_bounded() -> None:
    bench = Bench(forks_max=1)
    bench.give(PROOF, "b")
    assert bench.refusals(Fork("y", commit("y", 5, 2), commit("y", 6, 1))) == ["forks_full"]


# ---- a restored disk


def test_an_own_head_from_an_earlier_life_that_the_disk_knows_is_fine() -> None:
    bench = Bench()
    assert bench.give(Heads((commit("me", 19, 2, incarnation=2),)), "b") == []
    assert bench.records.statistics().rolled_back == ""


@pytest.mark.parametrize("head", [commit("me", 20, 2, incarnation=2), commit("me", 3, incarnation=4), commit("me", 30, incarnation=3)])
def test_an_own_head_that_the_disk_does_not_hold_is_shown_for_good(head: Signed) -> None:
    bench = Bench()
    assert bench.refusals(Heads((head,))) == ["own_head_ahead"]
    bench.give(Heads((commit("me", 19, 2, incarnation=2),)), "b")
    assert "which its disk does not hold" in bench.records.statistics().rolled_back


def test_a_head_of_an_earlier_life_beyond_where_the_next_one_began_is_found_out_lives_later() -> None:
    """Life 1 signed entry 9; life 2 began on an older disk, behind entry 6, saw nobody, and wrote more than that."""
    bench = Bench()
    for seq, entry in ((1, Opened(1, bytes(32), 0)), (7, Opened(2, HEAD, 6))):
        bench.give(Replay(seq, entry))
    bench.give(Started())
    assert bench.refusals(Heads((commit("me", 5, 2),))) == [] and bench.records.statistics().rolled_back == ""
    refused, on_record, told = bench.give(Heads((commit("me", 9),)), "b")
    assert refused == Refused("own_head_ahead", "b")
    assert on_record.entry.what == "rolled_back" and on_record.entry.note == bench.records.statistics().rolled_back
    assert told == Tell(RolledBack()), "those who keep logs must know"
    assert bench.refusals(Heads((commit("me", 9),))) == ["own_head_ahead"], "and it goes on record once"


def test_what_was_admitted_is_known_in_the_next_life() -> None:
    bench = Bench()
    bench.give(Replay(5, Audited("rolled_back", "me", "me", "an old disk")))
    assert bench.records.statistics().rolled_back == "an old disk"


def test_this_lifes_heads_are_known_again() -> None:
    bench = Bench()
    heads = [commit("me", 21 + number, incarnation=3) for number in range(5)]
    for head in heads:
        bench.give(NewHead(head))
    assert bench.give(Heads(tuple(heads)), "b") == []
    assert bench.records.statistics().rolled_back == ""


def test_a_second_node_on_a_copy_of_the_disk_is_a_fork_in_the_own_name() -> None:
    bench = Bench()
    bench.give(NewHead(commit("me", 21, 2, incarnation=3)))
    assert bench.refusals(Heads((commit("me", 22, incarnation=3),))) == ["fork"]
    assert "signed the entries 22 to 22 twice" in bench.records.statistics().rolled_back


def test_a_proof_against_oneself_is_believed_after_a_restart() -> None:
    bench = Bench()
    bench.give(Remembered((), (Fork("me", commit("me", 5, 2), commit("me", 6)),)))
    assert "twice, differently" in bench.records.statistics().rolled_back


# ---- questions


def test_a_story_is_read_and_answered() -> None:
    bench = Bench()
    assert bench.give(Ask(7, "story", "t", b'{"since":40}'), "b") == [ReadStory(FIRST_TOKEN + 1, "story", "t", 40, need=FREE)]
    assert bench.give(StoryRead(FIRST_TOKEN + 1, b"packed")) == [Send("b", Answer(7, True, b"packed"), need=FREE)]
    assert bench.give(StoryRead(FIRST_TOKEN + 1, b"packed")) == []


def test_a_hash_and_a_body() -> None:
    bench = Bench()
    assert bench.give(Ask(7, "hash", "f" * 64), "b") == [ReadStory(FIRST_TOKEN + 1, "hash", "f" * 64, need=FREE)]
    assert bench.give(Ask(8, "body", "e" * 64), "b") == [ReadBody(FIRST_TOKEN + 2, "e" * 64, need=FREE)]
    assert bench.give(BodyRead(FIRST_TOKEN + 2, b"data")) == [Send("b", Answer(8, True, b"data"), need=FREE)]


def answered(effects: list[Any]) -> tuple[bool, str]:
    [answer] = [effect.message for effect in effects if isinstance(effect, Send)]
    return answer.ok, json.loads(answer.body)["code"]


def test_an_unknown_body_is_said_to_be_unknown() -> None:
    bench = Bench()
    bench.give(Ask(8, "body", "e" * 64), "b")
    assert answered(bench.give(BodyRead(FIRST_TOKEN + 1, None))) == (False, "unknown_body")


def test_other_questions_and_other_machines_reads_are_left_alone() -> None:
    bench = Bench()
    assert bench.give(Ask(1, "task", "t"), "b") == []
    assert bench.give(BodyRead(1, b"x")) == [] == bench.give(BodyRead(-1, None))


@pytest.mark.parametrize("args", [b"x", b"[]", b'{"since":"x"}', b'{"since":-1}', b'{"since":true}', b'{"since":9e99}', b"[" * 100_000])
def test_senseless_arguments_are_refused(args: bytes) -> None:
    bench = Bench()
    effects = bench.give(Ask(1, "story", "t", args), "b")
    assert effects[0] == Refused("bad_ask", "b") and answered(effects) == (False, "bad_question")


def test_questions_are_bounded() -> None:
    bench = Bench(asks_max=1)
    bench.give(Ask(1, "story", "t"), "b")
    effects = bench.give(Ask(2, "story", "t"), "b")
    assert effects[0] == Refused("asks_full", "b") and answered(effects) == (False, "busy")
    bench.give(StoryRead(FIRST_TOKEN + 1, b""))
    assert bench.records.statistics().asks_waiting == 0
    assert len(bench.give(Ask(3, "story", "t"), "b")) == 1


def test_the_own_desk_may_ask() -> None:
    """Answers to oneself stay in the node: the machine does not care."""
    bench = Bench()
    node = Node("me", (bench.records,), bench.deadlines, 20)
    assert node.handle(0.0, "me", Ask(1, "story", "t")) == [ReadStory(FIRST_TOKEN + 1, "story", "t", need=FREE)]


def test_everything_the_machine_sets_and_takes_is_routed() -> None:
    assert {HeadsDue, TableDue, Heads, Fork, NewHead, Started, Replay} <= set(Bench().records.inputs)
