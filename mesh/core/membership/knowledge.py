"""What is known of each node, and how statements change it. Every change of a row, and the facts that follow from it, come from here.

    Signed(ALIVE, SUSPECT, LEFT), DEAD --merge--> rows, votes --> facts for the other machines, news for the other nodes

Invariants: a newer statement wins and an older one changes nothing, so the order of arrival does not matter (M5). Nobody but the node
itself raises its version, and only to one more than the one it is accused under (M4). A death needs H votes under the same row.
Clones (M6): an ALIVE of this node's own id that this node never made is counted as ``clone_seen``. In the same incarnation it is outbid
at most 3 times in a life; against a larger incarnation nothing is done: the other process is the later start, and two processes that
bid for ever would only fill the network. A revoked node stays dead whatever is said of it (`outlaw`). What it does not do: probe, dial.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, UNREACHABLE
from mesh.core.inputs import (
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberRestarted,
    MemberRevoked,
    MemberSuspected,
    MemberUnreachable,
    OffersChanged,
)
from mesh.core.membership.addresses import AddressBook
from mesh.core.membership.dissemination import Dissemination, Effects
from mesh.core.membership.members import IDLE, Member, Members, SuspicionEnds, order
from mesh.core.membership.suspicion import LAG_S, Health, certificate, silence_max_s, window_s
from mesh.effects import HangUp, Need, Refused, Send, Tell
from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Dead, Left, Offer, Rumours, Suspect
from mesh.messages.signed import Signed

CLONE_BIDS_MAX = 3
FILL_GAP_S = 1.0
"""A peer that speaks of rows unknown here is asked for them at most once in this time."""


class Knowledge:
    """Merges statements; owns the table `members`."""

    def __init__(
        self,
        members: Members,
        gossip: Dissemination,
        book: AddressBook,
        health: Health,
        deadlines: Deadlines,
        limits: MembershipLimits,
    ) -> None:
        self._members = members
        self._gossip = gossip
        self._book = book
        self._health = health
        self._deadlines = deadlines
        self._limits = limits
        self._clone_bids = 0
        self.refutations = 0
        self.suspicions = 0
        self.false_alarms = 0
        self.deaths = 0
        self.clones = 0

    # ---- statements of others

    def merge(self, now_s: float, sender: NodeId, signed: Signed, direct: bool = False) -> Effects:
        """`direct`: the statement came with a link to its author, so it is no hearsay."""
        body = signed.body
        if not isinstance(body, Alive | Suspect | Left):
            return iter((Refused("not_membership", sender),))
        if self._members.directory.revoked(signed.author) or self._members.directory.revoked(body.node):
            return iter((Refused("revoked", signed.author),))
        if isinstance(body, Alive):
            return self._merge_alive(now_s, sender, signed, body, direct)
        if isinstance(body, Suspect):
            return self._merge_suspect(now_s, sender, signed, body)
        return self._merge_left(now_s, sender, signed, body)

    def _merge_alive(self, now_s: float, sender: NodeId, signed: Signed, alive: Alive, direct: bool) -> Effects:
        if signed.author != alive.node:
            yield Refused("not_author", sender)
            return
        if alive.node == self._members.me:
            yield from self._own_seen(now_s, alive)
            return
        member = self._members.get(alive.node)
        if member is None:
            if not direct and self._members.buried(alive):
                return
            member = self._members.add(now_s, alive.node)
            if member is None:
                yield Refused("rows_full", sender)
                return
        row = member.row
        if alive.incarnation == row.incarnation and alive.version == row.version and member.alive is not None:
            if member.alive.body != alive:
                self.clones += 1
                yield Refused("clone_seen", alive.node)
        elif order(alive.incarnation, alive.version, ALIVE) > member.key():
            yield from self._adopt(now_s, sender, member, signed, alive)

    def _adopt(self, now_s: float, sender: NodeId, member: Member, signed: Signed, alive: Alive) -> Effects:
        row = member.row
        known, was, door = row.incarnation > 0, row.state, row.door
        restarted = known and alive.incarnation > row.incarnation
        row.name, row.incarnation, row.version = alive.name, alive.incarnation, alive.version
        row.door, row.router, row.keeps = alive.door, alive.router, alive.keeps
        member.alive, member.left = signed, None
        member.forget_suspicion()
        self._deadlines.clear(SuspicionEnds(row.node))
        self._members.set_state(now_s, member, ALIVE)
        if restarted:
            # The process behind the old link is gone, whatever the link says: the new one makes a new link.
            self._members.unlink(member)
            row.load, row.draining = {}, False
            row.load_at_s = float("-inf")
            member.armed = False
            yield Tell(MemberRestarted(row.node, row.incarnation))
        if not known or was != ALIVE:
            yield Tell(MemberAlive(row.node))
        if self._members.directory.set_offers(row, alive.offers):
            yield Tell(OffersChanged(row.node))
        self._book.door(now_s, row.node, row.door, door)
        self._gossip.spread(now_s, signed, sender)
        if not known or was != ALIVE or restarted:
            if not row.linked:
                member.heard_at_s = now_s
            member.phase = IDLE
            member.trouble = bool(member.relays)
            self._members.arm(member, now_s + self._limits.probe_interval_s)

    def _merge_suspect(self, now_s: float, sender: NodeId, signed: Signed, vote: Suspect) -> Effects:
        members, voter = self._members, signed.author
        if vote.node == members.me:
            yield from self.accused(now_s, sender, vote.incarnation, vote.version)
            return
        if voter == vote.node:
            yield Refused("own_suspect", sender)
            return
        member = members.get(vote.node)
        if member is None or (vote.incarnation, vote.version) > (member.row.incarnation, member.row.version):
            yield from self._fill(now_s, sender)
            return
        row = member.row
        if (vote.incarnation, vote.version) < (row.incarnation, row.version) or row.state == LEFT:
            yield from self._correct(sender, member)
            return
        if voter == members.me or row.state == DEAD:
            return
        if not members.in_roster(voter):
            yield from self._fill(now_s, sender)
            return
        before = member.votes.get(voter)
        if before is not None and before.body.hard >= vote.hard:
            return
        member.votes[voter] = signed
        self._gossip.spread(now_s, signed, sender)
        yield from self._gossip.tell(row.node, (signed,))
        if row.state == ALIVE:
            self._open_window(now_s, member, False)
            member.doubt = True
            if member.phase == IDLE:
                members.arm(member, now_s)
            yield Tell(MemberSuspected(row.node, False))
        if member.window_over:
            yield from self._count(now_s, member)

    def _merge_left(self, now_s: float, sender: NodeId, signed: Signed, left: Left) -> Effects:
        if signed.author != left.node:
            yield Refused("not_author", sender)
            return
        if left.node == self._members.me:
            own = self._members.own.body
            if self._members.own_left is None and left.incarnation >= own.incarnation:
                self.clones += 1
                yield Refused("clone_seen", sender)
            return
        member = self._members.get(left.node)
        if member is None:
            if self._members.is_grave(left.node, left.incarnation, 0):
                return
            member = self._members.add(now_s, left.node)
            if member is None:
                yield Refused("rows_full", sender)
                return
        row = member.row
        if order(left.incarnation, 0, LEFT) <= member.key():
            return
        row.incarnation = left.incarnation
        member.left = signed
        member.forget_suspicion()
        self._deadlines.clear(SuspicionEnds(row.node))
        self._members.set_state(now_s, member, LEFT)
        self._book.forget(row.node, row.door)
        self._gossip.spread(now_s, signed, sender)
        yield Tell(MemberLeft(row.node))

    def merge_dead(self, now_s: float, sender: NodeId, dead: Dead) -> Effects:
        """A certificate is its votes: each is judged, and enough of them need no window of this node's own."""
        members = self._members
        if members.directory.revoked(dead.node):
            return
        if dead.node == members.me:
            yield from self.accused(now_s, sender, dead.incarnation, dead.version)
            return
        member = members.get(dead.node)
        if member is None or (dead.incarnation, dead.version) > (member.row.incarnation, member.row.version):
            yield from self._fill(now_s, sender)
            return
        row = member.row
        if (dead.incarnation, dead.version) < (row.incarnation, row.version) or row.state == LEFT:
            yield from self._correct(sender, member)
            return
        if row.state == DEAD:
            return
        voters: dict[NodeId, None] = {}
        for signed in dead.votes:
            vote = signed.body
            if not isinstance(vote, Suspect) or (vote.node, vote.incarnation, vote.version) != (row.node, row.incarnation, row.version):
                yield Refused("bad_certificate", sender)
                return
            if signed.author != row.node and members.in_roster(signed.author):
                voters[signed.author] = None
        if len(voters) < members.quorum():
            # Either a lie, or this node knows fewer or more of the roster than the one who made it.
            yield Refused("few_votes", sender)
            yield from self._fill(now_s, sender)
            return
        yield from self._die(now_s, member, dead, sender)

    def _fill(self, now_s: float, sender: NodeId) -> Effects:
        """The sender knows rows that are not known here: ask for all that is missing."""
        peer = self._members.linked.get(sender)
        if peer is not None and now_s - peer.filled_at_s >= FILL_GAP_S:
            peer.filled_at_s = now_s
            yield Send(sender, self._gossip.digest(False), need=Need.FREE)

    def _correct(self, sender: NodeId, member: Member) -> Effects:
        """The sender accuses on old knowledge: give him the newer."""
        newer = member.left or member.alive
        if newer is not None:
            yield from self._gossip.tell(sender, (newer,))

    # ---- suspicion

    def suspect(self, now_s: float, member: Member, hard: bool) -> Effects:
        """This node's own evidence against `member`: its vote, said to the subject first. Told on at once."""
        members, row = self._members, member.row
        if row.state not in (ALIVE, SUSPECT) or members.own_left is not None:
            return
        before = member.votes.get(members.me)
        if before is not None and before.body.hard >= hard:
            return
        vote = Signed(members.me, Suspect(row.node, row.incarnation, row.version, hard))
        member.votes[members.me] = vote
        member.trouble = True
        self.suspicions += 1
        if row.state == ALIVE or hard:
            self._open_window(now_s, member, hard)
        yield Tell(MemberSuspected(row.node, hard))
        yield from self._gossip.broadcast(vote, row.node)
        if member.window_over:
            yield from self._count(now_s, member)

    def _open_window(self, now_s: float, member: Member, hard: bool) -> None:
        ends_s = now_s + window_s(self._limits, self._members.present(), self._health.level, hard)
        if member.row.state == SUSPECT:
            ends_s = min(ends_s, member.window_end_s)
        else:
            member.suspected_at_s = now_s
        self._members.set_state(now_s, member, SUSPECT)
        self._extend_window(member, ends_s)

    def _extend_window(self, member: Member, ends_s: float) -> None:
        member.window_end_s = ends_s
        member.window_over = False
        self._deadlines.set(SuspicionEnds(member.node), ends_s)

    def expire_suspicion(self, now_s: float, _: NodeId, due: SuspicionEnds) -> Effects:
        """The window is over: count, unless this node slept through it or has heard the subject meanwhile."""
        members, member = self._members, self._members.get(due.node)
        if member is None or member.row.state != SUSPECT or members.own_left is not None:
            return
        window = window_s(self._limits, members.present(), self._health.level, False)
        if now_s - member.window_end_s > max(LAG_S, window / 4):
            self._health.worse()
            self._extend_window(member, now_s + window)
            if member.phase == IDLE:
                member.doubt = True
                members.arm(member, now_s)
        elif members.me not in member.votes and member.row.linked and member.heard_at_s > member.suspected_at_s:
            # Others doubt it, but it is there: it has to know, so that it can refute.
            yield from self._gossip.tell(member.node, [member.votes[voter] for voter in sorted(member.votes)])
            self._extend_window(member, now_s + window)
        else:
            member.window_over = True
            yield from self._count(now_s, member)

    def _count(self, now_s: float, member: Member) -> Effects:
        dead = certificate(self._members, member)
        if dead is not None:
            yield from self._die(now_s, member, dead, self._members.me)
        elif self._members.me not in member.votes:
            self._extend_window(member, now_s + self._limits.suspicion_s)
        elif member.row.state == SUSPECT:
            self._members.set_state(now_s, member, UNREACHABLE)
            yield Tell(MemberUnreachable(member.node))
            yield from self.cut(now_s, member)

    def _die(self, now_s: float, member: Member, dead: Dead, source: NodeId) -> Effects:
        member.dead = dead
        self.deaths += 1
        self._deadlines.clear(SuspicionEnds(member.node))
        self._members.set_state(now_s, member, DEAD)
        yield Tell(MemberDied(member.node))
        if source == self._members.me:
            yield from self._gossip.broadcast(dead, member.node)
        else:
            yield from self._gossip.tell(member.node, (dead,))
        self._gossip.spread(now_s, dead, source)
        if not member.row.linked or now_s - member.heard_at_s > silence_max_s(self._limits) / 2:
            yield from self.cut(now_s, member)
        else:
            member.phase = IDLE
            self._members.arm(member, now_s + self._limits.probe_interval_s)

    def cut(self, now_s: float, member: Member) -> Effects:
        """End a link on which nothing comes any more, and dial anew: a broken connection never mends itself."""
        linked = member.row.linked
        self._members.unlink(member)
        self._book.redial(now_s, member.node, member.row.door, self._limits.redial_min_s)
        if linked:
            yield HangUp(member.node, need=Need.FREE)

    def withdraw(self, now_s: float, member: Member) -> Effects:
        """It lives after all: this node's vote is void here. Others hear it from the subject, who refutes."""
        if member.votes.pop(self._members.me, None) is None:
            return
        if member.row.state not in (SUSPECT, UNREACHABLE):
            return
        self.false_alarms += 1
        if member.votes:
            self._members.set_state(now_s, member, SUSPECT)
            member.suspected_at_s = now_s
            self._extend_window(member, now_s + self._limits.suspicion_s)
            yield from self._gossip.tell(member.node, [member.votes[voter] for voter in sorted(member.votes)])
        else:
            member.window_over = False
            self._deadlines.clear(SuspicionEnds(member.node))
            self._members.set_state(now_s, member, ALIVE)
        yield Tell(MemberAlive(member.node))

    # ---- who is not believed any more

    def outlaw(self, now_s: float, node: NodeId) -> Effects:
        """Dead for good: its row, its votes, its link, its door. The other machines hear `MemberRevoked`, and what it means for work.

        If it is this node itself, here is where it stops: it takes no more part (LEFT), and its machines end what they have in hand. Links
        are left for the others to cut, so that the revocation still reaches them where it was made here.
        """
        members = self._members
        if members.directory.revoked(node):
            return
        members.directory.outlaw(node)
        while len(members.directory.outlaws) > self._limits.outlaws_max:
            del members.directory.outlaws[next(iter(members.directory.outlaws))]
        yield Tell(MemberRevoked(node))
        if node == members.me:
            yield Refused("own_revocation", node)
            yield from self.leave(now_s)
            return
        known = members.get(node)
        member = known or members.add(now_s, node)
        if member is None:  # the table is full of others: the directory knows it all the same
            return
        was, linked = member.row.state, member.row.linked
        members.exile(now_s, member)
        self._book.forget(node, member.row.door)
        if linked:
            yield HangUp(node, need=Need.FREE)
        if known is not None and was not in (DEAD, LEFT):
            yield Tell(MemberDied(node))

    # ---- this node's own row

    def accused(self, now_s: float, sender: NodeId, incarnation: int, version: int) -> Effects:
        """Somebody holds this node for suspect or dead."""
        own = self._members.own.body
        if self._members.own_left is not None:
            yield from self._gossip.tell(sender, (self._members.own_left,))
        elif (incarnation, version) > (own.incarnation, own.version):
            yield Refused("unknown_version", sender)
        elif (incarnation, version) < (own.incarnation, own.version):
            yield from self._gossip.tell(sender, (self._members.own,))
        else:
            self.refutations += 1
            self._health.worse()
            yield from self._announce(now_s, own.version + 1, own.offers)

    def set_offers(self, now_s: float, offers: tuple[Offer, ...]) -> Effects:
        """Advertise what this node's agents offer now."""
        own = self._members.own.body
        row = self._members.directory.ensure(self._members.me)
        if not self._members.directory.set_offers(row, offers):
            return
        yield Tell(OffersChanged(self._members.me))
        yield from self._announce(now_s, own.version + 1, tuple(row.offers.values()))  # one per capability

    def change_row(self, now_s: float, router: str, certificate: bytes) -> Effects:
        """Advertise another ROUTER address, or another chain."""
        own = self._members.own.body
        members = self._members
        row = members.directory.ensure(members.me)
        row.router = router or own.router
        members.own = Signed(members.me, replace(own, router=row.router, certificate=certificate or own.certificate))
        yield from self._announce(now_s, own.version + 1, own.offers)

    def leave(self, now_s: float) -> Effects:
        """Say LEFT to all; from here on nothing is dialled, watched or refuted."""
        members = self._members
        if members.own_left is not None:
            return
        members.own_left = Signed(members.me, Left(members.me, members.own.body.incarnation))
        row = members.directory.ensure(members.me)
        members.counts[row.state] -= 1
        members.counts[LEFT] += 1
        row.state = LEFT
        row.changed_at_s = now_s
        self._book.close()
        yield from self._gossip.broadcast(members.own_left)

    def _announce(self, now_s: float, version: int, offers: tuple[Offer, ...]) -> Effects:
        members = self._members
        members.own = Signed(members.me, replace(members.own.body, version=version, offers=offers))
        row = members.directory.ensure(members.me)
        row.version = version
        row.changed_at_s = now_s
        if members.own_left is None:
            self._gossip.spread(now_s, members.own, members.me)
            yield from self._gossip.broadcast(members.own)

    def _own_seen(self, now_s: float, alive: Alive) -> Effects:
        own = self._members.own.body
        if (alive.incarnation, alive.version) < (own.incarnation, own.version) or alive == own:
            return
        self.clones += 1
        yield Refused("clone_seen", alive.node)
        if alive.incarnation == own.incarnation and self._clone_bids < CLONE_BIDS_MAX and self._members.own_left is None:
            self._clone_bids += 1
            yield from self._announce(now_s, alive.version + 1, own.offers)

    def own_votes(self) -> list[Signed]:
        """Own votes that still stand: repeated by anti-entropy, since digests do not tell votes apart."""
        me = self._members.me
        return [m.votes[me] for m in self._members.all() if m.row.state in (SUSPECT, UNREACHABLE) and me in m.votes]

    def rumours(self, now_s: float, sender: NodeId, rumours: Rumours) -> Effects:
        """Lives first: a vote counts only once its voter is known."""
        for signed in rumours.statements:
            if isinstance(signed.body, Alive):
                yield from self.merge(now_s, sender, signed)
        for signed in rumours.statements:
            if not isinstance(signed.body, Alive):
                yield from self.merge(now_s, sender, signed)
        for dead in rumours.deaths:
            yield from self.merge_dead(now_s, sender, dead)
