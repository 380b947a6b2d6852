"""What `scripts/bench rows` reads of a peers' command, and what it makes of rounds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"
LINES: list[dict[str, Any]] = [
    {
        "bench": "A",
        "system": "ray",
        "variant": "task",
        "p50_us": 9,
        "tput_64": 1400,
        "client_cpu_us": 400,
        "others_cpu_us": 500,
    },
    {"bench": "A", "system": "ray", "variant": "something new", "p50_us": 1},
    {"bench": "B", "system": "nats", "variant": "1ms x1000", "ratio": 1.5},
    {"bench": "C", "system": "dask", "variant": "1,1,2,4", "ratio": 1.3},
    {"bench": "D", "system": "dbos-sqlite", "variant": "1-1000-1", "s": 6.5},
    {"bench": "F", "system": "celery-durable", "variant": "chain-50", "s": 0.8},
    {"bench": "FAIL", "system": "celery a_queue.py", "error": "over 20 s"},
]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_peers_print_gets_our_names_and_who_failed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines").write_text("anything else\n" + "".join(f"{json.dumps(line)}\n" for line in LINES))
    found = load("peers").peers_round(f"{sys.executable} -c \"print(open('{tmp_path}/lines').read())\"")
    assert found == {
        "Ray task/p50_us": 9.0,
        "Ray task/per_s_64": 1400.0,
        "Ray task/cpu_s_per_1000": 0.9,
        "NATS/1ms x1000": 1.5,
        "Dask/1,1,2,4": 1.3,
        "DBOS/1-1000-1": 6.5,
        "Celery, Redis fsyncs/chain-50": 0.8,
    }
    assert "failed: celery a_queue.py: over 20 s" in capsys.readouterr().err


def test_ratios_are_taken_within_a_round() -> None:
    ours, other = "mesh ctx.call/per_s_64", "NATS/per_s_64"
    rounds = [{ours: 8.0, other: 10.0}, {ours: 1.0, other: 2.0}, {ours: 30.0, other: 100.0}, {ours: 5.0}]
    tables = load("rows_table").tables([{**found, "disk/fsync p50_us": 200.0, "mesh call/1ms x1000": 2.5} for found in rounds])
    *_, goals = tables.values()
    by_name = {row["what"]: row for row in goals}
    nats = by_name["ctx.call per s, 64 in flight / NATS"]
    assert (nats["ratio"], nats["worst"], nats["floor met"]) == (0.5, 0.3, "NO")
    assert by_name["1,000 of 1 ms on 4, over ideal"]["floor met"] == "NO"
    assert by_name["auction of 4, p50 / Ray task"]["ratio"] is None
    first = next(iter(tables.values()))
    assert [(row["system"], row["per_s_64"]) for row in first] == [("mesh ctx.call", 6.5), ("NATS", 10.0)]


def test_of_flows_each_row_is_beside_ours_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    flows = load("flows")
    rounds = [
        {"mesh flow/chain-50": 2.0, "Ray/chain-50": 0.5},
        {"mesh flow/chain-50": 6.0, "Ray/chain-50": 1.0},
        {"mesh flow/chain-50": 1.0},
    ]
    ours, ray = flows.table(rounds)
    assert (ours["system"], ours["s"], ours["ms per step"], ours["flow / it"]) == ("mesh flow", 2.0, 40.0, 1.0)
    assert (ray["system"], ray["kept"], ray["s"], ray["flow / it"], ray["least"], ray["most"]) == ("Ray", "memory", 0.75, 5.0, 4.0, 6.0)
    needs = flows.needs_of(1)
    assert len(needs) == 1000 and needs == flows.needs_of(1)
    assert all(one < number for number, each in enumerate(needs) for one in each) and {len(each) for each in needs} == {0, 3}
