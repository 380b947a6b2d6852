"""Watching: is the node at the other end of this link still there?

    IDLE --silent for probe_interval_s--> DIRECT --no answer--> INDIRECT --nobody reaches it--> DOUBTED (own vote cast, pinged on)
      ^                                     |                      |                              |
      '------------- anything heard from it, or a helper that reached it; late answers count -----'

Invariant: any authentic envelope is an answer, so a busy link is never pinged. A verdict that falls due while this node slept is not
passed: it probes again first, up to 3 times running. A node without a link is probed through others from the start.
What it does not do: decide who is dead; it only gives this node's own evidence to `knowledge.py`. Source: SWIM 4.1, Lifeguard 4.1-4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, SUSPECT, UNREACHABLE
from mesh.core.membership import overlay
from mesh.core.membership.dissemination import Effects
from mesh.core.membership.knowledge import Knowledge
from mesh.core.membership.members import DIRECT, DOUBTED, IDLE, INDIRECT, Member, Members, ProbeDue
from mesh.core.membership.suspicion import LAG_S, Health, members_vote, own_vote_is_hard, silence_max_s
from mesh.effects import Need, Refused, Send
from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Ack, Ping, PingReport, PingRequest, Rumours

EXCUSES_MAX = 3
"""Probes begun anew because this node was late itself; more, and a node that is always late would never find a death."""
RELAYS_MAX = 256
"""Indirect probes in hand for others."""
HELPER_PATIENCE = 1.5
"""Of probe timeouts: a helper waits one, and its report has to travel."""
VOUCHED_REST = 3
"""Of probe intervals: a node that others reach but this one has no link to is asked about less often."""


@dataclass(frozen=True, slots=True)
class RelayEnds:
    """`requester` has waited long enough for the indirect probe of `target`: say no, so that it knows we are there."""

    requester: NodeId
    probe: int
    target: NodeId


class Prober:
    """One `ProbeDue` deadline per watched node drives everything; hearing a node costs nothing while it is in no trouble."""

    def __init__(
        self, members: Members, knowledge: Knowledge, health: Health, deadlines: Deadlines, limits: MembershipLimits, random: Random
    ) -> None:
        self._members = members
        self._knowledge = knowledge
        self._health = health
        self._deadlines = deadlines
        self._limits = limits
        self._random = random
        self._probe = 0
        self._relays = 0
        self._lag_at_s = float("-inf")
        self.probes = 0
        self.indirect_probes = 0
        self.lags = 0
        self.vouched = 0

    def _timeout_s(self) -> float:
        return self._limits.probe_timeout_s * (1 + self._health.level)

    # ---- steps

    def expire_probe(self, now_s: float, _: NodeId, due: ProbeDue) -> Effects:
        members, member = self._members, self._members.get(due.node)
        if member is None or members.own_left is not None or not overlay.watched(member):
            return
        state = member.row.state
        if state == DEAD:
            yield from self._remind(now_s, member)
        elif state != UNREACHABLE:
            late = now_s - member.due_s > LAG_S
            if late and now_s - self._lag_at_s > self._limits.probe_interval_s:
                self._lag_at_s = now_s  # one pause makes many deadlines late
                self.lags += 1
                self._health.worse()
            if late and member.phase in (DIRECT, INDIRECT) and member.excuses < EXCUSES_MAX:
                member.excuses += 1
                yield from self._ping(now_s, member)
            elif member.phase == IDLE:
                yield from self._watch(now_s, member)
            elif member.phase == DIRECT:
                yield from self._ask_others(now_s, member)
            elif member.phase == INDIRECT:
                yield from self._give_up(now_s, member)
            else:
                yield from self._insist(now_s, member)

    def _watch(self, now_s: float, member: Member) -> Effects:
        enough_s = self._limits.probe_timeout_s / 2 if member.doubt else self._limits.probe_interval_s
        member.doubt = False
        if member.row.linked and now_s < member.heard_at_s + enough_s:  # as the deadline is reckoned: a difference rounds otherwise
            # Never now: heard_at + interval may round to a time that is already over.
            self._members.arm(member, max(member.heard_at_s + self._limits.probe_interval_s, now_s + 0.001))
            return
        member.excuses = 0
        member.episode = self._probe + 1
        yield from self._ping(now_s, member)

    def _ping(self, now_s: float, member: Member) -> Effects:
        if not member.row.linked:
            yield from self._ask_others(now_s, member)
            return
        member.phase = DIRECT
        member.trouble = True
        yield self._ping_now(member)
        self._members.arm(member, now_s + self._timeout_s())

    def _ping_now(self, member: Member) -> Send:
        self._probe += 1
        self.probes += 1
        return Send(member.node, Ping(self._probe, self._members.directory.trust), need=Need.FREE)

    def _ask_others(self, now_s: float, member: Member) -> Effects:
        """Through others, and directly once more: with nobody to ask, that is all there is."""
        member.phase = INDIRECT
        member.trouble = True
        yield from self._request(member, self._limits.indirect_probes)
        if member.row.linked:
            yield self._ping_now(member)
        self._members.arm(member, now_s + HELPER_PATIENCE * self._timeout_s())

    def _request(self, member: Member, count: int) -> Effects:
        asked = overlay.helpers(self._members, member.node, count, self._random)
        member.asked = dict.fromkeys(asked, False)
        if asked:
            self._probe += 1
            self.indirect_probes += 1
        for helper in asked:
            yield Send(helper, PingRequest(self._probe, member.node), need=Need.FREE)

    def _give_up(self, now_s: float, member: Member) -> Effects:
        if member.asked and not any(member.asked.values()):
            self._health.worse()  # not one said even no: the fault may well be here
        member.phase = DOUBTED
        yield from self._knowledge.suspect(now_s, member, False)
        if member.row.state in (ALIVE, SUSPECT):
            self._members.arm(member, now_s + self._timeout_s() / 2)

    def _insist(self, now_s: float, member: Member) -> Effects:
        """While the vote stands, ask on: a late answer is an answer."""
        if members_vote(self._members, member) is None:
            member.phase = IDLE
            member.trouble = bool(member.relays)
            self._members.arm(member, now_s + self._limits.probe_interval_s)
            return
        if member.row.linked:
            yield self._ping_now(member)
            yield from self._knowledge_again(member)
        elif not own_vote_is_hard(self._members, member):
            yield from self._request(member, 1)
        self._members.arm(member, now_s + self._timeout_s() / 2)

    def _knowledge_again(self, member: Member) -> Effects:
        """The subject must know what it is accused of; the first telling may be lost with the link."""
        votes = tuple(member.votes[voter] for voter in sorted(member.votes))
        yield Send(member.node, Rumours(votes), need=Need.FREE)

    def _remind(self, now_s: float, member: Member) -> Effects:
        """A dead node with a link: it has not heard of its death, or the link is dead too."""
        if not member.row.linked:
            return
        if now_s - member.heard_at_s > silence_max_s(self._limits):
            yield from self._knowledge.cut(now_s, member)
            return
        yield self._ping_now(member)
        if member.dead is not None:
            yield Send(member.node, Rumours((), (member.dead,)), need=Need.FREE)
        self._members.arm(member, now_s + self._limits.probe_interval_s)

    # ---- answers

    def linked(self, now_s: float, member: Member) -> Effects:
        """A new link: ping at once, so that both sides have stamps, and take it as a sign of life."""
        yield from self.answered(now_s, member)
        member.excuses = 0
        member.episode = self._probe + 1
        yield from self._ping(now_s, member)

    def answered(self, now_s: float, member: Member) -> Effects:
        """Something was heard from a node in trouble."""
        if member.phase == DIRECT:
            self._health.better()
        member.phase = IDLE
        member.trouble = False
        for requester, probe in member.relays:
            self._deadlines.clear(RelayEnds(requester, probe, member.node))
            self._relays -= 1
            yield Send(requester, PingReport(probe, member.node, True), need=Need.FREE)
        member.relays.clear()
        yield from self._knowledge.withdraw(now_s, member)
        self._members.arm(member, now_s + overlay.silence_allowed_s(self._limits, self._members.me, member.node))

    def on_ping(self, now_s: float, sender: NodeId, ping: Ping) -> Effects:
        return iter((Send(sender, Ack(ping.probe, self._members.directory.trust), need=Need.FREE),))

    def on_ack(self, now_s: float, sender: NodeId, ack: Ack) -> Effects | None:
        """The envelope it came in was the answer (`Heard`); on its own it counts the same."""
        member = self._members.linked.get(sender)
        if member is None:
            return None
        member.heard_at_s = now_s
        return self.answered(now_s, member) if member.trouble else None

    # ---- through others

    def on_ping_request(self, now_s: float, sender: NodeId, request: PingRequest) -> Effects:
        target = request.target
        member = self._members.linked.get(target)
        if target == self._members.me:
            yield Send(sender, PingReport(request.probe, target, True), need=Need.FREE)
        elif member is None:
            yield Send(sender, PingReport(request.probe, target, False), need=Need.FREE)
        elif (sender, request.probe) in member.relays:
            return
        elif self._relays >= RELAYS_MAX:
            yield Refused("busy", sender)
        else:
            member.relays[sender, request.probe] = None
            member.trouble = True
            self._relays += 1
            self._deadlines.set(RelayEnds(sender, request.probe, target), now_s + self._limits.probe_timeout_s)
            yield self._ping_now(member)

    def expire_relay(self, now_s: float, _: NodeId, due: RelayEnds) -> Effects:
        """The errand is over. Saying so tells the requester that at least this node is there and can hear it."""
        self._relays -= 1
        member = self._members.get(due.target)
        if member is not None:
            member.relays.pop((due.requester, due.probe), None)
        yield Send(due.requester, PingReport(due.probe, due.target, False), need=Need.FREE)

    def on_ping_report(self, now_s: float, sender: NodeId, report: PingReport) -> Effects:
        member = self._members.get(report.target)
        if member is None or member.phase not in (INDIRECT, DOUBTED) or report.probe < member.episode:
            return
        if sender in member.asked:
            member.asked[sender] = True
        if not report.reached or own_vote_is_hard(self._members, member):
            return
        self.vouched += 1
        member.phase = IDLE
        member.trouble = bool(member.relays)
        yield from self._knowledge.withdraw(now_s, member)
        rest_s = self._limits.probe_interval_s
        if not member.row.linked:
            rest_s *= VOUCHED_REST
        elif now_s - member.heard_at_s > silence_max_s(self._limits):
            yield from self._knowledge.cut(now_s, member)
        self._members.arm(member, now_s + rest_s)
