"""What a handler prints and logs, kept for its task: each line goes to whoever runs, and to this process's own terminal as before.

    print, sys.stderr.write --tee--> terminal                 logging --handler of the root--> terminal, where nobody else writes it
                              '--> the log of the current run <-----------------'             ctx.log --> both

The current run is a context variable: a coroutine has its own, a plain function's thread and `asyncio.to_thread` inherit it. Invariant:
what is kept of a run between two `take`s is bounded, its newest lines stay, and what was dropped is counted. Not caught: what a child
process or C code writes to the descriptors, ``sys.stdout.buffer``, and threads that a handler starts by `threading.Thread` (they have no
context).
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

LINE_CHARS_MAX = 8192
"""A longer line is cut into several."""
PARTIAL_CHARS_MAX = 64 * 1024
"""Of a line that has no end yet."""
KEPT_BYTES_MAX = 256 * 1024
"""Of one run, between two times that they are sent (ten a second): what a loop prints faster is dropped, the oldest first."""
LINE_COST_BYTES = 128
"""What a line takes beside its text."""
LOGGING = "log"

Line = tuple[int, str, str]
"""When (Unix time in milliseconds), from where (stdout, stderr or log), and the text without its end."""


_lock = threading.Lock()
"""Of all logs: one for each would cost every run, and most print nothing."""


class RunLog:
    """The newest lines of one run. `fresh(owner)` is called, in the thread that writes, when there is something to take again."""

    __slots__ = ("_bytes", "_dropped", "_fresh", "_lines", "_owner", "_partial", "_told", "_wall_ms")

    def __init__(self, wall_ms: Callable[[], int], fresh: Callable[[Any], None], owner: Any = None) -> None:
        self._wall_ms, self._fresh, self._owner = wall_ms, fresh, owner
        self._lines: deque[Line] | None = None
        self._partial: dict[str, str] | None = None
        self._bytes = self._dropped = 0
        self._told = False

    def write(self, stream: str, text: str) -> None:
        """Text as it is printed: whole lines are kept, the rest waits for its end."""
        with _lock:
            partial = self._partial = self._partial or {}
            head, newline, rest = (partial.get(stream, "") + text).rpartition("\n")
            if len(rest) > PARTIAL_CHARS_MAX:
                head, newline, rest = f"{head}{newline}{rest}", "\n", ""
            partial[stream] = rest
            if newline:
                for line in head.split("\n"):
                    self._keep(stream, line)
        self._tell()

    def line(self, stream: str, text: str) -> None:
        """A whole text, which may have several lines."""
        with _lock:
            for line in text.split("\n"):
                self._keep(stream, line)
        self._tell()

    def _keep(self, stream: str, line: str) -> None:
        if self._lines is None:
            self._lines = deque()
        self._lines.append((self._wall_ms(), stream, line))
        self._bytes += len(line) + LINE_COST_BYTES
        while self._bytes > KEPT_BYTES_MAX and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft()[2]) + LINE_COST_BYTES
            self._dropped += 1

    def _tell(self) -> None:
        if not self._told and self._lines:
            self._told = True
            self._fresh(self._owner)

    def take(self, redact: Callable[[str], str], *, end: bool = False) -> tuple[list[Line], int]:
        """The lines since the last time, and how many were dropped. `end`: those without an end too. Long ones are cut, after `redact`."""
        if self._lines is None and self._partial is None:
            return [], 0
        with _lock:
            if end and self._partial is not None:
                for stream, rest in self._partial.items():
                    if rest:
                        self._keep(stream, rest)
                self._partial = None
            lines, self._lines = self._lines, None
            dropped, self._dropped, self._bytes, self._told = self._dropped, 0, 0, False
        return list(_cut(lines or deque(), redact)), dropped

    def close(self) -> None:
        """Its run is over: what is written from now on is heard by nobody. (And it is held by nobody, so that it goes at once.)"""
        self._owner, self._told = None, True


def _cut(lines: deque[Line], redact: Callable[[str], str]) -> Iterator[Line]:
    for at_ms, stream, line in lines:
        text = redact(line)
        for start in range(0, max(1, len(text)), LINE_CHARS_MAX):
            yield at_ms, stream, text[start : start + LINE_CHARS_MAX]


class Speaker(Protocol):
    """Whose code runs. A log is made when there is something to keep: most never print."""

    log: RunLog | None
    open_log: Callable[[Any], RunLog]


current: ContextVar[Speaker | None] = ContextVar("mesh_run", default=None)
"""The run whose code this is."""


def log_of(speaker: Speaker | None) -> RunLog | None:
    """Its log, made now if there is none; None if nobody's code runs."""
    return None if speaker is None else speaker.log or speaker.open_log(speaker)


class _Tee:
    """Stands for sys.stdout or sys.stderr. All but writing is the original's affair."""

    def __init__(self, original: Any, stream: str) -> None:
        self.original, self.stream = original, stream

    def write(self, text: str) -> int:
        log = log_of(current.get())
        if log is not None:
            log.write(self.stream, text)
        return len(text) if self.original is None else int(self.original.write(text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Handler(logging.Handler):
    """At the root: records of a run, unless a handler of the user's writes them to a stream that is caught anyway.

    Without any handler of the user's Python prints warnings to stderr; our being there must not silence that.
    """

    def emit(self, record: logging.LogRecord) -> None:
        others = list(_handlers(record, self))
        log = log_of(current.get())
        if log is not None and not any(_prints(each) for each in others):
            log.line(LOGGING, f"{record.levelname} {record.name}: {self.format(record)}")
        if not others and record.levelno >= logging.WARNING:
            show(self.format(record))


def _handlers(record: logging.LogRecord, own: logging.Handler) -> Iterator[logging.Handler]:
    """All that get this record, but `own`."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        yield from (each for each in logger.handlers if each is not own and record.levelno >= each.level)
        logger = logger.parent if logger.propagate else None


def _prints(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def show(text: str) -> None:
    """On this process's terminal alone."""
    if not _capture.printed:
        return
    stream = sys.stderr.original if isinstance(sys.stderr, _Tee) else sys.stderr
    if stream is not None:
        stream.write(f"{text}\n")
        stream.flush()


class _Capture:
    """What stands in this process while anybody wants it."""

    def __init__(self) -> None:
        self.users = 0
        self.printed = True
        self._handler: _Handler | None = None
        self._tees: list[tuple[str, _Tee]] = []

    def install(self, *, printed: bool) -> None:
        self.printed = printed
        self._handler = _Handler()
        logging.getLogger().addHandler(self._handler)
        for name in ("stdout", "stderr") if printed else ():
            tee = _Tee(getattr(sys, name), name)
            setattr(sys, name, tee)
            self._tees.append((name, tee))

    def remove(self) -> None:
        assert self._handler is not None
        logging.getLogger().removeHandler(self._handler)
        for name, tee in self._tees:
            if getattr(sys, name) is tee:  # else somebody has put a stream of his own there: it is his
                setattr(sys, name, tee.original)
        self._tees.clear()
        self.printed = True


_capture = _Capture()


@contextmanager
def capturing(*, printed: bool = True) -> Iterator[None]:
    """While inside, what runs print and log is kept. Several may be inside at once: what the first wants counts, the last one undoes it.

    `printed` False: somebody else reads what this process prints, and would find twice what `show` prints; only logging is caught.
    """
    if not _capture.users:
        _capture.install(printed=printed)
    _capture.users += 1
    try:
        yield
    finally:
        _capture.users -= 1
        if not _capture.users:
            _capture.remove()
