"""Every failure that reaches a user, as one tree. Each has a code for programs, a message for people, and the command to try next.

    MeshError                    exit
    |-- UsageError                2    the command or the declaration is wrong
    |   |-- DeclarationError           an agent's declaration; raised where it stands
    |   '-- InvalidArgument            an argument does not fit the capability; no handler ran
    |-- NoNode                    3    no node of this home runs
    |   '-- NodeLost                   it went away while we waited
    |-- TimedOut                  4    no answer in time; the work may still run
    |-- Refused                   5    the mesh or the node says no
    |   |-- NoSuchCapability           nobody offers it
    |   |   '-- NoSuchLabel            nobody who offers it has the labels that were asked for
    |   |-- NodeBusy                   a queue of this node is full
    |   |   '-- Overloaded             its manager has all the work it may hold; says when to come back
    |   |-- NoSuchTask
    |   |-- NoSuchFile
    |   |-- TooBig                     travels only as File
    |   |-- VersionConflict            a value was to be written over another version than stands there
    |   |-- LeaseLost                  this attempt of a task was replaced by a newer one, or the task has ended
    |   '-- OutcomeUnknown             an effect that must not repeat was begun before, and nobody knows whether it happened
    |-- StreamRestarted           1    a stream began anew, between two of its items; it can be read on
    |-- TaskFailed                1    the answer is a failure
    |   '-- TaskCancelled
    '-- Degraded                  6    it works, but not as it should

The one form in which an error is printed or sent is `error_document`; `from_body` is its inverse. Messages are built here, not where
they are raised. What this module does not do: catch anything.
"""

from __future__ import annotations

from typing import Any

SCHEMA = "mesh.error/1"


class MeshError(Exception):
    """Base. `code` is snake_case and stable; `fix` is a command or an instruction; `exit_code` is what the command line ends with."""

    code = "failed"
    exit_code = 1
    fix = "mesh status"

    def __init__(self, message: str, *, fix: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if fix is not None:
            self.fix = fix
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        """``{code, message, fix}``, the form in which an error crosses the local socket."""
        return {"code": self.code, "message": self.message, "fix": self.fix}


class UsageError(MeshError):
    """Raised at the call, before anything was sent."""

    code = "usage"
    exit_code = 2
    fix = "mesh --help"


class DeclarationError(UsageError):
    """An agent was declared wrongly: raised by the decorator, at import."""

    code = "declaration"

    def __init__(self, what: str, problem: str, fix: str) -> None:
        super().__init__(f"{what}: {problem}; {fix}", fix=fix)
        self.message = f"{what}: {problem}"  # where it is shown with its fix beside it; a traceback shows both in one line


class InvalidArgument(UsageError):
    """An argument is unknown, missing or of the wrong type. `argument` names it."""

    code = "invalid_argument"
    fix = "mesh caps"

    def __init__(self, message: str, argument: str = "", *, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.argument = argument


class NoNode(MeshError):
    """No node of this home answers at its local socket."""

    code = "no_node"
    exit_code = 3
    fix = "mesh up"


class NodeLost(NoNode):
    """The connection to the node ended while an answer was awaited. A submitted task goes on; a plain call is gone."""

    code = "node_lost"

    def __init__(self, message: str = "the node went away before it answered", *, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)


class TimedOut(MeshError):
    """No answer in time."""

    code = "timed_out"
    exit_code = 4
    fix = "mesh tasks"

    def __init__(self, message: str = "", *, what: str = "the call", after_s: float = 0.0, fix: str | None = None) -> None:
        super().__init__(message or f"{what} was not answered within {after_s:g} s", fix=fix)


class Refused(MeshError):
    """The mesh or the node says no; the code says why."""

    code = "refused"
    exit_code = 5


class NoSuchCapability(Refused):
    """Nobody offers it; the message names the nearest name that is offered."""

    code = "no_such_capability"
    fix = "mesh caps"


class NoSuchLabel(NoSuchCapability):
    """It is offered, but by nobody with the labels that were asked for; the message names the nearest."""

    code = "no_such_label"


class NodeBusy(Refused):
    """A bound of the node is reached. Nothing was lost: try again."""

    code = "node_busy"


class Overloaded(NodeBusy):
    """The node manages as many tasks, or as many bytes of arguments, as it may. Nothing was taken: try again after `retry_after_s`."""

    code = "overloaded"
    fix = "mesh tasks"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        return super().body() | {"retry_after_ms": round(1000 * self.retry_after_s)}


class NoSuchTask(Refused):
    code = "unknown_task"
    fix = "mesh tasks"


class NoSuchFile(Refused):
    """No reachable node has these bytes."""

    code = "no_such_file"
    fix = "mesh nodes"


class TooBig(Refused):
    """Arguments or a result over the limit. Large data travels as File."""

    code = "too_big"
    fix = "pass large data as File: File.of(path)"

    def __init__(
        self, message: str = "", *, what: str = "this", size_bytes: int = 0, size_bytes_max: int = 0, fix: str | None = None
    ) -> None:
        super().__init__(
            message or f"{what} is {size_bytes} bytes as JSON, over the {size_bytes_max} that travel inside a message: use File", fix=fix
        )


class LeaseLost(Refused):
    """This attempt does not hold its task any more: it runs elsewhere under a newer fence, or has ended. Nothing it does counts."""

    code = "stale_fence"


class VersionConflict(Refused):
    """The value stands at another version than the write says: nothing was written. `version`: the one that stands there; 0: none."""

    code = "version_conflict"
    fix = "read it again, and decide again"

    def __init__(self, message: str, *, version: int = 0, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.version = version

    def body(self) -> dict[str, Any]:
        return super().body() | {"version": self.version}


class OutcomeUnknown(Refused):
    """An effect with ``at_most_once`` was begun before and has no outcome on record: it may have happened or not, and is not begun again.

    Ask the outside system. A handler that catches this goes on; else the task fails with it, and is not tried again.
    """

    code = "outcome_unknown"


class BudgetExceeded(Refused):
    """It does not fit into what is left of a budget: nothing was begun, and nothing of it is on record as spent.

    A handler that catches this goes on (``await ctx.budget()`` says what is left); else the task fails with it, and is not tried again.
    """

    code = "over_budget"
    fix = "ask for less, or give more when the work is begun: budget={...}, mesh submit --budget NAME=AMOUNT"


class StreamRestarted(MeshError):
    """Raised between two items of a stream: who made them was lost, and another begins anew. What was read so far is void.

    The stream goes on: read on, from its first item. Not raised for idempotent capabilities, whose streams go on where they were.
    """

    code = "stream_restarted"
    fix = "drop the items read so far and read on, or declare the capability idempotent=True if it gives the same items each time"

    def __init__(self, message: str = "", *, attempt: int = 0, read: int = 0, fix: str | None = None) -> None:
        super().__init__(message or f"the stream began anew (attempt {attempt}): the {read} items read before are void", fix=fix)
        self.attempt = attempt
        self.read = read


class Degraded(MeshError):
    """Something works, but not as it should."""

    code = "degraded"
    exit_code = 6
    fix = "mesh doctor"


class TaskFailed(MeshError):
    """The work failed. `kind`: error, worker_lost, no_file, too_big, ...; `details`: the traceback, the user's own frame first."""

    code = "task_failed"

    def __init__(self, message: str, *, task: str = "", kind: str = "error", details: str = "", fix: str | None = None) -> None:
        super().__init__(message, fix=fix if fix is not None else f"mesh why {task}" if task else "mesh tasks")
        self.task = task
        self.kind = kind
        self.details = details

    def body(self) -> dict[str, Any]:
        extra = {"task": self.task, "kind": self.kind, "details": self.details}
        return super().body() | {name: value for name, value in extra.items() if value}


class TaskCancelled(TaskFailed):
    """Somebody cancelled the task."""

    code = "cancelled"


_CLASSES: tuple[type[MeshError], ...] = (
    UsageError,
    InvalidArgument,
    NoNode,
    NodeLost,
    TimedOut,
    Refused,
    NoSuchCapability,
    NoSuchLabel,
    NodeBusy,
    Overloaded,
    NoSuchTask,
    NoSuchFile,
    TooBig,
    VersionConflict,
    LeaseLost,
    OutcomeUnknown,
    BudgetExceeded,
    StreamRestarted,
    Degraded,
)
_BY_CODE = {each.code: each for each in _CLASSES} | {"busy": NodeBusy, "key_undecided": TimedOut}


def first_error(error: BaseException) -> MeshError | None:
    """The MeshError that `error` is, or that is the first in it where it is a task group's; None: something else is in there, a defect."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, MeshError) else None
    found, rest = error.split(MeshError)
    if found is None or rest is not None:
        return None
    inner: BaseException = found
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return first_error(inner)


def error_document(error: MeshError) -> dict[str, Any]:
    """The one JSON form of an error: ``{"schema", "code", "message", "fix"}`` and, of a failed task, what is known of it."""
    return {"schema": SCHEMA, **error.body()}


def from_body(body: dict[str, Any]) -> MeshError:
    """The exception for what a node answered. An unknown code becomes `Refused` with that code."""
    code, message, fix = (str(body.get(name) or "") for name in ("code", "message", "fix"))
    if code in ("task_failed", "cancelled"):
        return task_error(body, str(body.get("task") or ""), "cancelled" if code == "cancelled" else "failed", fix or None)
    kind = _BY_CODE.get(code)
    error = kind(message or code, fix=fix or None) if kind else Refused(message or code, fix=fix or None, code=code or None)
    if isinstance(error, InvalidArgument):
        error.argument = str(body.get("argument") or "")
    if isinstance(error, VersionConflict):
        error.version = body["version"] if type(body.get("version")) is int else 0
    if isinstance(error, Overloaded):
        error.retry_after_s = _seconds(body.get("retry_after_ms"))
    return error


def _seconds(milliseconds: Any) -> float:
    return milliseconds / 1000 if type(milliseconds) in (int, float) and milliseconds >= 0 else 1.0


def task_error(error: dict[str, Any], task: str, state: str, fix: str | None = None) -> MeshError:
    """The exception for a task that ended without a result. `error` is what its story says: ``{kind, message, details, ...}``.

    A wrong argument, a deadline that passed and a capability that nobody offers keep their own classes.
    """
    kind = str(error.get("kind") or error.get("code") or "error")
    message = str(error.get("message") or kind)
    details = str(error.get("details") or "")
    if state == "cancelled":
        return TaskCancelled(message if message != kind else "the task was cancelled", task=task, kind="cancelled", fix=fix)
    if kind == "invalid_argument":
        return InvalidArgument(message, str(error.get("argument") or ""), fix=fix)
    if kind in ("timeout", "timed_out"):
        return TimedOut(message, fix=fix)
    if kind in ("no_such_capability", "no_such_label"):
        return (NoSuchLabel if kind == "no_such_label" else NoSuchCapability)(message, fix=fix)
    return TaskFailed(message, task=task, kind=kind, details=details, fix=fix)
