"""O6: awards go to whom the rule chooses, among those who offered.

    auction    the winner's bid for this task, or for a lot (with a capacity curve), had reached the manager, unexpired
    pull       the one who held it had released it for the winner, or the winner asked for it in that moment
    award      the winner had told the manager of room for this capability, not too long ago
    hedge      a result of a second attempt had come from the winner
    all        the winner is the candidate with the least score; a fence is decided once

The score is computed here again from the decision's own candidates: ``(start_ms + service_ms) * calibration_pct // 100 +
transfer_ms + round(1000 cost)``, ties by the hash of task, fence and node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from mesh.ids import NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.membership import Load
from mesh.messages.records import Candidate, Decided, Submitted
from mesh.messages.work import Bid, Pull, Release, Result
from mesh.sim.history import Appended, ClockBroken, Delivered, NodeDown, Takes, Verdict

SLACK = 1.1
"""Clocks drift, and a decision is a little later than what it rests on."""


class MarketChecker:
    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._bids: dict[tuple[NodeId, TaskId, NodeId], float] = {}
        """Until when; under no task: the newest that a node bid for a lot."""
        self._loads: dict[tuple[NodeId, NodeId], tuple[float, frozenset[str]]] = {}
        self._versions: dict[tuple[NodeId, NodeId], int] = {}
        self._released: dict[tuple[NodeId, TaskId], NodeId] = {}
        self._results: dict[tuple[NodeId, NodeId], None] = {}
        self._pulled: dict[tuple[NodeId, NodeId], float] = {}
        self._capability: dict[TaskId, str] = {}
        self._clocks_good = True
        self.watches: tuple[type, ...] = (Bid, Load, Pull, Release, Result)
        self.takes: Takes = {
            ClockBroken: self._clock_broken,
            Delivered: self._delivered,
            Appended: self._appended,
            NodeDown: self._node_down,
        }

    def _clock_broken(self, record: ClockBroken) -> Iterator[Verdict]:
        self._clocks_good = False
        return iter(())

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        for key in [key for key in self._bids if key[0] == record.node]:
            del self._bids[key]
        for pair in [pair for pair in self._loads if pair[0] == record.node]:
            del self._loads[pair]
        for pair in [pair for pair in self._versions if record.node in pair]:
            del self._versions[pair]
        return iter(())

    def _delivered(self, record: Delivered) -> Iterator[Verdict]:
        message = record.message
        if type(message) is Bid:
            for item in message.items:
                # (If that task has ended meanwhile, the bid goes to the next of its kind in line.)
                for task in (item.task, ""):
                    self._bids[(record.node, task, record.sender)] = record.at_s + message.ttl_ms / 1000
        elif type(message) is Result:
            self._results[record.node, record.sender] = None
        elif type(message) is Release:
            for task, _, _ in message.items:
                self._released[(record.node, task)] = message.to
        elif type(message) is Pull:
            self._pulled[(record.node, record.sender)] = record.at_s
        elif type(message) is Load:
            self._load_came(record.at_s, (record.node, record.sender), message)
        return iter(())

    def _load_came(self, at_s: float, pair: tuple[NodeId, NodeId], load: Load) -> None:
        """One with a smaller number came late, or is the first of a new life, behind the last of the old one: both may count."""
        known = self._loads.get(pair, (at_s, frozenset[str]()))[1] if load.version <= self._versions.get(pair, 0) else frozenset[str]()
        self._versions[pair] = load.version
        self._loads[pair] = (at_s, known | frozenset(row.capability for row in load.rows))

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        entry = record.entry
        if record.copied:
            return
        if type(entry) is Submitted:
            self._capability[entry.task] = entry.capability
        elif type(entry) is Decided:
            yield from self._judge(record.at_s, record.node, entry)

    def _judge(self, at_s: float, manager: NodeId, entry: Decided) -> Iterator[Verdict]:
        best = min(entry.candidates, key=lambda one: score(entry, one), default=None)
        if best is None or best.node != entry.winner:
            yield Verdict(at_s, "O6", f"{entry.task}: {entry.winner} was chosen; the rule chooses {best.node if best else 'nobody'}")
        if entry.winner == manager or not self._clocks_good:
            return
        if entry.way == "pull":
            # (What this node itself released for others does not show in what was delivered.)
            released = self._released.get((manager, entry.task), entry.winner)
            if released != entry.winner and self._pulled.get((manager, entry.winner)) != at_s:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner}, who did not pull and for whom nobody released it")
            return
        if entry.way == "hedge":
            if (manager, entry.winner) not in self._results:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner} for a result that never came")
            return
        if entry.way == "auction":
            bids = [self._bids.get((manager, task, entry.winner)) for task in (entry.task, "")]
            until_s = max((bid for bid in bids if bid is not None), default=None)
            if until_s is None:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner}, who made no bid for it")
            elif at_s > until_s * SLACK:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner} on a bid that ended at {until_s:.3f} s")
        else:
            heard_s, offered = self._loads.get((manager, entry.winner), (float("-inf"), frozenset()))
            capability = self._capability.get(entry.task, "")
            if at_s - heard_s > self._limits.load_fresh_s * SLACK:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner} on a load heard {at_s - heard_s:.3f} s ago")
            elif capability and capability not in offered:
                yield Verdict(at_s, "O6", f"{entry.task} was awarded to {entry.winner}, who had told of no room for {capability}")


def score(entry: Decided, one: Candidate) -> tuple[int, str]:
    """Least wins."""
    tie = hashlib.sha256(f"{entry.task}|{entry.fence}|{one.node}".encode()).hexdigest()
    return (one.start_ms + one.service_ms) * one.calibration_pct // 100 + one.transfer_ms + round(1000 * one.cost), tie
