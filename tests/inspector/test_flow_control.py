"""Pausing and patching a flow by the command line, on a real node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FLOW = """
flow = "careful"
[[step]]
id = "ask"
gate = "Go on?"
[[step]]
id = "after"
gate = "Really?"
needs = ["ask"]
"""
PATCH = """
base = 1
output = "$steps.ask.output"
remove = ["after"]
"""


def test_a_running_flow_is_paused_and_changed(mesh: Callable[..., Any], node: Path, tmp_path: Path) -> None:
    home = ("--home", str(node))
    (tmp_path / "flow.toml").write_text(FLOW)
    (tmp_path / "patch.toml").write_text(PATCH)
    task = mesh("flow", "run", str(tmp_path / "flow.toml"), *home).out.strip()
    assert mesh("flow", "pause", task, *home).out == f"{task} was told to pause\n"
    taken = mesh("flow", "patch", task, str(tmp_path / "patch.toml"), *home)
    assert taken.out == f"{task}: taken, version 2\n", taken.err
    again = mesh("flow", "patch", task, str(tmp_path / "patch.toml"), *home)
    assert again.code == 2 and "the flow is at version 2, and the patch is for 1" in again.err
    assert mesh("flow", "resume", task, *home).out == f"{task} was told to go on\n"
    while not mesh("approvals", task, *home, "--json").document["gates"]:
        pass
    mesh("approve", task, "--output", "7", *home)
    assert mesh("result", task, *home, "--json").document["result"]["output"] == 7


@pytest.mark.parametrize("text", ["base = ", '{"base": 1', "day = 2026-01-01", None])
def test_a_patch_that_cannot_be_read_is_told_before_anything_is_sent(
    text: str | None, mesh: Callable[..., Any], node: Path, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "patch.toml").write_text(text)
    refused = mesh("flow", "patch", "x.1.1", str(tmp_path / "patch.toml"), "--home", str(node))
    assert refused.code == 2 and "patch.toml: " in refused.err
