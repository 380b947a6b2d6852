"""Who is at the other end of a Unix socket, as the kernel says. Linux and macOS."""

from __future__ import annotations

import socket
import struct
import sys

_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """``(pid, uid)`` of the process that connected. Raises OSError if the kernel does not say."""
    if sys.platform == "darwin":
        # struct xucred: version, uid, number of groups, 16 groups
        _, uid = struct.unpack_from("=II", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76))
        (pid,) = struct.unpack("=i", connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
        return pid, uid
    pid, uid, _gid = struct.unpack("=3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
