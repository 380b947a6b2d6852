"""``ctx.effect``: what a handler does to the outside world, under a key that all attempts of its task share.

    begin --> manager: on record, and not done before? --go--> the function runs, here --> end: its outcome is on record
                                                       --done--> the stored outcome; the function does not run

Invariant: the function runs only after a go under a lease that holds, once per go; what is returned is what is on record, so every attempt
sees the same. A function that raises, or is stopped, leaves an effect whose outcome nobody knows: it is begun again under the same key, or,
``at_most_once``, never. Does not know the outside world: a process that is paused between the go and the deed is shut out only there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.errors import InvalidArgument, MeshError, TooBig, UsageError

if TYPE_CHECKING:
    from mesh.context import Port, TaskInfo

KEY_CHARACTERS_MAX = 200
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Blocks a handler's thread until the coroutine has ended on the loop."""


class Keyed:
    """The effects of one run of a handler."""

    __slots__ = ("_calls", "_port", "_task", "_under_way")

    def __init__(self, task: TaskInfo, port: Port) -> None:
        self._task, self._port = task, port
        self._under_way: set[str] = set()
        self._calls = 0

    async def perform(self, key: str, function: Callable[[], Any], at_most_once: bool) -> Any:
        """For handlers on the loop: a plain function runs in a thread."""
        port, task = self._port, self._task
        with self._one_at_a_time(key) as call:
            stored = await port.effect_begin(task, key, call, at_most_once)
            if stored is None:
                try:
                    value = function() if inspect.iscoroutinefunction(function) else await port.in_thread(function)
                    stored = self._outcome(key, await value if inspect.isawaitable(value) else value)
                    await port.effect_end(task, key, call, stored, "")
                except Exception as error:
                    try:
                        await port.effect_end(task, key, call, b"", text_of(error))
                    except MeshError as problem:
                        _note(error, problem)
                    raise
        return values.load(stored, None)

    def perform_here(self, key: str, function: Callable[[], Any], at_most_once: bool, wait: Wait) -> Any:
        """For handlers in a thread: a plain function runs in this very one."""
        port, task = self._port, self._task
        with self._one_at_a_time(key) as call:
            stored: bytes | None = wait(port.effect_begin(task, key, call, at_most_once))
            if stored is None:
                try:
                    value = function()
                    stored = self._outcome(key, wait(_awaited(value)) if inspect.isawaitable(value) else value)
                    wait(port.effect_end(task, key, call, stored, ""))
                except Exception as error:
                    try:
                        wait(port.effect_end(task, key, call, b"", text_of(error)))
                    except MeshError as problem:
                        _note(error, problem)
                    raise
        return values.load(stored, None)

    @contextmanager
    def _one_at_a_time(self, key: str) -> Iterator[int]:
        """The number of this call. Raises UsageError for two of one key at once."""
        if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARACTERS_MAX:
            raise UsageError(f"{key!r} cannot be the key of an effect", fix=f"use a text of 1 to {KEY_CHARACTERS_MAX} characters")
        if key in self._under_way:
            raise UsageError(f"the effect {key!r} is under way in this very handler", fix="await it first, or use another key")
        self._under_way.add(key)
        self._calls += 1
        try:
            yield self._calls
        finally:
            self._under_way.discard(key)

    def _outcome(self, key: str, value: Any) -> bytes:
        data = outcome_json(f"the effect {key!r}", value)
        if len(data) > self._port.body_bytes_max:
            raise TooBig(what=f"the outcome of the effect {key!r}", size_bytes=len(data), size_bytes_max=self._port.body_bytes_max)
        return data


def outcome_json(what: str, value: Any) -> bytes:
    """Raises InvalidArgument for what cannot be kept."""
    data, files = values.dump({"outcome": value})
    if files:
        fix = "hand the file to a step, or return it from the handler"
        raise InvalidArgument(f"the outcome of {what} holds a File, which is not copied with it", fix=fix)
    return data[len('{"outcome":') : -1]


def text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _note(error: Exception, problem: MeshError) -> None:
    error.add_note(f"that it failed could not be put on record: {problem.message}")


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
