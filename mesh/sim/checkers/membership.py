"""Who is here. Reads what every node says of every other, and what each node ever said of itself.

M1  no permanent false death: at the end of quiet every living node lists every living node as alive
M2  completeness: who went for good is dead, left or gone from every living view a bounded time later
M4  a node's (incarnation, version) is raised by that node alone, and never falls in anybody's view
M5  at the end of quiet all views are equal: ids, states, rows, capabilities

A revoked node counts as gone for good, though it runs on.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.sim.history import NodeDown, NodeUp, Phase, RowIssued, Takes, Upheld, Verdict, Viewed, ViewRow

GONE = ("dead", "left")


class MembershipChecker:
    def __init__(self, limits: MembershipLimits) -> None:
        self._limits = limits
        self._up: dict[NodeId, None] = {}
        self._revoked: dict[NodeId, None] = {}
        self._gone_for_good: dict[NodeId, float] = {}
        self._issued: dict[NodeId, tuple[int, int]] = {}
        self._seen: dict[tuple[NodeId, NodeId], tuple[int, int]] = {}
        self._views: dict[NodeId, Viewed] = {}
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {
            NodeUp: self._node_up,
            NodeDown: self._node_down,
            RowIssued: self._row_issued,
            Viewed: self._viewed,
            Phase: self._phase,
            Upheld: self._upheld,
        }

    def _upheld(self, record: Upheld) -> Iterator[Verdict]:
        self._revoked[record.target] = None
        self._gone_for_good.setdefault(record.target, record.at_s)
        self._up.pop(record.target, None)
        return iter(())

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        if record.node not in self._revoked:
            self._up[record.node] = None
        before = self._issued.get(record.node, (0, 0))
        if record.incarnation <= before[0]:
            yield Verdict(record.at_s, "M4", f"{record.node} starts again as incarnation {record.incarnation}, after {before[0]}")
        self._issued[record.node] = max(before, (record.incarnation, 1))
        for pair in [pair for pair in self._seen if pair[0] == record.node]:
            del self._seen[pair]

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        self._up.pop(record.node, None)
        self._views.pop(record.node, None)
        if record.for_good:
            self._gone_for_good[record.node] = record.at_s
        return iter(())

    def _row_issued(self, record: RowIssued) -> Iterator[Verdict]:
        row = (record.incarnation, record.version)
        if row < self._issued.get(record.node, (0, 0)):
            yield Verdict(record.at_s, "M4", f"{record.node} took its own row back to {row}")
        else:
            self._issued[record.node] = row

    def _viewed(self, record: Viewed) -> Iterator[Verdict]:
        self._views[record.node] = record
        for node, _, incarnation, version, _ in record.rows:
            row = (incarnation, version)
            pair = (record.node, node)
            before = self._seen.get(pair)
            if before == row:
                continue
            if row > self._issued.get(node, (0, 0)) and incarnation:
                yield Verdict(
                    record.at_s, "M4", f"{record.node} has row {row} of {node}, which itself only ever issued {self._issued.get(node)}"
                )
            if before is not None and row < before:
                yield Verdict(record.at_s, "M4", f"{record.node}'s view of {node} fell from {before} to {row}")
            self._seen[pair] = row

    def _phase(self, record: Phase) -> Iterator[Verdict]:
        if record.name == "settled":
            yield from self._false_deaths(record.at_s)
            yield from self._unequal(record.at_s)
        elif record.name == "end":
            yield from self._incomplete(record.at_s)

    def _false_deaths(self, at_s: float) -> Iterator[Verdict]:
        for observer in self._up:
            states = {row[0]: row[1] for row in self._rows(observer)}
            for subject in self._up:
                state = states.get(subject, "unknown")
                if state != "alive":
                    yield Verdict(at_s, "M1", f"{observer} holds {subject} for {state} at the end of quiet, though it is up")

    def _unequal(self, at_s: float) -> Iterator[Verdict]:
        first: tuple[NodeId, list[ViewRow]] | None = None
        for observer in self._up:
            rows = sorted(row for row in self._rows(observer) if row[0] in self._up)
            if first is None:
                first = (observer, rows)
            elif rows != first[1]:
                unlike = next((pair for pair in zip(rows, first[1]) if pair[0] != pair[1]), (len(rows), len(first[1])))
                yield Verdict(at_s, "M5", f"views of {observer} and {first[0]} differ at the end of quiet: {unlike}")

    def _incomplete(self, at_s: float) -> Iterator[Verdict]:
        for subject in self._gone_for_good:
            for observer in self._up:
                state = next((row[1] for row in self._rows(observer) if row[0] == subject), "forgotten")
                if state not in (*GONE, "forgotten"):
                    waited_s = at_s - self._gone_for_good[subject]
                    yield Verdict(at_s, "M2", f"{observer} holds {subject} for {state}, {waited_s:.1f} s after it went for good")

    def _rows(self, observer: NodeId) -> tuple[ViewRow, ...]:
        view = self._views.get(observer)
        return view.rows if view else ()
