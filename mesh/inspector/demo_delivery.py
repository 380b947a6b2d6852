"""`mesh demo delivery`: a program is built, tested, tried out and promoted, twice, by a flow that is data.

While the first is under way the node that drives it is killed; another drives it on. The second passes its tests and its canary, and
answers wrongly once it is current: its build leaves out a file that its tests had. The flow fails, and has undone what it did by then: the
former release is current again.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from mesh import File
from mesh.client import Mesh, connect
from mesh.errors import MeshError, UsageError
from mesh.files import sha256_of
from mesh.flows.spec import FLOW, Flow, document
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector.flow import show_run, shown
from mesh.inspector.flow_facts import read, run_of
from mesh.inspector.play import ENTRY, Document, Play, deeds, names_of, step_rows
from mesh.inspector.render import clean, seconds, table
from mesh.inspector.why import WAIT

PROJECT, CHANGE = "tally", "tally-1.1"
"""Version 1.0, and what is another in 1.1: in the data of the ready-made agents."""
FIRST, SECOND = "1.0", "1.1"
BUILD, PROMOTE, SMOKE = "build", "promote", "smoke"
OTHERS = ("heron", "lynx", "wren")


class Delivery(Play):
    """The two deliveries."""

    CREW: ClassVar[dict[str, list[str]]] = {ENTRY: [], **{name: ["delivery"] for name in OTHERS}}

    def __init__(self, folder: Path, *, quiet: bool, mdns: bool) -> None:
        super().__init__(folder, quiet=quiet, mdns=mdns)
        self._data = Path(str(files("mesh_agents"))) / "data"
        for needed in (self._data / "delivery.toml", self._data / PROJECT, self._data / CHANGE):
            if not needed.exists():
                raise UsageError(f"{needed} is missing from this installation", fix="pip install --force-reinstall lanmesh")
        self._flow: Flow = read(str(self._data / "delivery.toml"))[0]
        self._recovery_s: float | None = None
        self._before: dict[str, int] = {}
        self._told: dict[tuple[str, str], tuple[str, str]] = {}

    async def act(self, mesh: Mesh) -> Document:
        self._releases = self._folder.absolute() / "releases"
        self._project = self._folder.absolute() / PROJECT
        for folder in (self._releases, self._project):
            shutil.rmtree(folder, ignore_errors=True)
        await self._until(mesh.status, lambda document: document["keepers"]["survives"] == "node-loss")
        first = await self._submit(mesh, FIRST, PROJECT)
        driver = await self._strike(mesh, first)
        witness = next(name for name in self.CREW if name != driver)
        async with connect(home=self._crew.home, node=witness, timeout_s=20) as other:
            await self._driven_on(other, first, driver)
            await self._ended(other, first, FIRST)
            promoted = self._current()
            second = await self._submit(other, SECOND, CHANGE)
            await self._ended(other, second, SECOND)
            return await self._prove(other, [first, second], promoted)

    # ---- the run

    async def _submit(self, mesh: Mesh, version: str, change: str) -> str:
        """Put the change into the project's folder, and hand in its sources."""
        shutil.copytree(self._data / change, self._project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        sources = self._sources(version)
        wanted = json.loads((self._project / "acceptance.json").read_text())
        given = {"sources": File.of(sources), "samples": wanted["samples"], "known": wanted["known"], "releases": str(self._releases)}
        task = await mesh.submit(FLOW, spec=document(self._flow), input=given)
        self._say(f"{version}  submitted the flow {self._flow.name} over {sources.name}: task {short(task.id)}")
        return task.id

    def _sources(self, version: str) -> Path:
        """The project's folder as one file."""
        path = self._folder.absolute() / f"{PROJECT}-{version}.zip"
        with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
            for file in sorted(self._project.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(self._project))
        return path

    async def _strike(self, mesh: Mesh, task: str) -> str:
        """Kill who drives the flow while something is done and something runs; its name."""

        async def look() -> Document:
            rows = await self._steps(mesh, task, FIRST)
            return {row["step"]: row for row in rows} | {FLOW: await mesh.task(task)}

        def in_the_middle(found: Document) -> bool:
            """Somebody drives it, and the build is done; or it is too late."""
            built = BUILD in found and found[BUILD]["state"] == "done"
            return found[FLOW]["state"] in lineage_view.ENDED or bool(built and found[FLOW]["owner"])

        found = await self._until(look, in_the_middle)
        await self._copy(mesh, str(found[BUILD]["task"]), besides=str(found[FLOW]["owner"]))
        found = await look()
        flow = found.pop(FLOW)
        if flow["state"] in lineage_view.ENDED:
            raise MeshError(f"the first delivery was over before its driver could be killed: {flow['state']}", fix="mesh demo delivery")
        entries = (await mesh.story(task))["entries"]
        done = {step: row["task"] for step, row in found.items() if row["state"] == "done"}
        self._before = {step: _awards(step, entries) for step in done.values()}
        driver = str(flow["owner"])
        pids = self._kill(driver)
        self._say(f"KILLED  {driver}, which drives it: kill -9 {' '.join(map(str, pids))}")
        self._say(f"{FIRST}  was done by then: {', '.join(done)}; under way: {', '.join(sorted(set(found) - set(done)))}")
        return driver

    async def _copy(self, mesh: Mesh, build: str, *, besides: str) -> None:
        """What was built is on another node, too, before one is killed: files are not kept twice by themselves."""
        archive = (await mesh.result(build, timeout_s=20))["result"]["archive"]["$file"]["sha256"]
        spare = next(name for name in self.CREW if name != besides)
        async with connect(home=self._crew.home, node=spare, timeout_s=20) as other:
            await other.get(archive, self._folder.absolute() / "copy.pyz")

    async def _driven_on(self, mesh: Mesh, task: str, driver: str) -> None:
        async def row() -> Document:
            return next((dict(row) for row in (await mesh.tasks())["tasks"] if row["task"] == task), {"owner": ""})

        found = await self._until(row, lambda found: found["owner"] not in ("", driver))
        self._recovery_s = time.monotonic() - self._killed_at
        self._say(f"{FIRST}  is driven on by {found['owner']}, {seconds(1000 * self._recovery_s)} after the kill")

    async def _ended(self, mesh: Mesh, task: str, version: str) -> None:
        """Tell its steps until it has ended, however."""

        async def row() -> Document:
            await self._steps(mesh, task, version)
            return next((dict(row) for row in (await mesh.tasks())["tasks"] if row["task"] == task), {"state": ""})

        found = await self._until(row, lambda found: found["state"] in lineage_view.ENDED)
        await self._steps(mesh, task, version)
        self._say(f"{version}  {found['state']}; current is {self._current() or 'nothing'}")

    async def _steps(self, mesh: Mesh, task: str, version: str) -> list[Document]:
        """The rows of its steps; what is new in them is told."""
        rows = [row for row in (await mesh.tasks())["tasks"] if row["parent"] == task and row["capability"] != WAIT]
        for row in sorted(rows, key=lambda row: row["age_ms"], reverse=True):
            now = (str(row["state"]), str(row["owner"]))
            if row["state"] in ("held", *lineage_view.ENDED) and self._told.get((task, row["step"])) != now:
                self._told[task, row["step"]] = now
                doing = {"held": "runs on", "done": "done by"}.get(row["state"], f"{row['state']} on")
                self._say(f"{version}  {clean(row['step']):<12} {doing} {clean(row['owner'])}")
        return rows

    def _current(self) -> str:
        link = self._releases / "current"
        return link.resolve().name if link.exists() else ""

    # ---- the proof

    async def _prove(self, mesh: Mesh, tasks: list[str], promoted: str) -> Document:
        names = names_of(await mesh.nodes())
        deliveries: list[Document] = []
        lineages: list[Document] = []
        for version, task in zip((FIRST, SECOND), tasks):
            run, answer = await run_of(mesh, task), await mesh.result(task)
            lineage = lineage_view.document(task, run.entries)
            lineages.append(lineage)
            found = {
                "version": version,
                "task": task,
                "state": answer["state"],
                "result": answer.get("result"),
                "error": answer.get("error"),
            }
            found |= {"flow": shown(run), "steps": deeds(lineage, run.entries, names), "verified": lineage["verified"]}
            deliveries.append(found)
            if task == tasks[0]:
                kept = {step: _awards(step, run.entries) for step in self._before} == self._before
        current = self._releases / "current"
        lineage, driven = lineages[0], deliveries[0]["steps"][0]
        sources = self._folder.absolute() / f"{PROJECT}-{FIRST}.zip"
        states = [{step["step"]: step["state"] for step in one["flow"]["steps"]} for one in deliveries]
        result: Document = {
            "schema": "mesh.demo-delivery/1",
            "nodes": len(self.CREW),
            "found_by": self._found_by,
            "killed": self._killed,
            "reassigned": driven["attempts"] > 1 and driven["by"] != self._killed,
            "steps_kept": bool(self._before) and kept,
            "promoted": deliveries[0]["state"] == "done"
            and bool(promoted)
            and (deliveries[0]["result"] or {})["output"]["release"] == promoted,
            "rolled_back": (states[1][SMOKE], states[1][PROMOTE]) == ("failed", "undone") and self._current() == promoted,
            "deliveries": deliveries,
            "current": str(current),
            "current_release": self._current(),
            "current_sha256": sha256_of(current) if current.exists() else "",
            "source_sha256": sha256_of(sources),
            "recovery_s": None if self._recovery_s is None else round(self._recovery_s, 3),
            "seconds": round(self._elapsed(), 2),
        }
        result["lineage_verified"] = all(one["verified"] for one in deliveries) and self._comes_from(lineage, result)
        facts = ("reassigned", "steps_kept", "promoted", "rolled_back", "lineage_verified")
        result["ok"] = all(result[fact] for fact in facts)
        if not self._quiet:
            self._tell(result, lineage)
        return result

    def _comes_from(self, lineage: Document, result: Document) -> bool:
        """Whether the bytes that are current were made by the build, of the sources and nothing else."""
        maker = next((row for row in lineage["tasks"] if row["step"] == BUILD), None)
        if maker is None or lineage["sources"] != [result["source_sha256"]]:
            return False
        return bool(maker["files_in"] == [result["source_sha256"]] and maker["files_out"] == [result["current_sha256"]])

    def _tell(self, result: Document, lineage: Document) -> None:
        rows: list[tuple[str, ...]] = []
        for one in result["deliveries"]:
            print(f"\n--- {PROJECT} {one['version']} (mesh flow show {short(one['task'])})\n{show_run(one['flow'])}")
            if one["error"]:
                print(clean(str(one["error"].get("message", one["error"]))))
            rows += [(one["version"], *row) for step in one["steps"] for row in step_rows(step)]
        print("\nWho did what, and why (mesh why)\n" + table(("VERSION", "STEP", "BY", "WHY"), rows, empty=""))
        print("\nWhere the current release comes from (mesh lineage)\n" + lineage_view.show(lineage))
        print(f"\nCurrent is {clean(result['current_release'])}: python3 {clean(result['current'])} < TEXT")
        facts: list[tuple[Any, str]] = [
            (True, f"{result['nodes']} nodes, {result['killed']} killed while it drove the first delivery"),
            (result["reassigned"] and result["steps_kept"], "another node drove it on, no finished step ran again"),
            (result["promoted"], f"{FIRST} was promoted"),
            (result["rolled_back"], f"{SECOND} failed its smoke, and {FIRST} is current again"),
            (result["lineage_verified"], f"what is current was built of its sources: lineage verified, {result['seconds']:.1f} s in all"),
        ]
        self._verdict(result, [(bool(holds), fact) for holds, fact in facts])
        first, second = (short(one["task"]) for one in result["deliveries"])
        self._look_around(f"flow show {second}", f"why {first}", f"lineage {first}", f"blame {result['current']}")


def _awards(task: str, entries: list[Document]) -> int:
    """How often this work was given to somebody, as far as the record goes."""
    return sum(entry["kind"] == "Decided" and entry["task"] == task for entry in entries)
