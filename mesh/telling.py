"""What a run tells while it lasts: how far it is, and what it prints and logs. Sent now and then, however often it is said.

Invariant: of progress only the newest matters; of lines the newest are kept (`capture.RunLog`) and go before the run's `ended`. While there
is no node they wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mesh.capture import LOGGING, RunLog, show
from mesh.runs import Clock, Run

PROGRESS_EVERY_S = 0.1
LINES_EVERY_S = 0.1
NOTE_CHARACTERS_MAX = 200


class Telling:
    """`out` gets `progress` and `said` items; `connected()`: is there a node that takes them?"""

    def __init__(self, out: Callable[[str, list[Any]], None], clock: Clock, connected: Callable[[], bool]) -> None:
        self._out, self._clock, self._connected = out, clock, connected
        self._loop = asyncio.get_running_loop()
        self._opening = threading.Lock()

    # ---- progress

    def progress(self, run: Run, fraction: float, note: str) -> None:
        note = note if run.redactor is None else run.redactor.text(note)
        fresh = run.progress is None
        said = run.said = run.progress = (fraction, note[:NOTE_CHARACTERS_MAX])
        if fresh:
            self._say_progress(run)
            self._clock.call_later(PROGRESS_EVERY_S, lambda: self._next_progress(run, said))

    def _say_progress(self, run: Run) -> None:
        assert run.progress is not None
        self._out("progress", [run.task, run.fence, *run.progress])

    def _next_progress(self, run: Run, said: tuple[float, str]) -> None:
        if run.over or run.progress == said:
            run.progress = None
            return
        self._say_progress(run)
        said = run.progress or said
        self._clock.call_later(PROGRESS_EVERY_S, lambda: self._next_progress(run, said))

    # ---- lines

    def open_log(self, run: Run) -> RunLog:
        """Of a run that says something for the first time. From any thread."""
        with self._opening:
            if run.log is None:
                run.log = RunLog(self._clock.wall_ms, self._fresh, run)
                if run.over:
                    run.log.close()
            return run.log

    def _fresh(self, run: Run) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody is left to tell
            self._loop.call_soon_threadsafe(self._clock.call_later, LINES_EVERY_S, lambda: self._next_lines(run))

    def log(self, run: Run, text: str) -> None:
        """``ctx.log``: kept, and shown here. From any thread."""
        (run.log or self.open_log(run)).line(LOGGING, text)
        show(text if run.redactor is None else run.redactor.text(text))

    def _next_lines(self, run: Run) -> None:
        if not run.over and self._connected():
            self.lines(run)

    def lines(self, run: Run, *, end: bool = False) -> None:
        """Say what has come since the last time. `end`: there is no more."""
        if run.log is None:
            return
        lines, dropped = run.log.take(_as_it_is if run.redactor is None else run.redactor.text, end=end)
        if lines or dropped:
            self._out("said", [run.task, run.fence, run.attempt, [list(line) for line in lines], dropped])
        if end:
            run.log.close()


def _as_it_is(text: str) -> str:
    return text
