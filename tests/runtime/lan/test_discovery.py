"""mDNS on loopback: here if the machine lets us, and in a network namespace of our own when we are root. Between machines: tests/hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mesh.core.inputs import Found
from mesh.limits import DiscoveryLimits
from mesh.runtime.clock import wall_ms
from mesh.runtime.lan.blinding import DAY_MS, Blinding, day_of
from mesh.runtime.lan.discovery import Discovery, browse
from mesh.runtime.lan.interfaces import LOOPBACK, Interface
from mesh.runtime.lan.mdns import BadRecord, Seen

TIME_S = 15
ONE, TWO = Blinding(b"1" * 32), Blinding(b"2" * 32)
DAY = 20_000


class Watched(Counter[str]):
    """Refusals that tell when they grow."""

    def __init__(self, grew: Callable[[], None]) -> None:
        super().__init__()
        self._grew = grew

    def __setitem__(self, reason: str, count: int) -> None:
        super().__setitem__(reason, count)
        self._grew()


class Finder:
    """A discovery and what it told."""

    def __init__(
        self, letter: str, tags: Blinding = ONE, port: int = 7710, *, public: bool = False, now_ms: int = 0, **limits: Any
    ) -> None:
        self.told: list[Any] = []
        self._news = anyio.Event()
        self.discovery = Discovery(
            letter * 32,
            tags,
            f"127.0.0.1:{port}",
            replace(DiscoveryLimits(), **limits),
            self._tell,
            interface=LOOPBACK,
            public=public,
            wall_ms=(lambda: now_ms) if now_ms else wall_ms,
        )
        self.discovery.refusals = self.discovery._gate.refusals = Watched(self._wake)

    def _tell(self, sender: str, found: Any) -> None:
        self.told.append(found)
        self._wake()

    def _wake(self) -> None:
        self._news.set()

    async def until(self, seen: Callable[[], object]) -> None:
        with anyio.fail_after(TIME_S):
            while not seen():
                self._news = anyio.Event()
                await self._news.wait()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # zeroconf knows no other


@asynccontextmanager
async def running(*finders: Finder) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for finder in finders:
            await tasks.start(finder.discovery.run)
        yield
        tasks.cancel_scope.cancel()


async def multicast_works() -> None:
    """Skip, saying why, where this machine's loopback carries no multicast."""
    probe = Finder("p")
    async with running(probe):
        with anyio.fail_after(TIME_S):
            while not (probe.discovery.statistics().heard_self or probe.discovery.statistics().blocked):
                await anyio.lowlevel.checkpoint()
        if blocked := probe.discovery.statistics().blocked:
            pytest.skip(f"NOTICE: no mDNS on this machine's loopback: {blocked}")


# ---- on the wire


@pytest.mark.anyio
async def test_two_nodes_find_each_other_and_strangers_are_not_told() -> None:
    await multicast_works()
    left, right, stranger = Finder("a", port=7001), Finder("b", port=7002), Finder("c", TWO, 7003)
    async with running(left, right, stranger):
        await left.until(lambda: left.told)
        await right.until(lambda: right.told)
        assert left.told == [Found("127.0.0.1:7002")] and right.told == [Found("127.0.0.1:7001")]
        await stranger.until(lambda: stranger.discovery.refusals["other_mesh"] >= 2)
    assert not stranger.told


@pytest.mark.anyio
async def test_one_that_says_goodbye_and_returns_is_told_again() -> None:
    await multicast_works()
    left = Finder("a", port=7001)
    async with running(left):
        async with running(Finder("b", port=7002, public=True)):
            await left.until(lambda: len(left.told) == 1)
        with anyio.fail_after(TIME_S):
            while left.discovery.statistics().candidates:
                await anyio.lowlevel.checkpoint()
        async with running(Finder("b", port=7004, public=True)):
            await left.until(lambda: len(left.told) == 2)
    assert left.told == [Found("127.0.0.1:7002"), Found("127.0.0.1:7004")]


@pytest.mark.anyio
async def test_malformed_and_foreign_records_are_counted() -> None:
    await multicast_works()
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    left = Finder("a", port=7001)
    good = {"v": "2", "tag": ONE.mesh(day_of(wall_ms()))}
    records = {
        "version": ({"v": "99"}, "127.0.0.1", 7007),
        "malformed": ({"v": "2", "tag": "\x00\x1b[31m"}, "127.0.0.1", 7008),
        "other_mesh": ({"v": "2", "tag": TWO.mesh(DAY)}, "127.0.0.1", 7009),
        "not_its_address": (good, "192.0.2.1", 7010),
    }
    async with running(left):
        noisy = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        try:
            for reason, (text, address, port) in records.items():
                name = f"{reason.replace('_', '-')}._lanmesh._tcp.local."
                info = AsyncServiceInfo(
                    "_lanmesh._tcp.local.", name, port, properties=text, parsed_addresses=[address], server=f"lanmesh-{port}.local."
                )
                await noisy.async_register_service(info, cooperating_responders=True)
            await left.until(lambda: set(left.discovery.refusals) == set(records))
        finally:
            await noisy.async_close()
    assert not left.told


@pytest.mark.anyio
async def test_who_looks_sees_meshes_and_is_not_seen() -> None:
    await multicast_works()
    left, right = Finder("a", port=7001), Finder("b", TWO, 7002, public=True)
    today = day_of(wall_ms())
    async with running(left, right):
        await left.until(lambda: left.discovery.refusals["other_mesh"])
        left.discovery.refusals.clear()
        seen = await browse(LOOPBACK, 1.5)
        assert not left.told and not right.told
    assert seen == [
        Seen("127.0.0.1:7001", ONE.mesh(today), "", False),
        Seen("127.0.0.1:7002", TWO.mesh(today), "b" * 16, True),
    ]


@pytest.mark.anyio
async def test_an_interface_that_is_not_there_blocks_and_says_so() -> None:
    nowhere = Interface("eth7", "192.0.2.1", 24)
    discovery = Discovery("a" * 32, ONE, "192.0.2.1:7001", DiscoveryLimits(), lambda *_: None, interface=nowhere, public=False)
    with anyio.fail_after(TIME_S):
        await discovery.run()
    assert discovery.statistics().blocked
    with pytest.raises(OSError):
        await browse(nowhere, 0.1)


def test_without_asyncio_it_says_so() -> None:
    finder = Finder("a")
    anyio.run(finder.discovery.run, backend="trio")
    assert "asyncio" in finder.discovery.statistics().blocked


# ---- what it says and whom it believes, without a network


@pytest.mark.parametrize("door", ["192.0.2.1:7001", "127.0.0.2:7001", "nonsense"])
def test_a_door_that_is_not_at_the_interface_is_never_announced(door: str) -> None:
    with pytest.raises(ValueError):
        Discovery("a" * 32, ONE, door, DiscoveryLimits(), lambda *_: None, interface=LOOPBACK, public=False)


def test_a_record_shows_names_only_in_a_public_mesh() -> None:
    now_ms = DAY * DAY_MS + 5000
    public, blinded, again = (Finder("a", public=True, now_ms=now_ms), *(Finder("a", now_ms=now_ms) for _ in range(2)))
    for finder in (public, blinded, again):
        finder.discovery.advertise(["ocr", "asr"])
    infos = [finder.discovery._info(finder.discovery._text()) for finder in (public, blinded, again)]
    assert infos[0].properties == {b"v": b"2", b"tag": ONE.mesh(DAY).encode(), b"node": b"a" * 16, b"caps": b"asr,ocr"}
    assert infos[0].name == f"{'a' * 32}._lanmesh._tcp.local." and infos[0].server == f"lanmesh-{'a' * 32}.local."
    assert infos[1].properties == {b"v": b"2", b"tag": ONE.mesh(DAY).encode(), b"caps": ONE.capabilities(["asr", "ocr"], DAY).encode()}
    assert "aaa" not in infos[1].name and "aaa" not in (infos[1].server or "")
    assert infos[1].name != infos[2].name, "made up at each start"


def seen(port: int, day: int = DAY, tags: Blinding = ONE) -> Seen:
    return Seen(f"127.0.0.1:{port}", tags.mesh(day), "", False)


def test_the_day_before_and_the_day_after_are_believed() -> None:
    finder = Finder("a", now_ms=DAY * DAY_MS)
    for number, day in enumerate((DAY - 1, DAY, DAY + 1)):
        finder.discovery._consider(f"{number}", seen(7000 + number, day))
    for day in (DAY - 2, DAY + 2):
        with pytest.raises(BadRecord, match="other_mesh"):
            finder.discovery._consider("x", seen(7009, day))
    assert [each.address for each in finder.told] == ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"]


def test_a_door_is_told_once_and_again_when_it_moves() -> None:
    finder = Finder("a", now_ms=DAY * DAY_MS)
    for port in (7000, 7000, 7002, 7002):
        finder.discovery._consider("b", seen(port))
    assert finder.told == [Found("127.0.0.1:7000"), Found("127.0.0.1:7002")]


def test_what_is_remembered_and_told_is_bounded_and_the_newest_counts() -> None:
    finder = Finder("a", now_ms=DAY * DAY_MS, candidates_max=4, found_per_s=0)
    for port in range(7000, 7004):
        finder.discovery._consider(str(port), seen(port))
    with pytest.raises(BadRecord, match="too_many_found"):
        finder.discovery._consider("7004", seen(7004))
    finder.discovery._rates.allow = lambda _: True  # type: ignore[method-assign]
    finder.discovery._consider("7000", seen(7000))
    finder.discovery._consider("7004", seen(7004))
    assert list(finder.discovery._candidates) == ["7002", "7003", "7000", "7004"]
    assert finder.discovery.statistics().candidates == 4 and finder.discovery.statistics().found == 5


def test_zeroconf_is_imported_only_when_discovery_runs() -> None:
    code = "import sys, mesh.runtime.lan.discovery; sys.exit('zeroconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.hosts
def test_discovery_in_a_namespace_of_its_own() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("NOTICE: not root, so mDNS in a network namespace is not tested")
    tests = f"{sys.executable} -m pytest -q -p no:cacheprovider {__file__} -k 'find_each_other or goodbye or who_looks'"
    lan = "ip link add lan0 type veth peer name lan1 && ip addr add 192.0.2.9/24 dev lan0 && ip link set lan0 up && ip link set lan1 up"
    quiet = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done"
    script = f"ip link set lo up && {quiet} && {lan} && {tests} && ip -s -j link show lan0"
    made = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    if "Operation not permitted" in made.stderr or "not supported" in made.stderr:
        pytest.skip(f"NOTICE: no network namespace here: {made.stderr.strip()}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "3 passed" in made.stdout, made.stdout
    lan0 = json.loads(made.stdout[made.stdout.rindex("[{") :])[0]
    assert lan0["stats64"]["tx"]["packets"] == 0, "something was sent on an interface that is not loopback"
