"""Each task in a process of its own; the file can be run by itself as well."""

import os
import signal
from pathlib import Path
from typing import Any

from mesh import Agent, Context

agent = Agent(os.environ.get("OWN_NAME", "own"), concurrency=4)


@agent.capability(name="own.where", isolation="process")
async def where(ctx: Context) -> dict[str, Any]:
    return {"pid": os.getpid(), "ppid": os.getppid(), "step": await ctx.step("s", "own.plain", number=20)}


@agent.capability(name="own.plain")
async def plain(number: int) -> int:
    return number + 1


@agent.capability(name="own.dies_once", isolation="process")
def dies_once(mark: str) -> str:
    """As if the system had run out of memory, the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


@agent.capability(name="own.waits", isolation="process")
async def waits(ctx: Context, mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    await ctx.sleep(3600)


agent.run()
