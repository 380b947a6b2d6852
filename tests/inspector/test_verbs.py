"""Every verb in every situation: it works, there is nothing, there is no node, the node hangs. Text and JSON, exit code and form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.inspector import enrolment, logs, shell
from mesh.inspector.verbs import verbs

ERROR = {"schema": str, "code": str, "message": str, "fix": str}
NONE = "0" * 64
NO_TASK = "aaaaaaaa.1.1"
SITUATIONS = ("ok", "empty", "no node", "timeout")


@dataclass(frozen=True)
class Case:
    """A command line (with {task}, {file}, {hash} filled in), its exit code, and the JSON fields it must have."""

    words: str
    code: int
    shape: dict[str, Any] | None = None


WORKER = {"agent": str, "pid": int}
NODE = {"name": str, "id": str, "state": str, "addr": str, "caps": list}
STATUS = {"node": str, "id": str, "pid": int, "addr": str, "workers": [WORKER], "healthy": bool, "findings": [], "notes": []}
TASK = {"task": str, "capability": str, "state": str, "owner": str, "fence": int, "attempts": int}
HOST = {"host": str, "state": str, "changed": list, "node": str, "message": str, "fix": str}
SERVICE = {"units": [{"unit": str, "path": str, "state": str, "pid": int, "runs": str}], "changed": list, "note": str, "type": list}
FLEET = {"name": str, "id": str, "state": str, "draining": bool, "busy": int, "slots": int, "coordinator": bool}
REFUSED = 5
ELSEWHERE = "tests/inspector/test_enrol.py runs it"
STEERED = "tests/inspector/test_flows.py runs it"
GATED = "tests/inspector/test_gates.py runs it"
MEMBER = {"name": str, "id": str, "home": str, "roles": list, "offers": list, "requests": list, "expires": str}
TRUST = {
    "mesh": str,
    "name": str,
    "mode": str,
    "home": str,
    "admits": bool,
    "root": bool,
    "members": [MEMBER],
    "waiting": [],
    "revoked": [],
}
IDENTITY = {"mesh": str, "name": str, "mode": str, "home": str, "roles": list, "expires": str, "path": str, "nodes": [], "past": []}
BACKUP = {"file": str, "node": str, "id": str, "entries": int, "files": int, "bytes": int, "key": bool, "kek": str}
PLAN = {"flow": str, "steps": [{"step": str, "uses": str, "candidates": list, "parked": bool}], "makespan_s": float, "unknown": list}
FLOW = {"task": str, "flow": str, "state": str, "steps": [{"step": str, "state": str, "uses": str, "nodes": list, "tries": int}]}
SIM = {
    "what": str,
    "name": str,
    "state": str,
    "makespan_ms": {"median": float, "least": float, "most": float},
    "capabilities": [{"capability": str, "tasks": int, "busy": float}],
    "nodes": [{"node": str, "slots": int, "busy": float}],
    "critical": [{"step": str, "waited_ms": float, "ran_ms": float}],
    "notes": [],
}
FLOW_FILE = """flow = "polite"
input = { name = "string" }

[[step]]
id = "greet"
uses = "greet"
with = { name = "$input.name" }
"""
TABLE: dict[str, dict[str, Case | str]] = {
    "demo": {
        "ok": "tests/stories/test_demo.py runs it",
        "empty": Case("demo --stop --dir {nobody}", 0, {"stopped": int}),
        "no node": "it brings its own",
        "timeout": "its bound is tested with it",
    },
    "run": {
        "ok": "tests/stories/test_stories.py runs it",
        "empty": Case("run nowhere.py", 2),
        "no node": "it starts one",
        "timeout": Case("run nowhere.py", 2),
    },
    "up": {
        "ok": "the fixtures run it",
        "empty": Case("up --name otter", REFUSED),
        "no node": "it starts one",
        "timeout": Case("up --name lynx --detach", REFUSED),
    },
    "init": {
        "ok": ELSEWHERE,
        "empty": ELSEWHERE,
        "no node": ELSEWHERE,
        "timeout": ELSEWHERE,
    },
    "invite": {
        "ok": Case("invite --ttl 2h --role worker --offer ocr.*", 0, {"token": str, "expires": str, "roles": list}),
        "empty": Case("invite", REFUSED),
        "no node": Case("invite", 3),
        "timeout": Case("invite", 4),
    },
    "join": {
        "ok": ELSEWHERE,
        "empty": Case("join nonsense", 2),
        "no node": Case("join nonsense", 2),
        "timeout": Case("join --ask 127.0.0.1:1", 4),
    },
    "launch": {
        "ok": Case("launch nas --ssh /no/such/ssh", 1, {"hosts": [HOST]}),
        "empty": Case("launch nas", REFUSED),
        "no node": Case("launch nas", 3),
        "timeout": Case("launch nas", 4),
    },
    "service": {
        "ok": Case("service show", 0, SERVICE),
        "empty": Case("service", 0, SERVICE),
        "no node": Case("service show", 0, SERVICE),
        "timeout": "nothing here waits for a node",
    },
    "drain": {
        "ok": Case("drain --undo", 0, {"node": str, "draining": bool, "running": int}),
        "empty": Case("drain --undo", 0, {"node": str, "draining": bool, "running": int}),
        "no node": Case("drain", 3),
        "timeout": Case("drain", 4),
    },
    "down": {"ok": "the fixtures run it", "empty": Case("down --node nope", 3), "no node": Case("down", 3), "timeout": Case("down", 4)},
    "call": {
        "ok": Case("call greet name=Bob", 0, {"capability": str, "result": str}),
        "empty": Case("call greet name=Bob", REFUSED),
        "no node": Case("call greet name=Bob", 3),
        "timeout": Case("call greet name=Bob", 4),
    },
    "submit": {
        "ok": Case("submit greet name=Bob", 0, {"task": str, "survives": str}),
        "empty": Case("submit greet name=Bob", 0, {"task": str, "survives": str}),
        "no node": Case("submit greet name=Bob", 3),
        "timeout": Case("submit greet name=Bob", 4),
    },
    "result": {
        "ok": Case("result {task}", 0, {"task": str, "state": str, "result": str}),
        "empty": Case(f"result {NO_TASK}", REFUSED),
        "no node": Case(f"result {NO_TASK}", 3),
        "timeout": Case(f"result {NO_TASK}", 4),
    },
    "cancel": {
        "ok": Case("cancel {task}", 0, {"task": str, "state": str}),
        "empty": Case(f"cancel {NO_TASK}", REFUSED),
        "no node": Case(f"cancel {NO_TASK}", 3),
        "timeout": Case(f"cancel {NO_TASK}", 4),
    },
    "retry": {
        "ok": Case("retry {failed}", 0, {"task": str, "survives": str}),
        "empty": Case(f"retry {NO_TASK}", REFUSED),
        "no node": Case(f"retry {NO_TASK}", 3),
        "timeout": Case(f"retry {NO_TASK}", 4),
    },
    "get": {
        "ok": Case("get {hash} -o {out}", 0, {"sha256": str, "path": str, "size": int}),
        "empty": Case(f"get {NONE} -o {{out}}", REFUSED),
        "no node": Case(f"get {NONE} -o {{out}}", 3),
        "timeout": Case(f"get {NONE} -o {{out}}", 4),
    },
    "flow run": {
        "ok": Case("flow run {flow} name=Ann", 0, {"task": str, "survives": str, "flow": str}),
        "empty": Case("flow run {file}", 2),
        "no node": Case("flow run {flow} name=Ann", 3),
        "timeout": Case("flow run {flow} name=Ann", 4),
    },
    "flow check": {
        "ok": Case("flow check {flow}", 0, {"ok": bool, "flow": str, "steps": int, "warnings": [], "against_offers": bool}),
        "empty": Case("flow check {flow}", 0, {"ok": bool, "warnings": [str]}),
        "no node": Case("flow check {flow}", 0, {"against_offers": bool}),
        "timeout": Case("flow check {flow}", 4),
    },
    "flow plan": {
        "ok": Case("flow plan {flow} name=Ann", 0, PLAN),
        "empty": Case("flow plan {flow}", 0, PLAN),
        "no node": Case("flow plan {flow}", 3),
        "timeout": Case("flow plan {flow}", 4),
    },
    "flow graph": {
        "ok": Case("flow graph {flow_task}", 0, {"flow": str, "form": str, "states": dict, "text": str}),
        "empty": Case(f"flow graph {NO_TASK}", REFUSED),
        "no node": Case("flow graph {flow} --dot", 0, {"text": str}),
        "timeout": Case(f"flow graph {NO_TASK}", 4),
    },
    "flow show": {
        "ok": Case("flow show {flow_task}", 0, FLOW),
        "empty": Case(f"flow show {NO_TASK}", REFUSED),
        "no node": Case(f"flow show {NO_TASK}", 3),
        "timeout": Case(f"flow show {NO_TASK}", 4),
    },
    "flow list": {
        "ok": Case("flow list", 0, {"flows": [{"task": str, "flow": str, "state": str, "driver": str, "age_ms": int}], "missing": []}),
        "empty": Case("flow list", 0, {"flows": [], "missing": []}),
        "no node": Case("flow list", 3),
        "timeout": Case("flow list", 4),
    },
    "flow pause": {
        "ok": STEERED,
        "empty": Case(f"flow pause {NO_TASK}", REFUSED),
        "no node": Case(f"flow pause {NO_TASK}", 3),
        "timeout": Case(f"flow pause {NO_TASK}", 4),
    },
    "flow resume": {
        "ok": STEERED,
        "empty": Case(f"flow resume {NO_TASK}", REFUSED),
        "no node": Case(f"flow resume {NO_TASK}", 3),
        "timeout": Case(f"flow resume {NO_TASK}", 4),
    },
    "flow patch": {
        "ok": STEERED,
        "empty": Case(f"flow patch {NO_TASK} {{file}}", 2),
        "no node": Case(f"flow patch {NO_TASK} {{file}}", 3),
        "timeout": Case(f"flow patch {NO_TASK} {{file}}", 4),
    },
    "flow replay": {
        "ok": Case("flow replay {flow_task}", 0, {"task": str, "steps": [{"name": str, "what": str}], "state": str, "agrees": bool}),
        "empty": Case(f"flow replay {NO_TASK}", REFUSED),
        "no node": Case(f"flow replay {NO_TASK}", 3),
        "timeout": Case(f"flow replay {NO_TASK}", 4),
    },
    "flow cancel": {
        "ok": Case("flow cancel {flow_task}", 0, {"task": str, "state": str}),
        "empty": Case(f"flow cancel {NO_TASK}", REFUSED),
        "no node": Case(f"flow cancel {NO_TASK}", 3),
        "timeout": Case(f"flow cancel {NO_TASK}", 4),
    },
    "sim": {
        "ok": Case("sim {flow} name=Ann --service greet=20ms --seeds 1", 0, SIM),
        "empty": Case(f"sim {NO_TASK}", REFUSED),
        "no node": Case("sim {flow} name=Ann", 2),
        "timeout": Case("sim {flow} name=Ann", 4),
    },
    "secret": {
        "ok": Case("secret list", 0, {"secrets": []}),
        "empty": Case("secret list", 0, {"secrets": []}),
        "no node": Case("secret remove nothing", REFUSED),
        "timeout": Case("secret list", 0, {"secrets": []}),
    },
    "approve": {
        "ok": GATED,
        "empty": Case(f"approve {NO_TASK}", REFUSED),
        "no node": Case(f"approve {NO_TASK}", 3),
        "timeout": Case(f"approve {NO_TASK}", 4),
    },
    "deny": {
        "ok": GATED,
        "empty": Case(f"deny {NO_TASK}", REFUSED),
        "no node": Case(f"deny {NO_TASK}", 3),
        "timeout": Case(f"deny {NO_TASK}", 4),
    },
    "signal": {
        "ok": GATED,
        "empty": Case(f"signal {NO_TASK} news", REFUSED),
        "no node": Case(f"signal {NO_TASK} news", 3),
        "timeout": Case(f"signal {NO_TASK} news", 4),
    },
    "policy show": {
        "ok": Case("policy show", 0, {"version": int, "history": list, "unread": int}),
        "empty": Case("policy show", 0, {"version": int, "history": []}),
        "no node": Case("policy show", 3),
        "timeout": Case("policy show", 4),
    },
    "policy set": {
        "ok": Case("policy set {rules} --note tests", 0, {"version": int, "rules": int, "by": str}),
        "empty": Case("policy set nothing.toml", 2),
        "no node": Case("policy set {rules}", 3),
        "timeout": Case("policy set {rules}", 4),
    },
    "policy check": {
        "ok": Case("policy check {rules}", 0, {"rules": int, "tasks": int, "node": bool, "changed": list}),
        "empty": Case("policy check {file}", 2),
        "no node": Case("policy check {rules}", 0, {"rules": int, "tasks": int, "node": bool, "changed": []}),
        "timeout": Case("policy check {rules}", 4),
    },
    "policy explain": {
        "ok": Case("policy explain {task}", 0, {"decision": str, "rules": list, "task": str, "then": list}),
        "empty": Case("policy explain pay amount:=3", 0, {"decision": str, "rules": [], "version": int}),
        "no node": Case("policy explain pay", 3),
        "timeout": Case("policy explain pay", 4),
    },
    "policy history": {
        "ok": Case("policy history", 0, {"history": list}),
        "empty": Case("policy history", 0, {"history": []}),
        "no node": Case("policy history", 3),
        "timeout": Case("policy history", 4),
    },
    "policy rollback": {
        "ok": Case("policy rollback 1", 0, {"version": int, "rules": int, "by": str}),
        "empty": Case("policy rollback 7", REFUSED),
        "no node": Case("policy rollback 1", 3),
        "timeout": Case("policy rollback 1", 4),
    },
    "update": {
        "ok": GATED,
        "empty": Case(f"update {NO_TASK} limit", REFUSED),
        "no node": Case(f"update {NO_TASK} limit", 3),
        "timeout": Case(f"update {NO_TASK} limit", 4),
    },
    "state get": {
        "ok": Case("state get nothing --in verbs", 1, {"key": str, "version": int}),
        "empty": Case("state get nothing", 2),
        "no node": Case("state get nothing --in verbs", 3),
        "timeout": Case("state get nothing --in verbs", 4),
    },
    "state set": {
        "ok": Case("state set key 1 --in verbs", 0, {"key": str, "version": int}),
        "empty": Case("state set key 1 --in verbs --if-version 7", REFUSED),
        "no node": Case("state set key 1 --in verbs", 3),
        "timeout": Case("state set key 1 --in verbs", 4),
    },
    "state delete": {
        "ok": Case("state delete nothing --in verbs", 0, {"key": str, "version": int}),
        "empty": Case(f"state delete key --task {NO_TASK}", REFUSED),
        "no node": Case("state delete key --in verbs", 3),
        "timeout": Case("state delete key --in verbs", 4),
    },
    "state list": {
        "ok": Case("state list --in verbs", 0, {"task": str, "version": int, "keys": [{"key": str, "version": int}]}),
        "empty": Case("state list", 0, {"states": list, "missing": []}),
        "no node": Case("state list", 3),
        "timeout": Case("state list", 4),
    },
    "schedule": {
        "ok": Case("schedule add yearly --every 365d greet name=Bob", 0, {"action": str, "name": str}),
        "empty": Case("schedule list", 0, {"schedules": []}),
        "no node": Case("schedule pause nothing", 3),
        "timeout": Case("schedule list", 4),
    },
    "publish": {
        "ok": Case(
            "publish guest.came name=Bob --id 7", 0, {"event": str, "subscribers": int, "tasks": [{"capability": str, "task": str}]}
        ),
        "empty": Case("publish guest.came", 0, {"event": str, "subscribers": int, "tasks": []}),
        "no node": Case("publish guest.came", 3),
        "timeout": Case("publish guest.came", 4),
    },
    "status": {
        "ok": Case("status", 0, STATUS),
        "empty": Case("status", 0, STATUS),
        "no node": Case("status", 3),
        "timeout": Case("status", 4),
    },
    "nodes": {
        "ok": Case("nodes", 0, {"nodes": [NODE]}),
        "empty": Case("nodes", 0, {"nodes": [NODE]}),
        "no node": Case("nodes", 3),
        "timeout": Case("nodes", 4),
    },
    "caps": {
        "ok": Case("caps", 0, {"caps": [{"capability": str, "signature": str, "doc": str, "offered_by": list, "input_schema": dict}]}),
        "empty": Case("caps", 0, {"caps": []}),
        "no node": Case("caps", 3),
        "timeout": Case("caps", 4),
    },
    "tasks": {
        "ok": Case("tasks", 0, {"tasks": [TASK]}),
        "empty": Case("tasks", 0, {"tasks": []}),
        "no node": Case("tasks", 3),
        "timeout": Case("tasks", 4),
    },
    "task": {
        "ok": Case("task {task}", 0, TASK),
        "empty": Case(f"task {NO_TASK}", REFUSED),
        "no node": Case(f"task {NO_TASK}", 3),
        "timeout": Case(f"task {NO_TASK}", 4),
    },
    "approvals": {
        "ok": Case("approvals", 0, {"gates": [], "missing": []}),
        "empty": Case("approvals", 0, {"gates": [], "missing": []}),
        "no node": Case("approvals", 3),
        "timeout": Case("approvals", 4),
    },
    "coordinator": {
        "ok": Case(
            "coordinator", 6, {"mode": str, "holder": str, "epoch": list, "standing_by": [], "gates": [], "fleet": [FLEET], "here": dict}
        ),
        "empty": Case("coordinator pause", REFUSED),
        "no node": Case("coordinator", 3),
        "timeout": Case("coordinator", 4),
    },
    "why": {
        "ok": Case(
            "why {task}", 0, {"task": str, "decisions": [{"rule": str, "winner": str, "agrees": bool}], "agrees": bool, "verified": bool}
        ),
        "empty": Case(f"why {NO_TASK}", REFUSED),
        "no node": Case(f"why {NO_TASK}", 3),
        "timeout": Case(f"why {NO_TASK}", 4),
    },
    "trace": {
        "ok": Case(
            "trace {task}", 0, {"task": str, "took_ms": int, "rows": [{"task": str, "depth": int, "attempts": list}], "clocks": list}
        ),
        "empty": Case(f"trace {NO_TASK}", REFUSED),
        "no node": Case(f"trace {NO_TASK}", 3),
        "timeout": Case(f"trace {NO_TASK}", 4),
    },
    "lineage": {
        "ok": Case("lineage {task}", 0, {"task": str, "tasks": [{"task": str, "files_in": list}], "sources": list, "verified": bool}),
        "empty": Case(f"lineage {NONE}", REFUSED),
        "no node": Case(f"lineage {NONE}", 3),
        "timeout": Case(f"lineage {NONE}", 4),
    },
    "blame": {
        "ok": Case("blame {made}", 0, {"file": str, "sha256": str, "made_by": dict, "used_by": list, "verified": bool}),
        "empty": Case("blame {file}", REFUSED),
        "no node": Case("blame {file}", 3),
        "timeout": Case("blame {file}", 4),
    },
    "logs": {
        "ok": Case("logs {task}", 0, {"task": str, "state": str, "lines": [], "missing": [], "after": dict}),
        "empty": Case(f"logs {NO_TASK}", REFUSED),
        "no node": Case("logs otter", 3),
        "timeout": Case("logs otter", 4),
    },
    "audit": {
        "ok": Case("audit", 0, {"entries": [{"what": str, "about": str, "by": str, "note": str, "node": str, "verified": bool}]}),
        "empty": Case("audit nobody --since 0", 0, {"entries": [], "missing": []}),
        "no node": Case("audit --all", 3),
        "timeout": Case("audit --all", 4),
    },
    "id": {
        "ok": Case("id", 0, IDENTITY),
        "empty": Case("id", 0, IDENTITY),
        "no node": Case("id", 2),
        "timeout": Case("id", 2),
    },
    "trust": {
        "ok": Case("trust", 0, TRUST),
        "empty": Case("trust", 0, TRUST),
        "no node": Case("trust", 3),
        "timeout": Case("trust", 4),
    },
    "grant": {
        "ok": ELSEWHERE,
        "empty": Case("grant issuer nobody", REFUSED),
        "no node": Case("grant issuer nobody", 3),
        "timeout": Case("grant issuer nobody", 4),
    },
    "revoke": {
        "ok": ELSEWHERE,
        "empty": Case("revoke nobody --reason sold", REFUSED),
        "no node": Case("revoke nobody", 3),
        "timeout": Case("revoke nobody", 4),
    },
    "rotate": {
        "ok": Case("rotate identity", 0, {"rotated": str, "note": str, "moved": list, "late": list}),
        "empty": Case("rotate home", REFUSED),
        "no node": Case("rotate transport", 3),
        "timeout": Case("rotate transport", 4),
    },
    "doctor": {
        "ok": Case("doctor", 0, {"healthy": bool, "findings": [{"check": str, "state": str, "message": str, "fix": str}]}),
        "empty": Case("doctor", 0, {"healthy": bool, "findings": []}),
        "no node": Case("doctor", 0, {"healthy": bool, "findings": []}),
        "timeout": Case("doctor", 6, {"healthy": bool, "findings": []}),
    },
    "verify": {
        "ok": Case("verify", 0, {"ok": bool, "author": str, "entries": int, "head": str}),
        "empty": Case("verify", 0, {"ok": bool, "author": str, "entries": int, "head": str}),
        "no node": Case("verify", 3),
        "timeout": Case("verify", 4),
    },
    "backup": {
        "ok": Case("backup {backups}", 0, BACKUP),
        "empty": Case("backup {backups} --without-key", 0, BACKUP),
        "no node": Case("backup {backups}", 3),
        "timeout": "it asks no node",
    },
    "restore": {
        "ok": "tests/cluster/test_backup.py runs it",
        "empty": Case("restore {file}", REFUSED),
        "no node": Case("restore nowhere", 2),
        "timeout": "it asks no node",
    },
}
NO_TIMEOUT_OPTION = ("demo", "run", "up", "init", "id", "secret", "backup", "restore")


def test_every_verb_is_in_the_table() -> None:
    assert list(TABLE) == [verb for _, verb, _ in verbs()]
    assert all(tuple(situations) == SITUATIONS for situations in TABLE.values())


@pytest.fixture(scope="module")
def facts(mesh: Callable[..., Any], node: Path, root: Path) -> dict[str, str]:
    """What the command lines of the table name."""
    source, made, flow = root / "quiet.txt", root / "made.txt", root / "polite.toml"
    source.write_text("quiet")
    flow.write_text(FLOW_FILE)
    rules = root / "rules.toml"
    rules.write_text('[[rule]]\nid = "none"\nmatch = { capability = "nothing" }\ndeny = "tests"\n')
    task = mesh("submit", "greet", "name=Ann", "--wait", "--home", str(node), "--json").document["task"]
    loud = mesh("submit", "shout", f"text=@{source}", "--wait", "-o", str(made), "--home", str(node), "--json").document
    failed = mesh("submit", "broken", "number=1", "--home", str(node), "--json").document["task"]
    mesh("result", failed, "--home", str(node), "--json")
    polite = mesh("flow", "run", str(flow), "name=Ann", "--wait", "--home", str(node), "--json").document
    assert polite["result"]["output"] == {"greet": "hello Ann"}
    return {
        "flow": str(flow),
        "rules": str(rules),
        "flow_task": polite["task"],
        "task": task,
        "failed": failed,
        "file": str(source),
        "made": str(made),
        "hash": loud["result"]["$file"]["sha256"],
        "out": str(root / "out"),
        "nobody": str(root / "no-demo"),
        "backups": tempfile.mkdtemp(dir=root),
    }


def matches(found: Any, shape: Any) -> bool:
    """Whether `found` has at least the fields of `shape`, of these types. Of a list each item must fit."""
    if isinstance(shape, dict):
        return isinstance(found, dict) and all(name in found and matches(found[name], kind) for name, kind in shape.items())
    if isinstance(shape, list):
        return isinstance(found, list) and all(matches(each, shape[0]) for each in found) if shape else isinstance(found, list)
    return type(found) is shape


@pytest.mark.parametrize(("verb", "situation"), [(verb, at) for verb, row in TABLE.items() for at in row if isinstance(row[at], Case)])
def test_verb(
    verb: str,
    situation: str,
    mesh: Callable[..., Any],
    facts: dict[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (shell, enrolment, logs):
        monkeypatch.setattr(module, "SLACK_S", 0.05)  # who says nothing at all says nothing later either
    case = TABLE[verb][situation]
    assert isinstance(case, Case)
    homes = {"ok": "node", "empty": "bare", "no node": "nobody", "timeout": "hung"}
    home = request.getfixturevalue("node" if verb == "up" and situation == "empty" else homes[situation])
    words = [word.format(**facts) for word in case.words.split(" ")] + ([] if verb == "demo" else ["--home", str(home)])
    if situation == "timeout" and verb not in NO_TIMEOUT_OPTION:
        words += ["--timeout", "0.1"]
    talk = mesh(*words)
    assert talk.code == case.code, talk.err + talk.out
    ran = mesh(*words, "--json")
    assert ran.code == case.code, ran.err + ran.out
    document = ran.document
    if case.shape is None:
        assert not talk.out, "an error is talk: stdout is data"
        assert "mesh: " in talk.err and "\ntry:  " in talk.err
        assert matches(document, ERROR) and document["schema"] == "mesh.error/1"
        assert document["message"] and document["fix"]
    else:
        assert talk.out.strip()
        assert document["schema"] == ("mesh.demo-stop/1" if verb == "demo" else f"mesh.{verb.replace(' ', '-')}/1")
        assert matches(document, case.shape), document


def test_states_and_names_that_scripts_rely_on(mesh: Callable[..., Any], node: Path, facts: dict[str, str]) -> None:
    status = mesh("status", "--home", str(node), "--json").document
    assert status["node"] == "otter" and [worker["agent"] for worker in status["workers"]] == ["greeter"]
    (row,) = mesh("nodes", "--home", str(node), "--json").document["nodes"]
    assert row["state"] == "alive" and row["id"] == status["id"] and "greet" in row["caps"]
    task = mesh("task", facts["task"], "--home", str(node), "--json").document
    assert (task["state"], task["owner"], task["attempts"], task["capability"]) == ("done", "otter", 1, "greet")
    assert mesh("result", facts["task"], "--home", str(node), "--json").document["result"] == "hello Ann"


def test_a_failed_task_exits_1_with_its_error_and_the_users_frame_first(mesh: Callable[..., Any], node: Path) -> None:
    task = mesh("submit", "broken", "number:=7", "--home", str(node), "--json").document["task"]
    ran = mesh("result", task, "--home", str(node), "--json")
    assert ran.code == 1
    assert ran.document["state"] == "failed" and "ZeroDivisionError" in ran.document["error"]["message"]
    talk = mesh("result", task, "--home", str(node))
    assert talk.code == 1 and not talk.out
    said = talk.err.splitlines()
    assert "ZeroDivisionError" in said[0]
    assert "greeter.py" in said[1] and "in broken: return number // 0" in said[1]
    assert said[-1] == f"try:  mesh why {task}"


@pytest.mark.parametrize("words", ["call greet", "submit greet --wait"])
@pytest.mark.parametrize(("argument", "named"), [("nam=Bob", "nam"), ("name:=5", "name"), ("", "name")])
def test_a_wrong_argument_is_refused_before_any_handler_runs(
    words: str, argument: str, named: str, mesh: Callable[..., Any], node: Path, root: Path
) -> None:
    before = (root / "greeted.txt").read_text()
    ran = mesh(*words.split(" "), *([argument] if argument else []), "--home", str(node), "--json")
    assert (ran.code, ran.document["code"]) == (2, "invalid_argument")
    assert repr(named) in ran.document["message"] or named in ran.document["message"].split()
    assert (root / "greeted.txt").read_text() == before


def test_the_nearest_name_is_named(mesh: Callable[..., Any], node: Path) -> None:
    ran = mesh("call", "gret", "name=Bob", "--home", str(node), "--json")
    assert ran.code == REFUSED and ran.document["code"] == "no_such_capability"
    assert "greet" in ran.document["message"] + ran.document["fix"]


def test_nothing_a_terminal_obeys_gets_through_in_json(mesh: Callable[..., Any], node: Path) -> None:
    ran = mesh("call", "nasty", "--home", str(node), "--json")
    assert ran.document["result"] == "red \x1b[31m and \u202e back"
    assert "\x1b" not in ran.out and "\u202e" not in ran.out


def test_what_a_handler_printed_is_read_and_followed(mesh: Callable[..., Any], node: Path) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "noisy", "text=one\ntwo \x1b[31m", "--wait", "--json", *home).document["task"]
    found = mesh("logs", task, "--json", *home).document
    assert [(line["stream"], line["text"], line["attempt"]) for line in found["lines"]] == [
        ("stdout", "one", 1),
        ("stdout", "two \x1b[31m", 1),
        ("log", "and that was all", 1),
    ]
    ran = mesh("logs", "-f", task, *home)
    shown = ran.out.splitlines()
    assert ran.code == 0 and len(shown) == 3 and "\x1b" not in ran.out, "it has ended, so following it ends"
    assert shown[0].split()[1:] == ["otter", "1", "stdout", "one"] and shown[1].endswith("two \\x1b[31m")
    whole = mesh("logs", "otter", "--json", *home).document
    assert [line for line in whole["lines"] if line["task"] == task] == found["lines"]
