"""Whose log is meant: a task's id ends in two numbers, all else names a node."""

from __future__ import annotations

import pytest

from mesh.inspector.logs import TASK


@pytest.mark.parametrize("what", ["aaaaaaaa.1.1", "n3cc3pm6xcnscso5uyi3bofci6ik4fut.12.345"])
def test_a_task(what: str) -> None:
    assert TASK.fullmatch(what)


@pytest.mark.parametrize("what", ["otter", "nas.local", "rack-1.lan", "10.local", "n3cc3pm6xcnscso5uyi3bofci6ik4fut"])
def test_a_node(what: str) -> None:
    assert not TASK.fullmatch(what)
