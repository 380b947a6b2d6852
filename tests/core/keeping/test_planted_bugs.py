"""What the explorer and the walks are worth: each bug here is planted, and must be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exploring import member
from exploring.sizes import Size, explored
from exploring.space import Bounds
from exploring.walk import Walk

from mesh.core.keeping.log import Log
from mesh.core.keeping.replica import LEADER, Keep, Replica, Say

Patch = pytest.MonkeyPatch

THREE = Size(Bounds(campaigns=2, commits=1, crashes=0))
CRASHES = Size(Bounds(campaigns=2, commits=0, crashes=1))
ONE_COMMIT = Size(Bounds(campaigns=0, commits=1, crashes=1))
THIRD_JOINS = Size(Bounds(campaigns=1, commits=1, changes=1, crashes=0), keepers=("K1",), changes=(("A", "K1", "K2"),))
OLD_DISK = Size(Bounds(campaigns=2, commits=0, crashes=0, old_disks=1))
TAKEN_IN = Size(Bounds(campaigns=1, commits=0, changes=1, crashes=0, old_disks=1), changes=(("A", "K1"), ("A", "K2")))
TAKEN_IN_AGAIN = Size(Bounds(campaigns=1, commits=0, changes=2, crashes=0, old_disks=1), changes=(("A", "K1"), ("A", "K1", "K2")))
CHANGES = Size(Bounds(campaigns=2, commits=0, changes=2, crashes=0), changes=(("A",), ("A", "K1"), ("A", "K2"), ("A", "K1", "K2")))


def twist(patch: Patch, method: str, change: Callable[..., Iterator[Keep | Say]]) -> None:
    """`change(before, self, *arguments)` yields what the method yields now."""
    before = getattr(Replica, method)
    patch.setattr(Replica, method, lambda self, *arguments, **words: change(before, self, *arguments, **words))


# ---- votes


def votes_for_whoever_has_less(patch: Patch) -> None:
    twist(
        patch,
        "on_vote_ask",
        lambda before, self, sender, ask, **words: before(self, sender, dataclasses.replace(ask, last_term=99), **words),
    )


def votes_twice_in_a_term(patch: Patch) -> None:
    def change(before: Any, self: Replica, sender: str, ask: Any, **words: Any) -> Any:
        if ask.term == self.term and not ask.pre and self.voted != self.me:
            self.voted = ""
        return before(self, sender, ask, **words)

    twist(patch, "on_vote_ask", change)


def vote_is_not_kept(patch: Patch) -> None:
    twist(patch, "on_vote_ask", lambda before, *rest, **words: (out for out in before(*rest, **words) if isinstance(out, Say)))


def half_is_a_majority(patch: Patch) -> None:
    patch.setattr(Log, "decides", lambda self, who, **_words: sum(name in who for name in self.members) >= len(self.members) // 2)


def vote_is_forgotten_at_restart(patch: Patch) -> None:
    before = member.restarted
    patch.setattr(member, "restarted", lambda node: before(node)._replace(voted="", voted_for=""))


def candidate_keeps_no_term(patch: Patch) -> None:
    twist(patch, "_stand", lambda before, self: (out for out in before(self) if isinstance(out, Say)))


# ---- what is kept


def kept_by_one_less(patch: Patch) -> None:
    def advance(self: Replica) -> None:
        reach = sorted((self.stored if name == self.me else self._match(name) for name in self.log.members), reverse=True)
        at = reach[max(0, len(reach) // 2 - 1)]
        if at[0] == self.term and at > self.kept:
            self.kept = at

    patch.setattr(Replica, "_advance", advance)


def learner_counts(patch: Patch) -> None:
    def advance(self: Replica) -> None:
        reach = sorted([self.stored, *[peer.match for peer in self.peers.values()]], reverse=True)
        at = reach[len(self.log.members) // 2]
        if at[0] == self.term and at > self.kept:
            self.kept = at

    patch.setattr(Replica, "_advance", advance)


def kept_is_taken_from_ship(patch: Patch) -> None:
    def change(before: Any, self: Replica, sender: str, ship: Any) -> Any:
        yield from before(self, sender, ship)
        if ship.term == self.term:
            self.kept = max(self.kept, (ship.kept_term, ship.kept_seq))

    twist(patch, "on_ship", change)


def old_acknowledgements_count(patch: Patch) -> None:
    twist(patch, "on_shipped", lambda before, self, sender, shipped: before(self, sender, dataclasses.replace(shipped, term=self.term)))


def blocks_are_acknowledged_first(patch: Patch) -> None:
    twist(patch, "on_ship", lambda before, *rest: iter(sorted(before(*rest), key=lambda out: isinstance(out, Keep))))


# ---- the log


def old_leaders_are_followed(patch: Patch) -> None:
    twist(
        patch, "on_ship", lambda before, self, sender, ship: before(self, sender, dataclasses.replace(ship, term=max(ship.term, self.term)))
    )


def always_truncates(patch: Patch) -> None:
    def change(before: Any, self: Replica, sender: str, ship: Any) -> Any:
        at = (ship.prev_term, ship.prev_seq)
        if ship.term < self.term or not self.log.has(at) or self.role == LEADER:
            yield from before(self, sender, ship)
            return
        self.log.truncate(at)
        self.kept = min(self.kept, at)
        yield Keep(self.term, self.voted, at)
        yield from before(self, sender, ship)

    twist(patch, "on_ship", change)


def the_place_before_is_not_checked(patch: Patch) -> None:
    def change(before: Any, self: Replica, sender: str, ship: Any) -> Any:
        at = self.log.floor((ship.prev_term, ship.prev_seq))
        return before(self, sender, dataclasses.replace(ship, prev_term=at[0], prev_seq=at[1]))

    twist(patch, "on_ship", change)


def refusals_are_not_heard(patch: Patch) -> None:
    """Nothing false is kept; but who has fallen behind stays there."""
    twist(patch, "on_shipped", lambda before, self, sender, one: before(self, sender, one) if one.ok or one.term > self.term else iter(()))


# ---- members


def members_change_two_at_a_time(patch: Patch) -> None:
    def may_change(self: Replica, members: tuple[str, ...]) -> bool:
        settled = self.kept[0] == self.term and self.log.rosters[-1].at <= self.kept
        return self.role == LEADER and self.me == self.author in members and settled and set(members) != set(self.log.members)

    patch.setattr(Replica, "may_change", may_change)


def members_change_before_the_term_is_settled(patch: Patch) -> None:
    def may_change(self: Replica, members: tuple[str, ...]) -> bool:
        one = len(set(members) ^ set(self.log.members)) == 1
        return self.role == LEADER and self.me == self.author in members and one

    patch.setattr(Replica, "may_change", may_change)


def members_change_before_the_last_change_is_kept(patch: Patch) -> None:
    def may_change(self: Replica, members: tuple[str, ...]) -> bool:
        one = len(set(members) ^ set(self.log.members)) == 1
        return self.role == LEADER and self.me == self.author in members and one and self.kept[0] == self.term

    patch.setattr(Replica, "may_change", may_change)


# ---- the author at restart


def author_forgets_his_last_commit(patch: Patch) -> None:
    before = member.restarted

    def restarted(node: Any) -> Any:
        back = before(node)
        return back._replace(disk=back.disk[:-1]) if back.disk and back.disk[-1].leader == back.me == "A" else back

    patch.setattr(member, "restarted", restarted)


def author_forgets_that_he_was_cut(patch: Patch) -> None:
    """His log goes as far as his journal, whoever led last."""
    patch.setattr(member, "length_at_restart", lambda node: node.length)


# ---- disks that are put back


def a_keeper_that_forgot_votes_votes(patch: Patch) -> None:
    patch.setattr(member.Caller, "_do_old_disk", unnoticed(member.Caller._do_old_disk))


def unnoticed(before: Any) -> Any:
    def change(self: Any, node: Any, pieces: int) -> Any:
        back, said = before(self, node, pieces)
        return back._replace(lapse=0), said

    return change


def a_keeper_that_forgot_counts(patch: Patch) -> None:
    twist(patch, "on_shipped", lambda before, self, sender, shipped: before(self, sender, dataclasses.replace(shipped, lapse=0)))


def whoever_forgot_is_a_member_again_at_once(patch: Patch) -> None:
    """Without a roster that was decided without him."""
    twist(patch, "on_ship", lambda before, self, sender, ship: before(self, sender, dataclasses.replace(ship, lapse=self.lapse)))


def whoever_is_taken_in_anew_counts_without_the_roster(patch: Patch) -> None:
    """Its word may have been what kept the roster before; it has forgotten it, and would choose who lacks that."""
    before = Replica._ship

    def ship(self: Replica, to: str) -> Say:
        said = before(self, to)
        said.message.lapse = self.peers[to].renewed
        return said

    patch.setattr(Replica, "_ship", ship)


def the_author_of_two_decides_before_they_are_settled(patch: Patch) -> None:
    """Though the other may have chosen a leader with one whom the change leaves out."""
    patch.setattr(Replica, "_settled", property(lambda _self: True))


FOUND_BY_EXPLORING = [
    (votes_for_whoever_has_less, THREE, "without what was kept"),
    (votes_twice_in_a_term, THREE, "two leaders"),
    (vote_is_not_kept, CRASHES, "two leaders"),
    (vote_is_forgotten_at_restart, CRASHES, "two leaders"),
    (candidate_keeps_no_term, CRASHES, ""),
    (half_is_a_majority, THREE, ""),
    (kept_by_one_less, THREE, "is on the disks of"),
    (kept_is_taken_from_ship, THREE, ""),
    (old_leaders_are_followed, THREE, ""),
    (always_truncates, THREE, "is on the disks of"),
    (the_place_before_is_not_checked, THREE, ""),
    (members_change_two_at_a_time, CHANGES, ""),
    (members_change_before_the_term_is_settled, CHANGES, ""),
    (author_forgets_his_last_commit, ONE_COMMIT, "is on the disks of"),
    (author_forgets_that_he_was_cut, CRASHES, ""),
    (a_keeper_that_forgot_votes_votes, OLD_DISK, "two leaders"),
    (a_keeper_that_forgot_counts, TAKEN_IN, ""),
    (whoever_forgot_is_a_member_again_at_once, OLD_DISK, ""),
    (whoever_is_taken_in_anew_counts_without_the_roster, TAKEN_IN_AGAIN, "without what was kept"),
    (the_author_of_two_decides_before_they_are_settled, TAKEN_IN, ""),
]
FOUND_BY_WALKS = [
    (old_acknowledgements_count, 28),
    (blocks_are_acknowledged_first, 10),
    (learner_counts, 199),
    (refusals_are_not_heard, 0),
    (members_change_before_the_last_change_is_kept, 2),
]
"""With a seed that finds it."""


@pytest.mark.parametrize(("plant", "size", "word"), FOUND_BY_EXPLORING, ids=lambda one: getattr(one, "__name__", None))
def test_exploring_finds(plant: Any, size: Size, word: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    found = explored(size, 20_000)
    assert found.broken and word in found.broken, found


@pytest.mark.parametrize(("plant", "seed"), FOUND_BY_WALKS, ids=lambda one: getattr(one, "__name__", None))
def test_walks_find(plant: Any, seed: int, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert Walk(seed, 1_000).run().broken
