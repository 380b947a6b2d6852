"""What the handler of the mesh's office of coordinator asks of its node: what waits for its word, and that its word is said.

    asked = await asked_of(ctx, 1, [])                      rows: {"gate", "input", "rule", "capability", "task", "terms", ...}
    asked = await asked_of(ctx, 1, [Decision(row, True)])   its decisions, signed by its node, and what has come meanwhile

Invariant: nothing is said in the office's name past the lease of the task that it is: the node refuses, and LeaseLost is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.errors import LeaseLost, Refused
from mesh.scoped import Scoped

if TYPE_CHECKING:
    from mesh.context import Context, TaskInfo
    from mesh.runs import Clock

Document = dict[str, Any]
NOTE_CHARACTERS_MAX = 2000
AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Decision:
    """About one row that was asked: whether it may start, and why (not)."""

    row: Document
    admit: bool
    note: str = ""

    def fields(self) -> list[Any]:
        row = self.row
        return [row["gate"], row["input"], self.admit, self.note[:NOTE_CHARACTERS_MAX], f"{row['rule']} {row['capability']}"]


@dataclass(frozen=True, slots=True)
class Asked:
    """`rows` wait for a decision; `held` are ``(rule, task)`` that managers say to have started, or to be about to."""

    rows: tuple[Document, ...]
    held: tuple[tuple[str, str], ...]
    now_s: float
    """Unix time, where it runs."""


async def asked_of(ctx: Context, generation: int, decisions: Sequence[Decision], wait_s: float = 1.0) -> Asked:
    """Say these decisions, and wait for what is asked, at most `wait_s`. Raises LeaseLost: somebody else is in office by now."""
    said = [decision.fields() for decision in decisions]
    while True:
        try:
            body = await ctx._port.coordinate(ctx.task, generation, said, round(1000 * wait_s))  # type: ignore[attr-defined]
        except Refused as error:
            if error.code != "lease_over":
                raise LeaseLost(f"this attempt is in office no more: {error.message}") from error
            await ctx.sleep(AGAIN_S)  # it is renewed, or this handler is stopped
            continue
        return Asked(tuple(body["asked"]), tuple((str(rule), str(task)) for rule, task in body["held"]), body["at_ms"] / 1000)


class Coordinates(Scoped):
    """What a runner has of this."""

    _clock: Clock

    async def coordinate(self, task: TaskInfo, generation: int, decisions: list[list[Any]], wait_ms: int) -> Document:
        run = self._living(task)
        await self._may_start(run)
        what = {"task": task.id, "fence": task.fence, "generation": generation, "decisions": decisions, "wait_ms": wait_ms}
        body = await self._ask_for(run, "coordinate", what | {"at_ms": self._clock.wall_ms()})
        return body | {"at_ms": self._clock.wall_ms()}
