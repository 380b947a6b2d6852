"""NATS request and reply, one responder and one requester. The same figures as the other rows."""

import asyncio
import json
import sys

import nats
from echo import figures

ARGUMENT = json.dumps({"text": "x" * 40}).encode()


async def serve(address: str) -> None:
    client = await nats.connect(f"nats://{address}")

    async def reply(message: object) -> None:
        await message.respond(json.dumps(json.loads(message.data)).encode())

    await client.subscribe("noop", cb=reply)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def measure(address: str, seconds: float) -> None:
    client = await nats.connect(f"nats://{address}")

    async def call() -> None:
        json.loads((await client.request("noop", ARGUMENT, timeout=10)).data)

    print(json.dumps(await figures(call, seconds)), flush=True)


if __name__ == "__main__":
    _, what, where, *rest = sys.argv
    asyncio.run(serve(where) if what == "serve" else measure(where, float(rest[0])))
