"""mDNS: says where our door is, and hears where others' doors are. A hint, never believed: a wrong record costs one failed dial.

    announce  <node id>._lanmesh._tcp.local.  SRV: the door   TXT: v, tag of the mesh, node id, capability names (open meshes only)
    browse    records with our own tag, and nobody else's  ->  Found(address)

Names derive from keys and cannot collide, so they are registered without probing: seen by others after a millisecond, not after 1.2 s.
Invariants: the interface is always named, loopback by default: nothing multicasts on a real interface; a malformed record is counted,
never raised; what is remembered is bounded. Whether multicast works here at all is found out by hearing our own record; if not, `blocked`
says why, and a mesh is joined by its seeds. Does not dial and knows no members. zeroconf is imported only when this runs.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from mesh.core.inputs import Found
from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.rates import Rates
from mesh.runtime.sockets import NotLoopback, require_loopback, split_address

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_lanmesh._tcp.local."
VERSION = "1"
SELF_TEST_S = 2.0
GOODBYE_S = 1.0
RESOLVE_MS = 1000
RESOLVING_MAX = 8
CAPABILITIES_BYTES_MAX = 240
"""One TXT string holds 255 bytes, its key and the equals sign included."""
FOUND_PER_S = 20.0
ANNOUNCE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class DiscoveryStatistics:
    """`blocked`: why mDNS does not work here ("" if it does, or is not yet known). `refusals`: records turned down, by reason."""

    heard_self: bool
    blocked: str
    candidates: int
    found: int
    refusals: dict[str, int]


def mesh_tag(mesh: str) -> str:
    """16 hexadecimal digits that say "same mesh" to those who know its id, and nothing to others."""
    return hashlib.sha256(b"lanmesh/mdns/1\0" + mesh.encode()).hexdigest()[:16]


class Discovery:
    """Runs until cancelled, then says goodbye. `tell(me, Found(address))` for each door of our mesh that is new or has moved."""

    def __init__(
        self,
        me: NodeId,
        mesh: str,
        door: str,
        limits: LinkLimits,
        tell: Callable[[NodeId, Any], None],
        *,
        interface: str = "127.0.0.1",
        show_capabilities: bool = True,
    ) -> None:
        """`door`: our ``host:port``; `interface`: the address of the one interface to use.

        Raises NotLoopback, or ValueError for what is no address.
        """
        self._me, self._mesh, self._limits, self._tell = me, mesh, limits, tell
        self._host, self._port = split_address(door)
        require_loopback(self._host)
        self._interface = str(ipaddress.IPv4Address(interface))
        self._show_capabilities = show_capabilities
        self._tag = mesh_tag(mesh)
        self._name = f"{me}.{SERVICE_TYPE}"
        self._capabilities: tuple[str, ...] = ()
        self._changed = anyio.Event()
        self._heard_self = anyio.Event()
        self._blocked = ""
        self._candidates: dict[str, str] = {}
        self._resolving = 0
        self._rates = Rates(FOUND_PER_S, limits.candidates_max, keys_max=1)
        self._found = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self.refusals: Counter[str] = Counter()
        self.effects: dict[type, Callable[[Any], None]] = {}

    def flush(self) -> None:
        """Nothing is collected here."""

    def advertise(self, capabilities: Iterable[str]) -> None:
        """These names from now on (as many as fit one TXT string). Announced at most once a second."""
        if (names := _fitting(capabilities)) != self._capabilities:
            self._capabilities = names
            self._changed.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Announce and browse until cancelled. Never raises for the network's sake: `statistics().blocked` says what is wrong."""
        task_status.started()
        # zeroconf tells malformed packets to its logger; without a handler of its own they would reach the user's terminal.
        logging.getLogger("zeroconf").addHandler(logging.NullHandler())
        from zeroconf import Error, IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # zeroconf leaks its sockets where the interface is not there
                probe.bind((self._interface, 0))
            zeroconf = AsyncZeroconf(interfaces=[self._interface], ip_version=IPVersion.V4Only)
        except (OSError, RuntimeError) as error:  # no multicast, port taken exclusively; or no asyncio loop (trio)
            self._blocked = str(error) or type(error).__name__
            return
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change])
                tasks.start_soon(self._self_test)
                try:
                    await self._announce(zeroconf)
                finally:
                    with anyio.move_on_after(GOODBYE_S, shield=True):
                        await browser.async_cancel()
        except* (OSError, Error) as failed:
            self._blocked = str(failed.exceptions[0]) or "network"
        finally:
            self._tasks = None
            with anyio.move_on_after(GOODBYE_S, shield=True):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()

    async def _announce(self, zeroconf: AsyncZeroconf) -> None:
        await (await zeroconf.async_register_service(self._info(), cooperating_responders=True))
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await (await zeroconf.async_update_service(self._info()))
            await anyio.sleep(ANNOUNCE_EVERY_S)

    def _info(self) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        text = {"v": VERSION, "tag": self._tag, "node": self._me[:16]}
        if self._show_capabilities and self._capabilities:
            text["caps"] = ",".join(self._capabilities)
        return AsyncServiceInfo(
            SERVICE_TYPE,
            self._name,
            addresses=[ipaddress.ip_address(self._host).packed],
            port=self._port,
            properties=text,
            server=f"{self._me}.local.",
        )

    async def _self_test(self) -> None:
        with anyio.move_on_after(SELF_TEST_S):
            await self._heard_self.wait()
            return
        self._blocked = f"our own record was not heard on {self._interface} within {SELF_TEST_S:g} s: multicast is blocked"

    # ---- records of others. Called by zeroconf on the loop's thread.

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange
        from zeroconf.asyncio import AsyncServiceInfo

        if name == self._name:
            self._heard_self.set()
            self._blocked = ""
            return
        if state_change is ServiceStateChange.Removed:
            self._candidates.pop(name, None)
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._consider(name, info)
        elif self._tasks is None or self._resolving >= RESOLVING_MAX:
            self.refusals["too_many_incomplete"] += 1
        else:
            self._resolving += 1
            self._tasks.start_soon(self._resolve, zeroconf, name, info)

    async def _resolve(self, zeroconf: Zeroconf, name: str, info: AsyncServiceInfo) -> None:
        try:
            if await info.async_request(zeroconf, RESOLVE_MS):
                self._consider(name, info)
            else:
                self.refusals["incomplete"] += 1
        finally:
            self._resolving -= 1

    def _consider(self, name: str, info: AsyncServiceInfo) -> None:
        """Tell of the door if the record is of our mesh and well formed."""
        text = info.properties
        if text.get(b"v") != VERSION.encode():
            self.refusals["version"] += 1
        elif text.get(b"tag") != self._tag.encode():
            self.refusals["other_mesh"] += 1
        elif not (address := self._address(info)):
            self.refusals["bad_address"] += 1
        elif self._candidates.get(name) == address:
            pass
        elif name not in self._candidates and len(self._candidates) >= self._limits.candidates_max:
            self.refusals["too_many"] += 1
        elif not self._rates.allow("found"):
            self.refusals["too_fast"] += 1
        else:
            self._candidates[name] = address
            self._found += 1
            self._tell(self._me, Found(address))

    def _address(self, info: AsyncServiceInfo) -> str:
        for packed in info.addresses:
            try:
                host = require_loopback(str(ipaddress.IPv4Address(packed)))
            except (NotLoopback, ValueError):
                continue
            if info.port:
                return f"{host}:{info.port}"
        return ""

    def statistics(self) -> DiscoveryStatistics:
        return DiscoveryStatistics(self._heard_self.is_set(), self._blocked, len(self._candidates), self._found, dict(self.refusals))


def _fitting(capabilities: Iterable[str]) -> tuple[str, ...]:
    """In order of name, as many as fit; a name with a comma or beyond ASCII is left out."""
    names: list[str] = []
    room = CAPABILITIES_BYTES_MAX
    for name in sorted(set(capabilities)):
        if name.isascii() and "," not in name and len(name) < room:
            names.append(name)
            room -= len(name) + 1
    return tuple(names)
