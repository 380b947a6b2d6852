"""Questions to people: of a step that has a gate, and of an undoing that has failed.

    ask      the gate of one piece of work, about exactly what it will be given --> approved, or StepFailed: denied, or nobody answered
    settled  may what could not be undone count as settled by hand?

Invariant: what is approved is what is done: a gate holds for its inputs alone, and what an approver puts in their place is what the step is
given. Who may answer, and how it is proven, is `Context.approval`'s affair.
"""

from __future__ import annotations

from typing import Any

from mesh import Context
from mesh.errors import MeshError
from mesh.flows.expressions import filled
from mesh.flows.parsing import rules_of
from mesh.flows.saga import Committed
from mesh.flows.spec import Document, Gate
from mesh.gates import Decision

SETTLE_S = 7 * 86400.0
"""How long people are waited for when an undoing has failed; then it counts as not undone."""


class StepFailed(Exception):
    """A step has failed for good."""

    def __init__(self, message: str, task: str = "") -> None:
        super().__init__(message)
        self.message, self.task = message, task

    @classmethod
    def of(cls, error: MeshError) -> StepFailed:
        task = getattr(error, "task", "") or (error.fix.removeprefix("mesh why ") if error.fix.startswith("mesh why ") else "")
        return cls(error.message, task)


async def ask(ctx: Context, gate: Gate, name: str, subject: Any, scope: Document) -> Decision:
    """Raises StepFailed if it is denied or not answered in time, ExpressionError."""
    question = filled(gate.question, scope)
    if not isinstance(question, str) or not question:
        raise StepFailed(f"its gate asks {question!r}, which is no question")
    decision = await ctx.approval(question, name=name, subject=subject, expires_s=gate.expires_s or None, **rules_of(gate))
    if decision.approved:
        return decision
    who = ", ".join(one["person"] or one["node"] for one in decision.by)
    note = f": {decision.note}" if decision.note else ""
    raise StepFailed("its gate was not answered in time" if decision.expired else f"denied by {who}{note}")


async def settled(ctx: Context, work: Committed, why: str) -> bool:
    """Waits for people, SETTLE_S at most."""
    question = f"{work.name} could not be undone: {why[:1000]}. Has it been settled by hand?"
    subject = {"work": work.name, "did": work.step.uses, "with": work.arguments, "result": work.result}
    return (await ctx.approval(question, name=f"undo {work.name}", subject=subject, expires_s=SETTLE_S)).approved
