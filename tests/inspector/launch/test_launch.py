"""`mesh launch` against machines behind a real sshd: from nothing to an agent that works, again, changed, and back to nothing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.runtime.home import Lock

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

DOUBLE = """from mesh import Agent
agent = Agent("transform")
@agent.capability(name="data.double")
def double(number: int) -> int:
    return {factor} * number
"""


def call(machine: Any, *words: str) -> Any:
    """A capability called there, by the mesh that was installed there."""
    python = next(machine.launched.glob("versions/*/bin/python"))
    command = [python, "-m", "mesh.inspector.cli", "call", *words, "--home", machine.home / ".local/share/lanmesh", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["result"]


def test_with_services_from_nothing_to_agents_and_back(nas: Any, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = _an_agent_that_changes(nas, site, tmp_path, ("version", "node", "files", "agent"), note="")
    site.keep_installed(nas)
    units = nas.home / ".config/systemd/user"
    assert sorted(path.name for path in units.glob("*.service")) == ["mesh-run-my-transform-s.service", "mesh.service"]
    counting = _an_agent_with_a_package_of_its_own(nas, site, tmp_path)
    _without_lingering(nas, site, counting)
    _beside_a_node_of_somebody_else(nas, site, counting)
    assert site.one("nas", words)["changed"] == ("node",), "its own node is back"
    _down_to_nothing(nas, site, "my-transform-s", "counting.agents", "node")
    assert list(units.glob("**/mesh*")) == []


def test_without_services_to_an_agent_and_back(box: Any, site: Any, tmp_path: Path) -> None:
    new = ("node", "files", "agent") if site.install(box) else ("version", "node", "files", "agent")
    _an_agent_that_changes(box, site, tmp_path, new, note="; until that machine restarts, as a process: systemctl --user does not answer: ")
    assert list((box.home / ".config").rglob("mesh*")) == [], "nothing that only systemd would read"
    state = box.launched / "state.json"
    record = json.loads(state.read_text())
    record["services"]["run-my-transform-s"]["wheel"] = "0" * 64
    state.write_text(json.dumps(record))
    assert "; of an earlier version still: my-transform-s" in site.one("box")["message"]
    _down_to_nothing(box, site, "my-transform-s", "node")


def _an_agent_that_changes(machine: Any, site: Any, folder: Path, new: tuple[str, ...], *, note: str) -> str:
    """Launched, launched again, changed, broken, mended. Returns the words behind the dashes."""
    name, target = machine.name, folder / "my transform's.py"
    target.write_text(DOUBLE.format(factor=2))
    words = f'run "{target}" --no-mdns'

    fresh = site.one(name, words)
    assert (fresh["state"], fresh["changed"]) == ("ok", new), fresh
    assert fresh["message"].startswith(f"transform@{fresh['node']} offers data.double{note}"), fresh
    assert call(machine, "data.double", "number:=21") == 42

    before = machine.files(), machine.pids("up"), machine.pids("run")
    again = site.one(name, words)
    assert (again["state"], again["changed"], again["message"]) == ("unchanged", (), fresh["message"])
    alone = site.one(name)
    assert (alone["state"], alone["message"].partition(";")[0]) == ("unchanged", f"node {fresh['node']} is up"), "a node is there already"
    assert (machine.files(), machine.pids("up"), machine.pids("run")) == before
    assert [len(pids) for pids in before[1:]] == [1, 1]

    target.write_text(DOUBLE.format(factor=3))
    changed = site.one(name, words)
    assert (changed["state"], changed["changed"]) == ("ok", ("files", "agent")), changed
    assert call(machine, "data.double", "number:=21") == 63
    assert machine.pids("up") == before[1], "the node is left alone"
    assert machine.pids("run") != before[2]

    target.write_text("this is no Python\n")
    broken = site.one(name, words)
    assert broken["state"] == "failed" and "my transform's.py cannot be loaded: SyntaxError" in broken["message"], broken
    assert broken["fix"].startswith(f"on {name}: ") and machine.pids("up") == before[1]
    target.write_text(DOUBLE.format(factor=4))
    assert site.one(name, words)["changed"] == ("files", "agent"), "what failed is tried again"
    assert call(machine, "data.double", "number:=21") == 84
    return words


def _down_to_nothing(machine: Any, site: Any, *launched: str) -> None:
    down = site.one(machine.name, down=True)
    assert (down["state"], down["changed"]) == ("down", launched), down
    assert machine.processes() == {} and not machine.launched.exists()
    assert (machine.home / ".local/share/lanmesh/node/journal.sqlite").exists(), "its keys and journal stay"
    nothing = site.one(machine.name, down=True)
    assert (nothing["state"], nothing["changed"], nothing["message"]) == ("unchanged", (), "nothing to undo")
    purged = site.one(machine.name, down=True, purge=True)
    assert (purged["state"], purged["changed"]) == ("down", ("node", "mesh")), purged
    assert list((machine.home / ".local/share/lanmesh").rglob("*")) == []


def _an_agent_with_a_package_of_its_own(nas: Any, site: Any, folder: Path) -> str:
    """It goes into an environment of its own: the node and the other agent, which run in another, are not disturbed."""
    before = nas.pids("up"), nas.pids("run")
    package = folder / "counting"
    package.mkdir()
    (package / "__init__.py").write_text("")
    uses_it = "from sortedcontainers import SortedList\ndef count(text):\n    return list(SortedList(text.split()))\n"
    (package / "words.py").write_text(uses_it)
    (package / "agents.py").write_text(
        "from mesh import Agent\nfrom counting.words import count\nagent = Agent('counter')\n"
        "@agent.capability\ndef words(text: str) -> list:\n    return count(text)\n"
    )
    words = "run counting.agents:agent --no-mdns"
    added = site.one("nas", words, packages=["sortedcontainers"])
    assert (added["state"], added["changed"]) == ("ok", ("version", "files", "agent")), added
    assert call(nas, "words", "text=one two three") == ["one", "three", "two"]
    assert nas.pids("up") == before[0] and set(before[1]) < set(nas.pids("run"))
    assert site.one("nas", words, packages=["sortedcontainers"])["state"] == "unchanged"

    (package / "words.py").unlink()
    (package / "agents.py").write_text(
        "from mesh import Agent\nagent = Agent('counter')\n@agent.capability\ndef words(text: str) -> int:\n    return 7\n"
    )
    site.one("nas", words)
    assert call(nas, "words", "text=x") == 7
    assert not (nas.launched / "agents/counting.agents/counting/words.py").exists()
    assert len(list(nas.launched.glob("versions/*"))) == 1, "the environment with the package is not needed any more"

    gone = site.one("nas", words, down=True)
    assert (gone["state"], gone["changed"]) == ("down", ("counting.agents",)), gone
    assert (nas.pids("up"), nas.pids("run")) == before
    assert site.one("nas", words, down=True)["message"] == "nothing to undo"
    return words


def _without_lingering(nas: Any, site: Any, words: str) -> None:
    """A service that ends at logout would end with the launch: it becomes a process, and what would help is said."""
    before, lingering = nas.pids("up"), "/var/lib/systemd/linger/root"
    nas.inside("rm", lingering)
    report = site.one("nas", words)
    assert "; until that machine restarts, as a process: its services end at logout" in report["message"], report
    assert report["fix"] == "on nas: sudo loginctl enable-linger root"
    assert nas.pids("up") == before
    nas.inside("touch", lingering)
    running = nas.pids("run")
    assert (site.one("nas", words)["state"], nas.pids("run")) == ("unchanged", running), "what runs is not restarted for that"


def _beside_a_node_of_somebody_else(nas: Any, site: Any, words: str) -> None:
    """It is used, and neither started nor stopped; and its keys are not taken from under it."""
    nas.inside("systemctl", "--user", "stop", "mesh")
    mesh, home = (sys.executable, "-m", "mesh.inspector.cli"), ("--home", str(nas.home / ".local/share/lanmesh"))
    assert nas.inside(*mesh, "up", "--detach", "--no-mdns", *home).returncode == 0
    (node,) = nas.pids("up")
    assert site.one("nas", words)["message"].endswith("; its node ran already, and was left as it is")
    assert call(nas, "words", "text=x") == 7
    running = nas.processes()
    refused = site.one("nas", down=True, purge=True)
    assert refused["state"] == "failed" and "runs there, and launch did not start it" in refused["message"]
    assert refused["fix"] == f"on nas: kill {node}" and nas.processes() == running
    assert nas.inside(*mesh, "down", *home).returncode == 0


def test_what_is_in_the_way_is_said_in_a_line(site: Any) -> None:
    """Each of them at once: one that fails keeps no other from its end."""
    hosts = ["impostor", "unknown", "locked", "nobody", "pythonless", "penniless", "venvless"]
    reports = {report["host"]: report for report in site.launch(*hosts)}
    assert {report["state"] for report in reports.values()} == {"failed"}, reports
    said = {host: (report["message"], report["fix"]) for host, report in reports.items()}
    by_hand = f"ssh -F {site.folder}/ssh_config"
    assert said["impostor"] == (
        "its host key is not the one that ssh knows: somebody may be in between",
        "find out why; then: ssh-keygen -R impostor",
    )
    assert said["unknown"] == ("ssh does not know its host key yet", f"{by_hand} unknown true, once, to compare and accept it")
    assert "Permission denied (publickey)" in said["locked"][0] and said["locked"][1].startswith("ssh-copy-id locked")
    assert "Connection refused" in said["nobody"][0] and said["nobody"][1] == f"{by_hand} nobody true"
    assert said["pythonless"] == (
        "there is no Python on its PATH; mesh needs 3.11 or newer",
        "on pythonless: sudo apt-get install python3 python3-venv",
    )
    assert said["penniless"][1] == "on penniless: install Python 3.11 or newer"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert said["venvless"] == (
        f"its Python {version} cannot make virtual environments: ensurepip is missing",
        f"on venvless: sudo apt-get install python{version}-venv",
    )
    assert site.poor.processes() == {}


def test_a_python_that_is_too_old_is_named(site: Any) -> None:
    report = site.one("outdated")
    if "there is no Python" in report["message"]:
        pytest.skip("NOT TESTED: an old Python; there is none on this machine")
    assert report["state"] == "failed" and report["message"].startswith("its python3 is Python 3.")


def test_pip_that_cannot_is_quoted(box: Any, site: Any) -> None:
    report = site.one("offline")
    assert report["state"] == "failed" and report["changed"] == ()
    assert report["message"].startswith("pip cannot install it: No matching distribution found for ")
    assert report["message"].endswith("; does it reach a package index?")
    assert report["fix"] == f"on offline: cat {box.launched}/pip.log" and box.processes() == {}
    assert not list(box.launched.glob("versions/*/complete"))


def test_two_launches_do_not_work_on_one_host_at_once(box: Any, site: Any) -> None:
    box.launched.mkdir(parents=True)
    lock = Lock.take(box.launched / "lock")
    assert lock is not None
    with lock:
        report = site.one("box")
    assert (report["state"], report["message"]) == ("failed", "another launch is at work there")
    assert not (box.launched / "versions").exists()


def test_a_launch_that_is_given_up_leaves_nothing_running(box: Any, site: Any) -> None:
    """The far end notices that nobody listens any more, and ends with what it was doing; the next launch begins where that stopped."""
    report = site.one("stuck", timeout_s=3.0)
    assert report["state"] == "failed" and report["message"].startswith("it was not done within 3 s; it was at: installing lanmesh")
    box.await_idle()
    assert not list(box.launched.glob("versions/*/complete"))


def test_one_line_per_host_and_one_document(mesh: Callable[..., Any], site: Any) -> None:
    """The command itself; what it takes down needs no mesh to join."""
    line = ("launch", "--ssh", shlex.join(site.ssh), "--down", "box", "nobody")
    talk = mesh(*line)
    lines = sorted(talk.out.splitlines())
    assert talk.code == 1 and len(lines) == 2, talk
    assert lines[0] == "box     unchanged  nothing to undo"
    assert lines[1].startswith("nobody  FAILED     ssh does not get there: ") and "; try: ssh -F" in lines[1]
    ran = mesh(*line, "--json")
    assert ran.code == 1 and not ran.err
    assert [(each["host"], each["state"]) for each in ran.document["hosts"]] == [("box", "unchanged"), ("nobody", "failed")]
    assert mesh("launch", "--ssh", shlex.join(site.ssh), "--down", "box", "--", "run", "transform").code == 0


def test_what_the_users_ssh_configuration_does_for_sessions_does_not_stop_a_launch(nas: Any, site: Any) -> None:
    report = site.one("forwarding", down=True)
    assert (report["state"], report["message"]) == ("unchanged", "nothing to undo")


def test_a_launched_host_is_a_member(nas: Any, site: Any, tmp_path: Path, mesh: Callable[..., Any]) -> None:
    site.install(nas)
    home, target = str(tmp_path / "home"), tmp_path / "transform.py"
    target.write_text(DOUBLE.format(factor=2))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('bind = "127.0.0.1"\n')  # all the machines of this test share a loopback
    assert mesh("init", "--home", home, "--name", "otter", "--no-mdns").code == 0
    try:
        ssh = " ".join(site.ssh)
        line = ("launch", "nas", "--ssh", ssh, "--home", home, "--json", "--", "run", str(target), "--bind", "127.0.0.1", "--no-mdns")
        (report,) = mesh(*line).document["hosts"]
        assert report["state"] == "ok" and "membership" in report["changed"], report
        assert mesh("call", "data.double", "number:=21", "--home", home, "--json").document["result"] == 42
        (report,) = mesh(*line).document["hosts"]
        assert report["state"] == "unchanged", report
    finally:
        assert mesh("down", "--home", home).code == 0
