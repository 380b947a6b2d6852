"""What people read of a document: nothing left out that the documentation promises, nothing shown that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.inspector.repair import _show_verify
from mesh.inspector.watch import _keepers, _show_task

TASK: dict[str, Any] = {"task": "x.1.1", "capability": "greet", "state": "waiting", "owner": "", "agent": "", "fence": 0, "attempts": 0}
TASK |= {"age_ms": 1, "priority": 5, "share": ""}


def test_priority_and_share_are_shown_where_they_are_not_the_default() -> None:
    plain = _show_task(TASK)
    assert "priority" not in plain and "share" not in plain
    lines = [line.split() for line in _show_task(TASK | {"priority": 9, "share": "tenant-a"}).splitlines()]
    assert ["priority", "9"] in lines and ["share", "tenant-a"] in lines


def test_a_journal_that_does_not_hold_is_shown_with_the_next_step() -> None:
    shown = _show_verify({"author": "x", "ok": False, "problem": "entries 3 to 4 signed twice", "fix": "mesh audit"}).splitlines()
    assert shown[-2:] == ["WRONG: entries 3 to 4 signed twice", "try:  mesh audit"]


def test_status_says_who_keeps_the_journal_and_what_that_is_worth() -> None:
    kept = {"keepers": [{"name": "b"}, {"name": "c"}], "survives": "node-loss"}
    assert _keepers(kept) == "b, c; submitted work survives the loss of any node"
    assert _keepers({"keepers": [], "survives": "restart"}) == "none; submitted work survives this node's restart, not its loss"


def test_what_is_known_of_how_each_node_does_it(mesh: Callable[..., Any], node: Path, eventually: Callable[..., Any]) -> None:
    assert mesh("submit", "greet", "name=Ann", "--wait", "--home", str(node)).code == 0

    def known() -> dict[str, Any]:
        caps = mesh("caps", "--stats", "--home", str(node), "--json").document["caps"]
        return dict(next(cap["models"][0] for cap in caps if cap["capability"] == "greet"))

    # It says how busy it is a moment later, to itself as well.
    model = eventually(lambda: found if "slots" in (found := known()) else None, "how busy it is")
    assert (model["node"], model["agent"]) == ("otter", "greeter")
    assert {"slots", "busy", "queued", "service_ms", "failing", "breaker", "served_ms", "of_expected_pct", "age_s"} <= set(model)
    shown = mesh("caps", "--stats", "--home", str(node)).out
    assert "OF PROMISED" in shown and "greeter@otter" in shown
