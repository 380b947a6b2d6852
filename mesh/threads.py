"""A function call in a thread that can be interrupted.

Python can raise an exception in another thread (as dramatiq does for its time limits). It arrives between two bytecodes: a blocking C
call ends first. Invariant: it is raised inside `run` or not at all, never in the pool's own code, because both sides hold the lock.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS_MAX = 1024
"""More than slots: those that wait for steps of their own have lent theirs."""

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc


class HandlerStopped(BaseException):
    """Raised inside a plain function whose task was cancelled or timed out. Not an Exception: ``except Exception`` lets it pass."""


class Interruptible:
    """`run` calls the function, once, in whatever thread it is called; `interrupt` stops it from another."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread = 0
        self._interrupted = False

    def run(self) -> Any:
        """Raises HandlerStopped if interrupted, before or during the call."""
        with self._lock:
            if self._interrupted:
                raise HandlerStopped
            self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            with self._lock:
                # An exception that is still on its way must not arrive outside of this call.
                _raise_in(ctypes.c_ulong(self._thread), None)
                self._thread = 0

    def interrupt(self) -> None:
        """Raise HandlerStopped in the running call as soon as its thread executes Python again; keep a waiting one from starting."""
        with self._lock:
            self._interrupted = True
            if self._thread:
                _raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(HandlerStopped))


class Threads:
    """The threads of one agent's plain functions, made as they are needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, call: Interruptible) -> asyncio.Future[Any]:
        """Run it in a thread, with the context variables of whoever asks."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"mesh-{self._name}")
        return asyncio.get_running_loop().run_in_executor(self._pool, contextvars.copy_context().run, call.run)

    def close(self) -> None:
        """Let go of them. Those of handlers that cannot be stopped end with the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


async def interrupting(call: Interruptible, running: asyncio.Future[Any]) -> Any:
    """What `call` returns, which is `running` in a thread. Whoever is cancelled meanwhile interrupts it, and goes on when it has let go."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        call.interrupt()
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue  # told again; it has been interrupted already
        if not running.cancelled():
            running.exception()  # looked at, so that nobody says it was not
        raise
