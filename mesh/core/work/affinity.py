"""Where tasks of one key went: so that the next goes there as well (near), or somewhere else (apart).

    near    the node that had the last one, else the first by rendezvous hash of key and node: elsewhere costs `near_ms`
    apart   a node costs `apart_ms` for each task of the key that it holds

A price, not a rule: it is added to the way of a candidate, as files that would have to travel are (`market.py`), so that a node which is
done so much sooner takes the work all the same. Invariant: bounded; what is forgotten costs a first choice by hash, which all managers
make alike. Knows the awards of this manager alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mesh.core.work.task import Task
from mesh.ids import NodeId
from mesh.limits import WorkLimits


class Affinity:
    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._last: dict[str, NodeId] = {}
        self._held: dict[str, dict[NodeId, int]] = {}

    def favourite(self, key: str, nodes: Iterable[NodeId]) -> NodeId:
        """Of `nodes`, the one that tasks of `key` like; "" if there is none."""
        there = list(nodes)
        if (last := self._last.get(key)) is not None and last in there:
            return last
        return max(there, key=lambda node: hashlib.sha256(f"{key}|{node}".encode()).digest(), default="")

    def away_ms(self, task: Task, node: NodeId) -> int:
        """What it costs to have it at `node`."""
        near_ms = self._limits.near_ms if task.favourite not in ("", node) else 0
        held = self._held.get(task.placement.apart, {}).get(node, 0) if task.placement.apart else 0
        return near_ms + held * self._limits.apart_ms

    def gave(self, task: Task, node: NodeId) -> None:
        key, apart = task.placement.near, task.placement.apart
        if key:
            self._last.pop(key, None)
            self._last[key] = node
            if len(self._last) > self._limits.near_max:
                del self._last[next(iter(self._last))]
        if apart:
            held = self._held.setdefault(apart, {})
            held[node] = held.get(node, 0) + 1

    def over(self, task: Task, node: NodeId) -> None:
        """Its award there does not stand any more."""
        apart = task.placement.apart
        if not apart:
            return
        held = self._held[apart]
        held[node] -= 1
        if not held[node]:
            del held[node]
        if not held:
            del self._held[apart]
