"""`mesh demo`: four nodes on this machine, a real pipeline over real data, and the node that owns a running step killed on the way.

Everything it shows is read back from the mesh: tasks, decisions and lineage come from the journal of the node the task was submitted to.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from mesh import File
from mesh.client import Mesh, connect
from mesh.errors import MeshError, TimedOut, UsageError
from mesh.files import sha256_of
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector import why as why_view
from mesh.inspector.crew import Crew
from mesh.inspector.render import clean, say, seconds
from mesh.inspector.shell import JsonOption, Where, fail, run

ENTRY = "otter"
"""The node the task is submitted to. It manages the task, so it is not the one that is killed: a task does not outlive its manager yet."""
CREW = {
    ENTRY: ["pipeline"],
    "heron": ["collector", "quality", "transform"],
    "lynx": ["quality", "transform", "report"],
    "wren": ["collector", "transform", "report"],
}
KILLED_STEP = "transform"
LIMIT_S = 120.0
LOOK_EVERY_S = 0.02


def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Your own CSV file instead of the weather data.", show_default=False)] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the mesh that an earlier demo left up.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo's nodes and its report live.")] = Path("mesh-demo"),
    as_json: JsonOption = False,
) -> None:
    """A whole mesh on this machine: a real pipeline, one node killed on the way, and the proof."""
    where = Where(folder / "home", None, as_json)
    if stop:
        stopped = run(where, lambda: Crew(folder).stop())
        print(json.dumps({"schema": "mesh.demo-stop/1", "stopped": stopped}) if as_json else f"stopped {stopped} nodes")
        return
    source = data or Path(__file__).parent.parent.parent / "agents" / "data" / "weather.csv"
    if data is None and not source.is_file():
        import mesh_agents

        source = Path(next(iter(mesh_agents.__path__))) / "data" / "weather.csv"
    if not source.is_file():
        fail(UsageError(f"there is no file {str(source)!r}", fix="mesh demo --data FILE.csv"), as_json)
    document = run(where, lambda: Story(folder, source, quiet=as_json).play())
    if as_json:
        print(json.dumps(document))
    if not (document["reassigned"] and document["lineage_verified"]):
        raise typer.Exit(1)


class Story:
    """One run of the demo, from nothing to the proof."""

    def __init__(self, folder: Path, source: Path, *, quiet: bool) -> None:
        self._folder, self._source, self._quiet = folder, source, quiet
        self._crew = Crew(folder)
        self._started = time.monotonic()
        self._killed: str | None = None
        self._killed_at = 0.0
        self._recovery_s: float | None = None
        self._shown: dict[str, tuple[str, str]] = {}

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(f"{time.monotonic() - self._started:5.1f} s  {text}")

    async def play(self) -> dict[str, Any]:
        """Raises MeshError, with what to look at, if any part of it does not come true. The crew is stopped then, and after ``--json``."""
        keep = False
        try:
            with anyio.fail_after(LIMIT_S):
                document = await self._play()
            keep = not self._quiet
            return document
        except TimeoutError as error:
            raise TimedOut(f"the demo did not finish within {LIMIT_S:g} s", fix=f"look into {self._folder / 'logs'}") from error
        finally:
            if not keep:
                with anyio.CancelScope(shield=True):
                    await self._crew.stop()

    async def _play(self) -> dict[str, Any]:
        self._say(f"starting {len(CREW)} nodes: {', '.join(CREW)}")
        found_by = await self._crew.start(list(CREW))
        async with connect(home=self._crew.home, node=ENTRY, timeout_s=20) as mesh:
            await self._gather(mesh, found_by)
            task = await mesh.submit(
                "pipeline.run", source=File.of(self._source), title=self._source.stem.replace("_", " ").capitalize(), resamples=1000
            )
            self._say(f"submitted pipeline.run over {self._source.name} to {ENTRY}: task {short(task.id)}")
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow, mesh, task.id)
                answer = await mesh.result(task.id)
                group.cancel_scope.cancel()
            if answer["state"] != "done":
                raise MeshError(f"the pipeline {answer['state']}: {answer.get('error')}", fix=f"look into {self._folder / 'logs'}")
            await self._show_new(mesh, task.id)
            return await self._prove(mesh, task.id, answer["result"])

    async def _gather(self, mesh: Mesh, found_by: str) -> None:
        """Wait until all see each other, then start the workers and wait until their offers are known."""
        await self._until(mesh, "nodes", lambda document: sum(node["state"] == "alive" for node in document["nodes"]) == len(CREW))
        self._say(f"all {len(CREW)} found each other {found_by}; starting their agents")
        for node, agents in CREW.items():
            self._crew.work(node, agents)
        wanted = {(agent, node) for node, agents in CREW.items() for agent in agents}

        def all_offered(document: dict[str, Any]) -> bool:
            return wanted <= {tuple(offer.split("@", 1)) for cap in document["caps"] for offer in cap["offered_by"]}

        await self._until(mesh, "caps", all_offered)
        self._say("offered: " + ", ".join(sorted({cap["capability"] for cap in (await mesh.caps())["caps"]})))

    async def _until(self, mesh: Mesh, verb: str, done: Any) -> None:
        while not done(await getattr(mesh, verb)()):
            self._crew.check()
            await anyio.sleep(LOOK_EVERY_S)

    async def _follow(self, mesh: Mesh, task: str) -> None:
        """Show every change; kill the owner of the chosen step once it has begun to compute; note when another has it."""
        while True:
            for row in await self._show_new(mesh, task):
                if row["step"] == KILLED_STEP and row["state"] == "held" and row["owner"]:
                    await self._strike(row)
            await anyio.sleep(LOOK_EVERY_S)

    async def _strike(self, row: dict[str, Any]) -> None:
        if self._killed is None and row["progress"]:
            self._killed, self._killed_at = row["owner"], time.monotonic()
            pids = self._crew.kill(row["owner"])
            self._say(f"kill -9 {' '.join(map(str, pids))}: the node {row['owner']} and its worker, in the middle of '{KILLED_STEP}'")
        elif self._killed and row["owner"] != self._killed and self._recovery_s is None:
            self._recovery_s = time.monotonic() - self._killed_at
            self._say(f"'{KILLED_STEP}' runs again on {row['owner']}, {seconds(1000 * self._recovery_s)} after the kill")

    async def _show_new(self, mesh: Mesh, task: str) -> list[dict[str, Any]]:
        rows = [row for row in (await mesh.tasks())["tasks"] if row["parent"] == task]
        for row in sorted(rows, key=lambda row: row["age_ms"], reverse=True):
            now = (row["state"], row["owner"])
            if self._shown.get(row["step"]) != now and row["state"] in ("held", "done", "parked", "failed"):
                self._shown[row["step"]] = now
                doing = {"held": "awarded to", "done": "done by", "parked": "waits:", "failed": "failed on"}[row["state"]]
                self._say(f"{row['step']:<10} {doing} {clean(row['owner'] or row['reason'])}")
        return rows

    async def _prove(self, mesh: Mesh, task: str, result: dict[str, Any]) -> dict[str, Any]:
        report, chart = self._folder / "report.html", self._folder / "report.png"
        await mesh.get(result["report"]["$file"]["sha256"], report)
        await mesh.get(result["chart"]["$file"]["sha256"], chart)
        story = await mesh.story(task)
        lineage = lineage_view.document(task, story["entries"])
        source_hash = sha256_of(self._source)
        verified = lineage["verified"] and lineage["sources"] == [source_hash] and sha256_of(report) in lineage["made_by"]
        steps = [self._step(row, story["entries"]) for row in lineage["tasks"] if row["step"]]
        struck = next((step for step in steps if step["step"] == KILLED_STEP), None)
        document = {
            "schema": "mesh.demo/1",
            "nodes": len(CREW),
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

    @staticmethod
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

    def _tell(self, document: dict[str, Any], lineage: dict[str, Any], result: dict[str, Any]) -> None:
        print()
        for step in document["steps"]:
            print(f"{step['step']:<10} {step['agent']}@{step['by']:<6} by {step['way']}: {step['why']}")
            for lost in step["lost"]:
                print(f"{'':<10} before that on {document['killed']}: {lost['reason']}")
        print()
        print(lineage_view.show(lineage))
        home, task = self._crew.home, short(document["task"])
        print(f"\n{result['rows_kept']} of {result['rows_read']} rows, {result['summary_rows']} summary rows; report: {document['report']}")
        recovery = seconds(1000 * document["recovery_s"]) if document["recovery_s"] is not None else "-"
        verdict = "ok" if document["reassigned"] and document["lineage_verified"] else "NOT OK"
        print(
            f"{verdict}: {document['nodes']} nodes, {document['killed']} killed, its step running elsewhere after {recovery}, "
            f"lineage {'verified' if document['lineage_verified'] else 'NOT verified'}, {document['seconds']} s in all"
        )
        transform = next(short(step["task"]) for step in document["steps"] if step["step"] == KILLED_STEP)
        print("\nThe mesh is still up. Try:")
        for command in (f"why {transform}", f"lineage {task}", f"blame {document['report']}", "nodes --watch"):
            print(f"  mesh {command} --home {home} --node {ENTRY}")
        print(f"  mesh demo --stop{'' if self._folder == Path('mesh-demo') else f' --dir {self._folder}'}")
