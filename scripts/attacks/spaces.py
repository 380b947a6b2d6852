"""Network namespaces with names nobody else sees: machines, a switch between them, and sockets that live in any of them.

A namespace lives as long as the process that holds it, which ends with this one. Needs root and Linux; `why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CLONE_NEWNET = 0x40000000
HOLD = "ip link set lo up && exec cat"


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux"
    return next((f"no {tool} here" for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None), "")


class Space:
    """One network. Put `inside` before a command: it runs in here."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.write("here\n")
        self._holder.stdin.flush()
        if self._holder.stdout.readline() != "here\n":
            raise SystemExit("no network namespaces here")
        self.pid = self._holder.pid
        self._path = f"/proc/{self.pid}/ns/net"
        self.inside = ("nsenter", f"--net={self._path}")
        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(self._path,))

    def ip(self, *commands: str) -> None:
        """Commands of ip(8), all in one process."""
        subprocess.run([*self.inside, "ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)

    def socket(self, *kind: Any) -> socket.socket:
        """A socket of this network, for this process."""
        return self._thread.submit(socket.socket, *kind).result()

    def close(self) -> None:
        self._thread.shutdown()
        self._holder.communicate()


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
