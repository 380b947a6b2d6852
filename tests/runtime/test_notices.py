"""The user's own command for gates that wait: once each, with what it is about, whatever becomes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.runtime import notices
from mesh.runtime.notices import Notices, NoticeStatistics

WRITES = "import os, sys; open(sys.argv[1], 'a').write(os.environ['MESH_GATE'] + ' ' + os.environ['MESH_TASK'] + ' ' + sys.argv[2] + '\\n')"


def gate(number: int) -> dict[str, Any]:
    return {"task": f"n.1.{number}", "root": "n.1.1", "question": f"go on, {number}?"}


def test_each_gate_is_told_once(tmp_path: Path) -> None:
    said, waiting = tmp_path / "said", [gate(2)]
    told = Notices((sys.executable, "-c", WRITES, str(said)), lambda: waiting)

    async def story() -> None:
        await told.look()
        waiting.append(gate(3))
        await told.look()
        waiting.clear()
        await told.look()

    anyio.run(story)
    assert said.read_text() == "n.1.2 n.1.1 go on, 2?\nn.1.3 n.1.1 go on, 3?\n"
    assert told.statistics() == NoticeStatistics(2, 0)


@pytest.mark.parametrize(
    "command",
    [("/nowhere/at-all",), (sys.executable, "-c", "import sys; sys.exit(3)"), (sys.executable, "-c", "import time; time.sleep(60)")],
)
def test_what_goes_wrong_with_it_is_counted_and_stops_nothing(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "RUN_MAX_S", 0.2)
    told = Notices(command, lambda: [gate(2)])
    anyio.run(told.look)
    anyio.run(told.look)
    assert told.statistics() == NoticeStatistics(0, 1)


def test_without_a_command_nobody_looks() -> None:
    anyio.run(Notices((), lambda: pytest.fail("looked")).run)
