"""mDNS on loopback: here if the machine lets us, and in a network namespace of our own when we are root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mesh.core.inputs import Found
from mesh.limits import LinkLimits
from mesh.runtime.discovery import CAPABILITIES_BYTES_MAX, Discovery, _fitting, mesh_tag
from mesh.runtime.sockets import NotLoopback

TIME_S = 15


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # zeroconf knows no other


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

    def __init__(self, letter: str, mesh: str = "one", port: int = 7710, limits: LinkLimits | None = None) -> None:
        self.told: list[Any] = []
        self._news = anyio.Event()
        self.discovery = Discovery(letter * 32, mesh, f"127.0.0.1:{port}", limits or LinkLimits(), self._tell)
        self.discovery.refusals = Watched(self._wake)

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


@pytest.mark.anyio
async def test_two_nodes_find_each_other_and_strangers_are_not_told() -> None:
    await multicast_works()
    left, right, stranger = Finder("a", port=7001), Finder("b", port=7002), Finder("c", "two", 7003)
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
        async with running(Finder("b", port=7002)):
            await left.until(lambda: len(left.told) == 1)
        with anyio.fail_after(TIME_S):
            while left.discovery.statistics().candidates:
                await anyio.lowlevel.checkpoint()
        async with running(Finder("b", port=7004)):
            await left.until(lambda: len(left.told) == 2)
    assert left.told == [Found("127.0.0.1:7002"), Found("127.0.0.1:7004")]


@pytest.mark.anyio
async def test_malformed_and_foreign_records_are_counted() -> None:
    await multicast_works()
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    left = Finder("a", port=7001)
    records = {
        "version": ({"v": "99"}, "127.0.0.1", 7007),
        "other_mesh": ({"v": "1", "tag": "\x00\x1b[31m"}, "127.0.0.1", 7008),
        "bad_address": ({"v": "1", "tag": mesh_tag("one")}, "192.0.2.1", 7009),
    }
    async with running(left):
        noisy = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        try:
            for reason, (text, address, port) in records.items():
                name = f"{reason.replace('_', '-')}._lanmesh._tcp.local."
                info = AsyncServiceInfo(
                    "_lanmesh._tcp.local.", name, port, properties=text, parsed_addresses=[address], server=f"{port}.local."
                )
                await noisy.async_register_service(info, cooperating_responders=True)
            await left.until(lambda: set(left.discovery.refusals) == set(records))
        finally:
            await noisy.async_close()
    assert not left.told


@pytest.mark.anyio
async def test_an_interface_that_is_not_there_blocks_and_says_so() -> None:
    nowhere = Discovery("a" * 32, "one", "127.0.0.1:7001", LinkLimits(), lambda _sender, _found: None, interface="192.0.2.1")
    with anyio.fail_after(TIME_S):
        await nowhere.run()
    assert nowhere.statistics().blocked


def test_a_door_outside_this_machine_is_never_advertised() -> None:
    with pytest.raises(NotLoopback):
        Discovery("a" * 32, "one", "192.0.2.1:7001", LinkLimits(), lambda _sender, _found: None)


def test_capability_names_fit_one_text_string() -> None:
    assert _fitting(["b", "a", "b"]) == ("a", "b")
    assert _fitting(["a,b", "übung"]) == ()
    many = _fitting(f"capability-{number:04}" for number in range(1000))
    assert many and len(",".join(many)) <= CAPABILITIES_BYTES_MAX


def test_zeroconf_is_imported_only_when_discovery_runs() -> None:
    code = "import sys, mesh.runtime.discovery, mesh.runtime.links; sys.exit('zeroconf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.hosts
def test_discovery_in_a_namespace_of_its_own() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("NOTICE: not root, so mDNS in a network namespace is not tested")
    tests = f"{sys.executable} -m pytest -q -p no:cacheprovider {__file__} -k 'find_each_other or goodbye'"
    lan = "ip link add lan0 type veth peer name lan1 && ip addr add 192.0.2.9/24 dev lan0 && ip link set lan0 up && ip link set lan1 up"
    quiet = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done"
    script = f"ip link set lo up && {quiet} && {lan} && {tests} && ip -s -j link show lan0"
    made = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    if "Operation not permitted" in made.stderr or "not supported" in made.stderr:
        pytest.skip(f"NOTICE: no network namespace here: {made.stderr.strip()}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "2 passed" in made.stdout, made.stdout
    lan0 = json.loads(made.stdout[made.stdout.rindex("[{") :])[0]
    assert lan0["stats64"]["tx"]["packets"] == 0, "something was sent on an interface that is not loopback"
