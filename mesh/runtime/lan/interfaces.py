"""Which of this machine's addresses a node uses on a LAN: the one it binds, and the one it tells others.

    --bind ADDRESS ----+
    interfaces() ------+--> choose() --> Choice(interface, others, why)        or a UsageError that names --bind
    default_route() ---+

One address only: what listens everywhere also listens where nobody meant it to. `choose` decides on values alone: a real network comes
before those that containers, virtual machines and tunnels make, a private range before any other, the default route's interface before
the rest; if several networks are left, a person decides. IPv4 only for now. Reads, sends nothing, changes nothing.
"""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import UsageError

ROUTES = Path("/proc/net/route")
NOBODY = ("192.0.2.1", 9)
"""Reserved for documentation (RFC 5737): only to ask the kernel which way out it would take."""
_MADE_UP = re.compile(
    r"(docker|br-|veth|virbr|vnet|vmnet|vboxnet|lxc|lxd|incus|podman|cni|flannel|cali|cilium|kube|bridge|vmenet|dummy|ifb|"
    r"tun|tap|utun|wg|tailscale|zt|ppp|ipsec|gif|stf|awdl|llw|anpi)"
)
"""How interfaces are called that no cable and no radio stands behind, on Linux and macOS."""
_GET_FLAGS = 0xC0206911 if sys.platform == "darwin" else 0x8913
_UP_AND_RUNNING = 0x1 | 0x40
_ROUTE_UP = 0x1


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of one interface. `prefix`: bits of its network; `up`: switched on, and a cable or radio answers."""

    name: str
    address: str
    prefix: int
    up: bool = True

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The network it is on. Raises ValueError for IPv6."""
        return ipaddress.IPv4Interface(f"{self.address}/{self.prefix}").network

    def __str__(self) -> str:
        return f"{self.address} ({self.name})"


LOOPBACK = Interface("lo", "127.0.0.1", 8)


def local(address: str) -> Interface:
    """The loopback interface at this loopback address."""
    return Interface(LOOPBACK.name, address, LOOPBACK.prefix)


@dataclass(frozen=True, slots=True)
class Choice:
    """`others`: what could have been taken instead; `why`: half a sentence for people."""

    interface: Interface
    others: tuple[Interface, ...]
    why: str

    @property
    def address(self) -> str:
        return self.interface.address


def find(bind: str = "") -> Choice:
    """The address to use on this machine, or `bind` if a person named one. Raises UsageError."""
    return choose(interfaces(), default_route(), bind)


# ---- the decision


def choose(interfaces: Sequence[Interface], default: str = "", bind: str = "") -> Choice:
    """`interfaces`: all of the machine; `default`: the name or address of its default route's.

    Raises UsageError, with what to type: nothing to choose from, several networks, or `bind` is not this machine's.
    """
    usable = [each for each in interfaces if each.up and _is_usable(each.address)]
    if bind:
        return _named(bind, interfaces, usable)
    if not usable:
        raise _nothing(interfaces)
    usable.sort(key=lambda each: _rank(each, default))  # stable: of equals the one the system lists first
    chosen, *others = usable
    rivals = [each for each in others if _rank(each, default) == _rank(chosen, default)]
    if any(each.network != chosen.network and each.name != chosen.name for each in rivals):
        raise UsageError(
            f"this machine is on several networks, and none is plainly the one: {_listed([chosen, *rivals])}",
            fix=f"name one: --bind {chosen.address}",
            code="ambiguous_address",
        )
    return Choice(chosen, tuple(others), _why(chosen, others, default))


def _is_usable(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip.version == 4 and not (ip.is_loopback or ip.is_unspecified or ip.is_multicast)


_REASONS = ("a real network", "an address that somebody gave", "a private network", "on the default route")


def _rank(each: Interface, default: str) -> tuple[bool, bool, bool, bool]:
    """Lower is better; in the order of `_REASONS`."""
    ip = ipaddress.ip_address(each.address)
    return _MADE_UP.match(each.name) is not None, ip.is_link_local, not ip.is_private, default not in (each.name, each.address)


def _why(chosen: Interface, others: Sequence[Interface], default: str) -> str:
    """What sets it apart from the next best."""
    if not others:
        return "the only network address of this machine"
    for why, ours, theirs in zip(_REASONS, _rank(chosen, default), _rank(others[0], default)):
        if ours != theirs:
            return why
    return "the first of its equals"


def _named(bind: str, interfaces: Sequence[Interface], usable: Sequence[Interface]) -> Choice:
    fix = f"--bind {usable[0].address}" if usable else f"--bind {LOOPBACK.address}"
    try:
        ip = ipaddress.ip_address(bind)
    except ValueError:
        raise UsageError(f"--bind {bind}: no numeric address; this machine has {_listed(interfaces)}", fix=fix) from None
    if ip.version != 4:
        raise UsageError(f"--bind {bind}: IPv6 is not supported yet", fix=fix)
    if ip.is_unspecified:
        raise UsageError(f"--bind {bind} means every address at once; a node listens at one", fix=fix)
    if ip.is_loopback:
        return Choice(Interface(LOOPBACK.name, str(ip), LOOPBACK.prefix), tuple(usable), "as asked")
    for each in interfaces:
        if each.address == str(ip):
            return Choice(each, tuple(other for other in usable if other != each), "as asked")
    raise UsageError(f"--bind {bind}: not an address of this machine, which has {_listed(interfaces)}", fix=fix, code="not_our_address")


def _nothing(interfaces: Sequence[Interface]) -> UsageError:
    fix = f"connect it to a network, or name an address: --bind ADDRESS ({LOOPBACK.address}: this machine only)"
    down = [each for each in interfaces if not each.up and _is_usable(each.address)]
    if down:
        return UsageError(f"the network is down: {_listed(down)}", fix=fix, code="no_address")
    if any(ip.version == 6 and ip.is_global for ip in (ipaddress.ip_address(each.address) for each in interfaces)):
        return UsageError("this machine has IPv6 addresses only; lanmesh speaks IPv4 for now", fix=fix, code="ipv6_only")
    return UsageError("this machine has no network address", fix=fix, code="no_address")


def _listed(interfaces: Sequence[Interface]) -> str:
    return ", ".join(str(each) for each in interfaces if ":" not in each.address) or "none"


# ---- what the system says


def interfaces() -> list[Interface]:
    """Every address of every interface, in the system's order. IPv6 ones too: `choose` says what is wrong when there are no others."""
    import ifaddr

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for adapter in ifaddr.get_adapters():
            up = _is_up(asker, adapter.name)
            for ip in adapter.ips:
                address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
                found.append(Interface(adapter.name, address, ip.network_prefix, up))
    return found


def _is_up(asker: socket.socket, name: str) -> bool:
    try:
        answer = fcntl.ioctl(asker, _GET_FLAGS, struct.pack("16s16x", name.encode()[:15]))
    except OSError:  # it went away meanwhile
        return False
    flags: int = struct.unpack_from("=H", answer, 16)[0]
    return flags & _UP_AND_RUNNING == _UP_AND_RUNNING


def default_route() -> str:
    """The name of the default route's interface (Linux), or its address (elsewhere); "" where there is none."""
    if sys.platform == "linux":
        try:
            return default_of(ROUTES.read_text())
        except OSError:  # no /proc in here
            return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            asker.connect(NOBODY)  # of a datagram socket: only looks up the route
            return str(asker.getsockname()[0])
        except OSError:
            return ""


def default_of(routes: str) -> str:
    """The interface of the default route with the lowest metric, of what /proc/net/route holds."""
    best: tuple[int, str] | None = None
    for line in routes.splitlines()[1:]:
        name, destination, _, flags, _, _, metric, mask, *_ = line.split()
        if destination == mask == "00000000" and int(flags, 16) & _ROUTE_UP and (best is None or int(metric) < best[0]):
            best = int(metric), name
    return best[1] if best else ""
