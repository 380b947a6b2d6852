"""Every key of three homes is replaced under load: nothing fails, nothing happens twice, no honest envelope is refused, journals verify."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.joining import join_by_token, make_mesh
from mesh.runtime.home import Home
from mesh.sync import connect

Until = Callable[..., Any]
NAMES = ("root", "second", "third")
CALLERS = 2
"""Of each node, one call at a time."""


class Load:
    """Calls and submitted work from every home, without a pause, until told to stop; what came of each."""

    def __init__(self, town: dict[str, Any], ledger: Path) -> None:
        self._town, self._ledger = town, ledger
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.done: list[tuple[str, float, float]] = []
        """Label, when it ended, and how long it took."""
        self.failed: list[tuple[str, BaseException]] = []

    def _run(self, name: str, submits: bool) -> None:
        with connect(home=self._town[name].home, node=name, timeout_s=60.0) as mesh:
            while not self._stop.is_set():
                label = f"{name}-{'task' if submits else 'call'}-{next(self._numbers)}"
                began = time.monotonic()
                try:
                    if submits:
                        mesh.submit("plain", ledger=str(self._ledger), label=label).result(60.0)
                    else:
                        mesh.call("plain", ledger=str(self._ledger), label=label)
                except Exception as error:  # noqa: BLE001  whatever it was, the test tells
                    self.failed.append((label, error))
                else:
                    self.done.append((label, time.monotonic(), time.monotonic() - began))

    def __enter__(self) -> Load:
        for name in self._town:
            for submits in (False,) * CALLERS + (True,):
                thread = threading.Thread(target=self._run, args=(name, submits))
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def latency_ms(self, quantile: float, since: float = 0.0, until: float = float("inf")) -> float:
        took = sorted(took for _, at, took in self.done if since <= at < until)
        return took[int(len(took) * quantile)] * 1000 if took else 0.0


def linked(one: Any, name: str) -> bool:
    rows = one.rows(name).values()
    return len(rows) == len(NAMES) and all(row["linked"] or row["self"] for row in rows)


def offered(one: Any, name: str) -> int:
    return sum("plain" in row["caps"] for row in one.rows(name).values())


@pytest.fixture
def town(tmp_path: Path, cluster_class: Any, eventually: Until) -> Iterator[dict[str, Any]]:
    """Three homes of one mesh, a node each, workers at two of them."""
    made = {name: cluster_class(tmp_path / name) for name in NAMES}
    for one in made.values():
        one.folder.mkdir()
        Home(one.home).make().config_path.write_text('bind = "127.0.0.1"\n')
    make_mesh(Home(made["root"].home), "token", "lab")
    made["root"].node("root")
    for name in ("second", "third"):
        token = json.loads(made["root"].run("invite", "--json", "--home", str(made["root"].home)).stdout)["token"]
        anyio.run(join_by_token, Home(made[name].home), token, name, name)
        made[name].node(name)
    try:
        for name, one in made.items():
            eventually(
                lambda one=one, name=name: (
                    len(one.rows(name)) == 3 and all(row["linked"] or row["self"] for row in one.rows(name).values())
                ),
                f"{name} to be linked",
            )
        for name in ("second", "third"):
            made[name].worker(name)
        for name, one in made.items():
            eventually(lambda one=one, name=name: offered(one, name) == 2, f"{name} to know the workers")
        yield made
    finally:
        with ExitStack() as stack:
            for one in made.values():
                stack.callback(one.close)
    for one in made.values():
        one.verify()


KNOCKED = "knock_other_mesh"
"""By whoever else has a mesh on this machine, and dials a port that he remembers as another's."""


def refusals(town: dict[str, Any]) -> dict[str, Any]:
    """What each node has refused so far, at its links and at its door."""
    found = {}
    for name, one in town.items():
        links = one.client(name).statistics()["links"]
        door = {reason: count for reason, count in links["door"]["refusals"].items() if reason != KNOCKED}
        found[name] = (links["refusals"], door, links["punished"])
    return found


def rotated(town: dict[str, Any], name: str, *words: str) -> dict[str, Any]:
    ran = town[name].run("rotate", *words, "--json", "--home", str(town[name].home))
    document: dict[str, Any] = json.loads(ran.stdout)
    assert ran.returncode == 0, document
    assert not document.get("late") or words[0] == "root", document
    return document


def test_every_key_is_replaced_under_load(town: dict[str, Any], tmp_path: Path, eventually: Until) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    before = refusals(town)
    with Load(town, ledger) as load:
        eventually(lambda: len(load.done) > 200, "the load to run")
        quiet, began = load.latency_ms(0.99), time.monotonic()
        for name in NAMES:
            for what in ("transport", "identity", "home"):
                rotated(town, name, what)
                seen = len(load.done)
                eventually(lambda seen=seen: len(load.done) > seen + 30, f"work to go on after {what} of {name}")
        following = town["third"].home / "mesh" / "home.key.next"
        eventually(lambda: not following.exists(), "the third home's key to be certified by another home's issuer")
        for name in ("root", "second"):
            rotated(town, name, "issuer")
        rotated(town, "root", "root")
        finish = ("rotate", "root", "--finish", "--json", "--home", str(town["root"].home))
        eventually(lambda: town["root"].run(*finish).returncode == 0, "every member to be under the new root")
        seen, ended = len(load.done), time.monotonic()
        eventually(lambda: len(load.done) > seen + 200, "work to go on after all of it")
    print(f"{len(load.done)} done; p99 {quiet:.0f} ms before, {load.latency_ms(0.99, began, ended):.0f} ms while keys were replaced")
    assert not load.failed, load.failed[:3]
    lines = [line.split()[:2] for line in ledger.read_text().splitlines()]
    starts = [label for what, label in lines if what == "start"]
    assert len(starts) == len(set(starts)), "something ran twice"
    assert set(starts) == {label for label, _, _ in load.done} == {label for what, label in lines if what == "end"}
    assert refusals(town) == before, "no honest envelope was refused"
    for name, one in town.items():
        ran = one.run("verify", "--json", "--home", str(one.home))
        assert ran.returncode == 0 and json.loads(ran.stdout)["ok"], ran.stdout
        members = one.client(name).office("trust")["members"]
        assert len(members) == 3
