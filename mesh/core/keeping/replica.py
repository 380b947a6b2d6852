"""The consensus about one author's log: who leads it, and what of it is safe. One of these at each node that keeps it, the author included.

    follower --nobody leads--> asking (pre-vote) --a majority would--> candidate --a majority does--> leader --greater term--> follower

    the author leads in peace: his commits become blocks, are shipped, and are kept once a majority has them on disk
    a keeper leads for one block: it takes over what the author had submitted, and says so in the log; then the author may lead again

Invariants (Raft's): at most one leader a term; a leader only adds; logs that hold one position are equal up to there; what is kept is in
the log of every later leader. Members change one at a time, and only after a block of the leader's own term is kept. Knows no time, no disk
and no message but its own: what must be on disk first is a `Keep`, in order with what is said after it. Does not decide when somebody is
gone, nor who shall keep (`keepers.py`). Source: Ongaro, Consensus: Bridging Theory and Practice (2014), chapters 3, 4 and 9.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.core.keeping.blocks import end_of
from mesh.core.keeping.log import START, Log, Reach, Roster, Run
from mesh.effects import LogState
from mesh.ids import NodeId
from mesh.messages.keeping import Ballot, Block, Position, Ship, Shipped, Vote, VoteAsk, Yield
from mesh.messages.signed import Signed

FLIGHT_MAX = 8
"""SHIPs with blocks under way to one keeper: hides a disk's latency, and a slow keeper costs the leader's queue no more than 8 frames."""

ROSTERS_MAX = 8
"""Remembered of one log: the newest count, older ones only if the newest are taken back."""

FOLLOWER, ASKING, CANDIDATE, LEADER = "follower", "asking", "candidate", "leader"


@dataclass(slots=True)
class Keep:
    """To be on disk before anything that is said after it: the vote of this term; all after `cut` is forgotten; then these blocks."""

    term: int
    voted: NodeId
    cut: Position | None = None
    blocks: tuple[Block, ...] = ()


@dataclass(slots=True)
class Say:
    to: NodeId
    message: Any


Out = Iterator[Keep | Say]


@dataclass(slots=True)
class Peer:
    """What a leader knows of one that keeps, or is to keep."""

    match: Position = START
    """It has all up to here on disk."""
    next: Position = START
    """It has been sent all up to here."""
    probing: bool = True
    """Not known where its log ends: one SHIP at a time, without blocks."""
    heard: int = 0
    """SHIPPED of this term that came from it."""
    flight: int = 0
    """SHIPs with blocks that it has not answered."""
    lapse: int = 0
    """It has said that its memory has a gap, and calls it so: what it says counts for nothing. 0: it has not."""
    renewed: int = 0
    """The lapse it had named when it was made a member."""


@dataclass(slots=True)
class Replica:
    """`blocks(at)` gives the blocks that follow a position, as many as may travel at once; none if they must be read first."""

    author: NodeId
    me: NodeId
    blocks: Callable[[Position], tuple[Block, ...]]
    log: Log
    term: int = 0
    voted: NodeId = ""
    role: str = FOLLOWER
    leader: NodeId = ""
    """Of this term, as far as known here."""
    kept: Position = START
    stored: Position = START
    """A leader's own disk has all up to here."""
    asked: int = 0
    """The term for which this candidate asks."""
    votes: dict[NodeId, Signed | None] = field(default_factory=dict)
    peers: dict[NodeId, Peer] = field(default_factory=dict)
    lapse: int = 0
    """This node may have forgotten what it had promised in this log: it learns, and neither votes nor counts until it is a member anew. A
    number that names this gap in its memory; 0: there is none."""
    lapsed: bool = False
    """The leader has just shown that there is one."""
    betrayed: bool = False
    """Somebody leads who lacks what was kept: a majority of the keepers has lost its memory. What is here is not given up for him."""

    # ---- what a restart must find

    def state(self) -> LogState:
        log = self.log
        runs = tuple((run.term, run.after, run.leader) for run in log.runs)
        rosters = tuple((*roster.at, roster.members) for roster in log.rosters[-ROSTERS_MAX:])
        return LogState(self.term, self.voted, runs, rosters, log.seq)

    def recall(self, state: LogState) -> None:
        self.term, self.voted, self.log.seq = state.term, state.voted, state.seq
        self.log.runs = [Run(*run) for run in state.runs]
        self.log.rosters = [Roster((term, seq), members) for term, seq, members in state.rosters] or self.log.rosters

    def cuts(self) -> tuple[int, ...]:
        """Up to which entries others have taken this log over, as far as is believed here: of another's log what may be is enough."""
        return self.log.cuts(self.kept if self.me == self.author and self.role != LEADER else self.log.last)

    # ---- votes

    def campaign(self) -> Out:
        """Ask first, so that nobody's term moves before a majority would follow."""
        if self.me not in self.log.members or self.role == LEADER or self.lapse:
            return
        self.role, self.asked, self.votes = ASKING, self.term + 1, {self.me: None}
        if self.log.decides(self.votes, settled=self._settled):
            yield from self._stand()
            return
        yield from self._ask(pre=True)

    def _ask(self, *, pre: bool) -> Out:
        """Those of the roster before count for nothing, but if the newest was never kept, they may know who has led since, and help."""
        term, seq = self.log.last
        for member in dict.fromkeys(member for roster in self.log.rosters[:-3:-1] for member in roster.members):
            if member != self.me:
                yield Say(member, VoteAsk(self.author, self.asked, term, seq, pre))

    def _stand(self) -> Out:
        self.role, self.leader = CANDIDATE, ""
        self.term = self.asked = self.term + 1
        self.voted, self.votes = self.me, {self.me: self._ballot(self.me)}
        yield Keep(self.term, self.voted)
        if self.log.decides(self.votes, settled=self._settled):
            yield from self._lead()
            return
        yield from self._ask(pre=False)

    def _ballot(self, candidate: NodeId) -> Signed:
        return Signed(self.me, Ballot(self.author, self.term, candidate))

    def on_vote_ask(self, sender: NodeId, ask: VoteAsk, *, willing: bool) -> Out:
        """`willing`: nobody who leads is alive, as far as this node can tell."""
        current = (ask.last_term, ask.last_seq) >= self.log.last
        if ask.pre:
            granted = ask.term > self.term and current and willing and not self.lapse
            yield Say(sender, Vote(self.author, ask.term if granted else self.term, granted, True))
            return
        if ask.term > self.term:
            self._follow(ask.term, "")
            yield Keep(self.term, self.voted)
        if ask.term == self.term and current and self.voted in ("", sender) and self.role == FOLLOWER and not self.lapse:
            self.voted = sender
            yield Keep(self.term, self.voted)
            yield Say(sender, Vote(self.author, self.term, True, False, (self._ballot(sender),)))
        else:
            yield Say(sender, Vote(self.author, self.term, False))

    def on_vote(self, sender: NodeId, vote: Vote) -> Out:
        if not vote.granted:
            if vote.term > self.term:
                self._follow(vote.term, "")
                yield Keep(self.term, self.voted)
            return
        if self.role == ASKING and vote.pre and vote.term == self.asked:
            self.votes[sender] = None
            if self.log.decides(self.votes, settled=self._settled):
                yield from self._stand()
        elif self.role == CANDIDATE and not vote.pre and vote.term == self.term:
            self.votes[sender] = next(iter(vote.ballot), None)
            if self.log.decides(self.votes, settled=self._settled):
                yield from self._lead()

    def _follow(self, term: int, leader: NodeId) -> None:
        if term > self.term:
            self.term, self.voted = term, ""
        self.role, self.leader = FOLLOWER, leader
        self.peers = {}

    def resign(self) -> None:
        """A leader who cannot go on lets others lead."""
        self._follow(self.term, "")

    # ---- leading

    def _lead(self) -> Out:
        self.role, self.leader, self.stored = LEADER, self.me, self.log.last
        self.peers = {member: Peer(next=self.log.last) for member in self.log.electors if member != self.me}
        for peer in self.peers:
            yield self._ship(peer)

    def _ship(self, to: NodeId) -> Say:
        peer = self.peers[to]
        term, seq = peer.next
        blocks = () if peer.probing or peer.flight >= FLIGHT_MAX else self.blocks(peer.next)
        if blocks:
            peer.next = end_of(blocks[-1])
            peer.flight += 1
        had_term, had_seq = peer.match
        # Whoever had forgotten may vote again only with the roster that took it in: what was kept by its word must not hang on that word.
        lapse = peer.renewed if peer.match >= self.log.rosters[-1].at else 0
        return Say(to, Ship(self.author, self.term, term, seq, *self.kept, blocks, had_term=had_term, had_seq=had_seq, lapse=lapse))

    def ship_all(self) -> Out:
        """What each still lacks, and if that is nothing, that the leader lives. A revocation may make electors of some who were let go."""
        for elector in self.log.electors:
            if elector != self.me and elector not in self.peers:
                self.peers[elector] = Peer(next=self.log.last)
        for peer in self.peers:
            yield self._ship(peer)

    def ship_news(self) -> Out:
        """What has been added since; nothing to those who have it all, or whose end is not known."""
        for name, peer in self.peers.items():
            if not peer.probing and peer.next < self.log.last and (said := self._ship(name)).message.blocks:
                yield said

    def retry(self, to: NodeId) -> Out:
        """What was sent to it may be lost: begin where it is known to be."""
        if (peer := self.peers.get(to)) is not None:
            peer.next, peer.probing, peer.flight = (peer.match if peer.match != START else self.log.last), True, 0
            yield self._ship(to)

    def teach(self, learner: NodeId) -> Out:
        """Somebody is to become a member: it gets the log, and counts for nothing yet."""
        if self.role == LEADER and learner not in self.peers:
            self.peers[learner] = Peer(next=self.log.last)
            yield self._ship(learner)

    def wrote(self, seq: int, members: tuple[NodeId, ...] = ()) -> Out:
        """The author's own disk has his journal up to `seq`; the last commit changed who keeps it, if `members` are given."""
        if self.role != LEADER or self.me != self.author or seq <= self.log.seq:
            return
        begins = self.log.last[0] < self.term
        before = self.log.rosters[-1]
        self.log.append(self.term, self.me, seq, members)
        self.stored = self.log.last
        if begins:
            yield Keep(self.term, self.voted)
        if members:
            self._enlist([member for member in members if member not in before.members], anew=before.at <= self.kept)
        self._advance()
        yield from self.ship_news()

    def _enlist(self, new: list[NodeId], *, anew: bool) -> None:
        """These are members from now on; whoever is none any more, and no elector, is sent nothing.

        `anew`: they were none by a roster that is kept. Where that was only about to be, what they had promised before still counts.
        """
        for member in new:
            peer = self.peers.setdefault(member, Peer(next=self.log.last))
            peer.renewed = peer.lapse if anew else peer.renewed
        self.peers = {name: peer for name, peer in self.peers.items() if name in self.log.electors}

    def may_change(self, members: tuple[NodeId, ...]) -> bool:
        """Whether the author may write that these keep his log from now on."""
        *earlier, newest = self.log.rosters
        # What is not kept yet may be taken back: then no majority counts that did not count before.
        back = bool(earlier) and earlier[-1].at <= self.kept and set(earlier[-1].members) == set(members)
        settled = self.kept[0] == self.term and (newest.at <= self.kept or back)
        one_more_or_less = len(set(members) ^ set(self.log.members)) == 1
        return self.role == LEADER and self.me == self.author and self.author in members and settled and one_more_or_less

    def take_over(self, incarnation: int = 0, counter: int = 0, entries: int = 0) -> Out:
        """The leader, who is not the author, has all live tasks of this log in his own, safe: what comes now is his.

        `incarnation` and `counter`: of the last task in it; `entries`: how many were carried.
        """
        assert self.role == LEADER and self.me != self.author, "only a keeper takes over"
        ballots = tuple(ballot for ballot in self.votes.values() if ballot is not None)
        head = Signed(self.me, Yield(self.author, self.term, self.log.seq, self.me, incarnation, counter, ballots, entries))
        self.log.append(self.term, self.me, self.log.seq)
        yield Keep(self.term, self.voted, None, (Block(self.term, head),))
        yield from self.ship_news()

    def on_stored(self, at: Position) -> None:
        """The leader's own disk has its block."""
        if self.role == LEADER and at == self.log.last:
            self.stored = at
            self._advance()

    def on_shipped(self, sender: NodeId, shipped: Shipped) -> Out:
        if shipped.term > self.term:
            self._follow(shipped.term, "")
            yield Keep(self.term, self.voted)
            return
        peer = self.peers.get(sender)
        if peer is None or self.role != LEADER or shipped.term < self.term:
            return
        at = (shipped.at_term, shipped.at_seq)
        if shipped.lapse not in (0, peer.lapse):  # what it had said that it has, it may have no more
            peer = self.peers[sender] = Peer(next=self.log.last, heard=peer.heard)
        peer.lapse = shipped.lapse
        peer.heard += 1
        if shipped.ok:
            was_probing, peer.probing = peer.probing, False
            peer.flight = max(0, peer.flight - 1)
            peer.match = max(peer.match, at)
            peer.next = max(peer.next, peer.match) if not was_probing else at
            self._advance()
            if peer.next < self.log.last and (said := self._ship(sender)).message.blocks:
                yield said
        elif peer.probing or at < peer.next:
            peer.probing, peer.flight = True, 0
            peer.next = max(self.log.floor(at), peer.match) if at != peer.next else START
            yield self._ship(sender)

    def _advance(self) -> None:
        """The newest position of the own term that a majority has; all before it is kept with it."""
        at = self.reached(lambda elector: self.stored if elector == self.me else self._match(elector))
        if at[0] == self.term and at > self.kept:
            self.kept = at

    def reached(self, by: Callable[[NodeId], Reach]) -> Reach:
        """The most that enough of the members have reached."""
        return self.log.reached(by, settled=self._settled)

    @property
    def _settled(self) -> bool:
        """The newest roster is known to be safe."""
        return self.log.rosters[-1].at <= self.kept

    def lapsed_peers(self) -> tuple[NodeId, ...]:
        """Who has forgotten what it had promised, and was not taken in since."""
        return tuple(name for name, peer in self.peers.items() if peer.lapse not in (0, peer.renewed))

    def is_hanging(self) -> bool:
        """Too many of the newest members have forgotten for it ever to be kept: it can only be taken back."""
        lapsed = self.lapsed_peers()
        return bool(lapsed) and not self.log.decides([elector for elector in self.log.electors if elector not in lapsed])

    def _match(self, member: NodeId) -> Position:
        peer = self.peers.get(member)
        return peer.match if peer is not None and not peer.lapse else START

    # ---- following

    def on_ship(self, sender: NodeId, ship: Ship) -> Out:
        if ship.term < self.term:
            yield self._shipped(sender, ship, False, self.log.last)
            return
        if ship.term > self.term or self.role != FOLLOWER:
            grown = ship.term > self.term
            self._follow(ship.term, sender)
            if grown:
                yield Keep(self.term, self.voted)
        self.leader = sender
        if not self.lapse and not self.log.has((ship.had_term, ship.had_seq)):
            self.lapsed = True
            return
        at = (ship.prev_term, ship.prev_seq)
        if not self.log.has(at):
            yield self._shipped(sender, ship, False, min(self.log.last, self.log.floor(at)))
            return
        cut: Position | None = None
        fresh: list[Block] = []
        for block in ship.blocks:
            if not fresh and self.log.has(end_of(block)):
                at = end_of(block)
                continue
            if not fresh and self.log.last != at:
                if at < self.kept:
                    self.betrayed = True
                    return
                self.log.truncate(at)
                cut = at
            fresh.append(block)
            self.log.append(block.term, leader_of(block), end_of(block)[1], block.members)
            at = end_of(block)
        if fresh:
            yield Keep(self.term, self.voted, cut, tuple(fresh))
        self.kept = max(self.kept, min((ship.kept_term, ship.kept_seq), at))
        if ship.lapse == self.lapse and self.me in self.log.members:
            self.lapse = 0
        yield self._shipped(sender, ship, True, at)

    def _shipped(self, to: NodeId, ship: Ship, ok: bool, at: Position) -> Say:
        return Say(to, Shipped(self.author, self.term, ok, *at, ship.stamp_ms, self.lapse))


def leader_of(block: Block) -> NodeId:
    return block.head.author
