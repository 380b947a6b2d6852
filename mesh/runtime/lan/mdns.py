"""zeroconf on one interface, and what stands between it and the network; the form of our records.

    network --> Gate --> zeroconf --> Seen(address, tag, node)        a name like any: <instance>._lanmesh._tcp.local.
                  '--> dropped and counted: another network's, too many, too fast, for somebody else's address

zeroconf believes and remembers all it hears: a stranger who announces 10,000 services a second would make it parse and hold them all. So
packets pass a gate first, at the price of a few microseconds each. Invariants: what one address and all together may say a second is
bounded, in packets and in new names; a record names no address but its sender's, who is on the interface's own network, so a liar can make
us dial nobody but himself; what does not speak of our service is not parsed. Knows no mesh and no key.

Source: RFC 6762 (sections 11 and 21), RFC 6763. zeroconf is imported only when this runs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import anyio

from mesh.limits import DiscoveryLimits
from mesh.runtime.clock import now_s
from mesh.runtime.lan.interfaces import Interface
from mesh.runtime.rates import Rates

if TYPE_CHECKING:
    from zeroconf import Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_lanmesh._tcp.local."
VERSION = "2"
NEEDLE = b"lanmesh"
"""In every packet that concerns us: in the service's name, and in the names of our hosts."""
HOST_PREFIX = "lanmesh-"
PACKET_BYTES_MAX = 9000
RECORDS_MAX = 8
"""In one answer. Ours are about one service: PTR, SRV, TXT, A, and NSEC."""
DRAIN_MAX = 64
"""Packets of no use read in one turn of the loop: a turn costs several times what dropping a packet does."""
FLOODED_S = 10.0
GOODBYE_S = 1.0
HASTE_S = 0.02
"""Long enough for the first of the three packets."""
_COUNTS = struct.Struct("!6x3H")
"""How many answers, authorities and additional records follow the questions."""
_RESPONSE = 0x80
_TAG = re.compile(rb"[0-9a-f]{16}")
_NODE = re.compile(rb"[0-9a-z]{1,16}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody says of himself, unproven. `address`: his door, ``host:port``. `node`: the beginning of his id, if he is `public`."""

    address: str
    tag: str
    node: str
    public: bool


class BadRecord(Exception):
    """A record that is of no use. `reason` is snake_case."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read(info: AsyncServiceInfo, interface: Interface) -> Seen:
    """Raises BadRecord: ``version``, ``malformed``, ``bad_address``."""
    text = info.properties
    if text.get(b"v") != VERSION.encode():
        raise BadRecord("version")
    tag, node = text.get(b"tag") or b"", text.get(b"node")
    if not _TAG.fullmatch(tag) or (node is not None and not _NODE.fullmatch(node)):
        raise BadRecord("malformed")
    for packed in info.addresses:
        if info.port and is_on(interface, ipaddress.ip_address(packed)):
            address = f"{ipaddress.ip_address(packed)}:{info.port}"
            return Seen(address, tag.decode(), (node or b"").decode(), node is not None)
    raise BadRecord("bad_address")


def is_on(interface: Interface, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """True for a host of the interface's own network.

    mDNS does not leave its network, so an honest record names nobody beyond it; one that does would have us knock at doors far away.
    """
    network = interface.network
    if ip not in network:
        return False
    return network.prefixlen >= 31 or ip not in (network.network_address, network.broadcast_address)


class Gate:
    """Says of each packet whether zeroconf may see it. One for all sockets of an interface; counts refusals in `refusals`."""

    def __init__(self, interface: Interface, limits: DiscoveryLimits, refusals: Counter[str]) -> None:
        self._interface, self.refusals = interface, refusals
        self._network = int(interface.network.network_address)
        self._mask = int(interface.network.netmask)
        self._of_one = Rates(limits.packets_per_s, limits.packets_burst, keys_max=limits.sources_max)
        self._of_all = Rates(limits.all_packets_per_s, limits.all_packets_burst, keys_max=1)
        self._names_of_one = Rates(limits.names_per_s, limits.names_burst, keys_max=limits.sources_max)
        self._names_of_all = Rates(limits.all_names_per_s, limits.all_names_burst, keys_max=1)
        self._flooded_s = float("-inf")

    @property
    def flooded(self) -> bool:
        """More came than may, a moment ago: somebody may not have been heard."""
        return now_s() - self._flooded_s < FLOODED_S

    def admits(self, data: bytes, source: str, zeroconf: Zeroconf) -> bool:
        """`source`: the sender's address, in digits. Cheap checks first."""
        if NEEDLE not in data:
            return False  # printers and televisions: neither ours nor wrong
        if not self._of_one.allow(source):
            return self._flood("too_fast")
        sender = socket.inet_aton(source)
        if int.from_bytes(sender, "big") & self._mask != self._network:
            return self._refuse("off_link")
        if not self._of_all.allow(""):
            return self._flood("too_fast")
        if len(data) < _COUNTS.size:
            return self._refuse("malformed")
        if not data[2] & _RESPONSE:
            return True
        count = sum(_COUNTS.unpack_from(data))
        if count > RECORDS_MAX:
            return self._refuse("too_many_records")
        return self._admits_records(data, count, sender, source, zeroconf)

    def _admits_records(self, data: bytes, count: int, sender: bytes, source: str, zeroconf: Zeroconf) -> bool:
        from zeroconf import DNSAddress, DNSIncoming, DNSPointer  # type: ignore[attr-defined]  # public, though not in its __all__

        records = DNSIncoming(data).answers()
        pointers = [record for record in records if isinstance(record, DNSPointer)]
        if len(records) != count or len(pointers) > 1:
            return self._refuse("malformed")
        if any(isinstance(record, DNSAddress) and record.address != sender for record in records):
            return self._refuse("not_its_address")
        names = {record.name for record in records if record not in pointers} | {pointer.alias for pointer in pointers}
        if all(zeroconf.cache.entries_with_name(name) for name in names):
            return True
        return (self._names_of_one.allow(source) and self._names_of_all.allow("")) or self._flood("too_many_names")

    def _refuse(self, reason: str) -> bool:
        self.refusals[reason] += 1
        return False

    def _flood(self, reason: str) -> bool:
        self._flooded_s = now_s()
        return self._refuse(reason)


class _GatedProtocol(asyncio.DatagramProtocol):
    """Takes zeroconf's place at one of its sockets, and passes on what the gate admits."""

    def __init__(self, gate: Gate, transport: asyncio.DatagramTransport, zeroconf: Zeroconf) -> None:
        self._gate, self._zeroconf = gate, zeroconf
        self._behind = cast(asyncio.DatagramProtocol, transport.get_protocol())
        self._socket: socket.socket = transport.get_extra_info("socket").dup()
        transport.set_protocol(self)

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        """One packet; if it is of no use, those behind it too, up to the first that is."""
        for _ in range(DRAIN_MAX):
            if self._gate.admits(data, source[0], self._zeroconf):
                self._behind.datagram_received(data, source)
                return
            try:
                data, source = self._socket.recvfrom(PACKET_BYTES_MAX)
            except OSError:  # nothing is left
                return

    def error_received(self, error: Exception) -> None:
        self._behind.error_received(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._socket.close()
        self._behind.connection_lost(error)


@asynccontextmanager
async def opened(interface: Interface, gate: Gate, in_haste: Callable[[], bool] = lambda: False) -> AsyncIterator[AsyncZeroconf]:
    """zeroconf on this interface alone, behind `gate`; `in_haste`: whether goodbye is to be said once instead of three times.

    Raises OSError where there is no multicast.
    """
    from zeroconf import Error, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    # zeroconf tells malformed packets to its logger; without a handler of its own they would reach the user's terminal.
    logging.getLogger("zeroconf").addHandler(logging.NullHandler())
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise OSError("mDNS needs asyncio") from error
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # zeroconf leaks its sockets where the interface is not there
        probe.bind((interface.address, 0))
    zeroconf = AsyncZeroconf(interfaces=[interface.address], ip_version=IPVersion.V4Only)
    try:
        try:
            await zeroconf.zeroconf.async_wait_for_start()
        except Error as error:
            raise OSError(str(error) or "mDNS does not start") from error
        for reader in zeroconf.zeroconf.engine.readers:
            _GatedProtocol(gate, reader.transport, zeroconf.zeroconf)
        yield zeroconf
    finally:
        with anyio.move_on_after(HASTE_S if in_haste() else GOODBYE_S, shield=True):
            await zeroconf.async_unregister_all_services()
        with anyio.move_on_after(GOODBYE_S, shield=True):
            await zeroconf.async_close()
