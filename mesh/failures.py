"""What went wrong in user code, as a value that travels: kind, message, and the traceback with the user's own frame first."""

from __future__ import annotations

import linecache
import resource
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from mesh.errors import InvalidArgument, MeshError, Overloaded, Refused, TaskFailed, TimedOut
from mesh.retry import Retry

DETAILS_CHARACTERS_MAX = 8000
MESSAGE_CHARACTERS_MAX = 2000

_OURS = str(Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def leave_no_core() -> None:
    """From now on a crash of this process leaves no copy of its memory on disk: keys and secrets are in there."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def failure(error: BaseException, give_up_on: tuple[type[BaseException], ...] = ()) -> dict[str, Any]:
    """``{kind, message, retryable, details, ...}`` of an exception that came out of a handler.

    Not retryable is what would fail the same way again: a wrong argument, a result that does not fit its hint, one that is too big; and
    what the capability gives up on.
    """
    if isinstance(error, InvalidArgument):
        return {"kind": "invalid_argument", "message": error.message, "retryable": False, "details": "", "argument": error.argument}
    kind, retryable = "error", True
    if isinstance(error, MeshError):
        kind = error.code if error.code in ("too_big", "invalid_result", "outcome_unknown", "over_budget") else "error"
        retryable = isinstance(error, TimedOut | TaskFailed | Refused) and kind == "error"
        message = error.message
    else:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    found = {
        "kind": kind,
        "message": message[:MESSAGE_CHARACTERS_MAX],
        "retryable": retryable and not isinstance(error, give_up_on),
        "details": details(error)[:DETAILS_CHARACTERS_MAX],
    }
    if isinstance(error, Retry):
        return found | {"retryable": True, "retry_after_ms": round(1000 * error.after_s)}
    if isinstance(error, Overloaded):
        return found | {"retry_after_ms": round(1000 * error.retry_after_s)}
    return found


def details(error: BaseException) -> str:
    """The frames of `error`, the user's innermost first, then the rest, then what it was caused by."""
    frames = [frame for frame in _frames(error.__traceback__) if not frame.filename.startswith(_OURS)]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES) and "site-packages" not in frame.filename]
    others = [frame for frame in frames if frame not in own]
    lines = [*map(_line, reversed(own)), *traceback.format_exception_only(error)]
    if others:
        lines += ["through\n", *map(_line, reversed(others))]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines += ["because of\n", *map(_line, reversed(_frames(cause.__traceback__))), *traceback.format_exception_only(cause)]
    return "".join(lines)


def _frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(trace, limit=-50) if not frame.filename.startswith("<frozen ")]


def _line(frame: traceback.FrameSummary) -> str:
    source = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    return f"{frame.filename}:{frame.lineno} in {frame.name}" + (f": {source}\n" if source else "\n")


def report(text: str) -> None:
    """Say it to whoever watches this worker; stdout belongs to the user's code."""
    sys.stderr.write(f"mesh: {text}\n")
    sys.stderr.flush()
