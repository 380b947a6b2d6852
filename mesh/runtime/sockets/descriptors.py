"""Looking at connections that belong to somebody else (libzmq), by descriptor, and shutting one down; and at this process's memory.

Invariant: what is looked at stays the same connection while it is looked at, because it is first duplicated onto a place of our own; and
nothing else is touched: before `shut`, the peer's address is compared. No duplicate is kept: a connection ends only when its last one is
closed. The place is there from the start, so all of this works when the process has no descriptor left.
Byte counts come from TCP_INFO of Linux 4.19 or newer. Source: tcp(7), linux/tcp.h.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from fcntl import ioctl
from struct import Struct
from termios import FIONREAD
from typing import Any

_TCP_INFO: int = getattr(socket, "TCP_INFO", 0) if sys.platform == "linux" else 0
_RECEIVED_SENT = Struct("=128xQ64xQ")
"""tcpi_bytes_received and tcpi_bytes_sent of struct tcp_info."""
_PAGE_BYTES = resource.getpagesize()


class Place:
    """One descriptor of ours that stands for one connection after the other."""

    def __init__(self) -> None:
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.counts_bytes = bool(_TCP_INFO) and len(self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)) >= _RECEIVED_SENT.size
        """Whether this system tells how many bytes have come and gone."""

    def _stand_for(self, fd: int) -> None:
        os.dup2(fd, self._socket.fileno(), inheritable=False)

    def leave(self) -> None:
        """Let go of the connection looked at last."""
        os.dup2(self._nothing, self._socket.fileno(), inheritable=False)

    def names(self, fd: int) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
        """The peer's address and our own, as the `socket` module gives them; None if this is no live connection."""
        try:
            self._stand_for(fd)
            return self._socket.getpeername(), self._socket.getsockname()
        except OSError:
            return None
        finally:
            self.leave()

    def traffic(self, fd: int) -> tuple[int, int] | None:
        """Bytes received and sent over this connection so far; None if it is gone or nobody can tell. `leave` when done with all."""
        if not self.counts_bytes:
            return None
        try:
            self._stand_for(fd)
            received, sent = _RECEIVED_SENT.unpack_from(self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256))
        except OSError:
            return None
        return received, sent

    def unread_bytes(self, fd: int) -> int:
        """What the kernel holds and libzmq has not read."""
        try:
            self._stand_for(fd)
            return int.from_bytes(ioctl(self._socket.fileno(), FIONREAD, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def shut(self, fd: int, peer: tuple[Any, ...]) -> bool:
        """Shut down both directions, now; libzmq then finds it ended. False if the connection to `peer` is gone already."""
        try:
            self._stand_for(fd)
            same = bool(self._socket.getpeername() == peer)
            if same:
                self._socket.shutdown(socket.SHUT_RDWR)
            return same
        except OSError:
            return False
        finally:
            self.leave()

    def room(self) -> bool:
        """Whether this process can open one more descriptor."""
        try:
            os.close(os.dup(self._nothing))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
        os.close(self._nothing)


class Memory:
    """Tells when the process has grown. Where the system does not say (no /proc), it always may have."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1
        self._low = self._resident_bytes()

    def _resident_bytes(self) -> int:
        return int(os.pread(self._file, 128, 0).split()[1]) * _PAGE_BYTES if self._file >= 0 else 0

    def grew(self, by_bytes: int) -> bool:
        """Whether there is so much more in memory than at the lowest since `mark`."""
        resident = self._resident_bytes()
        self._low = min(self._low, resident)
        return resident - self._low >= by_bytes or self._file < 0

    def mark(self) -> None:
        """Begin again from here."""
        self._low = self._resident_bytes()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
