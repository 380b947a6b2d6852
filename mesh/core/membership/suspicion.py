"""How sure is sure: this node's own health, the window in which a suspect may refute, and the certificate.

    ALIVE --own probe failed, or somebody's vote--> SUSPECT --window over, H votes--> DEAD
      ^                        |                       '------window over, fewer----> UNREACHABLE (own opinion)
      '--newer ALIVE, or heard-'

Invariant: a node that has heard the subject since the suspicion began never makes a certificate. A node that was itself slow blames itself
first (Lifeguard, section 4): `health` counts own failures and stretches every verdict; it never delays news. No state of others is here.
"""

from __future__ import annotations

import math

from mesh.core.membership.members import Member, Members
from mesh.limits import MembershipLimits
from mesh.messages.membership import Dead, Suspect

LAG_S = 0.1
"""A deadline handled so much late means that this node slept or was busy; what should have arrived meanwhile is still in its inbox."""


class Health:
    """0: fine. Up for own lag, for helpers that do not even say no, for having to refute; down for each probe answered in time."""

    def __init__(self, worst: int) -> None:
        self.level = 0
        self._worst = worst

    def worse(self) -> None:
        self.level = min(self._worst, self.level + 1)

    def better(self) -> None:
        self.level = max(0, self.level - 1)


def window_s(limits: MembershipLimits, nodes: int, health: int, hard: bool) -> float:
    """Seconds from a suspicion to the vote count. A refused connect leaves nothing to be patient about but a quick restart."""
    if hard:
        return limits.hard_suspicion_s
    return limits.suspicion_s * max(1.0, math.log10(nodes)) * (1 + health)


def silence_max_s(limits: MembershipLimits) -> float:
    """After so much silence a link is cut and dialled anew though others still reach the node: the connection is broken, not the node."""
    return limits.suspicion_s + limits.probe_interval_s + 2 * limits.probe_timeout_s


def certificate(members: Members, member: Member) -> Dead | None:
    """The proof that `member` is dead, if enough roster members say so."""
    votes = members.votes(member)
    if len(votes) < members.quorum():
        return None
    row = member.row
    return Dead(row.node, row.incarnation, row.version, tuple(votes))


def own_vote_is_hard(members: Members, member: Member) -> bool:
    vote = members_vote(members, member)
    return vote is not None and vote.hard


def members_vote(members: Members, member: Member) -> Suspect | None:
    """This node's own vote on the present row of `member`."""
    vote = member.votes.get(members.me)
    if vote is None:
        return None
    body: Suspect = vote.body
    return body
