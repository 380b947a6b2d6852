"""Read-only documents about this node, made of snapshots alone: what `status`, `nodes`, `caps` and `verify` show."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, UNREACHABLE, Row
from mesh.core.records.story import BadStory, Story, gathered, verify_story
from mesh.errors import Refused
from mesh.ids import OURS
from mesh.messages.membership import Offer
from mesh.runtime import clock
from mesh.runtime.caps import cap_of, disputes
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.vault import WEAK_KEK, WEAK_KEK_FIX, is_weak
from mesh.runtime.presiding import shown
from mesh.runtime.restored import WAITING
from mesh.runtime.trust.names import namer
from mesh.runtime.trust.trust_findings import trust_findings
from mesh.wire.codec import decode_entry
from mesh.wire.packing import Refusal

if TYPE_CHECKING:
    from mesh.runtime.app import NodeProcess

Document = dict[str, Any]

TWO_NODES = "with two nodes submitted work survives a restart of its node, not its loss: neither could know that the other is gone for good"


UPDATE_FIX = "install the version here that it was set with: pip install -U lanmesh"
OLD_COPY_FIX = "mesh audit, for what it did since; what others hold stays as it is: go on as another node, mesh up --name NAME"


class Views:
    """`table` maps a verb of the local socket to the function that answers it. None of them waits or changes anything."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self._started_s = clock.now_s()
        self.table: dict[str, Callable[[Document], Document | Awaitable[Document]]] = {
            "status": self.status,
            "nodes": self.nodes,
            "caps": self.caps,
            "statistics": self.statistics,
            "verify": self.verify,
        }

    async def coordinator(self, _: Document) -> Document:
        assembly = self._process.assembly
        return shown(assembly, clock.now_s(), namer(self._process.identity.keyring, assembly.directory.name_of))

    # ---- status

    def status(self, _: Document) -> Document:
        process, info = self._process, self._process.info
        findings = self._findings()
        discovery = process.discovery.statistics() if process.discovery else None
        journal = process.store.statistics()
        tasks = process.assembly.manager.statistics()
        contractor = process.assembly.contractor.statistics()
        states = dict.fromkeys((ALIVE, SUSPECT, UNREACHABLE, DEAD, LEFT), 0)
        for row in process.assembly.directory.rows():
            states[row.state] += 1
        return {
            "schema": "mesh.status/1",
            "node": info["name"],
            "id": info["node"],
            "pid": os.getpid(),
            "addr": info["door"],
            "mesh": info["mesh"][:16],
            "mesh_name": process.identity.credentials.name,
            "mode": process.identity.keyring.authorities.mode,
            "roles": list(process.identity.credentials.chain.last.roles),
            "expires_ms": process.identity.expires_ms,
            "incarnation": journal.incarnation,
            "uptime_s": round(clock.now_s() - self._started_s, 1),
            "workers": self._workers(stock=False),
            "stock": self._workers(stock=True),
            "nodes": states,
            "tasks": {name: getattr(tasks, name) for name in ("live", "waiting", "held", "done", "failed", "cancelled")},
            "policy": asdict(process.assembly.policies.statistics()),
            "gates": len(process.assembly.manager.waiting.rows(clock.now_s())),
            "draining": contractor.draining,
            "running": contractor.busy,
            "resources": {name: {"held": held / 1000, "total": total / 1000} for name, held, total in contractor.resources},
            "journal": {
                "entries": journal.seq + journal.queued,
                "synced": journal.seq,
                "commits": journal.commits,
                "unverified": journal.unverified,
                "commit_ms_max": journal.commit_ms_max,
            },
            "keepers": self._keepers(),
            "discovery": {
                "mdns": discovery is not None,
                "heard_self": bool(discovery and discovery.heard_self),
                "blocked": discovery.blocked if discovery else "",
            },
            "refusals": self._refusals(),
            "findings": findings,
            "notes": self._notes(),
            "healthy": not findings,
        }

    def _workers(self, *, stock: bool) -> list[Document]:
        """Those that somebody has started; or those that the node itself has, for what it offers by itself."""
        return [{"agent": one.agent, "pid": one.pid} for one in self._process.workers.attached() if one.stock is stock]

    def _keepers(self) -> Document:
        """Who keeps this node's journal, and what that is worth to its work."""
        process = self._process
        keeping, name_of = process.assembly.keepers.statistics(), process.assembly.directory.name_of
        return {
            "survives": process.assembly.manager.book.survives(),
            "leads": keeping.leads,
            "term": keeping.term,
            "keepers": [{"name": name_of(node), "node": node, "behind": dict(keeping.lag).get(node, 0)} for node in keeping.keepers],
            "kept": keeping.kept,
            "keeps_for": [name_of(author) for author, _, entries, _ in keeping.logs if entries],
            "takeovers": keeping.takeovers,
        }

    def _unguarded(self) -> str:
        """Why durable work has to wait for keepers; empty: it has not."""
        keeping, directory = self._process.assembly.keepers.statistics(), self._process.assembly.directory
        away = [directory.name_of(node) for node in keeping.keepers if (row := directory.get(node)) is None or not row.linked]
        if 2 * len(away) <= len(keeping.keepers):
            return ""
        return f"{' and '.join(away)} keep this node's journal and are away: without a majority of those who do, durable work waits"

    def _findings(self) -> list[dict[str, str]]:
        """What a person should know, each with the command that helps."""
        process = self._process
        found: list[tuple[str, str]] = []
        store = process.store.statistics()
        records = process.assembly.records.statistics()
        membership = process.assembly.membership.statistics()
        found += disputes(process.assembly.directory.rows())
        found += [
            (
                f"the rollout of {row['capability']} to {row['to']} was stopped by {row['by']}: {row['stopped']}",
                "mesh policy show; to begin anew: mesh policy set FILE",
            )
            for row in process.assembly.rolling.told()
            if row["stopped"]
        ]
        if store.failed:
            found.append((f"the journal cannot be written: {store.failed}", "mesh doctor"))
        if unread := process.assembly.policies.statistics().unread:
            found.append((f"version {unread} of the policy has keys that this node does not know: it keeps to an older one", UPDATE_FIX))
        if process.store.held:
            found.append((WAITING, "mesh nodes"))
        if store.shelf_damaged:
            damage = f"what this node keeps of others' journals is damaged on its disk, met {store.shelf_damaged} times: the others have it"
            found.append((damage, "sudo dmesg | grep -i error"))
        if away := self._unguarded():
            found.append((away, "start one of them again: mesh nodes"))
        if records.rolled_back:
            found.append((f"this node's journal is not what it was: {records.rolled_back}", OLD_COPY_FIX))
        found += [_forked(process.assembly.directory.name_of(node)) for node in records.forked if node != process.identity.node]
        if membership.clones_seen:
            found.append(("another process runs under this node's key: was its folder copied?", "mesh nodes"))
        if process.discovery is not None and process.discovery.statistics().blocked and not membership.linked:
            found.append(("multicast is blocked here, and no other node is linked", "mesh up --join 127.0.0.1:7710"))
        for node, off_ms in process.links.clocks.items():
            name = process.assembly.directory.name_of(node)
            found.append(
                (f"the clock of {name} differs from this one's by {off_ms / 1000:+.0f} s", "sudo timedatectl set-ntp true, on both")
            )
        found += [(error.message, error.fix) for error in process.warden.damage]
        found += trust_findings(process.identity, process.warden.renewal, process.links.turned_at, process.links.is_up, clock.wall_ms())
        return [{"message": message, "fix": fix} for message, fix in found]

    def _notes(self) -> list[dict[str, str]]:
        """What is allowed, and weaker than it could be: shown, and no reason to call the node unwell."""
        found: list[tuple[str, str]] = []
        alone = sum(row.state == ALIVE for row in self._process.assembly.directory.rows()) == 2
        if alone and not self._process.assembly.keepers.statistics().keepers:
            found.append((TWO_NODES, "with a third node it survives the loss of any one: mesh up --name NAME, or mesh invite"))
        if is_weak(self._process.vault.source):
            found.append((WEAK_KEK, WEAK_KEK_FIX))
        if poisonous := self._process.assembly.manager.statistics().poisonous:
            found.append((f"{poisonous} tasks took down three nodes each, and are given to nobody any more", "mesh tasks; mesh retry TASK"))
        if waiting := self._process.assembly.manager.statistics().retries_waiting:
            found.append((f"{waiting} retries wait their turn: more than a tenth of this node's work fails", "mesh tasks"))
        if accepted := self._process.store.statistics().rollback_accepted:
            found.append((f"this life went on with a journal that is not the newest: {accepted}", "mesh verify"))
        return [{"message": message, "fix": fix} for message, fix in found]

    def _refusals(self) -> dict[str, int]:
        links = self._process.links.statistics()
        total = dict(self._process.driver.refusals)
        counts = [links.refusals, links.door.refusals, links.dropped, self._process.local.statistics().refusals]
        if links.gate is not None:
            counts += [links.gate.zap.denied, links.gate.guard.cut, links.gate.refused_keys]
        for counted in counts:
            for reason, count in counted.items():
                total[reason] = total.get(reason, 0) + count
        return dict(sorted(total.items()))

    # ---- nodes, caps

    def nodes(self, _: Document) -> Document:
        directory = self._process.assembly.directory
        now_s = clock.now_s()
        return {"schema": "mesh.nodes/1", "nodes": [self._node(row, row.node == directory.me, now_s) for row in directory.rows()]}

    @staticmethod
    def _node(row: Row, is_self: bool, now_s: float) -> Document:
        seen_ms = 0 if is_self else None if row.stamp_at_s < 0 else round(1000 * (now_s - row.stamp_at_s))
        return {
            "name": row.name,
            "id": row.node,
            "state": row.state,
            "addr": row.door,
            "caps": sorted(name for name in row.offers if not name.startswith(OURS)),
            "self": is_self,
            "linked": row.linked,
            "revoked": row.revoked,
            "incarnation": row.incarnation,
            "seen_ms": seen_ms,
            "draining": row.draining,
            "labels": sorted({label for offer in row.offers.values() for kind in offer.labels for label in kind}),
            "breakers": {name: load.breaker for name, load in sorted(row.load.items()) if load.breaker},
        }

    def caps(self, params: Document) -> Document:
        """`all`: the mesh's own too, which every node offers by itself."""
        found: dict[str, list[tuple[Row, Offer]]] = {}
        for row in self._process.assembly.directory.rows():
            if row.state in (ALIVE, SUSPECT):
                for name, offer in row.offers.items():
                    if params.get("all") is True or not name.startswith(OURS):
                        found.setdefault(name, []).append((row, offer))
        rows = [cap_of(name, found[name]) for name in sorted(found)]
        if params.get("stats") is True:
            for cap in rows:
                cap["models"] = self._models(cap["capability"], found[cap["capability"]])
        return {"schema": "mesh.caps/1", "caps": rows}

    def _models(self, capability: str, offered: list[tuple[Row, Offer]]) -> list[Document]:
        """What is known of how each node does it: by its own word, and by what this node's awards have learned of it."""
        calibration, now_s, rows = self._process.assembly.manager.book.calibration, clock.now_s(), []
        for row, offer in offered:
            load, model = row.load.get(capability), calibration.model(now_s, row.node, capability)
            said = {name: getattr(load, name) for name in ("slots", "busy", "queued", "service_ms", "failing", "breaker")} if load else {}
            learned = {name: getattr(model, name) for name in ("served_ms", "of_expected_pct", "age_s")} if model else {}
            rows.append({"node": row.name, "id": row.node, "agent": offer.agent, **said, **learned})
        return rows

    # ---- the journal

    def story(self, body: Document) -> Document:
        """A packed story, every proof in it checked against the keys this node knows."""
        story = self._checked(body["story"])
        return {"entries": story.rows(), "more": story.more}

    def _checked(self, packed: bytes) -> Story:
        try:
            return verify_story(packed, self._process.keyring.open, decode_entry, (Refusal, ValueError))
        except BadStory as error:
            raise Refused(f"the answer is no story: {error}", fix="mesh doctor", code="bad_story") from error

    def audit(self, body: Document) -> Document:
        """Packed audit entries of one node or of all, every proof in them checked, oldest first."""
        stories = [self._checked(packed) for _, packed in body["pages"]]
        return gathered(stories, body["missing"], namer(self._process.identity.keyring, self._process.assembly.directory.name_of))

    async def verify(self, params: Document) -> Document:
        """Read the whole journal again and check it; export it if asked to."""
        return await anyio.to_thread.run_sync(self._verify, params.get("export"))

    def _verify(self, export_to: str | None) -> Document:
        document: Document = {"schema": "mesh.verify/1", "ok": True, "problem": "", "author": self._process.info["node"]}
        try:
            document |= self._process.store.examine(Path(export_to) if export_to else None)
        except OSError as error:
            raise Refused(f"cannot write {export_to}: {error.strerror}", fix="name a file that can be written", code="export") from error
        except StoreError as error:
            document |= {"ok": False, "problem": error.message, "fix": error.fix}
        records = self._process.assembly.records.statistics()
        document |= {"forks": records.forks, "rolled_back": records.rolled_back}
        document["witnesses"] = self._witnesses()
        if records.rolled_back and document["ok"]:
            document |= {"ok": False, "problem": records.rolled_back, "fix": OLD_COPY_FIX}
        return document

    def _witnesses(self) -> list[Document]:
        """Who has co-signed this node's journal, and up to which entry, furthest first; only what verifies here and now."""
        process, found = self._process, {}
        for signed in process.assembly.records.witnesses():
            try:
                body = process.keyring.open(signed.raw).body
            except Refusal:
                continue
            found[signed.author] = {"node": process.assembly.directory.name_of(signed.author), "id": signed.author, "entry": body.last}
        return sorted(found.values(), key=lambda row: (-row["entry"], row["node"]))

    # ---- the rest

    def statistics(self, _: Document) -> Document:
        """Every component's snapshot, for those who want it all."""
        process = self._process
        parts: dict[str, Any] = {
            "driver": process.driver,
            "store": process.store,
            "links": process.links,
            "blobs": process.blobs,
            "workers": process.workers,
            "stock": process.stock,
            "notices": process.notices,
            "local": process.local,
            "membership": process.assembly.membership,
            "trust": process.assembly.trust,
            "policies": process.assembly.policies,
            "records": process.assembly.records,
            "manager": process.assembly.manager,
            "contractor": process.assembly.contractor,
            "files": process.assembly.files,
            "desk": process.assembly.desk,
            "warden": process.warden,
        }
        return {"schema": "mesh.statistics/1", **{name: asdict(part.statistics()) for name, part in parts.items()}}


def _forked(name: str) -> tuple[str, str]:
    """What to say of another node of which there is proof that it signed two commits for one place of its journal."""
    what = f"{name} signed two different commits for one place in its journal (proof is kept)"
    return (
        f"{what}: it went on from an old copy, or its key is in two places",
        f"mesh audit --all: rollback_accepted by {name} explains it; if there is none, mesh revoke {name}",
    )
