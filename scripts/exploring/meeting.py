"""Nodes that are in order with each other: where an exploration begins, and whether things go on once faults are over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from exploring.member import Broken, Caller, Event, Node, thawed
from exploring.packed import AUTHOR, log_of
from exploring.promises import Past, remember
from mesh.core.keeping.replica import LEADER

MESSAGES_MAX = 2_000
"""So many without coming to rest: they talk in circles."""


class Meeting:
    """All is delivered, in order, until nothing is under way. Disks are quick."""

    def __init__(self, nodes: Sequence[Node], past: Past, caller: Caller) -> None:
        self.nodes = {node.me: node for node in nodes}
        self.past = past
        self._caller = caller

    def do(self, name: str, event: Event) -> None:
        under_way = deque([(name, event)])
        for _ in range(MESSAGES_MAX):
            if not under_way:
                return
            name, event = under_way.popleft()
            if name not in self.nodes:
                continue
            node, sent = self._caller.step(self.nodes[name], event)
            self.nodes[name] = node
            self.past = remember(self.past, node)
            under_way.extend((mail.to, ("deliver", mail)) for mail in sent)
        raise Broken(f"{MESSAGES_MAX} messages after {event} at {name} they still talk")

    @property
    def leader(self) -> Node | None:
        leaders = [node for node in self.nodes.values() if node.role == LEADER]
        return max(leaders, key=lambda node: node.term, default=None)


def members(caller: Caller, names: Sequence[str]) -> Meeting:
    """The author has written one entry, and has taken in those names one by one; all of them have it all."""
    meeting = Meeting([Node(name) for name in (AUTHOR, *names)], Past(), caller)
    meeting.do(AUTHOR, ("campaign",))
    meeting.do(AUTHOR, ("commit", 1))
    for number, name in enumerate(names):
        meeting.do(AUTHOR, ("teach", name))
        wanted = (AUTHOR, *names[: number + 1])
        author = meeting.nodes[AUTHOR]
        if not thawed(author, log_of(author.disk), None).may_change(wanted):
            raise Broken(f"the author may not take in {name}")
        meeting.do(AUTHOR, ("commit", 1, wanted))
        meeting.do(AUTHOR, ("ship_all",))
    return meeting


def goes_on(meeting: Meeting) -> str:
    """Whether somebody gets elected, and what he adds is kept by all members; if not, what is wrong."""
    for node in list(meeting.nodes.values()):
        meeting.do(node.me, ("sync",))
    for _ in range(4):
        for name in list(meeting.nodes):
            if meeting.leader is None or meeting.nodes[name].role != LEADER:
                meeting.do(name, ("campaign",))
            if (leader := meeting.leader) is not None and _adds(meeting, leader):
                return ""
    ends = ", ".join(f"{node.me} {node.role} of term {node.term} at {log_of(node.view).last}" for node in meeting.nodes.values())
    return f"nobody gets anything kept any more: {ends}"


def _adds(meeting: Meeting, leader: Node) -> bool:
    if leader.me == AUTHOR:
        meeting.do(AUTHOR, ("commit", 1))
    elif log_of(leader.view).last[0] < leader.term:
        meeting.do(leader.me, ("take_over",))
    for _ in range(2):
        for name, *_ in meeting.nodes[leader.me].peers:
            meeting.do(leader.me, ("retry", name))
    now = meeting.nodes[leader.me]
    return now.role == LEADER and now.kept == log_of(now.view).last == (now.term, log_of(now.view).seq)
