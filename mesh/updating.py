"""Updates: what clients ask of a running handler, and what it answers. The handler's side, and the client's.

    answer = await m.update(task, "limit", 5)          update = await ctx.update("limit")
                                                       await update.reply(5)        or .refuse("too much")

Invariant: an update reaches the handler once, as a signal does, and has one answer, the first, whichever attempt gives it; an attempt that
is run again gets the same updates in the same order, and its answers to those that have one change nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.errors import Refused, TaskCancelled, TaskFailed, TooBig, UsageError, task_error
from mesh.gates import checked_name

if TYPE_CHECKING:
    from mesh.context import Context, Port, TaskInfo

Document = dict[str, Any]
Ask = Callable[[str, str, Document], Awaitable[Document]]
REFUSED = "update_refused"


class Update:
    """One update. `value`: what was sent."""

    __slots__ = ("_number", "_port", "_task", "name", "value")

    def __init__(self, name: str, number: int, value: Any, task: TaskInfo, port: Port) -> None:
        self.name, self.value = name, value
        self._number, self._task, self._port = number, task, port

    async def reply(self, answer: Any = None) -> None:
        """Answer it (JSON). Returns once that is safe. The first answer stands. Raises TooBig, UsageError for a File, LeaseLost."""
        await self._say({"answer": _plain("the answer to an update", answer, self._port.body_bytes_max)})

    async def refuse(self, why: str = "") -> None:
        """Whoever sent it gets this as an error."""
        await self._say({"refusal": str(why)})

    async def _say(self, what: Document) -> None:
        await self._port.of_handler(self._task, "reply", {"name": self.name, "n": self._number, **what}, "")


class BlockingUpdate:
    """The same for plain functions: `reply` and `refuse` block."""

    __slots__ = ("_update", "_wait")

    def __init__(self, update: Update, wait: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._update, self._wait = update, wait

    @property
    def value(self) -> Any:
        return self._update.value

    def reply(self, answer: Any = None) -> None:
        """As `Update.reply`."""
        self._wait(self._update.reply(answer))

    def refuse(self, why: str = "") -> None:
        """As `Update.refuse`."""
        self._wait(self._update.refuse(why))


async def next_update(context: Context, name: str, timeout_s: float | None) -> Update:
    number, arrival = context._waits.update(checked_name("an update", name), timeout_s)
    try:
        value = await arrival
    except asyncio.CancelledError:
        context._waits.not_had(name, number)  # whoever waits next gets it
        raise
    return Update(name, number, value, context.task, context._port)


@asynccontextmanager
async def answering(context: Context, name: str, function: Callable[[Any], Any]) -> AsyncIterator[None]:
    """Each update of that name is answered by ``function(value)`` while the block runs; what it raises is the refusal."""
    answers: list[asyncio.Task[None]] = []

    async def serve() -> None:
        while True:
            update = await next_update(context, name, None)
            answers[:] = [asyncio.ensure_future(_answer(update, function))]
            await asyncio.shield(answers[0])

    serving = asyncio.ensure_future(serve())
    try:
        yield
    finally:
        serving.cancel()
        ends = await asyncio.gather(serving, *answers, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _answer(update: Update, function: Callable[[Any], Any]) -> None:
    try:
        answer = function(update.value)
        answer = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001  the function's own word about this update: the sender hears it, and the handler goes on
        await update.refuse(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    else:
        await update.reply(answer)


async def send_update(ask: Ask, task: str, name: str, value: Any, event: str, by: str, size_bytes_max: int) -> Document:
    """``{"task", "name", "update"}``: `update` is the wait whose result the answer is. Raises as `send_signal`."""
    args = {"value": _plain("the update", value, size_bytes_max), "name": checked_name("an update", name)}
    return await ask("update", task, args | {"event": event or uuid.uuid4().hex, "by": by})


def answer_in(document: Document) -> Any:
    """The answer in a `result` document. Raises Refused if the handler took no such update, or ended without a word."""
    if document.get("state") == "done":
        return document.get("result")
    error = task_error(document.get("error") or {}, str(document.get("task") or ""), str(document.get("state") or ""))
    if isinstance(error, TaskCancelled):
        raise Refused("the task ended before it answered the update", code="update_unanswered", fix=error.fix)
    if isinstance(error, TaskFailed) and error.kind == REFUSED:
        raise Refused(error.message, code=REFUSED, fix=error.fix)
    raise error


def _plain(what: str, value: Any, size_bytes_max: int) -> Any:
    data, files = values.dump({"value": value})
    if files:
        raise UsageError(f"{what} carries no File: its bytes would not be kept", fix="send its hash, or a name")
    if size_bytes_max and len(data) > size_bytes_max:
        raise TooBig(what=what, size_bytes=len(data), size_bytes_max=size_bytes_max, fix="send its hash, or a name")
    return values.load(data, None)["value"]
