"""`mesh demo pipeline`: submit, watch, kill who runs a step, and read back what the mesh recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import anyio

from mesh import File
from mesh.client import Mesh
from mesh.files import sha256_of
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector.play import ENTRY, LOOK_EVERY_S, Play, step_document, step_rows
from mesh.inspector.render import clean, seconds, table

KILLED_STEP = "transform"
RESAMPLES = 1000
RESAMPLES_MAX = 50_000
ROWS = 3000
"""With so many rows, `RESAMPLES` keep a node busy for long enough to be killed at it; fewer rows get more."""


class Story(Play):
    """The pipeline."""

    CREW: ClassVar[dict[str, list[str]]] = {
        ENTRY: ["pipeline"],
        "heron": ["collector", "quality", "transform"],
        "lynx": ["quality", "transform", "report"],
        "wren": ["collector", "transform", "report"],
    }

    def __init__(self, folder: Path, source: Path, *, quiet: bool, mdns: bool) -> None:
        super().__init__(folder, quiet=quiet, mdns=mdns)
        self._source = source
        self._recovery_s: float | None = None
        self._shown: dict[str, tuple[str, str]] = {}

    def _resamples(self) -> int:
        with self._source.open("rb") as file:
            rows = sum(1 for _ in file)
        return min(RESAMPLES_MAX, max(RESAMPLES, RESAMPLES * ROWS // max(rows, 1)))

    async def act(self, mesh: Mesh) -> dict[str, Any]:
        title = self._source.stem.replace("_", " ").capitalize()
        task = await mesh.submit("pipeline.run", source=File.of(self._source), title=title, resamples=self._resamples())
        self._say(f"submitted pipeline.run over {clean(self._source.name)} at {ENTRY}: task {short(task.id)}")
        async with anyio.create_task_group() as group:
            group.start_soon(self._follow, mesh, task.id)
            answer = await mesh.result(task.id)
            group.cancel_scope.cancel()
        await self._show_new(mesh, task.id)
        mesh.value_of(answer)
        return await self._prove(mesh, task.id, answer["result"])

    # ---- the run

    async def _follow(self, mesh: Mesh, task: str) -> None:
        """Show every change; kill the owner of the chosen step once it has begun to compute; note when another has it."""
        while True:
            self._crew.check()
            for row in await self._show_new(mesh, task):
                if row["step"] == KILLED_STEP and row["state"] == "held" and row["owner"]:
                    self._strike(row)
            await anyio.sleep(LOOK_EVERY_S)

    def _strike(self, row: dict[str, Any]) -> None:
        if self._killed is None and row["progress"]:
            self._kill(row["owner"])
            self._say(f"KILLED     {row['owner']}: kill -9 of node and worker, {100 * row['progress']:.0f} % into {KILLED_STEP}")
        elif self._killed and row["owner"] != self._killed and self._recovery_s is None:
            self._recovery_s = time.monotonic() - self._killed_at
            self._say(f"{KILLED_STEP:<10} runs again, on {row['owner']}, {seconds(1000 * self._recovery_s)} after the kill")

    async def _show_new(self, mesh: Mesh, task: str) -> list[dict[str, Any]]:
        rows = [row for row in (await mesh.tasks())["tasks"] if row["parent"] == task]
        for row in sorted(rows, key=lambda row: row["age_ms"], reverse=True):
            now = (row["state"], row["owner"])
            if self._shown.get(row["step"]) == now or row["state"] not in ("held", "done", "parked", "failed"):
                continue
            self._shown[row["step"]] = now
            if row["state"] == "held" and self._killed and row["step"] == KILLED_STEP:
                continue  # told as the recovery
            doing = {"held": "runs on", "done": "done by", "parked": "waits:", "failed": "failed on"}[row["state"]]
            self._say(f"{clean(row['step']):<10} {doing} {clean(row['owner'] or row['reason'])}")
        return rows

    # ---- the proof

    async def _prove(self, mesh: Mesh, task: str, result: dict[str, Any]) -> dict[str, Any]:
        report, chart = self._folder / "report.html", self._folder / "report.png"
        await mesh.get(result["report"]["$file"]["sha256"], report)
        await mesh.get(result["chart"]["$file"]["sha256"], chart)
        story = await mesh.story(task)
        lineage = lineage_view.document(task, story["entries"])
        source_hash = sha256_of(self._source)
        verified = lineage["verified"] and lineage["sources"] == [source_hash] and sha256_of(report) in lineage["made_by"]
        steps = [step_document(row, story["entries"]) for row in lineage["tasks"] if row["step"]]
        struck = next((step for step in steps if step["step"] == KILLED_STEP), None)
        document = {
            "schema": "mesh.demo/1",
            "nodes": len(self.CREW),
            "found_by": self._found_by,
            "killed": self._killed,
            "reassigned": bool(self._killed and struck and struck["attempts"] > 1 and struck["by"] != self._killed),
            "steps": steps,
            "report": str(report.resolve()),
            "chart": str(chart.resolve()),
            "source_sha256": source_hash,
            "lineage_verified": verified,
            "task": task,
            "seconds": round(self._elapsed(), 2),
            "recovery_s": None if self._recovery_s is None else round(self._recovery_s, 3),
        }
        document["ok"] = document["reassigned"] and verified
        if not self._quiet:
            self._tell(document, lineage, result)
        return document

    def _tell(self, document: dict[str, Any], lineage: dict[str, Any], result: dict[str, Any]) -> None:
        rows = [row for step in document["steps"] for row in step_rows(step)]
        print("\nWho did what, and why (mesh why)\n" + table(("STEP", "BY", "WHY"), rows, empty=""))
        print("\nWhere the report comes from (mesh lineage)\n" + lineage_view.show(lineage))
        print(
            f"\n{result['rows_kept']} of {result['rows_read']} rows kept, {result['summary_rows']} summary rows. Open the report:\n"
            f"  {document['report']}"
        )
        recovery = f" after {seconds(1000 * document['recovery_s'])}" if document["recovery_s"] is not None else ""
        lineage_is = "verified" if document["lineage_verified"] else "NOT VERIFIED"
        again = f"its step finished elsewhere (picked up{recovery})" if document["reassigned"] else "its step was NOT run elsewhere"
        print(f"\n{'ok' if document['ok'] else 'NOT OK'}: {document['nodes']} nodes, ", end="")
        print(f"{document['killed']} killed, {again},\n    lineage {lineage_is}, {document['seconds']:.1f} s in all")
        self._next(document)

    def _next(self, document: dict[str, Any]) -> None:
        struck = next((short(step["task"]) for step in document["steps"] if step["step"] == KILLED_STEP), short(document["task"]))
        report = self._folder / "report.html"
        self._look_around(f"why {struck}", f"lineage {short(document['task'])}", f"blame {report}", "nodes --watch")
