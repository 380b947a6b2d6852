"""Plain calls write no entries of their own: one aggregate entry per 100 ms carries the Merkle root of their decisions and ends.

Invariant: every plain call that ended is a leaf of exactly one `Calls` entry. The bodies behind the leaves stay in a bounded ring, so that
`why` can show a recent call, and anybody can hash what it shows. Leaf: ``sha256(0x00 || text)`` of `leaf_text`; node: ``sha256(0x01 ||
left || right)``; an odd one moves up unchanged, as in a commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.work.task import Task
from mesh.effects import Append
from mesh.ids import TaskId
from mesh.limits import WorkLimits
from mesh.messages.records import Calls


@dataclass(frozen=True, slots=True)
class CallsDue:
    """100 ms since the first call that is in no entry yet."""


def leaf_text(task: Task) -> str:
    """What a leaf is the hash of: each decision, then the end. Fields by ``|``, decisions by line."""
    lines = []
    for made in task.decisions or ():
        offers = ";".join(f"{c.node},{c.start_ms},{c.service_ms},{c.cost},{c.calibration_pct},{c.transfer_ms}" for c in made.candidates)
        refusals = ";".join(f"{node},{reason}" for node, _, reason in made.refusals)
        lines.append(f"decided|{made.fence}|{made.way}|{made.winner}|{offers}|{refusals}\n")
    lines.append(f"ended|{task.id}|{task.capability}|{task.input_hash}|{task.fence}|{task.state}|{task.node}|{task.output_hash}")
    return "".join(lines)


def merkle_root(leaves: list[bytes]) -> bytes:
    """Of leaf hashes; there is at least one."""
    level = leaves
    while len(level) > 1:
        above = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        level = above
    return level[0]


class Ring:
    """The newest plain calls that ended, and those not yet in an entry."""

    def __init__(self, deadlines: Deadlines, limits: WorkLimits) -> None:
        self._deadlines, self._limits = deadlines, limits
        self._calls: dict[TaskId, Task] = {}
        self._open: list[Task] = []

    def add(self, now_s: float, task: Task) -> None:
        if not self._open:
            self._deadlines.set(CallsDue(), now_s + self._limits.calls_entry_s)
        self._open.append(task)
        self._calls[task.id] = task
        if len(self._calls) > self._limits.calls_remembered:
            del self._calls[next(iter(self._calls))]

    def get(self, task: TaskId) -> Task | None:
        return self._calls.get(task)

    def expire(self, now_s: float) -> Iterator[Append]:
        if self._open:
            leaves = [hashlib.sha256(b"\x00" + leaf_text(task).encode()).digest() for task in self._open]
            self._open = []
            yield Append(Calls(len(leaves), merkle_root(leaves), int(now_s * 1000)))

    def __len__(self) -> int:
        return len(self._calls)


def story_of(task: Task) -> dict[str, Any]:
    """A plain call's story as JSON: the entries it would have had, and the text of its leaf (once it has ended)."""
    entries: list[dict[str, Any]] = [
        {
            "kind": "Submitted",
            "task": task.id,
            "capability": task.capability,
            "input": task.input_hash,
            "by": task.by,
            "timeout_ms": task.timeout_ms,
            "parent": task.parent,
            "step": task.step,
            "at_ms": int(task.submitted_at_s * 1000),
        }
    ]
    entries.extend({"kind": "Decided", **dataclasses.asdict(made)} for made in task.decisions or ())
    if task.ended:
        entries.append(
            {
                "kind": "Finished",
                "task": task.id,
                "fence": task.fence,
                "state": task.state,
                "node": task.node,
                "agent": task.agent,
                "output": task.output_hash,
                "files": [list(ref) for ref in task.output_files],
                "error": task.error,
                "service_ms": task.service_ms,
                "at_ms": int(task.ended_at_s * 1000),
            }
        )
    return {"task": task.id, "state": task.state, "entries": entries, "leaf": leaf_text(task) if task.ended else ""}
