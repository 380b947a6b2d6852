"""``mesh call CAP --stream``: the items of a generator as they come, a line each."""

from __future__ import annotations

import json
from typing import Any

from mesh.client import connect
from mesh.errors import StreamRestarted
from mesh.inspector.render import clean, say
from mesh.inspector.shell import Where, put


async def read(where: Where, capability: str, arguments: dict[str, Any], options: dict[str, Any]) -> None:
    """Print them until there are no more. A stream that begins anew says so on stderr, or as a line of its own in JSON, and goes on."""
    number = restarts = 0
    async with (
        connect(home=where.home, node=where.node, timeout_s=where.timeout_s) as mesh,
        mesh.options(**options).stream(capability, **arguments) as items,
    ):
        while True:
            try:
                async for item in items:
                    number += 1
                    _show(where, number, plain(item))
                break
            except StreamRestarted as error:
                number, restarts = 0, restarts + 1
                if where.as_json:
                    put(json.dumps({"schema": "mesh.restarted/1", "attempt": error.attempt, "read": error.read}))
                else:
                    say(f"mesh: {error.message}")
    if where.as_json:
        put(json.dumps({"schema": "mesh.stream/1", "capability": capability, "items": number, "restarts": restarts}))


def _show(where: Where, number: int, item: Any) -> None:
    if where.as_json:
        put(json.dumps({"schema": "mesh.item/1", "number": number, "item": item}))
    else:
        put(clean(item) if isinstance(item, str) else json.dumps(item))


def plain(value: Any) -> Any:
    """A result as JSON: files as their references."""
    from mesh.files import File

    if isinstance(value, File):
        return value.reference()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
