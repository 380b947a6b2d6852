"""The attacker's process:  python -m attacks.attacker ATTACK TOLD  (TOLD: JSON, what he knows of his victim).

Says ``ready``, waits for a line, attacks, says as JSON what he saw, and ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
import anyio.to_thread

from attacks.floods import FLOODS, Frames
from attacks.insiders import INSIDERS
from attacks.member import Member, member
from attacks.strangers import STRANGERS


async def go() -> None:
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)


async def attack(name: str, told: dict[str, Any]) -> dict[str, Any]:
    if name in STRANGERS:
        await go()
        return await STRANGERS[name](told)
    async with member(told) as mallory:
        if name in INSIDERS:
            await go()
            return await INSIDERS[name](mallory)
        frames = FLOODS[name](mallory)
        await go()
        return await flood_again_and_again(mallory, name, frames)


async def flood_again_and_again(mallory: Member, name: str, frames: Frames) -> dict[str, Any]:
    """Until the time is over: whoever is cut tries to come back."""
    end, sent, came_back = anyio.current_time() + mallory.told["seconds"], 0, 0
    sent += await anyio.to_thread.run_sync(mallory.flood, frames, mallory.told["seconds"])
    with anyio.move_on_after(end - anyio.current_time()):
        while True:
            await mallory.link_up()
            came_back += 1
            frames = FLOODS[name](mallory)
            sent += await anyio.to_thread.run_sync(mallory.flood, frames, end - anyio.current_time())
    return {"cut_s": mallory.cut_s, "sent": sent, "came_back": came_back}


async def main() -> None:
    print(json.dumps(await attack(sys.argv[1], json.loads(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    anyio.run(main)
