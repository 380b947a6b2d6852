"""Whom to link with, watch, and ask: the shape of the mesh as seen from one node.

In a small mesh everyone links with and watches everyone. Expander rings for larger ones change these functions and nothing else: who
asks here never assumes that the answer is "all". Source: SWIM 4.1 for the helpers, `docs/architecture.md` for the sizes.
"""

from __future__ import annotations

from random import Random

from mesh.core.directory import ALIVE, LEFT
from mesh.core.membership.members import Member, Members
from mesh.ids import NodeId
from mesh.limits import MembershipLimits


def watched(member: Member) -> bool:
    """This node probes `member` and votes on it."""
    return member.row.state != LEFT and not member.row.revoked


def silence_allowed_s(limits: MembershipLimits, me: NodeId, node: NodeId) -> float:
    """After so much silence on the link, ping. A ping is heard by both, so one end of each link can leave it to the other: the higher id
    waits a little longer. With equal patience both would ping at the same moment, for ever."""
    return limits.probe_interval_s * (1.0 if me < node else 1.1)


def linked_wish(member: Member) -> bool:
    """A link to `member` is wanted, so its door is dialled until there is one."""
    return member.row.state != LEFT and not member.row.revoked


def helpers(members: Members, target: NodeId, count: int, random: Random) -> list[NodeId]:
    """Up to `count` linked nodes, believed alive, that may reach `target` by another way."""
    able = [name for name in members.linked_names() if name != target and members.linked[name].row.state == ALIVE]
    return able if len(able) <= count else sorted(random.sample(able, count))


def partner(members: Members, random: Random) -> NodeId | None:
    """Whom to compare tables with next."""
    names = members.linked_names()
    return random.choice(names) if names else None


def gossip_targets(members: Members, count: int, random: Random) -> list[NodeId]:
    names = members.linked_names()
    return list(names) if len(names) <= count else sorted(random.sample(names, count))
