"""An agent mesh with no server.

    from mesh import Agent
    agent = Agent("greeter")

    @agent.capability
    async def greet(name: str) -> str:
        return f"hello {name}"

Names are imported when they are first used, so that ``import mesh`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.agent import Agent
    from mesh.bids import Bid
    from mesh.client import connect
    from mesh.context import Context
    from mesh.errors import MeshError, StreamRestarted
    from mesh.files import File
    from mesh.flows.builder import flow
    from mesh.retry import Retry
    from mesh.secret import Secret

__all__ = ["Agent", "Bid", "Context", "File", "MeshError", "Retry", "Secret", "StreamRestarted", "connect", "flow"]

_HOMES = {
    "Agent": "mesh.agent",
    "Bid": "mesh.bids",
    "Context": "mesh.context",
    "File": "mesh.files",
    "MeshError": "mesh.errors",
    "Retry": "mesh.retry",
    "Secret": "mesh.secret",
    "StreamRestarted": "mesh.errors",
    "connect": "mesh.client",
    "flow": "mesh.flows.builder",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
