"""What the four demos have done, with the same agents on the same nodes, for somebody who asks again; and what is wrong with how it ends.

Each round is work of its own: a folder, keys and papers with the round's number.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from killing.arena import Arena
from mesh import File
from mesh.errors import NoSuchTask, Refused
from mesh.files import sha256_of
from mesh.flows.spec import FLOW, document
from mesh.inspector import demo_delivery, demo_regulated, demo_support, lineage, story
from mesh.inspector.flow_facts import read

DATA = Path(demo_support.handbook()).parent
RESAMPLES = 300
Answer = dict[str, Any]

STORY_TRIES, STORY_AGAIN_S = 50, 0.2


class Work:
    """Done once. `roots`: the tasks that were acknowledged; `said`: each answer to a gate that was, as (gate, node, approved)."""

    CREW: ClassVar[dict[str, list[str]]]

    def __init__(self, arena: Arena, number: int) -> None:
        self.arena, self.number = arena, number
        self.folder = arena.folder / f"round-{number}"
        self.folder.mkdir(exist_ok=True)
        self.roots: list[str] = []
        self.said: list[tuple[str, str, bool]] = []
        self.effects: dict[str, str] = {}
        """Task -> its sort, as `kills_judge.effects` names them."""

    async def run(self) -> list[str]:
        """What is wrong with how it ended."""
        raise NotImplementedError

    async def submit(self, key: str, capability: str, **arguments: Any) -> str:
        made = await self.arena.ask(
            lambda m: m.options(key=f"{self.number}/{key}").submit(capability, **arguments), self.arena.entry, what=f"submit {capability}"
        )
        self.roots.append(made.id)
        self.arena.say("submitted", made.id)
        return str(made.id)

    async def gate(self, task: str, other_than: str = "") -> Answer:
        """The gate at which it waits, once it does."""

        async def look(m: Any) -> Answer:
            for one in [each for each in (await m.approvals(task))["gates"] if each["for"] == "people"]:
                if one["task"] != other_than:
                    return dict(one)
            raise Refused("it waits at no gate yet", fix="", code="no gate yet")

        found: Answer = await self.arena.ask(look, what=f"the gate of {task}")
        self.arena.say("asked", task)
        return found

    async def answer(self, node: str, gate: Answer, *, approve: bool = True, **how: Any) -> None:
        """As the person at that node; again, if nobody has acknowledged it. What was acknowledged has to be on record."""

        async def say(m: Any) -> None:
            try:
                await (m.approve if approve else m.deny)(gate["task"], note="looked at", **how)
            except NoSuchTask:
                if (gate["task"], self.arena.ids[node]) not in await self.words(m, gate["parent"]):
                    raise  # else it came through, was the last that was needed, and what acknowledged it did not come

        await self.arena.ask(say, node, what=f"the answer of {node} to {gate['task']}")
        self.said.append((gate["task"], node, approve))
        self.arena.say("answered", gate["task"])

    async def words(self, m: Any, task: str) -> set[tuple[str, str]]:
        """(gate, node) of every answer to gates of that task that is on record."""
        return {(one["task"], one["node"]) for one in (await m.story(task))["entries"] if one["kind"] == "Answered"}


class Pipeline(Work):
    CREW = story.Story.CREW

    async def run(self) -> list[str]:
        source = DATA / "weather.csv"
        task = await self.submit("run", "pipeline.run", source=File.of(source), title="Weather", resamples=RESAMPLES)
        ended = await self.arena.result(task)
        if ended["state"] != "done":
            return [f"the pipeline ended {ended}"]
        report, found = self.folder / "report.html", ended["result"]
        await self.arena.ask(lambda m: m.get(found["report"]["$file"]["sha256"], report), what="the report's bytes")
        come = lineage.document(task, (await self.arena.ask(lambda m: m.story(task)))["entries"])
        for _ in range(STORY_TRIES):  # who was killed has a part of it, and may not have been asked yet
            if come["sources"]:
                break
            await asyncio.sleep(STORY_AGAIN_S)
            come = lineage.document(task, (await self.arena.ask(lambda m: m.story(task)))["entries"])
        return [
            wrong
            for wrong, holds in {
                f"rows: {found['rows_read']} read, {found['rows_kept']} kept": found["rows_kept"] == found["rows_read"] > 2900,
                f"the report comes from {come['sources']}": come["sources"] == [sha256_of(source)],
                "nobody has made the report": sha256_of(report) in come["made_by"],
            }.items()
            if not holds
        ]


class Support(Work):
    CREW = demo_support.Support.CREW

    async def run(self) -> list[str]:
        arena, wrong = self.arena, []
        ingest = await self.submit("ingest", "kb.ingest", folder=str(demo_support.handbook()))
        index = arena.clients[arena.entry].value_of(await arena.result(ingest))["index"]
        tickets = [await self.submit(f"ticket {i}", "support.answer", ticket=t, index=index) for i, t in enumerate(demo_support.TICKETS)]
        for number, task in enumerate(tickets[1:], 1):
            edit = {"output": demo_support.EDITED[number]} if number in demo_support.EDITED else {}
            await self.answer(demo_support.DESK, await self.gate(task), **edit)
        for number, task in enumerate(tickets):
            ended = await arena.result(task)
            value = ended.get("result") or {}
            if (ended["state"], value.get("state")) != ("done", "sent") or value["edited"] != (number in demo_support.EDITED):
                wrong.append(f"ticket {number + 1} ended {ended}")
            elif number in demo_support.EDITED and value["reply"] != demo_support.EDITED[number]:
                wrong.append(f"the reply to ticket {number + 1} is not what was approved")
            for quote in value.get("citations", ()):
                path = demo_support.handbook() / quote["document"]
                if quote["sha256"] != sha256_of(path) or quote["quote"] not in path.read_text():
                    wrong.append(f"ticket {number + 1} quotes {quote['document']}, which does not say so")
        return wrong


class Regulated(Work):
    CREW = demo_regulated.Regulated.CREW

    async def run(self) -> list[str]:
        self.bank = self.folder / "bank.sqlite"
        wrong, first = await self._paid()
        wrong += await self._void()
        self.effects[first] = "work.keyed"
        with closing(sqlite3.connect(self.bank)) as bank:
            transfers = bank.execute("SELECT key, cents FROM transfers").fetchall()
        if transfers != [(f"{first}/pay", demo_regulated.PAPERS["invoice"]["cents"])]:
            wrong.append(f"the bank has {transfers}")
        return wrong

    async def _paid(self) -> tuple[list[str], str]:
        case, _ = self._case("INV-1")
        task = await self.submit("INV-1", "payout.run", case=str(case), ledger=str(self.bank))
        gate = await self.gate(task)
        for node in (demo_regulated.KILLED, demo_regulated.SECOND):
            await self.answer(node, gate)
        ended = await self.arena.result(task)
        paid = ended["state"] == "done" and ended["result"]["state"] == "paid"
        by = sorted(one["node"] for one in ended["result"]["by"]) if paid else []
        if not paid or by != sorted(self.arena.ids[node] for node in (demo_regulated.KILLED, demo_regulated.SECOND)):
            return [f"the first payout ended {ended}"], task
        return [], task

    async def _void(self) -> list[str]:
        case, invoice = self._case("INV-2")
        task = await self.submit("INV-2", "payout.run", case=str(case), ledger=str(self.bank))
        gate = await self.gate(task)
        await self.answer(demo_regulated.SECOND, gate)
        invoice.write_text(json.dumps(json.loads(invoice.read_text()) | {"pay_to": demo_regulated.OTHER_ACCOUNT}))
        await self.answer(demo_regulated.THIRD, gate)
        anew = await self.gate(task, other_than=gate["task"])
        await self.answer(demo_regulated.THIRD, anew, approve=False)
        ended = await self.arena.result(task)
        value = ended.get("result") or {}
        if (ended["state"], value.get("state")) != ("done", "denied") or len(value["voided"]) != 2 or value["transfer"]:
            return [f"the second payout ended {ended}"]
        return []

    def _case(self, number: str) -> tuple[Path, Path]:
        folder = self.folder / number
        folder.mkdir(exist_ok=True)
        for name, paper in demo_regulated.PAPERS.items():
            (folder / f"{name}.json").write_text(json.dumps(paper | ({"number": number} if name == "invoice" else {})))
        return folder, folder / "invoice.json"


class Delivery(Work):
    CREW = demo_delivery.Delivery.CREW

    async def run(self) -> list[str]:
        self.releases = self.folder / "releases"
        first = await self._deliver(demo_delivery.FIRST, demo_delivery.PROJECT)
        if first["state"] != "done":
            return [f"the first delivery ended {first}"]
        release = first["result"]["output"]["release"]
        wrong = [] if self._current() == release else [f"{release} was promoted, and {self._current() or 'nothing'} is current"]
        second = await self._deliver(demo_delivery.SECOND, demo_delivery.CHANGE)
        message = (second.get("error") or {}).get("message", "")
        if second["state"] != "failed" or "'smoke' failed" not in message or "undone: promote" not in message or "NOT undone" in message:
            wrong.append(f"the second delivery ended {second}")
        if self._current() != release:
            wrong.append(f"the second was rolled back, and {self._current() or 'nothing'} is current in place of {release}")
        for row in self.arena.rows.values():
            if row["parent"] in self.roots and row["capability"] in ("ci.promote", "ci.roll_back"):
                self.effects[row["task"]] = "work.keyed"
        return wrong

    async def _deliver(self, version: str, change: str) -> Answer:
        project = self.folder / demo_delivery.PROJECT
        shutil.copytree(DATA / change, project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        sources = self.folder / f"{demo_delivery.PROJECT}-{version}.zip"
        with zipfile.ZipFile(sources, "w", strict_timestamps=False) as archive:
            for file in sorted(path for path in project.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(project))
        wanted = json.loads((project / "acceptance.json").read_text())
        given = {"sources": File.of(sources), "samples": wanted["samples"], "known": wanted["known"], "releases": str(self.releases)}
        task = await self.submit(version, FLOW, spec=document(read(str(DATA / "delivery.toml"))[0]), input=given)
        try:
            return await self.arena.result(task)
        finally:
            self.arena.say("done", task)

    def _current(self) -> str:
        link = self.releases / "current"
        return link.resolve().name if link.exists() else ""


WORKS: dict[str, type[Work]] = {"pipeline": Pipeline, "support": Support, "regulated": Regulated, "delivery": Delivery}
