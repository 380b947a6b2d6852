"""Waiting for a ZeroMQ descriptor without a task in between: where the event loop is asyncio's, it calls what is behind it itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio


async def call_when_readable(fd: int, ready: Callable[[], None]) -> None:
    """Call `ready` now, and each time `fd` tells that something happened, until cancelled. It must take all there is: it is told once."""
    ready()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        while True:
            await anyio.wait_readable(fd)
            ready()
    loop.add_reader(fd, ready)
    try:
        await anyio.sleep_forever()
    finally:
        loop.remove_reader(fd)
