"""The mesh's coordinator, for programs and the command line: who is in office, what it does, and to pause it.

Nothing in a mesh but what its policy marks depends on it: `mesh/coordinator` is what runs there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError, Refused, UsageError
from mesh.ids import COORDINATE

if TYPE_CHECKING:
    from mesh.client import Mesh

Document = dict[str, Any]
SWITCH = "switch"
ENDED = ("done", "failed", "cancelled")


class Presiding:
    """What a mesh has of this. `_any` is the client that asks."""

    def _any(self) -> Mesh:
        raise NotImplementedError

    async def coordinator(self) -> Document:
        """``{"mode", "holder", "epoch", "since_ms", "task", "standing_by", "paused", "admitted", "refused", "waiting", "rules", "gates",
        "fleet", "here", "missing"}``: nobody in office, `holder` is "". `gates` wait over the whole mesh, for people or for it; `here` is
        what the node that was asked knows of itself."""
        mesh = self._any()
        found = await mesh._view("coordinator")
        tasks = await mesh.tasks()
        task = next((row["task"] for row in tasks["tasks"] if row["capability"] == COORDINATE and row["state"] not in ENDED), "")
        kept: Document = {}
        if task:
            try:
                kept = (await mesh.checkpoint(task))["checkpoint"] or {}
            except MeshError as error:  # its manager has just gone: another has it soon
                found["here"]["problem"] = error.message
        waits = await mesh.approvals()
        about = {"task": task, "paused": bool(kept.get("paused")), "rules": kept.get("rules", {})}
        about |= {name: int(kept.get(name, 0)) for name in ("admitted", "refused", "waiting")}
        return found | about | {"gates": waits["gates"], "missing": sorted({*tasks["missing"], *waits["missing"]})}

    async def switch_coordinator(self, action: str) -> Document:
        """``"pause"``: it admits nothing more until ``"resume"``. Whoever takes the office over goes on as it was. Raises Refused: there is
        none."""
        if action not in ("pause", "resume"):
            raise UsageError(f"{action!r} is nothing to do with the coordinator", fix="mesh coordinator pause, or mesh coordinator resume")
        task = (await self.coordinator())["task"]
        if not task:
            raise Refused("nobody is or was coordinator of this mesh", fix="mesh up --role coordinator", code="no_coordinator")
        await self._any().signal(task, SWITCH, action)
        return {"schema": "mesh.coordinator/1", "action": action, "task": task}
