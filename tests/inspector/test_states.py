"""State, updates and baggage by the command line, on a real node with a real worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_values_are_written_read_listed_and_deleted_by_version(mesh: Callable[..., Any], node: Path) -> None:
    home = ("--in", "prices", "--home", str(node))
    assert mesh("state", "get", "EUR", *home).code == 1
    first = int(mesh("state", "set", "EUR", "1.08", "--if-version", "0", *home).out)
    assert mesh("state", "get", "EUR", *home).out == "1.08\n"
    again = mesh("state", "set", "EUR", "1.1", "--event", "e1", *home).out
    assert mesh("state", "set", "EUR", "1.1", "--event", "e1", *home).out == again != str(first)
    stale = mesh("state", "set", "EUR", "2", "--if-version", str(first), *home, "--json")
    assert (stale.code, stale.document["code"], stale.document["version"]) == (5, "version_conflict", int(again))
    assert "EUR" in mesh("state", "list", *home).out
    [row] = [row for row in mesh("state", "list", *home[2:], "--json").document["states"] if row["name"] == "prices"]
    assert row["keys"] == 1 and "prices" in mesh("state", "list", *home[2:]).out
    assert mesh("state", "delete", "EUR", *home).out == "nothing stands at EUR\n"
    assert mesh("state", "get", "EUR", *home, "--json").document["version"] == 0
    assert mesh("state", "set", "EUR", "no json", *home).code == 2
    whose = mesh("state", "get", "EUR", *home[2:])
    assert whose.code == 2 and "--in NAME, or --task ID" in whose.err
    kept = mesh("cancel", row["task"], *home[2:])
    assert kept.code == 5 and "shared state" in kept.err


def test_a_running_task_answers_updates_and_its_state_is_read_from_outside(mesh: Callable[..., Any], node: Path) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "stateful", "--baggage", "tenant=acme", *home).out.strip()
    answered = mesh("update", task, "limit", "5", "--event", "e1", *home, "--json").document
    assert (answered["answer"], answered["name"], answered["task"]) == (5, "limit", task)
    assert mesh("update", task, "limit", "7", "--event", "e1", *home).out == "5\n"
    refused = mesh("update", task, "limit", "10", *home)
    assert refused.code == 5 and "too much" in refused.err
    assert mesh("state", "get", "limit", "--task", task, *home).out == "5\n"
    assert "tenant=acme" in mesh("task", task, *home).out
    late = mesh("update", task, "nobody", "--timeout", "0.2", *home)
    assert late.code == 4 and "the update stays" in late.err
    mesh("signal", task, "go", *home)
    assert mesh("result", task, *home, "--json").document["result"] == {"limit": 5, "baggage": {"tenant": "acme"}}
    assert json.loads(mesh("state", "get", "tenants", "--in", "seen", *home).out) == ["acme"]
    over = mesh("state", "get", "limit", "--task", task, *home)
    assert over.code == 5 and "has ended" in over.err
    assert mesh("update", task, "limit", "--event", "e1", *home).out == "5\n"
    assert mesh("submit", "stateful", "--baggage", "tenant", *home).code == 2
