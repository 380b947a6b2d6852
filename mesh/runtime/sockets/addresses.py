"""Addresses of nodes: always numeric, so that nothing is looked up, and on this machine only unless links are encrypted."""

from __future__ import annotations

import ipaddress


class NotLoopback(ValueError):
    """An address outside this machine was asked for, without encryption. Nothing was opened."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is not a loopback address; without a transport key a node stays on its machine")
        self.host = host


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` -> (host, port). Raises ValueError if it is neither, or the port is not in 1..65535."""
    host, colon, digits = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
        raise ValueError(f"{address!r} is no host:port")
    return host, int(digits)


def require_loopback(host: str) -> str:
    """A numeric loopback address; the name localhost becomes one. Raises NotLoopback for everything else: no name is looked up."""
    if host == "localhost":
        return "127.0.0.1"
    if not is_loopback(host):
        raise NotLoopback(host)
    return host


def require_numeric(host: str) -> str:
    """A numeric address of any machine; the name localhost becomes one. Raises ValueError for everything else: no name is looked up."""
    if host == "localhost":
        return "127.0.0.1"
    ipaddress.ip_address(host)
    return host


def is_loopback(host: str) -> bool:
    """False for what is no numeric address, too."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tcp_endpoint(host: str, port: int, *, secured: bool) -> str:
    """libzmq's name of it. Raises ValueError if `host` is not numeric, NotLoopback if it is neither loopback nor `secured`."""
    host = require_numeric(host) if secured else require_loopback(host)
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
