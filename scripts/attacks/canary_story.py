"""What happens to the canaries: two homes on this machine, from `mesh init` to kill -9, with everything kept that anybody could look at."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Processes, mesh, processes, wait_for

from attacks.arena import CLI, HERE, LIMIT_S, NOOP
from attacks.canaries import Planted, report
from attacks.shell import Shell
from attacks.world import signer_of
from mesh import File
from mesh.core.inputs import Synced
from mesh.errors import MeshError
from mesh.ids import content_hash
from mesh.messages.records import Submitted
from mesh.runtime.disk.store import Store
from mesh.runtime.home import Home
from mesh.runtime.trust.keyfiles import KEY_BYTES
from mesh.sync import connect

AGENT = HERE / "canary_agent.py"
EXPORT = "journal.export"
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
BUFFER_BYTES = 64 * 1024 * 1024
SO_RCVBUFFORCE = 33


class Capture(threading.Thread):
    """Every frame on `lo` of this network, and what each TCP connection carried, in order."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._ear.bind(("lo", ETH_P_ALL))
        self._ear.settimeout(0.05)
        self._over = threading.Event()
        self.frames: list[bytes] = []
        self.streams: dict[bytes, bytearray] = {}

    def run(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                frame, where = self._ear.recvfrom(0x40000)
                if where[2] != PACKET_OUTGOING:  # each passes twice
                    self._take(frame)

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        packet = frame[14:]
        if packet and packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
            segment = packet[(packet[0] & 15) * 4 :]
            self.streams.setdefault(packet[12:20] + segment[:4], bytearray()).extend(segment[(segment[12] >> 4) * 4 :])

    def stop(self) -> bytes:
        """All of it."""
        self._over.set()
        self.join()
        self._ear.close()
        return b"\0".join([*self.frames, *(bytes(stream) for stream in self.streams.values())])


@dataclass
class Stage:
    """Folders and processes. `places`: what is to be searched, beside the files; `work` is the attacker's own and is not."""

    group: Processes
    planted: Planted
    folder: Path
    places: dict[str, bytes] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work, self.logs = self.folder / "work", self.folder / "logs"
        for name in ("work", "logs", "tmp", "cores", "user", "otter", "heron"):
            (self.folder / name).mkdir(mode=0o700)
        self.plan = self.planted.plan()
        (self.work / "plan.json").write_text(json.dumps(self.plan))
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "VIRTUAL_ENV") if name in os.environ},
            **{"HOME": str(self.folder / "user"), "TMPDIR": str(self.folder / "tmp"), "CANARIES": str(self.work / "plan.json")},
            "PYTHONFAULTHANDLER": "1",
        }
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder / "tmp")
        self.shell = Shell({**self.environ, "PYTHONPATH": str(HERE.parent)})
        for number, name in enumerate(("otter", "heron")):
            (self.home(name) / "config.toml").write_text('bind = "127.0.0.1"\n')
            self.nodes[name] = self.planted.make("node", number)

    def home(self, name: str) -> Path:
        return self.folder / name

    def mesh(self, *words: str, says: str = "", code: int | None = None) -> dict[str, Any]:
        """One command line, as a person and as a program would give it. What it says of failures is kept for the search."""
        found: dict[str, Any] = {}
        for form in ((), ("--json",)):
            done = self.shell.run(*words, *form, says=says)
            said = done.stderr + (done.stdout if done.returncode else "")
            self.places[f"output {len(self.places)} of mesh {words[0]} {' '.join(form)}"] = said.encode()
            if code is not None and done.returncode != code:
                raise SystemExit(f"mesh {' '.join(words)}: exit {done.returncode}, {done.stdout}{done.stderr}")
            found = json.loads(done.stdout) if form and done.stdout.startswith("{") else found
        return found

    def once(self, *words: str, says: str = "") -> dict[str, Any]:
        """A command that may be given only once."""
        done = self.shell.run(*words, "--json", says=says)
        if done.returncode:
            raise SystemExit(f"mesh {' '.join(words)}: exit {done.returncode}, {done.stdout}{done.stderr}")
        self.places[f"output {len(self.places)} of mesh {words[0]}"] = done.stderr.encode()
        return dict(json.loads(done.stdout))

    def start(self, log: str, *words: str) -> subprocess.Popen[str]:
        """In the background, where a core would be written."""
        script = f'ulimit -c unlimited; cd {self.folder / "cores"}; exec "$@"'
        with (self.logs / log).open("a") as out:
            process = subprocess.Popen(["sh", "-c", script, "sh", *CLI, *words], stdout=out, stderr=out, env=self.environ, text=True)
        self.group.all.append(process)
        return process

    def up(self, name: str) -> subprocess.Popen[str]:
        words = ("up", "--home", str(self.home(name)), "--name", self.nodes[name])
        process = self.start(f"node {name}", *words)

        def ready() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(self.logs / f'node {name}').read_text()}")
            return bool(Home(self.home(name)).node(self.nodes[name]).info())

        wait_for(ready, name, LIMIT_S)
        return process

    def client(self, name: str) -> Any:
        return connect(home=self.home(name), node=self.nodes[name], timeout_s=LIMIT_S)

    # ---- looking

    def processes(self) -> None:
        """Command lines and environments of all in this network."""
        here = os.stat("/proc/self/ns/net").st_ino
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/net").st_ino == here and int(entry) != os.getpid():
                    for what in ("cmdline", "environ"):
                        self.places[f"process {entry} {what}"] = Path(f"/proc/{entry}/{what}").read_bytes()

    def files(self) -> None:
        """Every file there is now, and every path."""
        for path in sorted(self.folder.rglob("*")):
            if self.work in path.parents or path == self.work:
                continue
            name = f"/{path.relative_to(self.folder)}"
            label = f"log {path.name}" if self.logs in path.parents else name
            if path.is_file() and not path.is_symlink():
                self.places[label] = self.places.get(label, b"") + path.read_bytes()
            self.places[f"path of {name}" if path.is_dir() else f"path of {name.replace('/files/', '/store/')}"] = str(path).encode()


# ---- the story


def run(each: int, *, keep: bool = False) -> dict[str, Any]:
    """Plant, use, search; what was found, and what the search can find."""
    folder, capture, planted = Path(tempfile.mkdtemp(prefix="mesh-canaries-")), Capture(), Planted(each)
    capture.start()
    try:
        with processes() as group:
            stage = Stage(group, planted, folder)
            use(stage)
            stage.shell.close()
            stage.files()
        stage.places["wire"] = capture.stop()
        keys(stage)
        hits = [hit for place, data in stage.places.items() for hit in planted.search(place, data)]
        bad, good = report(hits)
        return {
            "schema": "mesh.canaries/1",
            "canaries": len(planted.canaries),
            "places": len(stage.places),
            "searched_mib": sum(map(len, stage.places.values())) / 2**20,
            "captured_mib": len(stage.places["wire"]) / 2**20,
            "can_find": {
                "on the wire of a mesh without encryption": in_plain(),
                "in a journal without a seal": unsealed(folder),
                "in this journal once its seal is opened": opened(stage),
                "mDNS records, in the capture": b"\x08_lanmesh\x04_tcp" in stage.places["wire"],
            },
            "allowed": good,
            "found": [str(hit) for hit in bad],
        }
    finally:
        if keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def use(stage: Stage) -> None:
    tokens = join(stage)
    workers = stage.start("worker", "run", str(AGENT), "--home", str(stage.home("heron")), "--name", stage.nodes["heron"])
    wanted = {f"{one['capability']}.hang" for one in stage.plan}
    with stage.client("otter") as client:
        wait_for(lambda: wanted <= {cap["capability"] for cap in client.caps()["caps"]}, "the agents", LIMIT_S)
        tasks = work(stage, client)
        stage.processes()
        stage.once("verify", "--export", str(stage.work / EXPORT), "--home", str(stage.home("otter")))
        fail(stage, tasks, tokens)
        crash(stage, client, workers)


def join(stage: Stage) -> list[str]:
    """A mesh of two homes; the tokens that were used for it, and one that was not."""
    otter, heron = str(stage.home("otter")), str(stage.home("heron"))
    stage.once("init", "canaries", "--home", otter, "--no-start")
    stage.up("otter")
    tokens = [str(stage.once("invite", "--home", otter)["token"]) for _ in range(2)]
    for token in tokens:
        stage.planted.add("token", token.removeprefix("mesh1_").encode())
    for invite in json.loads((stage.home("otter") / "mesh" / "invites.json").read_text())["invites"]:
        stage.planted.add("invitation", bytes.fromhex(invite["secret"]))
    stage.once("join", "-", "--home", heron, "--name", stage.nodes["heron"], "--no-start", says=tokens[0])
    stage.up("heron")
    return tokens


def work(stage: Stage, client: Any) -> dict[str, str]:
    """Each canary is used as what it is; ids of tasks that are done, and of some that failed."""
    done = failed = ""
    for number, one in enumerate(stage.plan):
        stage.once("secret", "set", f"db{number}", "--home", str(stage.home("heron")), says=one["secret"])
        name = one["capability"]
        assert client.call(f"{name}.work", text=one["argument"]) == one["result"]
        task = client.submit(f"{name}.work", text=one["argument"])
        assert task.result(LIMIT_S) == one["result"]
        done = task.id
        for capability, arguments in (
            (f"{name}.fail", {"text": one["argument"]}),
            (f"{name}.betray", {"password": f"secret://db{number}"}),
        ):
            task = client.submit(capability, **arguments)
            with suppress(MeshError):
                task.result(LIMIT_S)
                raise SystemExit(f"{capability} did not fail")
            failed = task.id
        assert client.call(f"{name}.login", password=f"secret://db{number}") == len(one["secret"])
        sheet = stage.work / one["upload"]
        sheet.write_text(one["uploaded"])
        client.submit(f"{name}.draw", raw=File.of(sheet)).result(LIMIT_S)
    return {"done": done, "failed": failed}


def fail(stage: Stage, tasks: dict[str, str], tokens: list[str]) -> None:
    """Every verb, made to fail where it can."""
    at, one, third = ("--home", str(stage.home("otter"))), stage.plan[0], ("--home", str(stage.folder / "user" / "third"))
    name, here = one["capability"], ("--home", str(stage.home("heron")))
    failures: list[tuple[tuple[str, ...], str]] = [
        ((verb, tasks["failed"], *at), "") for verb in ("result", "task", "why", "lineage", "cancel", "blame")
    ]
    failures += [((verb, "nothing.1.1", *at), "") for verb in ("result", "task", "why", "lineage", "cancel", "blame", "get")]
    failures += [((verb, *at), "") for verb in ("status", "nodes", "caps", "tasks", "audit", "id", "trust", "verify")]
    failures += [
        (("call", f"{name}.nothing", f"text={one['argument']}", *at), ""),
        (("call", f"{name}.work", f"nothing={one['argument']}", *at), ""),
        (("call", f"{name}.fail", f"text={one['argument']}", *at), ""),
        (("submit", f"{name}.fail", f"text={one['argument']}", "--wait", *at), ""),
        (("submit", f"{name}.work", f"number={one['argument']}", *at), ""),
        (("secret", "set", "no/name", *here), one["secret"]),
        (("secret", "set", "db0", "--for", "", *here), one["secret"]),
        (("secret", "remove", "nothing", *here), ""),
        (("secret", "list", *here), ""),
        (("join", "-", *third, "--no-start"), tokens[0]),
        (("join", "-", *third, "--no-start"), tokens[1][:-3]),
        (("join", "-", *here), tokens[1]),
        (("invite", "--role", "nothing", *at), ""),
        (("invite", "--ttl", "never", *at), ""),
        (("trust", "nothing", *at), ""),
        (("grant", "issuer", "nothing", *at), ""),
        (("revoke", "nothing", *at), ""),
        (("rotate", "nothing", *at), ""),
        (("init", *at), ""),
        (("up", "--name", stage.nodes["otter"], *at), ""),
        (("run", "nowhere.py", *at), ""),
        (("doctor", *at), ""),
        (("launch", "nowhere", "--down", "--ssh", "/no/such/ssh", *at), ""),
        (("service", "show", *at), ""),
        (("status", *third), ""),
    ]
    for words, says in failures:
        stage.mesh(*words, says=says)


def crash(stage: Stage, client: Any, workers: subprocess.Popen[str]) -> None:
    """kill -9 of a node and its workers with work in their hands; abort of the other one, where a core would be kept."""
    heron, otter = (Home(stage.home(name)).node(stage.nodes[name]).info() for name in ("heron", "otter"))
    assert heron is not None and otter is not None
    tasks = [client.submit(f"{one['capability']}.hang", text=one["argument"]) for one in stage.plan]
    wait_for(lambda: all(task.status()["progress"] for task in tasks), "work in their hands", LIMIT_S)
    os.kill(heron["pid"], signal.SIGKILL)
    os.kill(workers.pid, signal.SIGABRT)
    os.kill(otter["pid"], signal.SIGABRT)
    for process in stage.group.all:
        process.wait(LIMIT_S)
    aborted = (stage.logs / "node otter").read_text()
    if "Fatal Python error: Aborted" not in aborted:
        raise SystemExit(f"the node did not abort: {aborted}")
    for verb in ("status", "nodes", "caps"):
        stage.mesh(verb, "--home", str(stage.home("otter")), code=3)


def keys(stage: Stage) -> None:
    """All private keys there are, once each: from their own files."""
    seen = set()
    for path in sorted(stage.folder.rglob("*")):
        if path.suffix == ".key" or path.name.startswith("kek."):
            key = bytes.fromhex(path.read_text().split()[-1])
            if len(key) == KEY_BYTES and key not in seen:
                seen.add(key)
                stage.planted.add("key", key)


# ---- that it can find


def in_plain() -> bool:
    """A call in a mesh without encryption is seen on the wire."""
    planted, capture = Planted(1), Capture()
    argument = planted.make("argument", 0)
    capture.start()
    with mesh('plain = true\nbind = "127.0.0.1"\nmdns = false\n') as made:
        for name in ("caller", "server"):
            made.node(name)
        made.worker(NOOP, "server")
        with connect(home=made.home, node="caller", timeout_s=LIMIT_S) as client:
            wait_for(lambda: client.caps()["caps"], "noop", LIMIT_S)
            client.call("noop", text=argument)
    return bool(planted.search("wire", capture.stop()))


def unsealed(folder: Path) -> bool:
    """Arguments in a journal that is not sealed are seen on disk."""
    planted, me = Planted(1), signer_of(7)
    arguments = json.dumps({"text": planted.make("argument", 0)}).encode()
    written = threading.Event()
    store = Store(folder / "work" / "plain.sqlite", me, lambda _, told: written.set() if isinstance(told, Synced) else None)
    with closing(store):
        deque(store.replay(), 0)
        store.start()
        entry = Submitted(f"{me.node}.1.1", "work", content_hash(arguments), "cli", 0, 3)
        store.add(store.head_seq + 1, entry, {content_hash(arguments): arguments})
        store.flush_soon()
        assert written.wait(LIMIT_S), "the journal was not written"
    return any(planted.search(path.name, path.read_bytes()) for path in store.path.parent.glob("plain.sqlite*"))


def opened(stage: Stage) -> bool:
    """What is sealed in the journal of this story is seen in what its owner exported of it."""
    kinds = {hit.kind for hit in stage.planted.search("export", (stage.work / EXPORT).read_bytes())}
    return {"capability", "error"} <= kinds
