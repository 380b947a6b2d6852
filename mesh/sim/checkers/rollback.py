"""Old disks. Reads which heads of a journal others were shown, whose disk was put back, and what that node says of its journal afterwards.

L3  no silent fork: a node whose disk was put back behind what another has seen of it, who runs on, says so by the end of quiet
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.core.records.journal import last_of
from mesh.ids import NodeId
from mesh.messages.records import Heads
from mesh.sim.history import Admitted, Delivered, NodeDown, NodeUp, Phase, PutBack, Takes, Upheld, Verdict


class RollbackChecker:
    def __init__(self) -> None:
        self._up: dict[NodeId, None] = {}
        self._revoked: dict[NodeId, None] = {}
        self._seen: dict[NodeId, dict[NodeId, int]] = {}
        """Per author: up to which entry others have its heads."""
        self._due: dict[NodeId, tuple[PutBack, dict[NodeId, int]]] = {}
        """With those who have seen more of it than the image holds."""
        self._said: dict[NodeId, str] = {}
        self.watches: tuple[type, ...] = (Heads,)
        self.takes: Takes = {
            Delivered: self._delivered,
            PutBack: self._put_back,
            Admitted: self._admitted,
            NodeUp: self._node_up,
            NodeDown: self._node_down,
            Upheld: self._upheld,
            Phase: self._phase,
        }

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        self._up[record.node] = None
        return iter(())

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        """What it had seen last it had not written down, perhaps."""
        self._up.pop(record.node, None)
        self._said.pop(record.node, None)
        for seen in (*self._seen.values(), *(knows for _, knows in self._due.values())):
            seen.pop(record.node, None)
        return iter(())

    def _upheld(self, record: Upheld) -> Iterator[Verdict]:
        self._revoked[record.target] = None
        return iter(())

    def _delivered(self, record: Delivered) -> Iterator[Verdict]:
        if type(record.message) is Heads:
            for head in record.message.heads:
                if head.author != record.node:
                    seen = self._seen.setdefault(head.author, {})
                    seen[record.node] = max(seen.get(record.node, 0), last_of(head.body))
        return iter(())

    def _put_back(self, record: PutBack) -> Iterator[Verdict]:
        knows = {who: last for who, last in self._seen.pop(record.node, {}).items() if last > record.seq}
        if knows:
            self._due[record.node] = record, knows
        return iter(())

    def _admitted(self, record: Admitted) -> Iterator[Verdict]:
        self._said[record.node] = record.why
        return iter(())

    def _phase(self, record: Phase) -> Iterator[Verdict]:
        if record.name != "settled":
            return
        for node, (put_back, seen) in self._due.items():
            knows = [(who, last) for who, last in seen.items() if who not in self._revoked]
            if knows and node in self._up and node not in self._revoked and not self._said.get(node):
                who, last = knows[0]
                text = f"{node} came back at {put_back.at_s:.3f} s with a disk that ends at {put_back.seq}; {who} has seen entry {last}"
                yield Verdict(record.at_s, "L3", f"{text}, and {node} does not say so")
