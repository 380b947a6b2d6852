"""Why a node ended that nobody told to end: kept where the next who asks looks for it, and forgotten once it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import NoNode
from mesh.inspector import doctor
from mesh.reconnecting import find_socket
from mesh.runtime import ended
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.home import Home, NodeFolder


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    return Home(tmp_path / "home").node("otter").make()


def test_whoever_asks_is_told_why_nothing_runs_and_what_to_type(folder: NodeFolder) -> None:
    ended.note(folder, ExceptionGroup("tasks", [StoreError("rolled_back", "the backup is older", "mesh up --accept-rollback")]))
    for name in (None, "otter"):
        with pytest.raises(NoNode, match="node otter ended by itself: the backup is older") as caught:
            find_socket(folder.home.path, name)
        assert (caught.value.fix, caught.value.exit_code) == ("mesh up --accept-rollback", 3)
    [found] = doctor.resting(folder.home)
    assert found.state == "fail" and "the backup is older" in found.message and found.fix == "mesh up --accept-rollback"


def test_nothing_is_told_of_a_node_that_runs_or_has_worked_since(folder: NodeFolder) -> None:
    ended.note(folder, StoreError("disk", "the disk is full", "df"))
    with folder.lock():
        assert ended.last(folder) is None
    ended.clear(folder)
    ended.clear(folder)
    assert ended.last(folder) is None and doctor.resting(folder.home) == []


def test_a_defect_and_a_note_that_is_none(folder: NodeFolder) -> None:
    ended.note(folder, ExceptionGroup("tasks", [ZeroDivisionError("division by zero"), StoreError("disk", "full", "df")]))
    why = ended.last(folder)
    assert why is not None and "a defect of mesh itself" in why.message and str(folder.log_path) in why.fix
    folder.ended_path.write_text("[")
    assert ended.last(folder) is None
