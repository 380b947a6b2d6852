"""What is in stock: the agents that every node serves by itself. This is the list of them, and the program that a node starts for one.

    mesh up --STOCK--> node: offers it --first work--> python -m mesh.inspector.stock MODULE SOCKET --attach--> a worker of that node

Invariant: a node imports this list and nothing of what it names; that the list says what the agent's own code does is a test. The process
ends with its node, however that ends: its standard input is a socket pair that nobody writes to.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from pathlib import Path

from mesh.runtime.stock import Stock

FLOWS = Stock(
    "flows",
    "mesh.flow",
    (sys.executable, "-P", "-m", "mesh.inspector.stock", "mesh.flows.agent"),
    "Run a flow: `spec` is its document, `input` what it is started with.",
    '{"additionalProperties":false,"properties":{"spec":{"additionalProperties":true,"type":"object"},'
    '"input":{"anyOf":[{"additionalProperties":true,"type":"object"},{"type":"null"}],"default":null}},"required":["spec"],"type":"object"}',
    '{"additionalProperties":true,"type":"object"}',
)
COORDINATOR = Stock(
    "coordinator",
    "mesh.coordinate",
    (sys.executable, "-P", "-m", "mesh.inspector.stock", "mesh.coordinator.agent"),
    "The office of coordinator: it ends only when it is cancelled, and is then begun anew.",
    '{"additionalProperties":false,"properties":{"generation":{"type":"integer","default":1}},"type":"object"}',
    '{"additionalProperties":true,"type":"object"}',
    4,
    "coordinator",
)
STOCK = (FLOWS, COORDINATOR)


async def serve_until_let_go(module: str, sock: Path) -> None:
    """Serve the module's agent at the node behind `sock`, until that node has gone or lets go of its end of our standard input."""
    from mesh.worker import serve

    reader, _ = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(0)))
    agent = importlib.import_module(module).agent
    serving, let_go = asyncio.ensure_future(serve([agent], sock)), asyncio.ensure_future(reader.read())
    try:
        await asyncio.wait([serving, let_go], return_when=asyncio.FIRST_COMPLETED)
    finally:
        let_go.cancel()
        serving.cancel()
        await asyncio.wait([serving])
    if not serving.cancelled():
        serving.result()


if __name__ == "__main__":
    from mesh.failures import leave_no_core

    leave_no_core()
    asyncio.run(serve_until_let_go(sys.argv[1], Path(sys.argv[2])))
