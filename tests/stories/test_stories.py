"""What a person does by hand, in two shells, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.files import sha256_of

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parent.parent.parent

GREETER = """
from mesh import Agent

agent = Agent("greeter")

@agent.capability
async def greet(name: str) -> str:
    return f"hello {name}"
"""
TOOLS = '''
from mesh import Agent, Context, File

agent = Agent("tools")

@agent.capability(idempotent=True)
def louder(raw: File) -> File:
    """The same text, louder."""
    path = __import__("pathlib").Path(__import__("tempfile").mkdtemp()) / "loud.txt"
    path.write_text(raw.path.read_text().upper())
    return File.of(path)

@agent.capability
async def twice(ctx: Context, raw: File) -> File:
    """Two steps."""
    first = await ctx.step("first", "louder", raw=raw)
    return await ctx.step("second", "louder", raw=first)

@agent.capability
async def forever(ctx: Context) -> None:
    """Waits until it is cancelled."""
    ctx.progress(0.5, "waiting")
    await ctx.sleep(3600)

if __name__ == "__main__":
    agent.run()
'''


def test_two_shells(shells: Any) -> None:
    shells.file("greeter.py", GREETER)
    worker = shells.start("run", "greeter.py")
    shells.line(worker, "started for this worker")
    shells.line(worker, "offers greet")
    assert shells.run("call", "greet", "name=Bob") == "hello Bob\n"
    assert shells.run("submit", "greet", "name=Bob", "--wait") == "hello Bob\n"
    assert shells.end(worker) == 0
    shells.until(lambda: not shells_running(shells))
    assert "no node runs" in json.loads(shells.run("call", "greet", "name=Bob", "--json", code=3))["message"]


def shells_running(shells: Any) -> bool:
    from mesh.runtime.home import Home

    return bool(Home(shells.home).running())


@pytest.mark.parametrize("how", ["mdns", "join"])
def test_a_second_node_on_the_same_machine(how: str, shells: Any) -> None:
    shells.file("greeter.py", GREETER)
    plain = [] if how == "mdns" else ["--no-mdns"]
    first = shells.json("up", "--name", "a", "--detach", *plain)
    second = shells.json("up", "--name", "b", "--detach", *plain, *([] if how == "mdns" else ["--join", first["door"]]))
    attached = shells.json("run", "greeter.py", "--name", "b", "--detach")
    assert attached["agents"] == [{"agent": "greeter", "capabilities": ["greet"]}] and attached["node"] == "b"
    shells.until(lambda: any(cap["offered_by"] == ["greeter@b"] for cap in shells.json("caps", "--node", "a")["caps"]))
    assert shells.run("call", "greet", "name=Bob", "--node", "a") == "hello Bob\n"
    rows = {row["name"]: row for row in shells.json("nodes", "--node", "a")["nodes"]}
    assert {name: row["state"] for name, row in rows.items()} == {"a": "alive", "b": "alive"}
    assert rows["b"]["addr"] == second["door"] != first["door"]
    assert "several nodes" in json.loads(shells.run("down", "--json", code=2))["message"]
    assert shells.run("down", "--node", "b") == "node b is down\n"
    shells.until(lambda: {"b": "left"}.items() <= {row["name"]: row["state"] for row in shells.json("nodes")["nodes"]}.items())
    assert shells.run("down") == "node a is down\n"
    os.kill(attached["pid"], signal.SIGTERM)


def test_durable_work_and_its_record(shells: Any) -> None:
    shells.file("tools.py", TOOLS)
    source = shells.file("in.csv", "a,b\n1,2\n")
    shells.json("up", "--name", "a", "--detach", "--no-mdns")
    worker = shells.json("run", "tools.py", "--detach")
    shells.run("submit", "twice", f"raw=@{source}", "--wait", "-o", "out.csv")
    out = shells.folder / "out.csv"
    assert out.read_text() == "A,B\n1,2\n"
    rows = shells.json("tasks")["tasks"]
    assert {(row["capability"], row["step"]) for row in rows} == {("twice", ""), ("louder", "first"), ("louder", "second")}
    task = next(row["task"] for row in rows if row["capability"] == "twice")
    row = shells.json("task", task)
    assert (row["state"], row["owner"], row["agent"], row["attempts"], row["survives"]) == ("done", "a", "tools", 1, "restart")
    why = shells.json("why", task)
    assert why["agrees"] and why["verified"] and why["decisions"][0]["winner"] == "a"
    lineage = shells.json("lineage", str(out))
    assert lineage["verified"] and lineage["task"] == task and lineage["sources"] == [sha256_of(source)]
    blame = shells.json("blame", "out.csv")
    assert blame["made_by"]["step"] == "first" and blame["verified"]
    assert shells.json("get", sha256_of(out), "-o", "again.csv")["size"] == 8
    assert (shells.folder / "again.csv").read_text() == out.read_text()
    exported = shells.folder / "journal"
    assert shells.json("verify", "--export", str(exported))["ok"]
    outsider = subprocess.run(
        [sys.executable, ROOT / "scripts" / "verify", exported], capture_output=True, text=True, timeout=120, check=False
    )
    assert outsider.returncode == 0 and ": good. " in outsider.stdout, outsider.stderr
    os.kill(worker["pid"], signal.SIGTERM)
    shells.run("down")


def test_cancel_a_running_handler(shells: Any) -> None:
    shells.file("tools.py", TOOLS)
    worker = shells.start("run", "tools.py", "--no-mdns")
    shells.line(worker, "offers")
    task = shells.run("submit", "forever").strip()
    shells.until(lambda: shells.json("task", task)["progress"])
    assert "50 % waiting" in shells.run("tasks")
    assert shells.json("result", task, "--timeout", "0.2", code=4)["code"] == "timed_out"
    shells.run("cancel", task, "--reason", "enough")
    assert shells.json("result", task, code=1)["state"] == "cancelled"
    assert shells.json("task", task)["state"] == "cancelled"
    shells.end(worker)


def test_agent_run_in_plain_python_is_mesh_run(shells: Any) -> None:
    shells.file("tools.py", TOOLS)
    worker = shells.start("tools.py", python=True)
    shells.line(worker, "offers louder, twice, forever")
    shells.file("in.txt", "quiet")
    assert shells.json("call", "louder", "raw=@in.txt", "-o", "loud.txt")["saved"] == ["loud.txt"]
    assert (shells.folder / "loud.txt").read_text() == "QUIET"
    shells.end(worker)
    shells.until(lambda: not shells_running(shells))


def test_reload_keeps_the_node(shells: Any) -> None:
    target = shells.file("greeter.py", GREETER)
    worker = shells.start("run", "greeter.py", "--reload", "--no-mdns")
    shells.line(worker, "offers greet")
    before = shells.json("status")
    target.write_text(GREETER.replace("hello", "good day"))
    shells.line(worker, "the code changed")
    shells.line(worker, "offers greet")
    assert shells.run("call", "greet", "name=Bob") == "good day Bob\n"
    target.write_text("import nonsense\n")
    shells.line(worker, "greeter.py cannot be loaded: ModuleNotFoundError")
    shells.line(worker, "it starts again when the code changes")
    target.write_text(GREETER)
    shells.line(worker, "offers greet")
    after = shells.json("status")
    assert (before["pid"], before["incarnation"]) == (after["pid"], after["incarnation"])
    shells.end(worker)
    shells.until(lambda: not shells_running(shells))


def test_watch_without_a_terminal_is_json_lines(shells: Any) -> None:
    shells.file("greeter.py", GREETER)
    shells.json("up", "--detach", "--no-mdns")
    watching = shells.start("caps", "--watch")
    assert json.loads(shells.line(watching, "{")) == {"schema": "mesh.caps/1", "caps": []}
    worker = shells.start("run", "greeter.py")
    found = json.loads(shells.line(watching, "greet"))
    assert found["caps"][0]["capability"] == "greet"
    assert shells.end(watching, signal.SIGINT) == 130
    shells.end(worker)
    shells.run("down")


def test_a_broken_target_shows_the_users_line(shells: Any) -> None:
    shells.file("bad.py", "from mesh import Agent\n\nagent = Agent('x')\nprint(undefined)\n")
    shells.run("run", "bad.py", code=2)
    said = shells.said.splitlines()
    assert said[0].startswith("mesh: bad.py cannot be loaded: NameError")
    assert "bad.py:4" in said[1] and "print(undefined)" in said[1]
    assert not shells_running(shells), "no node was started for it"
