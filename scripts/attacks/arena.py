"""Where attacks on real processes take place: a mesh of the real program on loopback, under honest load, and what it costs the victim.

    heron --calls between agents--> otter, the victim         mallory: an attacker in a process of its own, from another loopback address

The mesh is in mode `token`, so everything is encrypted. With two cores or more the victim has the first for itself, and all others share
the rest, the attacker with less priority. What honest peers still lose to his own work on their processor counts against us.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Processes, cpu_s, processes, wait_for

from mesh.joining import make_mesh
from mesh.runtime.home import Home
from mesh.sync import Mesh, connect

HERE = Path(__file__).parent
NOOP = HERE.parent / "benchmarks" / "noop_agent.py"
LOAD = HERE / "load_agent.py"
CLI = (sys.executable, "-m", "mesh.inspector.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}
VICTIM, PEER = "otter", "heron"
MEEK = ("nice", "-n", "5")
"""Before the attacker's command. On few processors his own work would else be taken for what he does to his victim."""
FEW_FILES = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
"""Before the victim's command: it may have no more than 64 files open."""
WARM_S = 1.0
"""Left out at the beginning of the load."""
LIMIT_S = 60.0


def pinned(victim: bool) -> list[str]:
    """What to put before a command: its place among the processors."""
    cores = os.cpu_count() or 1
    if cores == 1 or shutil.which("taskset") is None:
        return []
    return ["taskset", "-c", "0" if victim else f"1-{cores - 1}"]


@dataclass
class Outcome:
    """What one attack did. `ratio`: honest calls answered during the attack to those before it; `attack_cpu`: cores that the attack cost
    the victim beyond what the honest load takes; `counted`: what the victim's own counters say of it."""

    attack: str
    ratio: float
    p99_ratio: float
    growth_mib: float
    attack_cpu: float
    cut_s: float | None
    answers: bool
    counted: dict[str, int]
    said: dict[str, Any] = field(default_factory=dict)


class Arena:
    """Nodes and workers, ended and removed by `arena`. `before`: words put before the victim's command (limits)."""

    def __init__(self, group: Processes, folder: Path, before: tuple[str, ...] = ()) -> None:
        self.folder, self.home = folder, folder / "home"
        self._group, self._before = group, before
        self._stack = ExitStack()
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        self._clients: dict[str, Mesh] = {}
        self._attackers = 0
        self.home.mkdir(mode=0o700)
        (self.home / "config.toml").write_text('bind = "127.0.0.1"\nmdns = false\n')
        make_mesh(Home(self.home), "token", "arena")

    def node(self, name: str) -> None:
        """Start a node, and wait until it answers; it joins those that run."""
        words = [*pinned(name == VICTIM), *(self._before if name == VICTIM else ()), *CLI, "up", "--home", str(self.home), "--name", name]
        for other in self.nodes:
            words += ["--join", self.info(other)["door"]]
        self.nodes[name] = process = self._group.start(words, log=self.folder / f"{name}.log")

        def ready() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"node {name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            return bool(Home(self.home).node(name).info())

        wait_for(ready, f"node {name}", LIMIT_S)

    def worker(self, target: Path, name: str) -> None:
        words = [*pinned(False), *CLI, "run", str(target), "--home", str(self.home), "--name", name]
        self._group.start(words, log=self.folder / f"{name}-worker.log")

    def gather(self) -> None:
        """Both nodes, linked, with their workers."""
        for name in (VICTIM, PEER):
            self.node(name)
        self.worker(NOOP, VICTIM)
        self.worker(LOAD, PEER)
        wait_for(lambda: {"noop", "load"} <= {cap["capability"] for cap in self.client(PEER).caps()["caps"]}, "workers", LIMIT_S)

    def info(self, name: str = VICTIM) -> dict[str, Any]:
        info = Home(self.home).node(name).info()
        assert info is not None, f"{name} does not run"
        return info

    def client(self, name: str = VICTIM) -> Mesh:
        if name not in self._clients:
            self._clients[name] = self._stack.enter_context(connect(home=self.home, node=name, timeout_s=LIMIT_S))
        return self._clients[name]

    def invite(self) -> str:
        """A token for one more member, which is no issuer."""
        return str(self.client().office("invite", roles=[], offers=[], requests=[], life_s=600.0, issuer="no")["token"])

    def counts(self, name: str = VICTIM) -> Counter[str]:
        """Every refusal and cut that the node has counted, by reason, and what it has let in."""
        told = self.client(name).statistics()
        links, gate = told["links"], told["links"]["gate"]
        found: Counter[str] = Counter()
        for prefix, reasons in (
            ("", links["refusals"]),
            ("core ", told["driver"]["refusals"]),
            ("door ", links["door"]["refusals"]),
            ("zap ", gate["zap"]["denied"]),
            ("key ", gate["refused_keys"]),
            ("guard ", gate["guard"]["cut"]),
        ):
            found.update({prefix + reason: count for reason, count in reasons.items()})
        found["let in: envelopes"] = links["envelopes_received"]
        found["punished"] = sum(links["punished"].values())
        found["let in: greetings"] = links["door"]["answered"]
        found["let in: joins"] = links["door"]["enrolled"]
        found["let in: connections"] = gate["zap"]["admitted"]
        found["socket disconnected"] = links["sockets"].get("disconnected", 0)
        return found

    def target(self, **more: Any) -> str:
        """What an attacker is told, as JSON: all that even a former member could know."""
        info = self.info()
        binding = Home(self.home).node(VICTIM).binding_path.read_bytes()
        told: dict[str, Any] = {name: info[name] for name in ("door", "router", "node", "mesh")}
        told["binding"] = binding.hex()
        told["others"] = [row["id"] for row in self.client().nodes()["nodes"]]
        self._attackers += 1
        told["network"] = 1 + self._attackers % 250
        return json.dumps(told | {"folder": str(self.folder / f"mallory-{self._attackers}")} | more)

    # ---- attack and measure

    def attack(self, name: str, *, seconds: float = 4.0, calm_s: float = 4.0, per_s: float = 300.0, window: int = 16) -> Outcome:
        """Load, calm, the attack under the load, calm again. `calm_s` 0: no load, so that what is let in is the attacker's."""
        victim = self.nodes[VICTIM].pid
        attacker = Attacker(self._group, self.folder / f"{name}.log", name, self.target(seconds=seconds, token=self.invite()))
        load = _Load(self.home, seconds + 2 * calm_s + WARM_S + 2, per_s, window)
        if calm_s:
            load.start()
            time.sleep(WARM_S)
        calm_from, calm_cpu = time.monotonic(), cpu_s([victim])
        time.sleep(calm_s)
        counted, resident = self.counts(), _reset_peak_mib(victim)
        attack_from, attack_cpu = time.monotonic(), cpu_s([victim])
        said = attacker.go()
        attack_to, spent = time.monotonic(), cpu_s([victim]) - attack_cpu
        growth = _peak_mib(victim) - resident
        found = self.counts()
        found.subtract(counted)
        if calm_s:
            load.join()
        calm, during = load.between(calm_from, attack_from), load.between(attack_from, attack_to)
        return Outcome(
            name,
            during.per_s / max(1.0, calm.per_s),
            during.p99_us / max(1.0, calm.p99_us),
            growth,
            spent / (attack_to - attack_from) - (attack_cpu - calm_cpu) / max(0.1, attack_from - calm_from),
            said.pop("cut_s", None),
            self.client(PEER).call("noop", text=name) == name and self.client().status()["node"] == VICTIM,
            {reason: count for reason, count in sorted(found.items()) if count},
            said,
        )

    def close(self) -> None:
        self._stack.close()


class Attacker:
    """His process; it is ready when this returns."""

    def __init__(self, group: Processes, log: Path, name: str, told: str) -> None:
        self._log = log
        words = [*MEEK, *pinned(False), sys.executable, "-m", "attacks.attacker", name, told]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT
            )
        group.all.append(self._process)
        self._expect("ready")

    def go(self) -> dict[str, Any]:
        """The attack, to its end: what he saw."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        said = json.loads(self._expect("{"))
        self._process.communicate()
        return dict(said)

    def _expect(self, begins: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(begins):
                return line
        raise SystemExit(f"the attacker ended early: {self._log.read_text()[-4000:]}")


@dataclass
class Figures:
    per_s: float
    p99_us: float


class _Load(threading.Thread):
    """The honest calls, from one agent to another."""

    def __init__(self, home: Path, seconds: float, per_s: float, window: int) -> None:
        super().__init__(daemon=True)
        self._home, self._asked = home, {"seconds": seconds, "per_s": per_s, "window": window}
        self._rows: list[list[float]] = []

    def run(self) -> None:
        with connect(home=self._home, node=PEER, timeout_s=None) as client:
            self._rows = client.call("load", **self._asked)

    def between(self, from_s: float, to_s: float) -> Figures:
        """Of whole tenths of a second inside."""
        rows = [row for row in self._rows if from_s <= row[0] and row[0] + 0.1 <= to_s]
        if not rows:
            return Figures(0.0, 0.0)
        span = min(to_s, self._rows[-1][0] + 0.1) - from_s
        return Figures(sum(row[1] for row in rows) / max(0.1, span), statistics.median(row[3] for row in rows))


def _reset_peak_mib(pid: int) -> float:
    """From now on the peak is counted anew; returns what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _field_mib(pid, "VmRSS:")


def _peak_mib(pid: int) -> float:
    return _field_mib(pid, "VmHWM:")


def _field_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


@contextmanager
def arena(before: tuple[str, ...] = ()) -> Iterator[Arena]:
    """An arena, nodes and workers running."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-arena-"))
    try:
        with processes() as group:
            made = Arena(group, folder, before)
            try:
                made.gather()
                yield made
            finally:
                made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
