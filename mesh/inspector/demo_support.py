"""`mesh demo support`: three messages to a help desk. One the documents answer, one is risky, one nobody has written anything about.

The last two wait for a person. While they do, the node that drives one of them is killed; the answers are given at another node.
"""

from __future__ import annotations

import json
import shlex
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from mesh.client import KEEP, Mesh, connect
from mesh.errors import UsageError
from mesh.files import sha256_of
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector.play import ENTRY, LIMIT_S, Document, Play, deeds, names_of, step_rows, verdict_row, verdicts
from mesh.inspector.render import clean, clean_lines, seconds, table

DESK = "wren"
"""Where the person sits: the gates are answered there. It drives nothing."""
PERSON_S = 3600.0
NOTE = "answered by mesh demo, in a person's place"
TICKETS = (
    "How do I take a machine out for a repair without losing the work that runs on it?",
    "One of our machines was stolen. What can a thief read on its disk? Our lawyer wants to know.",
    "Was kostet eine Lizenz für hundert Rechner, und bekommen wir eine Rechnung?",
)
STRUCK = 1
"""The ticket whose driver is killed: it waits for a person then."""
EDITED = {2: "Guten Tag,\n\nlanmesh kostet nichts: es steht unter der Lizenz Apache-2.0. Eine Rechnung gibt es daher nicht."}
"""What the person writes instead of a reply: of tickets that the documents do not answer."""


def handbook() -> Path:
    """The documents that ship with the ready-made agents. Raises UsageError."""
    folder = Path(str(files("mesh_agents"))) / "data" / "handbook"
    if not folder.is_dir():
        raise UsageError(f"{folder} is missing from this installation", fix="pip install --force-reinstall lanmesh")
    return folder


class Support(Play):
    """The help desk."""

    CREW: ClassVar[dict[str, list[str]]] = {
        ENTRY: ["triage", "knowledge"],
        "heron": ["support", "knowledge", "responder"],
        "lynx": ["support", "triage", "responder"],
        DESK: ["triage", "knowledge", "responder"],
    }

    def __init__(self, folder: Path, *, quiet: bool, mdns: bool, ask: bool) -> None:
        super().__init__(folder, quiet=quiet, mdns=mdns)
        self._ask = ask
        self.limit_s = LIMIT_S + PERSON_S * ask
        self._documents = handbook()
        self._recovery_s: float | None = None

    async def act(self, mesh: Mesh) -> Document:
        ingest = await mesh.submit("kb.ingest", folder=str(self._documents))
        made = await ingest.result()
        self._say(f"{made['documents']} documents, {made['passages']} passages: index {made['index'].sha256[:12]}...")
        tasks: list[str] = []
        for number, text in enumerate(TICKETS, 1):
            ticket = await mesh.submit("support.answer", ticket=text, index=made["index"])
            tasks.append(ticket.id)
            self._say(f"ticket {number}  {short(ticket.id)}  {text}")
        gates = await self._gates(mesh, tasks[1:])
        for task, gate in gates.items():
            self._say(f"ticket {tasks.index(task) + 1}  waits for a person: {clean(gate['question'])}")
        await self._strike(mesh, tasks[STRUCK])
        await self._person(gates, tasks)
        answers = [mesh.value_of(await mesh.result(task)) for task in tasks]
        return await self._prove(mesh, ingest.id, tasks, answers)

    async def _gates(self, mesh: Mesh, tasks: list[str]) -> dict[str, Document]:
        """Wait until each of these tasks waits at a gate."""
        wanted = set(tasks)
        found = await self._until(mesh.approvals, lambda document: wanted <= {gate["root"] for gate in document["gates"]})
        rows = {gate["root"]: gate for gate in found["gates"]}
        return {task: rows[task] for task in tasks}

    async def _strike(self, mesh: Mesh, task: str) -> None:
        """Kill who drives the task while it waits for a person, and wait until another node drives it on."""
        driver = (await mesh.task(task))["owner"]
        pids = self._kill(driver)
        self._say(f"KILLED    {driver}, which drives ticket {STRUCK + 1}: kill -9 {' '.join(map(str, pids))}")
        row = await self._until(
            lambda: mesh.task(task), lambda row: bool(row["owner"]) and row["owner"] != driver and row["state"] == "held"
        )
        self._recovery_s = time.monotonic() - self._killed_at
        self._say(f"ticket {STRUCK + 1}  goes on at {row['owner']}, {seconds(1000 * self._recovery_s)} after the kill")

    async def _person(self, gates: dict[str, Document], tasks: list[str]) -> None:
        """Say what a person would type; type it, unless a person shall."""
        async with connect(home=self._crew.home, node=DESK, timeout_s=20) as desk:
            for task, gate in gates.items():
                number = tasks.index(task)
                output = EDITED.get(number, KEEP)
                edit = f" --output {shlex.quote(json.dumps(output, ensure_ascii=False))}" if output is not KEEP else ""
                where = f"--home {shlex.quote(str(self._crew.home))} --node {DESK}"
                self._say(f"ticket {number + 1}  a person would type:  mesh approve {clean(gate['task'])} {where}{edit}")
                if not self._ask:
                    await desk.approve(gate["task"], note=NOTE, output=output)
                    self._say(
                        f"ticket {number + 1}  the demo has approved it itself, at {DESK}" + (", with a reply of its own" if edit else "")
                    )
            if self._ask:
                self._say("waiting for you; mesh deny instead of mesh approve withholds a reply")

    # ---- the proof

    async def _prove(self, mesh: Mesh, ingest: str, tasks: list[str], answers: list[Any]) -> Document:
        names = names_of(await mesh.nodes())
        tickets, lineages = [], []
        for text, task, answer in zip(TICKETS, tasks, answers):
            entries = (await mesh.story(task))["entries"]
            lineage = lineage_view.document(task, entries)
            lineages.append(lineage)
            done = {"steps": deeds(lineage, entries, names), "answers": verdicts(lineage, entries, names)}
            tickets.append({"ticket": text, "task": task, **answer, **done, "verified": lineage["verified"]})
        entries = (await mesh.story(ingest))["entries"]
        [indexed] = deeds(lineage_view.document(ingest, entries), entries, names)
        driven, *steps = tickets[STRUCK]["steps"]
        document = {
            "schema": "mesh.demo-support/1",
            "nodes": len(self.CREW),
            "found_by": self._found_by,
            "killed": self._killed,
            "reassigned": driven["attempts"] > 1 and driven["by"] != self._killed,
            "steps_kept": all(step["attempts"] == 1 for step in steps),
            "indexed": indexed,
            "tickets": tickets,
            "quotes_hold": all(self._holds(citation) for ticket in tickets for citation in ticket["citations"]),
            "lineage_verified": all(ticket["verified"] for ticket in tickets),
            "recovery_s": None if self._recovery_s is None else round(self._recovery_s, 3),
            "seconds": round(self._elapsed(), 2),
        }
        document["ok"] = all(document[fact] for fact in ("reassigned", "steps_kept", "quotes_hold", "lineage_verified"))
        if not self._quiet:
            self._tell(document, lineages)
        return document

    def _holds(self, citation: Document) -> bool:
        """Whether the quote stands in the document, and the document is the one that was cited."""
        path = self._documents / citation["document"]
        return path.is_file() and sha256_of(path) == citation["sha256"] and citation["quote"] in path.read_text()

    def _tell(self, document: Document, lineages: list[Document]) -> None:
        rows: list[tuple[str, ...]] = [("all", *row) for row in step_rows(document["indexed"])]
        for number, ticket in enumerate(document["tickets"], 1):
            sorted_as = f"{ticket['triage']['queue']}, {ticket['triage']['urgency']}, {ticket['triage']['language']}"
            asked = f"; a person was asked: {', '.join(ticket['escalated'])}" if ticket["escalated"] else ""
            print(f"\n--- ticket {number} ({sorted_as}{asked}): {ticket['state']}{', edited' if ticket['edited'] else ''}")
            print(clean_lines(ticket["reply"]))
            for name, sha256 in {citation["document"]: citation["sha256"] for citation in ticket["citations"]}.items():
                print(f"    sha256 {sha256}  {clean(name)}")
            rows += [(f"{number}", *row) for step in ticket["steps"] for row in step_rows(step)]
            rows += [(f"{number}", *verdict_row(answer)) for answer in ticket["answers"]]
        print("\nWho did what, and why (mesh why)\n" + table(("TICKET", "STEP", "BY", "WHY"), rows, empty=""))
        print(f"\nWhere the reply to ticket {STRUCK + 1} comes from (mesh lineage)\n" + lineage_view.show(lineages[STRUCK]))
        quotes = sum(len(ticket["citations"]) for ticket in document["tickets"])
        whose = f"{document['killed']} killed while ticket {STRUCK + 1} waited for a person"
        facts = [
            (True, f"{document['nodes']} nodes, {whose}"),
            (document["reassigned"] and document["steps_kept"], "another node drove it on, no finished step ran again"),
            (document["quotes_hold"], f"{quotes} quotes, each word for word in its document"),
            (document["lineage_verified"], f"lineage verified, {document['seconds']:.1f} s in all"),
        ]
        self._verdict(document, facts)
        task = short(document["tickets"][STRUCK]["task"])
        self._look_around(f"why {task}", f"lineage {task}", f"trace {task}", "nodes --watch")
