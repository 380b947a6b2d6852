"""`mesh demo`, end to end, as a person or a script runs it."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.files import sha256_of
from mesh.inspector.crew import Crew
from mesh.launch import command_line
from mesh.runtime.home import Home

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
STEPS = ["collect", "quality", "transform", "report"]


def _left(folder: Path) -> list[int]:
    """Processes that still name this folder."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]
    return [number for number in numbers if os.fsencode(folder) in command_line(number)]


def _all_true(document: dict[str, Any], found_by: str) -> None:
    assert document["schema"] == "mesh.demo/1" and document["nodes"] == 4
    assert document["reassigned"] is True and document["lineage_verified"] is True
    assert found_by in document["found_by"]
    assert [step["step"] for step in document["steps"]] == STEPS
    struck = document["steps"][2]
    assert struck["attempts"] > 1 and struck["by"] != document["killed"] and struck["lost"]
    assert all(step["recomputed"] for step in document["steps"])
    assert 0 < document["recovery_s"] < document["seconds"]
    assert Path(document["chart"]).read_bytes().startswith(b"\x89PNG")


def test_every_promised_field_is_true(shells: Any) -> None:
    document = shells.json("demo", "--dir", str(shells.folder / "d"))
    _all_true(document, "over mDNS on loopback")
    report = Path(document["report"]).read_text()
    assert report.count("<svg") == 4 and document["source_sha256"] in report
    assert not re.findall(r'(?:src|href)="(?!#)', report), "it needs nothing from elsewhere"
    assert _left(shells.folder) == []
    assert not Home(shells.folder / "d" / "home").running()


def own_data(path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["day", "shop", "sold", "paid"])
        for number in range(2400):
            day = f"20{20 + number // 600:02}-{1 + number // 50 % 12:02}-{1 + number % 28:02}"
            writer.writerow([day, "north" if number % 2 else "south", number % 97, f"{100 + 50 * math.sin(number):.2f}"])
        writer.writerow(["2021-01-01", "north", "many", "1.00"])
    return path


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a network of its own needs root and unshare")
def test_ones_own_file_where_multicast_is_blocked(shells: Any) -> None:
    """It says so, and goes on."""
    data = own_data(shells.folder / "my sales.csv")
    blocker = "import socket, subprocess, sys; s = socket.socket(2, 2); s.bind(('', 5353)); sys.exit(subprocess.call(sys.argv[1:]))"
    demo = ["-m", "mesh.inspector.cli", "demo", "--json", "--dir", str(shells.folder / "d"), "--data", str(data)]
    script = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-c", blocker, sys.executable, *demo]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    _all_true(document, "through a seed")
    assert "because" in document["found_by"]
    assert document["source_sha256"] == sha256_of(data)
    assert "My sales" in Path(document["report"]).read_text()


def test_it_stays_up_and_a_second_one_takes_it_down_first(shells: Any) -> None:
    words = ["demo", "--dir", "d", "--no-mdns"]
    out = shells.run(*words)
    assert "\nok: 4 nodes, " in out and "The mesh is still up" in out
    assert f"mesh demo --stop --dir {shells.folder.resolve() / 'd'}" in out
    says = [line[line.index(" s  ") + 4 :] for line in shells.said.splitlines() if " s  " in line]
    assert says[0].startswith("starting 4 nodes") and says[1].endswith("because mDNS is switched off"), says
    assert [line.split()[0] for line in says if line.startswith("KILLED")] == ["KILLED"]
    home = ["--home", str(shells.folder / "d" / "home"), "--node", "otter"]
    states = sorted(node["state"] for node in shells.json("nodes", *home)["nodes"])
    assert states == ["alive", "alive", "alive", "dead"]
    assert "made by report@" in shells.run("blame", "d/report.html", *home)
    before = _left(shells.folder)
    assert len(before) == 6, "three nodes and their workers"
    second = shells.start(*words)
    shells.line(second, "stopped an earlier demo's 6 processes")
    shells.line(second, "starting 4 nodes")
    assert not set(before) & set(_left(shells.folder))
    assert "another demo is at work" in json.loads(shells.run(*words, "--json", code=5))["message"]
    second.send_signal(signal.SIGINT)
    shells.line(second, "stopped all")
    assert second.wait(60) == 130
    assert _left(shells.folder) == []
    assert shells.run("demo", "--stop", "--dir", "d").startswith(f"no demo runs in {shells.folder.resolve() / 'd'}; ")


def test_stop_ends_what_a_killed_demo_left_and_orphans_too(shells: Any) -> None:
    process = shells.start("demo", "pipeline", "--dir", "d")
    shells.line(process, "runs on")
    process.kill()
    process.wait()
    crew = Crew(shells.folder / "d")
    info = next(folder.info() for folder in Home(crew.home).running())
    assert info is not None
    os.kill(info["pid"], signal.SIGKILL)  # its worker has lost its node
    assert shells.run("demo", "--stop", "--dir", "d") == "stopped 7 processes\n"
    assert _left(shells.folder) == []


def test_support_is_driven_on_answered_elsewhere_and_cites(shells: Any) -> None:
    document = shells.json("demo", "support", "--dir", "d", "--no-mdns")
    assert document["schema"] == "mesh.demo-support/1" and document["ok"] is True
    assert document["reassigned"] and document["steps_kept"] and document["quotes_hold"] and document["lineage_verified"]
    plain, risky, unknown = document["tickets"]
    assert (plain["state"], plain["escalated"], plain["answers"], plain["edited"]) == ("sent", [], [], False)
    assert plain["citations"] and all(each["quote"] in plain["reply"] for each in plain["citations"])
    assert (risky["escalated"], risky["edited"], risky["triage"]["queue"]) == (["security incident", "legal"], False, "security")
    driven = risky["steps"][0]
    assert driven["by"] != document["killed"] and [lost["node"] for lost in driven["lost"]] == [document["killed"]]
    assert (unknown["escalated"], unknown["edited"], unknown["triage"]["language"]) == (["the documents do not answer it"], True, "de")
    for ticket in (risky, unknown):
        (answer,) = ticket["answers"]
        assert (answer["node"], answer["approve"], answer["verified"]) == ("wren", True, True) and "in a person's place" in answer["note"]
    assert _left(shells.folder) == []


def test_regulated_pays_once_what_two_others_approved_and_is_audited_apart(shells: Any) -> None:
    document = shells.json("demo", "regulated", "--dir", "d", "--no-mdns")
    assert document["schema"] == "mesh.demo-regulated/1" and document["ok"] is True
    assert (document["own_work"], document["stale_refused"]) == ("own_work", "unknown_task")
    assert document["word_stands"] and document["voided"] and document["paid_once"] and document["lineage_verified"]
    paid, void = document["payouts"]
    assert [(one["node"], one["approve"], one["verified"]) for one in paid["answers"]] == [("wren", True, True), ("heron", True, True)]
    assert document["killed"] == "wren" and paid["transfer"]["key"] == f"{paid['task']}/pay"
    assert [(one["node"], one["approve"]) for one in void["answers"]] == [("heron", True), ("lynx", True), ("lynx", False)]
    assert void["transfer"] is None and "nothing was paid" in void["report"]
    audit = document["audit"]
    assert audit["by"].endswith("scripts/verify") and audit["answers"] == 5 and Path(audit["export"]).is_file()
    assert ": good. " in audit["said"][0] and "5 answers to gates, each signed" in audit["said"][1]
    assert _left(shells.folder) == []


def test_delivery_promotes_what_is_good_and_rolls_back_what_is_not(shells: Any) -> None:
    document = shells.json("demo", "delivery", "--dir", "d", "--no-mdns")
    assert document["schema"] == "mesh.demo-delivery/1" and document["ok"] is True
    assert document["reassigned"] and document["steps_kept"] and document["lineage_verified"]
    good, bad = document["deliveries"]
    states = [{step["step"]: step["state"] for step in one["flow"]["steps"]} for one in (good, bad)]
    assert states[0] == dict.fromkeys(("build", "test", "canary", "promote", "smoke"), "done")
    assert states[1] == states[0] | {"promote": "undone", "smoke": "failed"}
    driven = good["steps"][0]
    assert driven["by"] != document["killed"] and [lost["node"] for lost in driven["lost"]] == [document["killed"]]
    assert "it says '3 the" in bad["error"]["message"] and bad["error"]["message"].endswith("undone: promote")
    current = Path(document["current"])
    assert current.resolve().name == document["current_release"] == good["result"]["output"]["release"]
    assert sha256_of(current) == document["current_sha256"] == good["result"]["output"]["archive"]["$file"]["sha256"]
    said = subprocess.run([sys.executable, str(current), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == "1.0\n"
    assert _left(shells.folder) == []
