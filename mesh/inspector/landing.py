"""What `mesh launch` does on the machine it reached: the far end of `remote.py`, run by that machine's own Python out of our wheel.

    plan  ->  lock  ->  version (venv, pip)  ->  membership (token on stdin)  ->  files  ->  node  ->  agent  ->  report

Each step looks first and does only what is missing, so a second run changes nothing. Invariant: nothing but the answer to a question is
ever read from stdin, and the token goes from there into `mesh join -`: it is in no argument, variable, file or message. The standard
library only; whatever needs more is asked of the installed `mesh` through its command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, Refused
from mesh.inspector import units, versions
from mesh.inspector.stage import MARK
from mesh.inspector.tending import PROCESS, Service, Tending
from mesh.runtime.home import Home, Lock, NodeFolder, make_private, write_atomic

SHOW_S = 10.0
LOOK_EVERY_S = 0.2
LOOK_UP_S = 1.0
Document = dict[str, Any]


class Talk:
    """The other end: lines to it on stdout, and on stdin what it was asked for."""

    def tell(self, **line: Any) -> None:
        print(MARK + json.dumps(line), flush=True)

    def ask(self, what: str, name: str = "") -> bytes:
        """The bytes of a file, or an invitation. Ends this process if the other end has gone."""
        self.tell(need=what, name=name)
        size = sys.stdin.buffer.readline()
        data = sys.stdin.buffer.read(int(size)) if size.strip().isdigit() else b""
        if not size or len(data) != int(size):
            raise SystemExit(1)
        return data

    def gone(self) -> bool:
        """Nobody sends anything unasked: if there is something to read, it is the end."""
        return bool(select.select([sys.stdin], [], [], 0)[0])


class Landing:
    """One plan, carried out. `folder`: all that `mesh launch` keeps on this machine, the homes apart."""

    def __init__(self, plan: Document, folder: Path, wheel: Path, talk: Talk) -> None:
        self._plan, self._folder, self._talk = plan, folder, talk
        self._home = Home.locate()
        base = versions.Wanted(wheel, plan["wheel"]["sha256"], tuple(plan["pins"]))
        self._node_version = base
        self._agent_version = versions.Wanted(wheel, base.sha256, tuple(plan["agent_pins"]), tuple(plan["extras"]), tuple(plan["packages"]))
        self._tending = Tending(folder, self._home.path, self._detach)
        self._python = str(versions.python_of(folder, base))
        self._left_alone = False
        self.changed: dict[str, None] = {}
        """In the order in which it was done."""

    # ---- up

    def up(self) -> Document:
        """Raises MeshError: what is missing, and what to type on this machine."""
        plan, tending = self._plan, self._tending
        self._home.make()
        self._install(self._node_version)
        if plan["agent"] is not None:
            self._install(self._agent_version)
        self._enrol()
        tending.choose()
        node = self._home.node(plan["node"]["name"])
        node_key = f"node-{plan['node']['name']}" if plan["node"]["name"] else "node"
        self._ensure_node(node, node_key)
        agent_key = f"run-{plan['agent']['name']}" if plan["agent"] is not None else ""
        message = self._ensure_agent(node, agent_key, node_key) if agent_key else f"node {node.name} is up"
        self._sweep()
        fix = tending.fix if tending.services.get(agent_key or node_key, {}).get("mode") == PROCESS else ""
        return {"message": "; ".join([message, *self._notes(agent_key or node_key)]), "node": node.name, "fix": fix}

    def _notes(self, key: str) -> list[str]:
        """What is not as one would expect."""
        services = self._tending.services
        notes = ["its node ran already, and was left as it is"] if self._left_alone else []
        if services.get(key, {}).get("mode") == PROCESS:
            why = self._tending.why_processes
            notes.append(f"until that machine restarts, as a process{f': {why}' if why else ''}")
        old = [each.removeprefix("run-") for each, record in services.items() if record["wheel"] != self._node_version.sha256]
        return notes + ([f"of an earlier version still: {', '.join(old)}"] if old else [])

    def _install(self, wanted: versions.Wanted) -> None:
        if not versions.is_complete(self._folder, wanted):
            self._talk.tell(say=f"installing lanmesh {self._plan['version']}")
        if versions.ensure(self._folder, wanted, self._run):
            self.changed["version"] = None

    def _enrol(self) -> None:
        mesh = self._plan["enrol"]
        if mesh is None or str(self._mesh("id").get("mesh", "")).startswith(mesh):
            return
        token = self._talk.ask("invitation")
        self._answered(self._run(self._words("join", "-", "--no-start"), stdin=token.decode()))
        self.changed["membership"] = None

    def _ensure_node(self, node: NodeFolder, key: str) -> None:
        """One that runs already, and not by us, is left alone."""
        plan = self._plan["node"]
        self._left_alone = node.is_running() and not self._tending.is_alive(key)
        if self._left_alone:
            return
        words = ("up", "--home", str(self._home.path), "--name", node.name, *plan["words"])
        service = self._service(key, units.node_unit(plan["name"]), f"mesh node {node.name}", self._node_version, words, self._folder)
        if self._tending.ensure(service):
            self.changed["node"] = None

    def _service(self, key: str, unit: str, what: str, wanted: versions.Wanted, words: tuple[str, ...], directory: Path) -> Service:
        python = str(versions.python_of(self._folder, wanted))
        return Service(key, unit, what, python, wanted.key, wanted.sha256, words, str(directory))

    def _ensure_agent(self, node: NodeFolder, key: str, node_key: str) -> str:
        plan = self._plan["agent"]
        place = self._folder / "agents" / plan["name"]
        sent = self._send_files(place, key, plan["files"])
        targets = [str(place / target) if target.endswith(".py") else target for target in plan["targets"]]
        words = ("run", *targets, "--home", str(self._home.path), "--name", node.name, "--attach")
        what = f"mesh run {' '.join(plan['targets'])}"
        service = replace(
            self._service(key, units.agent_unit(plan["name"]), what, self._agent_version, words, place),
            environment={"PYTHONPATH": str(place)} if plan["files"] else {},
            after="" if self._left_alone else self._tending.services[node_key]["unit"],
            files=plan["files"],
        )
        if self._tending.ensure(service, again=sent):
            self.changed["agent"] = None
        return self._what_it_offers(node, self._tending.pid_of(key))

    def _send_files(self, place: Path, key: str, files: Mapping[str, str]) -> bool:
        """What differs is sent; what an earlier launch copied and this one does not is removed. True if anything changed."""
        make_private(place)
        changed = False
        for name, sha256 in files.items():
            path = place / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                data = self._talk.ask("file", name)
                make_private(path.parent)
                write_atomic(path, data)
                changed = True
        record = self._tending.services.get(key, {"files": {}})
        for name in set(record["files"]) - set(files):
            _remove_file(place, name)
            changed = True
        if changed:
            self.changed["files"] = None
        return changed

    def _what_it_offers(self, node: NodeFolder, pid: int) -> str:
        """Once the whole mesh may see it; without its capabilities if that takes long."""
        until = time.monotonic() + SHOW_S
        while True:
            names = [worker["agent"] for worker in self._mesh("status", node.name).get("workers", []) if worker["pid"] == pid]
            caps = self._mesh("caps", node.name).get("caps", [])
            offered = {name: [cap["capability"] for cap in caps if f"{name}@{node.name}" in cap["offered_by"]] for name in names}
            if (names and all(offered.values())) or time.monotonic() > until:
                return "; ".join(f"{name}@{node.name} offers {', '.join(offered[name])}" for name in names) or f"node {node.name} is up"
            time.sleep(LOOK_EVERY_S)

    # ---- down

    def down(self) -> Document:
        """Undo it: one agent, or all that was launched here. Keys and journals stay, unless all is to be purged. Raises MeshError."""
        agent = self._plan["agent"]
        if self._plan["purge"]:
            self._refuse_to_purge_what_others_run()
        keys = [f"run-{agent['name']}"] if agent is not None else sorted(self._tending.services, reverse=True)  # agents before the node
        stopped = []
        for key in keys:
            if key in self._tending.services:
                files = self._tending.services[key]["files"]
                self._tending.forget(key)
                stopped.append(key.removeprefix("run-"))
                for name in files:
                    _remove_file(self._folder / "agents" / key.removeprefix("run-"), name)
        self.changed |= dict.fromkeys(stopped)
        if agent is not None:
            self._sweep()
            return {"message": f"stopped {' and '.join(stopped)}" if stopped else "nothing to undo", "node": ""}
        if self._plan["purge"]:
            self._purge()
        kept = "" if self._plan["purge"] else "; keys and journal stay (--purge removes them)"
        self._remove_folder()
        return {"message": f"stopped {', '.join(stopped)}{kept}" if stopped else "nothing to undo", "node": ""}

    def _refuse_to_purge_what_others_run(self) -> None:
        ours = [self._tending.pid_of(key) for key in self._tending.services]
        for node in self._home.running():
            pid = (node.info() or {}).get("pid", 0)
            if pid not in ours:
                raise Refused(f"node {node.name} runs there, and launch did not start it", fix=f"kill {pid}")

    def _purge(self) -> None:
        for place in (self._home.path / "node", self._home.path / "nodes", self._home.mesh_path):
            if place.exists():
                shutil.rmtree(place)
                self.changed[place.name] = None

    def _remove_folder(self) -> None:
        """All but what agents wrote into their own folders."""
        versions.sweep(self._folder, set())
        shutil.rmtree(self._folder / "wheels", ignore_errors=True)
        for name in ("state.json", "pip.log", "lock"):
            (self._folder / name).unlink(missing_ok=True)
        for place in [*(self._folder / "agents").glob("*"), self._folder / "agents", self._folder / "versions", self._folder]:
            _remove_empty(place)

    # ---- the installed mesh

    def _words(self, *words: str) -> list[str]:
        return [self._python, "-P", "-m", "mesh.inspector.cli", *words, "--home", str(self._home.path)]

    def _mesh(self, verb: str, node: str = "") -> Document:
        """The document of a verb that only looks. {} where there is nothing to look at yet."""
        done = self._run([*self._words(verb), *(["--node", node] if node else []), "--json"])
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def _detach(self, service: Service) -> int:
        words = [service.python, "-P", "-m", "mesh.inspector.cli", *service.words, "--detach", "--json"]
        return int(self._answered(self._run(words, service.environment))["pid"])

    def _answered(self, done: subprocess.CompletedProcess[str]) -> Document:
        """The document that a verb printed. Raises the error that it printed instead."""
        try:
            document = json.loads(done.stdout)
        except ValueError:
            document = {}
        if done.returncode == 0:
            return dict(document)
        message = str(document.get("message") or done.stderr.strip() or f"it ended with exit code {done.returncode}")
        raise MeshError(message, fix=self._typed(str(document.get("fix", ""))))

    def _typed(self, fix: str) -> str:
        """Nobody put `mesh` onto this machine's PATH."""
        return f"{shlex.quote(str(Path(self._python).with_name('mesh')))} {fix[5:]}" if fix.startswith("mesh ") else fix

    def _run(self, words: Sequence[str], environment: Mapping[str, str] | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end; not beyond the other end's: then it is killed, with what it started, and we end."""
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd=self._folder,
            env={**os.environ, **(environment or {})},
        ) as process:
            while True:
                try:
                    out, err = process.communicate(stdin, timeout=LOOK_UP_S)
                    return subprocess.CompletedProcess(words, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    stdin = ""  # it is on its way
                    if self._talk.gone():
                        os.killpg(process.pid, signal.SIGKILL)
                        raise SystemExit(1) from None

    def _sweep(self) -> None:
        """Versions and wheels that nothing runs in."""
        versions.sweep(self._folder, {record["version"] for record in self._tending.services.values()} | {self._node_version.key})
        for place in (self._folder / "wheels").iterdir():
            if place != self._node_version.wheel.parent:
                shutil.rmtree(place, ignore_errors=True)


def _remove_file(place: Path, name: str) -> None:
    """A file that we copied, what Python made of it, and the folders that are empty then."""
    path = place / name
    path.unlink(missing_ok=True)
    for made in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        made.unlink()
    for folder in (path.parent / "__pycache__", path.parent, *path.parent.parents):
        if folder == place.parent:
            break
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def main(plan: Document, folder: Path, wheel: Path) -> None:
    """Carry the plan out and report. Whatever goes wrong is in the report."""
    talk = Talk()
    lock = Lock.take(folder / "lock")
    if lock is None:
        talk.tell(end={"state": "failed", "changed": [], "node": "", "message": "another launch is at work there", "fix": "wait for it"})
        return
    landing = None
    try:
        with lock:
            landing = Landing(plan, folder, wheel, talk)
            report = landing.down() if plan["down"] else landing.up()
    except MeshError as error:
        report = {"state": "failed", "message": error.message, "fix": error.fix, "node": ""}
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        report = {"state": "failed", "message": what, "fix": f"df -h {shlex.quote(str(folder))}", "node": ""}
    changed = list(landing.changed) if landing is not None else []
    talk.tell(end={"state": ("down" if plan["down"] else "ok") if changed else "unchanged", "fix": "", "changed": changed, **report})
