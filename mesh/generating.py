"""Runs a generator handler: gives each item away before it asks for the next, and closes the generator whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, closing
from typing import Any

from mesh.agent import Capability

Give = Callable[[Any], Coroutine[Any, Any, None]]


async def generate(
    capability: Capability, arguments: dict[str, Any], give: Give, in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> None:
    """An async generator runs on this loop; a plain one in a thread, which waits here until its item is given."""
    if capability.is_async:
        async with aclosing(capability.function(**arguments)) as items:
            async for item in items:
                await give(item)
    else:
        loop = asyncio.get_running_loop()
        await in_thread(lambda: _iterate(capability.function(**arguments), give, loop))


def _iterate(items: Any, give: Give, loop: asyncio.AbstractEventLoop) -> None:
    with closing(items):
        for item in items:
            asyncio.run_coroutine_threadsafe(give(item), loop).result()
