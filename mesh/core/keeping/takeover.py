"""Taking over: a keeper that was chosen to lead another's log has his tasks carried into its own, and says so to everybody.

    chosen --ReadTale--> TaleTold ... --CarriedOver (kept in the own journal)--> Yield --kept--> LogSettled, TOOK

Invariant: what was carried counts only when the `Yield` is safe in the author's log, where one of all who tried is the first; until then it
is a draft in the own journal. Who takes over is believed for the votes he shows, and has himself asked for nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from mesh.core.directory import Directory, Heir
from mesh.core.keeping.hearsay import Hearsay
from mesh.core.keeping.inputs import LogSettled, ShelfRead, TaleRead, TaleTold
from mesh.core.keeping.log import START
from mesh.core.keeping.replica import LEADER, Replica
from mesh.effects import Need, ReadShelf, ReadTale, Refused, Send, Tell
from mesh.ids import NodeId
from mesh.limits import KeepingLimits
from mesh.messages.keeping import Ballot, Block, Position, Took, Yield
from mesh.messages.signed import Signed

Effects = Iterator[Any]
STATEMENTS_MAX = 32
"""Of one TOOK."""
VOUCHERS_MIN = 2
"""Ballots that a taker must show: of three that keep a log, two choose."""
FIRST_TALE = 1 << 49
"""Tokens of reads are drawn from here on, apart from those of other machines."""


class Kept:
    """One log here: its consensus, what waits for the disk, and what has been told about it."""

    __slots__ = ("helps", "kept_told", "led_told", "replica", "settled", "taking", "tickets", "waiting", "yields")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.tickets: deque[tuple[int, Position | None]] = deque()
        """Shelvings under way, and how far this leader's own block is then on disk."""
        self.waiting: deque[tuple[int, NodeId, Any]] = deque()
        """What is said when a shelving has ended."""
        self.kept_told: Position = START
        self.led_told = False
        self.helps = False
        """Its author is back and lacks what stands here."""
        self.taking = 0
        """The term for which the tale is being read or carried; 0: none."""
        self.yields: dict[int, Signed] = {}
        """What this node took over, or tried to, by term."""
        self.settled: dict[int, None] = {}
        """Those terms of them that are known to count."""

    def is_carrying(self) -> bool:
        """Its tasks are on their way into the own journal, and count for nothing yet."""
        replica = self.replica
        return replica.role == LEADER and self.taking == replica.term and replica.term not in self.yields

    def give_up(self) -> None:
        """This leader can do nothing with what it was chosen for."""
        self.helps = False
        self.replica.resign()

    def is_helping(self, directory: Directory) -> bool:
        """Its author is here, and is being told what he lacks. Needs no journal of one's own: two may need that of each other."""
        replica = self.replica
        author, peer = directory.get(replica.author), replica.peers.get(replica.author)
        return self.helps and author is not None and author.linked and peer is not None and peer.match < replica.log.last


class Takeover:
    def __init__(self, directory: Directory, limits: KeepingLimits) -> None:
        self._me, self._directory, self._limits = directory.me, directory, limits
        self._token = FIRST_TALE
        self._tales: dict[int, tuple[Kept, int]] = {}
        self._recalls: dict[int, tuple[Kept, int]] = {}
        self._hearsay = Hearsay(directory)
        self.count = 0

    def settle(self, kept: Kept) -> Effects:
        """What follows from what a replica has become: chosen, or sure of more."""
        replica = kept.replica
        guard = self._directory.guard
        if replica.role == LEADER and kept.taking != replica.term and guard.leads and not guard.behind:
            kept.taking = replica.term
            yield self._read(kept, replica.log.taken_up_to(replica.log.last))
        if replica.kept > kept.kept_told:
            before, kept.kept_told = kept.kept_told[0], replica.kept
            if replica.kept[0] != before:
                yield from self._tell_settled(kept)

    def settle_own(self, kept: Kept) -> Effects:
        """More of the own log is safe. Who was about to take over and did not is no heir; who did is made known, also after a restart."""
        before, kept.kept_told = kept.kept_told, kept.replica.kept
        if kept.kept_told[0] != before[0]:
            self._directory.settle(self._me, kept.kept_told[0], _taken_terms(kept.replica))
            yield from self.announce_to_all(kept)

    def _read(self, kept: Kept, since: int) -> ReadTale:
        self._token += 1
        self._tales[self._token] = (kept, kept.taking)
        return ReadTale(self._token, kept.replica.author, since, self._limits.tale_entries_max, need=Need.FREE)

    def on_tale_read(self, _now_s: float, _me: NodeId, read: TaleRead) -> Effects:
        kept, term = self._tales.pop(read.token, (None, 0))
        if kept is None or kept.replica.role != LEADER or kept.replica.term != term:
            return
        if read.more and not read.rows:
            kept.replica.resign()  # what is damaged here, others may have whole
            yield Refused("shelf_damaged", kept.replica.author)
            return
        yield Tell(TaleTold(kept.replica.author, term, read.rows, read.more))
        if read.more:
            yield self._read(kept, read.rows[-1][0])

    def _tell_settled(self, kept: Kept) -> Effects:
        replica = kept.replica
        terms = _taken_terms(replica)
        fresh = [term for term in terms if term in kept.yields and term not in kept.settled]
        kept.settled.update((term, None) for term in fresh)
        self.count += len(fresh)
        for term in fresh:
            self._note(kept.yields[term])
        if fresh or replica.log.contested():
            yield from self.announce_to_all(kept)
        yield Tell(LogSettled(replica.author, replica.kept[0], terms))

    def tell_again(self, kept: Kept) -> Effects:
        """To a manager who has just opened his book, and drafts in it."""
        if kept.replica.author != self._me and kept.kept_told != START:
            yield from self._tell_settled(kept)

    def _note(self, signed: Signed) -> None:
        body: Yield = signed.body
        if _took_something(body):
            self._directory.inherit(body.author, Heir(body.incarnation, body.counter, body.term, body.taker, body.seq))

    def note_takers(self, blocks: Iterable[Block]) -> None:
        """Of the own log: who took over here."""
        for block in blocks:
            if isinstance(block.head.body, Yield):
                self._note(block.head)

    # ---- telling everybody

    def announce_to_all(self, kept: Kept) -> Effects:
        for row in self._directory.rows():
            if row.linked and row.node != self._me:
                yield from self.announce((kept,), row.node)

    def announce(self, logs: Iterable[Kept], peer: NodeId) -> Effects:
        """Show `peer` what this node has taken over of these logs, and tell it what is safe in them, who took over from this node, and
        from those who are gone."""
        said: list[Signed] = []
        settled: list[tuple[NodeId, int, tuple[int, ...]]] = []
        heirs: list[tuple[int, int, int, NodeId]] = []
        for kept in logs:
            took = [signed for term, signed in kept.yields.items() if term in kept.settled and _took_something(signed.body)]
            said += took[-self._limits.heirs_max :]
            replica = kept.replica
            terms = _taken_terms(replica)
            if replica.author == self._me:
                known = (one for one in self._directory.heirs.get(self._me, ()) if one.term in terms)
                heirs += [(one.incarnation, one.counter, one.term, one.taker) for one in known]
            elif replica.kept != START and replica.log.contested():
                settled.append((replica.author, replica.kept[0], terms))
        words = self._hearsay.known()
        for at in range(0, max(len(said), len(heirs), len(settled), len(words)), STATEMENTS_MAX):
            reach = at + STATEMENTS_MAX
            what = (tuple(said[at:reach]), tuple(heirs[at:reach]), tuple(settled[at:reach]), tuple(words[at:reach]))
            yield Send(peer, Took(*what), need=Need.FREE)

    def remember(self, gone: NodeId) -> Effects:
        """What it can say no more, this node says to all."""
        words = self._hearsay.known(gone)
        peers = [row.node for row in self._directory.rows() if row.linked and row.node != self._me] if words else []
        for peer in peers:
            for at in range(0, len(words), STATEMENTS_MAX):
                yield Send(peer, Took((), words=tuple(words[at : at + STATEMENTS_MAX])), need=Need.FREE)

    def on_took(self, _now_s: float, sender: NodeId, took: Took) -> Effects:
        for signed in took.yields[:STATEMENTS_MAX]:
            if self._vouched(sender, signed):
                self._note(signed)
            else:
                yield Refused("bad_yield", sender)
        for heir in took.heirs[:STATEMENTS_MAX]:
            self._directory.inherit(sender, Heir(*heir))
        self._hearsay.hear(sender, took.words[:STATEMENTS_MAX])
        for author, term, terms in took.settled[:STATEMENTS_MAX]:
            yield Tell(LogSettled(author, term, terms))

    def _vouched(self, sender: NodeId, signed: Signed) -> bool:
        body = signed.body
        if not isinstance(body, Yield) or not signed.author == sender == body.taker:
            return False
        wanted = Ballot(body.author, body.term, body.taker)
        return len({ballot.author for ballot in body.ballots if ballot.body == wanted}) >= VOUCHERS_MIN

    # ---- after a restart

    def recall(self, kept: Kept) -> Effects:
        """What this node had taken over in an earlier life, and who took over from it, is on its shelf, with the votes."""
        replica: Replica = kept.replica
        runs = [run for run in replica.log.runs if run.leader != replica.author and self._me in (run.leader, replica.author)]
        for run in runs[-self._limits.heirs_max :]:
            self._token += 1
            self._recalls[self._token] = (kept, run.term)
            since: Position = (run.term - 1, run.after) if run.after else START
            yield ReadShelf(self._token, replica.author, since, (run.term, run.after), 1, need=Need.FREE)

    def recalled(self, read: ShelfRead) -> bool:
        """False: somebody else had asked for it."""
        if read.token not in self._recalls:
            return False
        kept, term = self._recalls.pop(read.token)
        for block in read.blocks:
            if block.term == term and kept.replica.author == self._me:
                self._note(block.head)
            elif block.term == term:
                kept.yields[term] = block.head
                if term in kept.settled:
                    self._note(block.head)
        return True


def _took_something(body: Yield) -> bool:
    """Versions before this one did not say how much it was: then what counts is that it was the author's own."""
    return bool(body.counter or body.entries)


def _taken_terms(replica: Replica) -> tuple[int, ...]:
    """In which somebody took it over, safe for good."""
    return tuple(run.term for run in replica.log.runs if run.leader != replica.author and (run.term, run.after) <= replica.kept)
