"""One run of the demo, from nothing to the proof: start, submit, watch, kill, and read back what the mesh recorded."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import anyio

from mesh import File
from mesh.client import Mesh, connect
from mesh.errors import TimedOut
from mesh.files import sha256_of
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector import why as why_view
from mesh.inspector.crew import Crew
from mesh.inspector.render import clean, say, seconds, table

ENTRY = "otter"
"""The node the task is submitted to. It manages the task, so it is not the one that is killed: a task does not outlive its manager yet."""
CREW = {
    ENTRY: ["pipeline"],
    "heron": ["collector", "quality", "transform"],
    "lynx": ["quality", "transform", "report"],
    "wren": ["collector", "transform", "report"],
}
KILLED_STEP = "transform"
RESAMPLES = 1000
RESAMPLES_MAX = 50_000
ROWS = 3000
"""With so many rows, `RESAMPLES` keep a node busy for long enough to be killed at it; fewer rows get more."""
LIMIT_S = 180.0
LOOK_EVERY_S = 0.02


class Story:
    """Plays once."""

    def __init__(self, folder: Path, source: Path, *, quiet: bool, mdns: bool) -> None:
        self._folder, self._source, self._quiet, self._mdns = folder, source, quiet, mdns
        self._crew = Crew(folder)
        self._started = time.monotonic()
        self._killed: str | None = None
        self._killed_at = 0.0
        self._found_by = ""
        self._recovery_s: float | None = None
        self._shown: dict[str, tuple[str, str]] = {}

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(f"{time.monotonic() - self._started:6.1f} s  {text}")

    async def play(self) -> dict[str, Any]:
        """Raises MeshError, with what to look at, if any part does not come true; then, and with ``--json``, all processes are ended."""
        keep = False
        self._crew.take()
        try:
            if stopped := await self._crew.stop():
                self._say(f"stopped an earlier demo's {stopped} processes")
            with anyio.fail_after(LIMIT_S):
                document = await self._play()
            keep = not self._quiet
            return document
        except TimeoutError as error:
            raise TimedOut(f"the demo did not finish within {LIMIT_S:g} s", fix=f"look into {self._folder / 'logs'}") from error
        finally:
            if not keep:
                with anyio.CancelScope(shield=True):
                    stopped = await self._crew.stop()
                self._say(f"stopped all {stopped} processes of the demo")

    def _resamples(self) -> int:
        with self._source.open("rb") as file:
            rows = sum(1 for _ in file)
        return min(RESAMPLES_MAX, max(RESAMPLES, RESAMPLES * ROWS // max(rows, 1)))

    async def _play(self) -> dict[str, Any]:
        self._say(f"starting {len(CREW)} nodes: {', '.join(CREW)}")
        self._found_by = await self._crew.start(list(CREW), mdns=self._mdns)
        async with connect(home=self._crew.home, node=ENTRY, timeout_s=20) as mesh:
            await self._gather(mesh)
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

    async def _gather(self, mesh: Mesh) -> None:
        """Wait until all see each other, then start the workers and wait until their offers are known."""
        await self._until(mesh, "nodes", lambda document: sum(node["state"] == "alive" for node in document["nodes"]) == len(CREW))
        self._say(f"all {len(CREW)} nodes found each other {self._found_by}")
        for node, agents in CREW.items():
            self._crew.work(node, agents)
        wanted = {(agent, node) for node, agents in CREW.items() for agent in agents}

        def all_offered(document: dict[str, Any]) -> bool:
            return wanted <= {tuple(offer.split("@", 1)) for cap in document["caps"] for offer in cap["offered_by"]}

        await self._until(mesh, "caps", all_offered)
        self._say(f"{len(wanted)} agents attached; they offer {len((await mesh.caps())['caps'])} capabilities")

    async def _until(self, mesh: Mesh, verb: str, done: Any) -> None:
        while not done(await getattr(mesh, verb)()):
            self._crew.check()
            await anyio.sleep(LOOK_EVERY_S)

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
            self._killed, self._killed_at = row["owner"], time.monotonic()
            self._crew.kill(row["owner"])
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
        steps = [_step(row, story["entries"]) for row in lineage["tasks"] if row["step"]]
        struck = next((step for step in steps if step["step"] == KILLED_STEP), None)
        document = {
            "schema": "mesh.demo/1",
            "nodes": len(CREW),
            "found_by": self._found_by,
            "killed": self._killed,
            "reassigned": bool(self._killed and struck and struck["attempts"] > 1 and struck["by"] != self._killed),
            "steps": steps,
            "report": str(report.resolve()),
            "chart": str(chart.resolve()),
            "source_sha256": source_hash,
            "lineage_verified": verified,
            "task": task,
            "seconds": round(time.monotonic() - self._started, 2),
            "recovery_s": None if self._recovery_s is None else round(self._recovery_s, 3),
        }
        if not self._quiet:
            self._tell(document, lineage, result)
        return document

    def _tell(self, document: dict[str, Any], lineage: dict[str, Any], result: dict[str, Any]) -> None:
        rows = []
        for step in document["steps"]:
            rows += [(step["step"], f"{document['killed']}", "lost: " + lost["reason"]) for lost in step["lost"]]
            rows.append((step["step"], f"{step['agent']}@{step['by']}", f"{step['why']}, by {step['way']}"))
        print("\nWho did what, and why (mesh why)\n" + table(("STEP", "BY", "WHY"), rows, empty=""))
        print("\nWhere the report comes from (mesh lineage)\n" + lineage_view.show(lineage))
        print(
            f"\n{result['rows_kept']} of {result['rows_read']} rows kept, {result['summary_rows']} summary rows. Open the report:\n"
            f"  {document['report']}"
        )
        recovery = f" after {seconds(1000 * document['recovery_s'])}" if document["recovery_s"] is not None else ""
        lineage_is = "verified" if document["lineage_verified"] else "NOT VERIFIED"
        again = f"its step finished elsewhere (picked up{recovery})" if document["reassigned"] else "its step was NOT run elsewhere"
        print(f"\n{'ok' if document['reassigned'] and document['lineage_verified'] else 'NOT OK'}: {document['nodes']} nodes, ", end="")
        print(f"{document['killed']} killed, {again},\n    lineage {lineage_is}, {document['seconds']:.1f} s in all")
        self._next(document)

    def _next(self, document: dict[str, Any]) -> None:
        home = self._crew.home
        struck = next((short(step["task"]) for step in document["steps"] if step["step"] == KILLED_STEP), short(document["task"]))
        report = self._folder / "report.html"
        print(f"\nThe mesh is still up. Look around:\n  export MESH_HOME={home}")
        for command in (f"why {struck}", f"lineage {short(document['task'])}", f"blame {report}", "nodes --watch"):
            print(f"  mesh {command}")
        print(f"Stop it, from wherever you are:\n  mesh demo --stop --dir {shlex.quote(str(self._folder.absolute()))}")


def _step(row: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    why = why_view.explain(row["task"], entries)
    last = why["decisions"][-1]
    scores = ", ".join(f"{candidate['name']} {candidate['score_ms']}" for candidate in last["candidates"])
    return {
        "step": row["step"],
        "task": row["task"],
        "capability": row["capability"],
        "by": row["node"],
        "agent": row["agent"],
        "attempts": row["attempts"],
        "way": last["way"],
        "why": f"least score of {scores}" if len(last["candidates"]) > 1 else "the only offer",
        "recomputed": why["agrees"],
        "lost": row["lost"],
    }
