"""What `mesh launch` must know of the mesh that it enrols hosts in, and the invitation that each of them joins with."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.client import connect
from mesh.errors import Refused, TimedOut
from mesh.inspector.shell import SLACK_S, Where


async def mesh_of(where: Where) -> str:
    """The id of the mesh that the node belongs to. Raises Refused in an open mesh, which is this machine's alone; NoNode, TimedOut."""
    status = await _answer(where, "status")
    if status["mode"] == "open":
        message = "this mesh is open: it lives on this machine only, and no other can join it"
        raise Refused(message, fix="mesh init", code="open_mesh")
    return str(status["mesh"])


async def invitation(where: Where) -> bytes:
    """A fresh token for one machine. Whoever has it may join: it goes into the connection's stdin, and nowhere else."""
    return str((await _answer(where, "invite"))["token"]).encode()


async def _answer(where: Where, verb: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(where.timeout_s + SLACK_S), connect(where.home, where.node, where.timeout_s) as mesh:
            return await (mesh.status() if verb == "status" else mesh.office(verb))
    except TimeoutError:
        raise TimedOut(f"the node here did not answer within {where.timeout_s:g} s", fix="mesh doctor") from None
