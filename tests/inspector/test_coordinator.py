"""The command line and a coordinator: a real node that holds the office, and calls that wait for its word."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.launch import spawn, start_node
from mesh.runtime.home import Home

AGENT = """
from mesh import Agent

agent = Agent("greeter")

@agent.capability
async def greet(name: str) -> str:
    return f"hello {name}"
"""
RULES = """
policy = "critical greetings"
mode = "hybrid"

[[rule]]
id = "vip"
match = { capability = "greet" }
admit = "closed"
"""


@pytest.fixture
def held(root: Path, on_loopback: Callable[[Path], Path], mesh: Callable[..., Any], eventually: Callable[..., Any]) -> Iterator[Path]:
    """The home of a node with a worker that offers itself as coordinator, and is."""
    home, target = on_loopback(root / "held"), root / "held.py"
    target.write_text(AGENT)
    start_node(Home(home).node("held"), ["--home", str(home), "--name", "held", "--no-mdns", "--role", "coordinator"])
    worker = spawn(["run", str(target), "--home", str(home), "--name", "held"], root / "held-worker.log")
    try:
        eventually(lambda: mesh("coordinator", "--home", str(home), "--json").code == 0, "somebody in office")
        eventually(lambda: mesh("caps", "--home", str(home), "--json").document["caps"], "a worker")
        yield home
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        mesh("down", "--home", str(home), "--json")


def test_it_is_shown_and_paused_and_critical_work_waits_for_it(held: Path, root: Path, mesh: Callable[..., Any]) -> None:
    home, rules = ("--home", str(held)), root / "vip.toml"
    rules.write_text(RULES)
    ran = mesh("policy", "set", str(rules), *home)
    assert ran.code == 0, ran.err
    said = mesh("call", "greet", "name=Ann", *home, "--json")
    assert said.code == 0, said
    shown = mesh("coordinator", *home)
    assert shown.code == 0 and "in office    held" in shown.out and "mode         hybrid" in shown.out, shown
    assert mesh("coordinator", "pause", *home, "--json").document["action"] == "pause"
    waits = mesh("submit", "greet", "name=Bob", *home, "--json").document["task"]
    assert mesh("result", waits, *home, "--timeout", "1.5", "--json").code == 4
    (gate,) = mesh("coordinator", *home, "--json").document["gates"]
    assert gate["for"] == "coordinator" and mesh("approve", gate["task"], *home, "--json").document["code"] == "for_coordinator"
    assert mesh("coordinator", "resume", *home).code == 0
    assert mesh("result", waits, *home, "--json").document["result"] == "hello Bob"
    said = mesh("why", gate["task"], *home, "--json")
    assert said.code == 0 and said.document["verified"], said
    assert mesh("coordinator", "stop", *home).code == 2
    assert mesh("up", "--role", "king", *home).code == 2
