"""`mesh demo regulated`: two payouts that two others than their owner have to approve, and an audit by a program that shares no code.

The first is paid: the owner's own approval is refused; an approver is killed right after its word, which stands. In the second the account
to pay to is another one after both have approved: their approvals are void, and the next one who looks denies.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import anyio

import mesh as package
from mesh.client import Mesh, Task, connect
from mesh.errors import MeshError, NoSuchTask
from mesh.ids import short
from mesh.inspector import lineage as lineage_view
from mesh.inspector.play import ENTRY, Document, Play, deeds, names_of, step_rows, verdict_row, verdicts
from mesh.inspector.render import clean, clean_lines, table

KILLED, SECOND, THIRD = "wren", "heron", "lynx"
OWN_WORK = "own_work"
OWN_CHECK = "mesh verify"
SALE: Document = {"supplier": "Weaver & Sons", "item": "sensor", "quantity": 40}
CENTS_EACH, ACCOUNT, OTHER_ACCOUNT = 3100, "DE02 1203 0000 0000 2020 51", "DE02 5001 0517 0137 0750 30"
PAPERS: dict[str, Document] = {
    "order": SALE | {"cents_each": CENTS_EACH},
    "receipt": {key: SALE[key] for key in ("item", "quantity")},
    "invoice": SALE | {"number": "", "cents": SALE["quantity"] * CENTS_EACH, "pay_to": ACCOUNT},
}


class Regulated(Play):
    """The payouts."""

    CREW: ClassVar[dict[str, list[str]]] = {
        ENTRY: ["auditor"],
        SECOND: ["payout", "auditor"],
        THIRD: ["payout", "auditor"],
        KILLED: ["auditor"],
    }

    async def act(self, mesh: Mesh) -> Document:
        self._ledger = self._folder.absolute() / "ledger.sqlite"
        self._ledger.unlink(missing_ok=True)
        paid, own_work = await self._pay(mesh)
        void, stale = await self._void(mesh)
        return await self._prove(mesh, [paid, void], {"own_work": own_work, "stale_refused": stale})

    # ---- the runs

    async def _pay(self, mesh: Mesh) -> tuple[Task, str]:
        """The owner is refused, two others approve, one of whom dies. The task, and why the owner was refused."""
        task = await self._submit(mesh, self._case("INV-1"))
        gate = await self._gate(mesh, task)
        refused = ""
        try:
            await mesh.approve(gate["task"], note="my own work")
        except MeshError as error:
            refused = error.code
            self._say(f"refused    {ENTRY} to approve its own work ({error.code}): {clean(error.message)}")
        if refused != OWN_WORK:
            raise MeshError(
                f"the owner's own approval was not refused as {OWN_WORK}, but {refused or 'taken'}", fix=f"mesh why {gate['task']}"
            )
        await self._answer(KILLED, gate, "the papers match")
        pids = self._kill(KILLED)
        self._say(f"KILLED     {KILLED}, right after its word: kill -9 {' '.join(map(str, pids))}")
        kept = await self._gate(mesh, task)
        self._say(f"its word stands: {len(kept['said'])} of {kept['quorum']} have approved")
        await self._answer(SECOND, gate, "seen")
        self._say(f"payout     {(await task.result())['state']}")
        return task, refused

    async def _void(self, mesh: Mesh) -> tuple[Task, str]:
        """Both approve, and the invoice names another account meanwhile. The task, and why an answer to the earlier gate is refused."""
        case = self._case("INV-2")
        task = await self._submit(mesh, case)
        gate = await self._gate(mesh, task)
        await self._answer(SECOND, gate, "the papers match")
        invoice = json.loads((case / "invoice.json").read_text())
        (case / "invoice.json").write_text(json.dumps(invoice | {"pay_to": OTHER_ACCOUNT}))
        self._say(f"CHANGED    the invoice: it is to be paid to {OTHER_ACCOUNT} now")
        await self._answer(THIRD, gate, "the papers match")
        anew = await self._gate(mesh, task, other_than=gate["task"])
        self._say(f"void       both approvals: the gate asks anew, {len(anew['said'])} of {anew['quorum']} have approved these papers")
        stale = ""
        try:
            await self._answer(SECOND, gate, "again")
        except NoSuchTask as error:
            stale = error.code
            self._say(f"refused    an answer to the earlier gate ({error.code})")
        await self._answer(THIRD, anew, "another account than was approved", approve=False)
        self._say(f"payout     {(await task.result())['state']}")
        return task, stale

    def _case(self, number: str) -> Path:
        folder = self._folder.absolute() / "cases" / number
        folder.mkdir(parents=True, exist_ok=True)
        for name, paper in PAPERS.items():
            (folder / f"{name}.json").write_text(json.dumps(paper | ({"number": number} if name == "invoice" else {})))
        return folder

    async def _submit(self, mesh: Mesh, case: Path) -> Task:
        task = await mesh.submit("payout.run", case=str(case), ledger=str(self._ledger))
        self._say(f"submitted  payout.run of {case.name} at {ENTRY}: task {short(task.id)}")
        return task

    async def _gate(self, mesh: Mesh, task: Task, other_than: str = "") -> Document:
        """Wait until the task waits at a gate, another one than that."""

        def there(document: Document) -> bool:
            return any(gate["task"] != other_than for gate in document["gates"])

        document = await self._until(lambda: mesh.approvals(task.id), there)
        return next(gate for gate in document["gates"] if gate["task"] != other_than)

    async def _answer(self, node: str, gate: Document, note: str, *, approve: bool = True) -> None:
        async with connect(home=self._crew.home, node=node, timeout_s=20) as mesh:
            answer = await (mesh.approve if approve else mesh.deny)(gate["task"], note=note)
        said = sum(one["approve"] for one in answer["said"])
        self._say(f"{'approved' if approve else 'denied':<10} by {node}: {note}" + (f" ({said} of {gate['quorum']})" if approve else ""))

    # ---- the proof

    async def _prove(self, mesh: Mesh, tasks: list[Task], refused: dict[str, str]) -> Document:
        names = names_of(await mesh.nodes())
        payouts, lineages = [], []
        for task in tasks:
            entries = (await mesh.story(task.id))["entries"]
            lineage = lineage_view.document(task.id, entries)
            lineages.append(lineage)
            done = {"steps": deeds(lineage, entries, names), "answers": verdicts(lineage, entries, names)}
            payouts.append({"task": task.id, **await task.result(), **done, "verified": lineage["verified"]})
        with closing(sqlite3.connect(self._ledger)) as ledger:
            transfers = ledger.execute("SELECT key, cents FROM transfers").fetchall()
        document: Document = {
            "schema": "mesh.demo-regulated/1",
            "nodes": len(self.CREW),
            "found_by": self._found_by,
            "killed": self._killed,
            **refused,
            "word_stands": KILLED in [one["node"] for one in payouts[0]["answers"]] and payouts[0]["state"] == "paid",
            "voided": len(payouts[1]["voided"]) == 2 and payouts[1]["state"] == "denied",
            "paid_once": transfers == [(f"{tasks[0].id}/pay", PAPERS["invoice"]["cents"])],
            "payouts": payouts,
            "lineage_verified": all(payout["verified"] for payout in payouts),
            "audit": await self._audit(mesh, sum(len(payout["answers"]) for payout in payouts)),
            "seconds": round(self._elapsed(), 2),
        }
        facts = ("word_stands", "voided", "paid_once", "lineage_verified", "stale_refused")
        document["ok"] = refused["own_work"] == OWN_WORK and document["audit"]["good"] and all(document[fact] for fact in facts)
        if not self._quiet:
            self._tell(document, lineages)
        return document

    async def _audit(self, mesh: Mesh, answers: int) -> Document:
        """Have the manager's journal verified, written out: apart from this program where its source is at hand, else by its node alone."""
        export = self._folder.absolute() / "journal.export"
        own = await mesh.verify(export=export)
        script = Path(package.__file__).parent.parent / "scripts" / "verify"
        audit = {"export": str(export), "author": own["author"], "entries": own["entries"], "answers": answers}
        if not script.is_file():
            said = [f"{own['entries']} entries: every signature, link and hash holds" if own["ok"] else str(own["problem"])]
            return audit | {"by": OWN_CHECK, "said": said, "good": own["ok"], "found": "the journal is whole, by its node's own check"}
        done = await anyio.run_process([sys.executable, str(script), str(export), "--author", own["author"]], check=False)
        said = (done.stdout + done.stderr).decode().strip().splitlines()
        counted = any(line.strip().startswith(f"{answers} answers to gates, each signed") for line in said)
        return audit | {
            "by": str(script),
            "said": said,
            "good": own["ok"] and done.returncode == 0 and counted,
            "found": f"the audit found all {answers} answers signed",
        }

    def _tell(self, document: Document, lineages: list[Document]) -> None:
        rows: list[tuple[str, ...]] = []
        for number, payout in enumerate(document["payouts"], 1):
            print(f"\n--- payout {number}: {payout['state']}\n{clean_lines(payout['report']).strip()}")
            rows += [(f"{number}", *row) for step in payout["steps"] for row in step_rows(step)]
            rows += [(f"{number}", *verdict_row(answer)) for answer in payout["answers"]]
        print("\nWho did what, and why (mesh why)\n" + table(("PAYOUT", "STEP", "BY", "WHY"), rows, empty=""))
        print("\nWhere the payment comes from (mesh lineage)\n" + lineage_view.show(lineages[0]))
        self._tell_audit(document["audit"])
        facts = [
            (document["own_work"] == OWN_WORK, "the owner could not approve its own work"),
            (document["word_stands"], f"{document['killed']} was killed, its approval stood"),
            (document["voided"] and document["stale_refused"], "changed papers made two approvals void"),
            (document["paid_once"], "money left once"),
            (document["audit"]["good"], document["audit"]["found"]),
            (document["lineage_verified"], f"lineage verified, {document['seconds']:.1f} s in all"),
        ]
        self._verdict(document, facts)
        task = short(document["payouts"][0]["task"])
        self._look_around(f"lineage {task}", f"why {task}", f"task {task}", f"verify --export {document['audit']['export']}")

    def _tell_audit(self, audit: Document) -> None:
        own = "by its node; scripts/verify in its source does it without any code of mesh, and checks the answers, too"
        apart = own if audit["by"] == OWN_CHECK else "shares no code with mesh"
        print(f"\nThe journal of {ENTRY}, which managed both, verified by {clean(audit['by'])} ({apart})")
        for line in audit["said"]:
            print(f"  {clean(line)}")
