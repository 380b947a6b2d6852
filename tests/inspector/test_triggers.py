"""Schedules and events on a real node, from the command line: a tick comes, its task has a result, and what is listed says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

TRIES_MAX = 2000


def test_a_tick_comes_and_its_task_is_listed(mesh: Callable[..., Any], node: Path) -> None:
    at = ("--home", str(node))

    def listed() -> dict[str, Any]:
        rows: list[dict[str, Any]] = mesh("schedule", "list", "--json", *at).document["schedules"]
        return next(row for row in rows if row["name"] == "soon")

    assert mesh("schedule", "add", "soon", "--every", "1s", "nasty", *at).out == "soon is added\n"
    again = mesh("schedule", "add", "soon", "--every", "2s", "nasty", *at)
    assert again.code == 5 and "try:  mesh schedule remove soon" in again.err
    try:
        tasks = (listed()["task"] for _ in range(TRIES_MAX))
        task = next(task for task in tasks if task)
        assert mesh("result", task, *at).code == 0
        row = listed()
        assert row["next_ms"] - row["last_ms"] >= 1000 and row["last_ms"] % 1000 == 0
        assert mesh("schedule", "pause", "soon", *at).out == "soon is paused\n"
        assert "paused" in mesh("schedule", "list", *at).out
    finally:
        assert mesh("schedule", "remove", "soon", *at).out == "soon is removed\n"
    gone = mesh("schedule", "resume", "soon", *at)
    assert gone.code == 5 and "there is no schedule 'soon'" in gone.err


def test_a_wrong_argument_is_told_before_it_is_scheduled(mesh: Callable[..., Any], node: Path) -> None:
    wrong = mesh("schedule", "add", "wrong", "--every", "1d", "greet", "nmae=Bob", "--home", str(node))
    assert wrong.code == 2 and "did you mean 'name'" in wrong.err
    assert mesh("publish", "nobody.cares", "--home", str(node)).out == "nobody subscribes to nobody.cares\n"
