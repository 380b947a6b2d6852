"""What `mesh launch` must know of the mesh that it enrols hosts in, and the invitation each of them joins with."""

from __future__ import annotations

from mesh.client import connect
from mesh.errors import Refused
from mesh.inspector.shell import Where


async def mesh_of(where: Where) -> str:
    """The id of the mesh that the node belongs to. Raises Refused in an open mesh: it has no members but this machine."""
    async with connect(where.home, where.node, where.timeout_s) as mesh:
        status = await mesh.status()
    if status["mode"] == "open":
        message = "this mesh is open: it lives on this machine only, and no other can join it"
        raise Refused(message, fix="mesh init", code="open_mesh")
    return str(status["mesh"])


async def invitation(where: Where) -> bytes:
    """A fresh token for one machine. Whoever has it may join: it goes into the connection's stdin, and nowhere else."""
    async with connect(where.home, where.node, where.timeout_s) as mesh:
        return str((await mesh._view("invite"))["token"]).encode()
