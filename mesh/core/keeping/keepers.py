"""Keeping: this node's journal is guarded by two others, and it guards theirs. One consensus per author; this machine carries them all.

    own commits (NewHead) --blocks--> SHIP --> keepers' disks --> SHIPPED --> Watermark: what needs KEPT may leave
    an author is gone --> VOTE_ASK, VOTE --> chosen: TaleTold (fold his tasks) --> CarriedOver --> Yield, kept --> TOOK, LogSettled
    the author is back --> follows, then asks for a new term --> Leading

Invariants: the replicas' own (`replica.py`); nothing is said before what it rests on is on disk (each `Shelve` has a ticket, what follows
waits for it); a node that is not chosen drives none of its guarded tasks. Decides who is gone and who shall keep (`roster.py`), never who
runs what. Two nodes have no keepers, and are told so. Source: BLUEPRINT section 7; Raft.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import (
    Audit,
    MemberDied,
    MemberLeft,
    MemberLinked,
    MemberRevoked,
    MemberSuspected,
    MemberUnreachable,
    NewHead,
    Replay,
    Started,
)
from mesh.core.keeping.blocks import end_of
from mesh.core.keeping.inputs import CarriedOver, Deposed, Leading, RolledBack, ShelfKnown, ShelfRead, Shelved, TaleRead
from mesh.core.keeping.log import START, Log
from mesh.core.keeping.log import Roster as LogRoster
from mesh.core.keeping.memory import Memory
from mesh.core.keeping.replica import LEADER, Keep, Replica, Say
from mesh.core.keeping.roster import Roster, rank
from mesh.core.keeping.shipping import Shipping
from mesh.core.keeping.statistics import KeepingStatistics, look
from mesh.core.keeping.takeover import Kept, Takeover
from mesh.core.keeping.timers import BeatDue, CampaignDue, RosterDue
from mesh.core.keeping.vigil import Vigil, settled
from mesh.core.records.journal import last_of
from mesh.core.records.records import ROLLED_BACK
from mesh.effects import Append, Need, Refused, Send, Shelve, Tell, Watermark
from mesh.ids import NodeId
from mesh.limits import Limits
from mesh.messages.keeping import Block, Ship, Shipped, Took, Vote, VoteAsk
from mesh.messages.records import Guarded, Heads, Leads, TookOver

Effects = Iterator[Any]


class Keepers:
    """See the module. `journal_seq`: the own journal's last entry that is on disk at the start."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: Limits, random: Random, *, journal_seq: int) -> None:
        self._me, self._directory, self._deadlines, self._random = directory.me, directory, deadlines, random
        self._limits, self._lease_s = limits.keeping, limits.work.lease_s
        self._seq = journal_seq
        self._shipping = Shipping(self._me, limits.keeping, limits.records.ship_blocks_max)
        self._roster = Roster(directory, limits.keeping)
        self._vigil = Vigil(directory, limits.keeping)
        self._takeover = Takeover(directory, limits.keeping)
        self._memory = Memory(limits.keeping, random)
        self._logs: dict[NodeId, Kept] = {}
        directory.guard.logs = self._logs.keys()
        directory.guard.cuts = lambda author: self._logs[author].replica.cuts() if author in self._logs else ()
        self._own = self._open(self._me)
        directory.guard.yielded = lambda: self._own.replica.log.taken_up_to(self._own.replica.kept)
        self._guards: list[tuple[int, Guarded]] = []
        """Own entries of the life before, in order, with their numbers."""
        self._taken: list[TookOver] = []
        """What this node took over in earlier lives."""
        self._written: deque[tuple[int, Guarded]] = deque()
        """Own entries of this life that no commit has brought yet."""
        self._echoes_ms: dict[NodeId, int] = {}
        self._heard: dict[tuple[NodeId, NodeId], int] = {}
        self._ticket = 0
        self.inputs: dict[type, Any] = {
            ShelfKnown: self._do_know,
            Replay: self._do_replay,
            Started: self._on_started,
            NewHead: self._on_new_head,
            Ship: self._on_ship,
            Shipped: self._on_shipped,
            VoteAsk: self._on_vote_ask,
            Vote: self._on_vote,
            Shelved: self._on_shelved,
            ShelfRead: self._on_shelf_read,
            MemberLinked: self._on_member_linked,
            MemberSuspected: self._on_member_suspected,
            MemberUnreachable: self._on_member_gone,
            MemberDied: self._on_member_gone,
            MemberLeft: self._on_member_gone,
            MemberRevoked: self._on_member_gone,
            BeatDue: self._expire_beat,
            CampaignDue: self._expire_campaign,
            RosterDue: self._expire_roster,
            Took: self._takeover.on_took,
            Heads: self._on_heads,
            RolledBack: self._on_rolled_back,
            TaleRead: self._takeover.on_tale_read,
            CarriedOver: self._on_carried_over,
        }

    def _open(self, author: NodeId) -> Kept:
        log = Log(author, self._directory.outlaws)
        kept = self._logs[author] = Kept(Replica(author, self._me, lambda at: self._shipping.blocks(log, at), log))
        kept.replica.lapse = self._memory.lapse
        return kept

    # ---- the beginning of a life

    def _do_know(self, _now_s: float, _me: NodeId, known: ShelfKnown) -> None:
        kept = self._logs.get(known.author) or self._open(known.author)
        kept.replica.recall(known.state)

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        if type(replay.entry) is Guarded:
            self._guards.append((replay.seq, replay.entry))
        elif type(replay.entry) is TookOver:
            self._taken.append(replay.entry)

    def _on_started(self, now_s: float, me: NodeId, _started: Started) -> Effects:
        log = self._own.replica.log
        for taken in self._taken:
            if taken.author in self._logs:
                self._logs[taken.author].settled[taken.term] = None
        log.rosters = [LogRoster(START, (me,))]
        if log.runs:
            # In the journal, but in the log only while this node led it: what came after another took over is not in it yet.
            log.seq = self._seq if log.runs[-1].leader == me else log.runs[-1].after
        log.rosters += [LogRoster((one.term, seq), one.members) for seq, one in self._guards if log.has((one.term, seq))]
        self._guards, self._taken = [], []
        self._memory.began(now_s)
        self._deadlines.set(BeatDue(), now_s + self._limits.beat_s)
        self._deadlines.set(RosterDue(), now_s + self._limits.settle_s)
        self._directory.guard.taken = log.taken_up_to(log.last)
        self._publish()
        if log.keepers:
            yield Watermark(0, need=Need.FREE)
        for kept in self._logs.values():
            yield from self._takeover.recall(kept)
        yield from self._carry(now_s, self._own, iter(()) if log.keepers else self._own.replica.campaign())

    # ---- what this node may have forgotten

    def _on_heads(self, now_s: float, sender: NodeId, _heads: Heads) -> None:
        """Whatever they say against this disk, the records have said by now."""
        if self._memory.heard(sender) and self._own.replica.role != LEADER and self._memory.is_sure(now_s, self._own.replica):
            self._deadlines.set(CampaignDue(self._me), now_s)

    def _on_rolled_back(self, now_s: float, _me: NodeId, _fact: RolledBack) -> Effects:
        self._memory.fails()
        for kept in self._logs.values():
            replica = kept.replica
            if replica.author == self._me and not replica.log.keepers:
                continue  # nobody else was ever promised anything
            replica.lapse = self._memory.lapse
            replica.resign()
            yield from self._carry(now_s, kept, iter(()))

    # ---- consensus out

    def _carry(self, now_s: float, kept: Kept, out: Iterator[Keep | Say]) -> Effects:
        """Perform what a replica wants, then tell what has become true by it."""
        replica = kept.replica
        for item in out:
            if type(item) is Keep:
                yield self._shelve(kept, item)
                continue
            assert type(item) is Say, "a replica keeps and says"
            row = self._directory.get(item.to)
            if row is None or not row.linked:
                continue  # it would be dropped; with the link all begins where it ended
            if type(item.message) is Ship:
                item.message.stamp_ms = int(now_s * 1000)
            if kept.tickets:
                kept.waiting.append((kept.tickets[-1][0], item.to, item.message))
            else:
                yield Send(item.to, item.message, need=Need.FREE)
        yield from self._shipping.wanted()
        if replica.author == self._me:
            yield from self._settle_own(now_s)
        else:
            yield from self._takeover.settle(kept)

    def _shelve(self, kept: Kept, keep: Keep) -> Shelve:
        replica = kept.replica
        self._ticket += 1
        mine = [block for block in keep.blocks if block.head.author == self._me and replica.author != self._me]
        kept.tickets.append((self._ticket, end_of(mine[-1]) if mine else None))
        kept.yields.update((block.term, block.head) for block in mine)
        # In the own log, the own commits are in the own journal already.
        blocks = tuple(block for block in keep.blocks if not replica.author == block.head.author == self._me)
        return Shelve(replica.author, self._ticket, replica.state(), keep.cut, blocks, need=Need.FREE)

    def _on_shelved(self, now_s: float, _me: NodeId, shelved: Shelved) -> Effects:
        kept = self._logs[shelved.author]
        ticket, reach = kept.tickets.popleft()
        assert ticket == shelved.ticket, "shelvings end in the order in which they were asked"
        while kept.waiting and kept.waiting[0][0] <= ticket:
            _, to, message = kept.waiting.popleft()
            yield Send(to, message, need=Need.FREE)
        if reach is not None:
            kept.replica.on_stored(reach)
            yield from self._takeover.settle(kept)

    def _on_shelf_read(self, now_s: float, _me: NodeId, read: ShelfRead) -> Effects:
        if self._takeover.recalled(read):
            return
        author = self._shipping.read(read.token, read.blocks)
        if author and read.blocks:
            kept = self._logs[author]
            yield from self._carry(now_s, kept, kept.replica.ship_news())

    # ---- the own log

    def _on_new_head(self, now_s: float, _me: NodeId, new: NewHead) -> Effects:
        replica = self._own.replica
        self._seq = last_of(new.signed.body)
        members: tuple[NodeId, ...] = ()
        while self._written and self._written[0][0] <= self._seq:
            guarded = self._written.popleft()[1]
            if guarded.term == replica.term:
                members = guarded.members
        if replica.role != LEADER:
            self._shipping.forget_recent()
            return
        before = replica.log.last
        if before[1] + 1 == new.signed.body.first:
            self._shipping.note(before, Block(replica.term, new.signed, new.entries, new.bodies, members))
        yield from self._carry(now_s, self._own, replica.wrote(self._seq, members))
        if members:
            self._publish()
            yield from self._watermark()

    def _settle_own(self, now_s: float) -> Effects:
        replica = self._own.replica
        if (self._seq < replica.log.seq and replica.role != LEADER) or replica.lapse:
            yield from self._fall_behind()
            return
        if replica.role == LEADER and not self._own.led_told:
            self._own.led_told = True
            self._deadlines.clear(CampaignDue(self._me))
            self._publish()
            if replica.log.keepers:
                yield Append(Leads(replica.term, replica.log.members, int(now_s * 1000)))
            taken = replica.log.taken_up_to(replica.log.last)
            if taken:
                yield Watermark(replica.kept[1] if replica.log.keepers else -1, taken, need=Need.FREE)
            yield Tell(Leading(taken))
            for kept in self._logs.values():
                yield from self._takeover.tell_again(kept)
            yield from self._carry(now_s, self._own, replica.wrote(self._seq))
        elif replica.role != LEADER:
            self._own.led_told = False
            self._publish()
            self._give_up()
            if self._deadlines.when(CampaignDue(self._me)) is None:
                self._again(now_s, self._me)
        if replica.kept > self._own.kept_told:
            taken_before = replica.log.taken_up_to(self._own.kept_told)
            yield from self._takeover.settle_own(self._own)
            taken = replica.log.taken_up_to(replica.kept)
            if taken > taken_before and replica.role != LEADER:
                yield Watermark(replica.kept[1], taken, need=Need.FREE)
                yield Tell(Deposed(taken))
            elif replica.role == LEADER:
                yield from self._watermark()

    def _give_up(self) -> None:
        """What is being carried into the own log may come to lie on both sides of a cut in it: nothing of it shall count."""
        for kept in self._logs.values():
            if kept.replica.author != self._me and kept.is_carrying():
                kept.replica.resign()

    def _watermark(self) -> Effects:
        replica = self._own.replica
        yield Watermark(replica.kept[1] if replica.log.keepers else -1, need=Need.FREE)

    def _publish(self) -> None:
        """What work must know."""
        replica, guard = self._own.replica, self._directory.guard
        guard.keepers, guard.leads = replica.log.keepers, replica.role == LEADER
        if guard.behind:
            guard.leads, guard.led_until_s = True, float("inf")  # of calls, which no keeper knows of
            return
        echo_s = replica.reached(lambda elector: float("inf") if elector == self._me else self._echoes_ms.get(elector, 0) / 1000)
        guard.led_until_s = echo_s + self._lease_s if guard.leads or echo_s == float("inf") else 0.0

    def _expire_roster(self, now_s: float, _me: NodeId, due: RosterDue) -> Effects:
        self._deadlines.set(due, now_s + self._limits.settle_s)
        self._roster.look(now_s)
        replica = self._own.replica
        if replica.role != LEADER or self._written:
            return
        members = self._roster.next(now_s, replica.log.members, replica.lapsed_peers())
        if members == replica.log.members:
            return
        self._deadlines.set(due, now_s + self._limits.change_s)
        if not replica.may_change(members):
            members = replica.log.rosters[-2:][0].members
            if not replica.is_hanging() or not replica.may_change(members):
                return
        learner = next((member for member in members if member not in replica.log.members), "")
        if learner:
            if learner not in replica.peers:
                yield from self._carry(now_s, self._own, replica.teach(learner))
                return
            if replica.peers[learner].match < replica.kept:
                return
        guarded = Append(Guarded(replica.term, members, int(now_s * 1000)))
        yield guarded
        self._written.append((guarded.seq, guarded.entry))

    # ---- messages

    def _log_of(self, author: NodeId) -> Kept | None:
        kept = self._logs.get(author)
        if kept is None and author and len(self._logs) <= self._limits.logs_max:
            kept = self._open(author)
        return kept

    def _party(self, sender: NodeId, kept: Kept) -> bool:
        """Whether `sender` may speak of this log: its author, who keeps it, for whom this node voted; anybody, if nothing of it is here."""
        log = kept.replica.log
        # Of any roster that is known here: the newest may be one that others never heard of.
        return sender in (log.author, kept.replica.voted) or any(sender in each.members for each in log.rosters) or log.last == START

    def _on_ship(self, now_s: float, sender: NodeId, ship: Ship) -> Effects:
        kept = self._log_of(ship.author)
        if kept is None or not self._party(sender, kept):
            yield Refused("too_many_logs" if kept is None else "not_keeper", sender)
            return
        if ship.term >= kept.replica.term:
            self._vigil.heard(now_s, ship.author)
        if not self._memory.is_sure(now_s, kept.replica):
            yield Refused("keeper_unsure", sender)
            return
        if ship.author == self._me:
            self._takeover.note_takers(ship.blocks)
        yield from self._carry(now_s, kept, kept.replica.on_ship(sender, ship))
        if kept.replica.betrayed:
            kept.replica.betrayed = False
            yield Refused("keeper_forgot", sender)
        if kept.replica.lapsed:
            kept.replica.lapsed = False
            why = f"this node's disk lacks what it had of the journal of {ship.author}, entry {ship.had_seq}"
            yield Tell(Audit(ROLLED_BACK, self._me, self._me, why, int(now_s * 1000)))

    def _on_shipped(self, now_s: float, sender: NodeId, shipped: Shipped) -> Effects:
        kept = self._logs.get(shipped.author)
        if kept is None:
            yield Refused("unknown_log", sender)
            return
        mine = shipped.author == self._me and shipped.term == kept.replica.term and not shipped.lapse
        if mine and shipped.stamp_ms <= int(now_s * 1000):
            self._echoes_ms[sender] = max(self._echoes_ms.get(sender, 0), shipped.stamp_ms)
            self._publish()
        yield from self._carry(now_s, kept, kept.replica.on_shipped(sender, shipped))

    def _on_vote_ask(self, now_s: float, sender: NodeId, ask: VoteAsk) -> Effects:
        kept = self._log_of(ask.author)
        # Who keeps it may have changed without this node's knowing: while nobody leads, who asks is heard.
        if kept is None or not (self._party(sender, kept) or self._vigil.leaderless(now_s, kept.replica, sender)):
            yield Refused("too_many_logs" if kept is None else "not_keeper", sender)
            return
        if not self._memory.is_sure(now_s, kept.replica):
            yield Refused("keeper_unsure", sender)
            return
        replica = kept.replica
        behind = (ask.last_term, ask.last_seq) < replica.log.last
        yield from self._carry(now_s, kept, replica.on_vote_ask(sender, ask, willing=self._vigil.leaderless(now_s, replica, sender)))
        if behind and replica.role == LEADER:
            yield from self._carry(now_s, kept, replica.retry(sender))
        elif behind and sender == ask.author and self._vigil.abandoned(now_s, replica):
            kept.helps = True  # it cannot lead before somebody has told it what it lacks
            self._stand(now_s, kept)

    def _on_vote(self, now_s: float, sender: NodeId, vote: Vote) -> Effects:
        kept = self._logs.get(vote.author)
        if kept is None or sender not in kept.replica.log.electors:
            yield Refused("unknown_log" if kept is None else "not_keeper", sender)
            return
        yield from self._carry(now_s, kept, kept.replica.on_vote(sender, vote))

    def _on_carried_over(self, now_s: float, _me: NodeId, carried: CarriedOver) -> Effects:
        kept = self._logs[carried.author]
        if kept.replica.role == LEADER and kept.replica.term == carried.term == kept.taking:
            yield from self._carry(now_s, kept, kept.replica.take_over(carried.incarnation, carried.counter, carried.entries))

    # ---- who is gone

    def _on_member_linked(self, now_s: float, _me: NodeId, fact: MemberLinked) -> Effects:
        self._vigil.back(fact.node)
        for kept in self._logs.values():
            yield from self._carry(now_s, kept, kept.replica.retry(fact.node))
        if fact.node in self._own.replica.log.electors and self._own.replica.role != LEADER:
            self._deadlines.set(CampaignDue(self._me), now_s)
        yield from self._takeover.announce(self._logs.values(), fact.node)

    def _on_member_suspected(self, now_s: float, _me: NodeId, fact: MemberSuspected) -> None:
        if fact.hard:
            self._vigil.gone(now_s, fact.node)
            self._succeed(now_s, fact.node, self._limits.hard_wait_s)

    def _on_member_gone(self, now_s: float, _me: NodeId, fact: MemberUnreachable | MemberDied | MemberLeft | MemberRevoked) -> Effects:
        self._vigil.gone(now_s, fact.node)
        self._succeed(now_s, fact.node, 0.0)
        yield from self._takeover.remember(fact.node)

    def _succeed(self, now_s: float, leader: NodeId, wait_s: float) -> None:
        for kept in self._logs.values():
            if kept.replica.leader == leader or (not kept.replica.leader and kept.replica.author == leader):
                self._stand(now_s, kept, wait_s)

    def _stand(self, now_s: float, kept: Kept, wait_s: float = 0.0) -> None:
        """Stand for election after the keepers that rank before this node."""
        author, members = kept.replica.author, kept.replica.log.members
        if self._me not in members or self._deadlines.when(CampaignDue(author)) is not None:
            return
        order = sorted((member for member in members if member != author), key=lambda node: rank(author, node))
        place = order.index(self._me) if self._me in order else 0
        self._deadlines.set(CampaignDue(author), now_s + wait_s + place * self._limits.stagger_s)

    def _expire_campaign(self, now_s: float, _me: NodeId, due: CampaignDue) -> Effects:
        kept = self._logs[due.author]
        replica = kept.replica
        leaderless = self._vigil.leaderless(now_s, replica, self._me) or (kept.helps and self._vigil.abandoned(now_s, replica))
        if replica.role == LEADER or not leaderless:
            if replica.role != LEADER and due.author == self._me:
                self._again(now_s, self._me)  # whoever leads it may fall silent any time
            return
        if due.author != self._me and not kept.helps and settled(replica) and replica.log.taken_up_to(replica.kept) == replica.log.seq:
            return  # nothing is left in it that somebody would have to drive
        self._again(now_s, due.author)
        if due.author == self._me and self._seq < replica.log.seq:
            yield from self._fall_behind()
            return
        if not self._memory.is_sure(now_s, replica):
            return
        # Whoever takes over must be able to keep what he takes; to tell the author what he lacks takes nothing.
        if due.author == self._me or self._own.replica.role == LEADER or kept.helps:
            yield from self._carry(now_s, kept, replica.campaign())

    def _fall_behind(self) -> Effects:
        """The disk was put back. What this node would write has numbers that are taken: it drives only what need not be kept."""
        log, guard = self._own.replica.log, self._directory.guard
        if not guard.behind:
            guard.behind = True
            self._publish()
            yield Refused("rolled_back", self._me)
            yield Watermark(0, self._seq, lost=True, need=Need.FREE)
            yield Tell(Leading(max(log.seq, self._seq)))

    def _again(self, now_s: float, author: NodeId) -> None:
        self._deadlines.set(CampaignDue(author), now_s + self._limits.election_s * (1 + self._random.random()))

    def _expire_beat(self, now_s: float, _me: NodeId, due: BeatDue) -> Effects:
        self._deadlines.set(due, now_s + self._limits.beat_s)
        guard = self._directory.guard
        guard.unled_since_s = float("inf") if now_s < guard.led_until_s else min(guard.unled_since_s, now_s)
        for kept in list(self._logs.values()):
            replica = kept.replica
            if self._is_stuck(now_s, kept):
                kept.give_up()
            elif replica.role == LEADER:
                yield from self._carry(now_s, kept, self._beat(replica))
            elif replica.author != self._me and self._vigil.silent(now_s, replica):
                self._stand(now_s, kept)

    def _is_stuck(self, now_s: float, kept: Kept) -> bool:
        """Chosen to take over, and unable to: its own log is led by others, or has too few keepers. Two such could wait for each other."""
        replica = kept.replica
        if replica.author == self._me or replica.role != LEADER or replica.term in kept.yields or kept.is_helping(self._directory):
            return False
        return self._own.replica.role != LEADER or self._directory.guard.led_until_s < now_s

    def _beat(self, replica: Replica) -> Iterator[Keep | Say]:
        """All that was sent and brought no answer for a whole beat is sent again."""
        for name, peer in replica.peers.items():
            key = (replica.author, name)
            heard, self._heard[key] = self._heard.get(key, -1), peer.heard
            if peer.next > peer.match and heard == peer.heard:
                yield from replica.retry(name)
        yield from replica.ship_all()

    # ---- for those who look

    def replicas(self) -> list[Replica]:
        """Of all logs here, in order of their authors."""
        return [kept.replica for _, kept in sorted(self._logs.items())]

    def statistics(self) -> KeepingStatistics:
        others = [replica for replica in self.replicas() if replica.author != self._me]
        return look(self._own.replica, others, self._takeover.count)
