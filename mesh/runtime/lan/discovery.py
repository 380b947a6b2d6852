"""mDNS: says where our door is, and hears where others' doors are. A hint, never believed: a wrong record costs one failed dial.

    announce  SRV, A: the door   TXT: v, tag of the mesh, caps            public meshes: node id and capability names in clear
    listen    records with a tag of our mesh, and nobody else's  ->  Found(address)
    browse    whoever is there, of any mesh, for people who have none yet

A mesh that is not public shows nothing that a stranger could use: names are made up at each start, and tags are blinded (`blinding.py`);
when the UTC day changes the record does. Names cannot collide, so they are registered without probing: seen by others after a millisecond,
not after 1.2 s. Invariants: one interface, which is named; a malformed record is counted, never raised; what is remembered is bounded.
Whether multicast works is found out by hearing our own record; if not, `blocked` says why, and a mesh is joined by its seeds. Does not dial
and knows no members.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from mesh.core.inputs import Found
from mesh.ids import NodeId
from mesh.limits import DiscoveryLimits
from mesh.runtime import clock
from mesh.runtime.lan.blinding import DAY_MS, Blinding, day_of, in_clear
from mesh.runtime.lan.interfaces import Interface
from mesh.runtime.lan.mdns import HOST_PREFIX, SERVICE_TYPE, VERSION, BadRecord, Gate, Seen, opened, read
from mesh.runtime.rates import Rates
from mesh.runtime.sockets.sockets import split_address

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SELF_TEST_S = 2.0
CLOCK_LOOK_S = 60.0
"""The clock may be set, or the machine sleep, so the next day's beginning is looked for again after so long."""
INSTANCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class DiscoveryStatistics:
    """`blocked`: why mDNS does not work here ("" if it does, or is not yet known). `flooded`: more is said than is listened to, just now.

    `refusals`: records and packets turned down, by reason.
    """

    heard_self: bool
    blocked: str
    flooded: bool
    candidates: int
    found: int
    refusals: dict[str, int]


class Discovery:
    """Runs until cancelled, then says goodbye. `tell(me, Found(address))` for each door of our mesh that is new or has moved."""

    def __init__(
        self,
        me: NodeId,
        tags: Blinding,
        door: str,
        limits: DiscoveryLimits,
        tell: Callable[[NodeId, Any], None],
        *,
        interface: Interface,
        public: bool,
        wall_ms: Callable[[], int] = clock.wall_ms,
    ) -> None:
        """`door`: our ``host:port``, at the interface's address. `public`: show node id and capability names. Raises ValueError."""
        host, self._port = split_address(door)
        if host != interface.address:
            raise ValueError(f"the door {door} is not at {interface}, so nobody there could reach it")
        self._me, self._tags, self._limits, self._tell = me, tags, limits, tell
        self._interface, self._public, self._wall_ms = interface, public, wall_ms
        self._instance = me if public else secrets.token_hex(INSTANCE_BYTES)
        self._name = f"{self._instance}.{SERVICE_TYPE}"
        self.in_haste = False
        """Set before the end: the next life begins at once, so goodbye is said once and nobody waits for it."""
        self._capabilities: frozenset[str] = frozenset()
        self._changed = anyio.Event()
        self._heard_self = anyio.Event()
        self._blocked = ""
        self._candidates: dict[str, str] = {}
        self._rates = Rates(limits.found_per_s, limits.candidates_max, keys_max=1)
        self._found = 0
        self.refusals: Counter[str] = Counter()
        self._gate = Gate(interface, limits, self.refusals)
        self.effects: dict[type, Callable[[Any], None]] = {}

    def flush(self) -> None:
        """Nothing is collected here."""

    def advertise(self, capabilities: Iterable[str]) -> None:
        """These names from now on (as many as fit one TXT string). Announced at most once a second."""
        if (names := frozenset(capabilities)) != self._capabilities:
            self._capabilities = names
            self._changed.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Announce and listen until cancelled. Never raises for the network's sake: `statistics().blocked` says what is wrong."""
        task_status.started()
        from zeroconf import Error

        try:
            async with opened(self._interface, self._gate, lambda: self.in_haste) as zeroconf, anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, zeroconf)
                tasks.start_soon(self._self_test)
                await self._announce(zeroconf)
        except* (OSError, Error) as failed:  # no multicast, or the port is taken exclusively
            first = failed.exceptions[0]
            self._blocked = str(first) or type(first).__name__

    async def _listen(self, zeroconf: AsyncZeroconf) -> None:
        """A new browser now and then: it asks anew, and forgets what the one before remembered of those that are gone."""
        from zeroconf.asyncio import AsyncServiceBrowser

        while True:
            async with AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change]):
                await anyio.sleep(self._limits.look_again_s)

    async def _announce(self, zeroconf: AsyncZeroconf) -> None:
        said = self._text()
        await (await zeroconf.async_register_service(self._info(said), cooperating_responders=True))
        while True:
            with anyio.move_on_after(self._day_left_s()):
                await self._changed.wait()
            self._changed = anyio.Event()
            if (text := self._text()) != said:
                said = text
                await (await zeroconf.async_update_service(self._info(said)))
                await anyio.sleep(self._limits.announce_every_s)

    def _day_left_s(self) -> float:
        return min(CLOCK_LOOK_S, (DAY_MS - self._wall_ms() % DAY_MS) / 1000)

    def _text(self) -> dict[str, str]:
        day = day_of(self._wall_ms())
        text = {"v": VERSION, "tag": self._tags.mesh(day)}
        if self._public:
            text["node"] = self._me[:16]
        if caps := in_clear(self._capabilities) if self._public else self._tags.capabilities(self._capabilities, day):
            text["caps"] = caps
        return text

    def _info(self, text: dict[str, str]) -> AsyncServiceInfo:
        from zeroconf.asyncio import AsyncServiceInfo

        return AsyncServiceInfo(
            SERVICE_TYPE,
            self._name,
            addresses=[ipaddress.IPv4Address(self._interface.address).packed],
            port=self._port,
            properties=text,
            server=f"{HOST_PREFIX}{self._instance}.local.",
        )

    async def _self_test(self) -> None:
        with anyio.move_on_after(SELF_TEST_S):
            await self._heard_self.wait()
            return
        self._blocked = f"our own record was not heard on {self._interface} within {SELF_TEST_S:g} s: multicast is blocked"

    # ---- records of others. Called by zeroconf on the loop's thread.

    def _on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        from zeroconf import ServiceStateChange

        if name == self._name:
            self._heard_self.set()
            self._blocked = ""
        elif state_change is ServiceStateChange.Removed:
            self._candidates.pop(name, None)
        else:
            try:
                self._consider(name, _cached(zeroconf, service_type, name, self._interface))
            except BadRecord as bad:
                self.refusals[bad.reason] += 1

    def _consider(self, name: str, seen: Seen) -> None:
        """Tell of the door if the record is of our mesh. Raises BadRecord."""
        if not self._tags.accepts(seen.tag, day_of(self._wall_ms())):
            raise BadRecord("other_mesh")
        known = self._candidates.pop(name, "")
        if known != seen.address and not self._rates.allow("found"):
            raise BadRecord("too_many_found")
        self._candidates[name] = seen.address  # last in line: the first is the one heard of longest ago
        if len(self._candidates) > self._limits.candidates_max:
            del self._candidates[next(iter(self._candidates))]
        if known != seen.address:
            self._found += 1
            self._tell(self._me, Found(seen.address))

    def statistics(self) -> DiscoveryStatistics:
        return DiscoveryStatistics(
            self._heard_self.is_set(), self._blocked, self._gate.flooded, len(self._candidates), self._found, dict(self.refusals)
        )


def _cached(zeroconf: Zeroconf, service_type: str, name: str, interface: Interface) -> Seen:
    """What zeroconf has heard of that name. Raises BadRecord; ``incomplete`` too: honest records come whole, so nobody is asked."""
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(service_type, name)
    if not info.load_from_cache(zeroconf):
        raise BadRecord("incomplete")
    return read(info, interface)


async def browse(interface: Interface, seconds: float, limits: DiscoveryLimits | None = None) -> list[Seen]:
    """Who announces himself on this interface, of whatever mesh, in order of address; at most `candidates_max`. Announces nothing.

    Answers come within 0.2 s, or within 1.5 s where something else of this machine listens at this address.
    Raises OSError where there is no multicast.
    """
    from zeroconf import DNSQuestionType, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    limits = limits or DiscoveryLimits()
    found: dict[str, Seen] = {}
    refusals: Counter[str] = Counter()

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        try:
            if state_change is not ServiceStateChange.Removed and (name in found or len(found) < limits.candidates_max):
                found[name] = _cached(zeroconf, service_type, name, interface)
        except BadRecord as bad:
            refusals[bad.reason] += 1

    # Asks for answers to itself, which come at once, and to all, which come to every process at this address; of the former the kernel
    # gives each to one of them.
    async with (
        opened(interface, Gate(interface, limits, refusals)) as zeroconf,
        AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[heard]),
        AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[heard], question_type=DNSQuestionType.QM),
    ):
        await anyio.sleep(seconds)
    return sorted(set(found.values()), key=lambda seen: (ipaddress.ip_address(seen.address.rpartition(":")[0]), seen.address))
