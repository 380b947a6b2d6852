"""What every demo has: a crew of nodes in a folder of its own, a clock beside each line, a verdict, an end.

Invariant: whatever a demo shows is read back from the mesh. If any part does not come true, and with ``--json``, no process is left.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anyio

from mesh.client import Mesh, connect
from mesh.errors import TimedOut
from mesh.inspector import why as why_view
from mesh.inspector.crew import Crew
from mesh.inspector.render import say

Document = dict[str, Any]

ENTRY = "otter"
"""The node that work is submitted to; it is not the one that is killed, since the demo looks at the mesh through it."""
LOOK_EVERY_S = 0.02
LIMIT_S = 180.0


class Play:
    """Plays once. A demo says who is in the crew (`CREW`: which agents each node runs) and what happens (`act`, `tell`)."""

    CREW: ClassVar[dict[str, list[str]]]
    limit_s = LIMIT_S

    def __init__(self, folder: Path, *, quiet: bool, mdns: bool) -> None:
        self._folder, self._quiet, self._mdns = folder, quiet, mdns
        self._crew = Crew(folder)
        self._started = time.monotonic()
        self._killed: str | None = None
        self._killed_at = 0.0
        self._found_by = ""

    async def act(self, mesh: Mesh) -> Document:
        """What happens once all are there; the demo's document. Raises MeshError if a part of it does not come true."""
        raise NotImplementedError

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(f"{self._elapsed():6.1f} s  {text}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    async def play(self) -> Document:
        """Raises MeshError, with what to look at, if any part does not come true; then, and with ``--json``, all processes are ended."""
        keep = False
        self._crew.take()
        try:
            if stopped := await self._crew.stop():
                self._say(f"stopped an earlier demo's {stopped} processes")
            with anyio.fail_after(self.limit_s):
                document = await self._play()
            keep = not self._quiet
            return document
        except TimeoutError as error:
            raise TimedOut(f"the demo did not finish within {self.limit_s:g} s", fix=f"look into {self._folder / 'logs'}") from error
        finally:
            if not keep:
                with anyio.CancelScope(shield=True):
                    stopped = await self._crew.stop()
                self._say(f"stopped all {stopped} processes of the demo")

    async def _play(self) -> Document:
        self._say(f"starting {len(self.CREW)} nodes: {', '.join(self.CREW)}")
        self._found_by = await self._crew.start(list(self.CREW), mdns=self._mdns)
        async with connect(home=self._crew.home, node=ENTRY, timeout_s=20) as mesh:
            await self._gather(mesh)
            return await self.act(mesh)

    async def _gather(self, mesh: Mesh) -> None:
        """Wait until all see each other, then start the workers and wait until their offers are known."""
        await self._until(mesh.nodes, lambda document: sum(node["state"] == "alive" for node in document["nodes"]) == len(self.CREW))
        self._say(f"all {len(self.CREW)} nodes found each other {self._found_by}")
        for node, agents in self.CREW.items():
            if agents:
                self._crew.work(node, agents)
        wanted = {(agent, node) for node, agents in self.CREW.items() for agent in agents}

        def all_offered(document: Document) -> bool:
            return wanted <= {tuple(offer.split("@", 1)) for cap in document["caps"] for offer in cap["offered_by"]}

        await self._until(mesh.caps, all_offered)
        self._say(f"{len(wanted)} agents attached; they offer {len((await mesh.caps())['caps'])} capabilities")

    async def _until(self, look: Callable[[], Any], done: Callable[[Document], bool]) -> Document:
        """Look again until it is true; the document in which it is."""
        while not done(document := await look()):
            self._crew.check()
            await anyio.sleep(LOOK_EVERY_S)
        return dict(document)

    def _kill(self, node: str) -> list[int]:
        """kill -9 this node and its worker; their pids."""
        self._killed, self._killed_at = node, time.monotonic()
        return self._crew.kill(node)

    def _verdict(self, document: Document, facts: list[tuple[bool, str]]) -> None:
        """What was shown, on stdout; and what was not true of it."""
        told = ",\n    ".join(fact if holds else f"NOT TRUE: {fact}" for holds, fact in facts)
        print(f"\n{'ok' if document['ok'] else 'NOT OK'}: {told}")

    def _look_around(self, *commands: str) -> None:
        """What to type next, on stdout."""
        print(f"\nThe mesh is still up. Look around:\n  export MESH_HOME={self._crew.home}")
        for command in commands:
            print(f"  mesh {command}")
        print(f"Stop it, from wherever you are:\n  mesh demo --stop --dir {shlex.quote(str(self._folder.absolute()))}")


# ---- who did what


def step_document(row: Document, entries: list[Document]) -> Document:
    """Of a row of the lineage: who did it, and why."""
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


def step_rows(step: Document) -> list[tuple[str, str, str]]:
    """The same as rows of a table: who lost it, then who did it."""
    name = step["step"] or step["capability"]
    rows = [(name, str(lost["node"]), "lost: " + lost["reason"]) for lost in step["lost"]]
    return [*rows, (name, f"{step['agent']}@{step['by']}", f"{step['why']}, by {step['way']}")]


def deeds(lineage: Document, entries: list[Document], names: dict[str, str]) -> list[Document]:
    """`step_document` of the task, then of each of its steps; not of waits, which nobody does. `names`: what nodes are called, by id."""
    own = [row for row in lineage["tasks"] if lineage["task"] in (row["task"], row["parent"]) and row["capability"] != why_view.WAIT]
    found = [step_document(row, entries) for row in sorted(own, key=lambda row: bool(row["parent"]))]
    return [step | {"lost": [lost | {"node": names.get(lost["node"], lost["node"])} for lost in step["lost"]]} for step in found]


def verdicts(lineage: Document, entries: list[Document], names: dict[str, str]) -> list[Document]:
    """Every answer to a gate of the task, in the order of the record."""
    gates = {
        row["task"]: row["step"].removeprefix("gate/").partition("~")[0] for row in lineage["tasks"] if row["capability"] == why_view.WAIT
    }
    return [
        {
            "gate": gates[entry["task"]],
            "task": entry["task"],
            "node": names.get(entry["node"], entry["node"]),
            "person": entry["person"],
            "approve": entry["approve"],
            "note": entry["note"],
            "verified": entry["verified"],
        }
        for entry in entries
        if entry["kind"] == "Answered" and entry["task"] in gates
    ]


def verdict_row(verdict: Document) -> tuple[str, str, str]:
    """The same as a row of that table."""
    said = "approved" if verdict["approve"] else "denied"
    return f"gate {verdict['gate']}", f"{verdict['person']}@{verdict['node']}", said + (f": {verdict['note']}" if verdict["note"] else "")


def names_of(document: Document) -> dict[str, str]:
    """What nodes are called, by id, of `Mesh.nodes`."""
    return {str(node["id"]): str(node["name"]) for node in document["nodes"]}
