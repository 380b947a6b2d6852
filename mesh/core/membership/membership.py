"""Membership: who is here, how to reach them, who is gone. The machine that the other parts of this wing are put together in.

    discovery, seeds --> addresses --Dial--> links --LinkUp, Heard, LinkDown--> probing --evidence--> knowledge --> directory, facts
                                                                                 rumours, digests <--> dissemination

Invariants M1-M6: no node that is up stays dead in anybody's view, since dead ones are dialled for ever and tables are compared for ever; a
node that stopped is dead everywhere within the probe, the window and one rumour; only a node raises its own version. A revoked node stays
dead (`Outlawed`; the statements themselves are in `trust.py`). Two nodes of one name are both shown. What it does not do: open sockets,
check signatures (the wire did), decide about work.
Source: SWIM (Das 2002), Lifeguard (Dadgar 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, UNREACHABLE, Directory
from mesh.core.inputs import DialFailed, Found, Heard, Leave, LinkDown, LinkUp, MemberLinked, OffersSet, Outlawed, RowChanged, Started
from mesh.core.membership import overlay
from mesh.core.membership.addresses import AddressBook, DialDue
from mesh.core.membership.dissemination import Dissemination, Effects, RumoursDue, SyncDue
from mesh.core.membership.knowledge import Knowledge
from mesh.core.membership.members import Members, ProbeDue, SuspicionEnds
from mesh.core.membership.probing import Prober, RelayEnds
from mesh.core.membership.suspicion import Health
from mesh.effects import Dial, HangUp, Need, Refused, Reply, Send, Tell
from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Ack, Alive, Digest, Load, Ping, PingReport, PingRequest, Rumours
from mesh.messages.signed import Signed

EARLY_MAX = 64
EARLY_LOAD_S = 2.0
"""The first LOAD of a session may overtake the news of the session."""


@dataclass(frozen=True, slots=True)
class MembershipStatistics:
    """A snapshot. `clones_seen` above 0: a second process lives under some node's key. `health` 0: this node keeps up."""

    alive: int
    suspect: int
    unreachable: int
    dead: int
    left: int
    revoked: int
    """Of the dead."""
    linked: int
    forgotten: int
    name_clashes: int
    probes: int
    indirect_probes: int
    vouched: int
    suspicions: int
    false_alarms: int
    refutations: int
    deaths: int
    clones_seen: int
    lags: int
    health: int
    rumours_sent: int
    rumours_hot: int
    digests_sent: int
    addresses: int


class Membership:
    """`me` is this node's own row: version 1 of an incarnation that was raised and synced before."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: MembershipLimits, random: Random, *, me: Alive) -> None:
        self._deadlines = deadlines
        self._limits = limits
        self._random = random
        self._health = Health(limits.health_max)
        self._members = Members(directory, deadlines, limits, me)
        self._linked = self._members.linked
        self._gossip = Dissemination(self._members, deadlines, limits, random)
        self._book = AddressBook(self._members, deadlines, limits, random, me.door)
        self._knowledge = Knowledge(self._members, self._gossip, self._book, self._health, deadlines, limits)
        self._prober = Prober(self._members, self._knowledge, self._health, deadlines, limits, random)
        self._early: dict[NodeId, tuple[float, Load]] = {}
        self._own_load_version = -1
        self.inputs: dict[type, Callable[[float, NodeId, Any], Iterable[Any] | None]] = {
            Heard: self._on_heard,
            Started: self._do_start,
            Found: self._on_found,
            LinkUp: self._on_link_up,
            LinkDown: self._on_link_down,
            DialFailed: self._on_dial_failed,
            Leave: self._do_leave,
            OffersSet: self._on_offers_set,
            RowChanged: self._on_row_changed,
            Outlawed: self._on_outlawed,
            Ping: self._prober.on_ping,
            Ack: self._prober.on_ack,
            PingRequest: self._prober.on_ping_request,
            PingReport: self._prober.on_ping_report,
            Rumours: self._knowledge.rumours,
            Digest: self._on_digest,
            Load: self._on_load,
            ProbeDue: self._prober.expire_probe,
            RelayEnds: self._prober.expire_relay,
            SuspicionEnds: self._knowledge.expire_suspicion,
            DialDue: self._expire_dial,
            SyncDue: self._expire_sync,
            RumoursDue: self._expire_rumours,
        }

    @property
    def own(self) -> Signed:
        """This node's newest ALIVE: what a HELLO should carry."""
        return self._members.own

    # ---- life

    def _do_start(self, now_s: float, _: NodeId, started: Started) -> None:
        for address in started.seeds:
            self._book.seed(now_s, address)
        self._deadlines.set(SyncDue(), now_s + self._limits.anti_entropy_s * self._random.random())

    def _do_leave(self, now_s: float, _: NodeId, leave: Leave) -> Effects:
        yield from self._knowledge.leave(now_s)
        yield Reply(leave.request, True, {}, need=Need.FREE)

    def _on_offers_set(self, now_s: float, _: NodeId, offers: OffersSet) -> Effects:
        return self._knowledge.set_offers(now_s, offers.offers)

    def _on_row_changed(self, now_s: float, _: NodeId, changed: RowChanged) -> Effects:
        return self._knowledge.change_row(now_s, changed.router, changed.certificate)

    def _on_outlawed(self, now_s: float, _: NodeId, outlawed: Outlawed) -> Effects:
        return self._knowledge.outlaw(now_s, outlawed.node)

    # ---- links

    def _on_found(self, now_s: float, _: NodeId, found: Found) -> Iterable[Any] | None:
        if self._book.hint(now_s, found.address):
            return None
        return (Refused("address_book_full"),)

    def _expire_dial(self, now_s: float, _: NodeId, due: DialDue) -> Iterable[Any] | None:
        if self._book.due(now_s, due.address):
            return (Dial(due.address, need=Need.FREE),)
        return None

    def _on_dial_failed(self, now_s: float, _: NodeId, failed: DialFailed) -> Effects:
        nodes = self._book.nodes_at(failed.address)
        self._book.failed(now_s, failed.address, failed.reason)
        if failed.reason == "refused":
            for node in nodes:
                yield from self._refused(now_s, node)

    def _refused(self, now_s: float, node: NodeId) -> Effects:
        """Own connect refused where a link was: the process is gone. Once per link, so that a firewall is not a death each redial."""
        member = self._members.get(node)
        if member is not None and member.armed and not member.row.linked:
            member.armed = False
            yield from self._knowledge.suspect(now_s, member, True)

    def _on_link_up(self, now_s: float, sender: NodeId, up: LinkUp) -> Effects:
        alive = up.alive.body
        if not isinstance(alive, Alive) or alive.node != sender or sender == self._members.me:
            yield Refused("not_author", sender)
            yield HangUp(sender, need=Need.FREE)
            return
        if self._members.directory.revoked(sender):
            yield Refused("revoked", sender)
            yield HangUp(sender, need=Need.FREE)
            return
        before = self._members.get(sender)
        fresh = before is None or not before.row.linked or alive.incarnation > before.row.incarnation
        yield from self._knowledge.merge(now_s, sender, up.alive, direct=True)
        member = self._members.get(sender)
        if member is None or alive.incarnation < member.row.incarnation or member.row.state == LEFT:
            # A table full of others, a life that is over, or a second process under one key: counted where it was found out.
            yield Refused("old_life", sender)
            yield HangUp(sender, need=Need.FREE)
            return
        self._book.reached(sender, member.row.door)
        self._members.link(now_s, member, fresh)
        yield from self._prober.linked(now_s, member)
        yield Send(sender, self._gossip.digest(True), need=Need.FREE)
        at_s, load = self._early.pop(sender, (0.0, None))
        if load is not None and now_s - at_s <= EARLY_LOAD_S:
            self._on_load(now_s, sender, load)
        yield Tell(MemberLinked(sender))

    def _on_link_down(self, now_s: float, sender: NodeId, down: LinkDown) -> Effects:
        member = self._members.get(sender)
        if member is None:
            return
        was_linked = member.row.linked
        self._members.unlink(member)
        if self._members.own_left is not None or not overlay.linked_wish(member):
            return
        if was_linked:
            self._book.redial(now_s, sender, member.row.door)
            if member.row.state in (ALIVE, SUSPECT):
                # The dial that starts now will tell; if it hangs, ask others soon.
                self._members.arm(member, min(member.due_s, now_s + self._limits.probe_timeout_s))
        if down.refused:  # comes after the first news, when the door has been tried
            yield from self._refused(now_s, sender)

    def _on_heard(self, now_s: float, sender: NodeId, heard: Heard) -> Iterable[Any] | None:
        """Once per envelope, so kept short: stamps, and a sign of life for whoever waits for one."""
        member = self._linked.get(sender)
        if member is None:
            return None
        echo_ms = heard.echo_ms
        if echo_ms > now_s * 1000.0:
            return (Refused("future_echo", sender),)
        row = member.row
        if heard.stamp_ms > row.stamp_ms:
            row.stamp_ms = heard.stamp_ms
            row.stamp_at_s = now_s
        if echo_ms > row.echo_ms:
            row.echo_ms = echo_ms
        member.heard_at_s = now_s
        return self._prober.answered(now_s, member) if member.trouble else None

    # ---- tables

    def _on_digest(self, now_s: float, sender: NodeId, digest: Digest) -> Effects:
        me, own = self._members.me, self._members.own.body
        for node, incarnation, version, state in digest.rows:
            if node == me and state in (SUSPECT, DEAD) and (incarnation, version) == (own.incarnation, own.version):
                yield from self._knowledge.accused(now_s, sender, incarnation, version)
        yield from self._gossip.compare(sender, digest)

    def _expire_sync(self, now_s: float, _: NodeId, due: SyncDue) -> Effects:
        self._deadlines.set(due, now_s + self._limits.anti_entropy_s * (0.75 + self._random.random() / 2))
        partner = overlay.partner(self._members, self._random)
        if partner is not None and self._members.own_left is None:
            yield from self._gossip.tell(partner, self._knowledge.own_votes())
            yield Send(partner, self._gossip.digest(True), need=Need.FREE)

    def _expire_rumours(self, now_s: float, _: NodeId, due: RumoursDue) -> Effects:
        return self._gossip.tick(now_s)

    # ---- load

    def _on_load(self, now_s: float, sender: NodeId, load: Load) -> None:
        if sender == self._members.me:
            if load.version <= self._own_load_version:
                return
            self._own_load_version = load.version
            row = self._members.directory.ensure(sender)
        else:
            member = self._linked.get(sender)
            if member is not None and load.version == member.load_version:
                return
            if member is None or load.version < member.load_version:
                self._early.pop(sender, None)
                self._early[sender] = (now_s, load)
                while len(self._early) > EARLY_MAX:
                    del self._early[next(iter(self._early))]
                return
            member.load_version = load.version
            row = member.row
        row.load = {item.capability: item for item in load.rows}
        row.load_at_s = now_s
        row.draining = load.draining

    # ---- for those who look

    def statistics(self) -> MembershipStatistics:
        members, knowledge, prober, counts = self._members, self._knowledge, self._prober, self._members.counts
        names: dict[str, int] = {}
        for row in members.directory.rows():
            if row.state not in (DEAD, LEFT):
                names[row.name] = names.get(row.name, 0) + 1
        return MembershipStatistics(
            alive=counts[ALIVE],
            suspect=counts[SUSPECT],
            unreachable=counts[UNREACHABLE],
            dead=counts[DEAD],
            left=counts[LEFT],
            revoked=members.exiled,
            linked=len(members.linked),
            forgotten=members.forgotten,
            name_clashes=sum(1 for count in names.values() if count > 1),
            probes=prober.probes,
            indirect_probes=prober.indirect_probes,
            vouched=prober.vouched,
            suspicions=knowledge.suspicions,
            false_alarms=knowledge.false_alarms,
            refutations=knowledge.refutations,
            deaths=knowledge.deaths,
            clones_seen=knowledge.clones,
            lags=prober.lags,
            health=self._health.level,
            rumours_sent=self._gossip.rumours_sent,
            rumours_hot=len(self._gossip),
            digests_sent=self._gossip.digests_sent,
            addresses=len(self._book),
        )
