"""The two listeners of a node, bound together before anything else is made: the door's port, and the ROUTER's right above it."""

from __future__ import annotations

import errno
import ipaddress
from dataclasses import dataclass

import anyio
import anyio.abc

from mesh.limits import LinkLimits
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import Receiver, Sockets, require_loopback, split_address

PORT = 7710
"""Where the search for a free pair begins."""
PAIRS_TRIED = 200


@dataclass(slots=True)
class Listening:
    """Bound and not yet served: give it to `Links`, which closes it all; or call `aclose`."""

    sockets: Sockets
    receiver: Receiver
    door: anyio.abc.SocketListener
    door_address: str
    """``host:port``, what others dial."""
    router_address: str
    loopback_only: bool
    """Nobody outside this machine can reach it, and it dials nobody outside."""

    def add_router(self, curve: CurveKey) -> str:
        """The same ROUTER at one more port, under another transport key: what others are to be told. Raises OSError."""
        host, _ = split_address(self.receiver.address)
        _, port = split_address(self.receiver.add_endpoint(host, 0, curve))
        told, _, _ = self.router_address.rpartition(":")
        self.router_address = f"{told}:{port}"
        return self.router_address

    async def aclose(self) -> None:
        """Give both ports back."""
        await self.door.aclose()
        self.receiver.close()
        self.sockets.close()


async def listen(
    limits: LinkLimits,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    curve: CurveKey | None = None,
    advertise: str = "",
    first: int = 0,
) -> Listening:
    """Bind door and ROUTER on `port` and `port + 1`. None: `first` if it is given, then 7710 and 7711, or the next free pair; 0: two ports
    the system chooses.

    `curve`: the transport key; without one `host` must be a loopback address. `advertise`: the address others are told, where `host` is
    the wildcard. Raises NotLoopback; OSError (EADDRINUSE) if `port`, or every pair that was tried, is taken.
    """
    if curve is None:
        host = require_loopback(host)
    sockets = Sockets(limits, curve)
    try:
        if port is not None:
            return await _bind_pair(sockets, host, port, advertise)
        for candidate in (*([first] if first else []), *range(PORT, PORT + 2 * PAIRS_TRIED, 2)):
            try:
                return await _bind_pair(sockets, host, candidate, advertise)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no free pair of ports from {PORT} to {PORT + 2 * PAIRS_TRIED - 1}")
    except OSError:
        sockets.close()
        raise


async def _bind_pair(sockets: Sockets, host: str, port: int, advertise: str) -> Listening:
    door = (await anyio.create_tcp_listener(local_host=host, local_port=port)).listeners[0]
    assert isinstance(door, anyio.abc.SocketListener)
    try:
        receiver = sockets.router(host, port + 1 if port else 0)
    except OSError:
        await door.aclose()
        raise
    bound = door.extra(anyio.abc.SocketAttribute.local_port)
    told = advertise or host
    shown = f"[{told}]" if ":" in told else told
    _, router_port = split_address(receiver.address)
    inside = ipaddress.ip_address(host).is_loopback
    return Listening(sockets, receiver, door, f"{shown}:{bound}", f"{shown}:{router_port}", inside)
