"""A command of the user's own for each gate that begins to wait at this node: so that somebody hears of it who looks at no terminal.

    notify = ["notify-send", "--urgency=critical"]      in config.toml; the question is added as the last word

Each gate once in a life of the node, by whoever manages its task; after a take-over or a restart that is another one, who says it again.
The command gets nothing of the mesh but what is in its environment (MESH_GATE, MESH_TASK, MESH_QUESTION); how it ends is counted, and
changes nothing. Looks once a second, and only where a command is configured.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from mesh.ids import TaskId

LOOK_S = 1.0
RUN_MAX_S = 10.0
KNOWN_MAX = 10_000
"""Gates that are remembered as told; more wait at no node that somebody looks after."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoticeStatistics:
    told: int
    failed: int
    """Commands that could not be started, failed, or took too long."""


class Notices:
    """`gates` gives those that wait here, as ``mesh approvals`` shows them."""

    def __init__(self, command: tuple[str, ...], gates: Callable[[], list[Row]]) -> None:
        self._command, self._gates = command, gates
        self._known: dict[TaskId, None] = {}
        self._told = self._failed = 0

    async def run(self) -> None:
        """Until cancelled."""
        while self._command:
            await self.look()
            await anyio.sleep(LOOK_S)

    async def look(self) -> None:
        """One command after the other for those that are new."""
        for row in self._gates():
            if row["task"] in self._known:
                continue
            self._known[row["task"]] = None
            while len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
            if await self._tell(row):
                self._told += 1
            else:
                self._failed += 1

    async def _tell(self, row: Row) -> bool:
        about = {"MESH_GATE": row["task"], "MESH_TASK": row["root"], "MESH_QUESTION": row["question"]}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                row["question"],
                env=os.environ | about,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except (OSError, ValueError):
            return False
        try:
            async with asyncio.timeout(RUN_MAX_S):
                return await process.wait() == 0
        except TimeoutError:
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def statistics(self) -> NoticeStatistics:
        return NoticeStatistics(self._told, self._failed)
