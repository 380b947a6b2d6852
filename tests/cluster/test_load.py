"""Nothing grows with the calls a node has served, and strangers' garbage costs it nothing but a count."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import zmq

from mesh import connect
from mesh.limits import Limits

Until = Callable[..., Any]

FLIGHT = 64
GROWTH_MIB_MAX = 6.0
"""Of a node's resident memory over 10,000 calls, once its rings are full: allocators' noise; a leak of 1 KiB a call would be 10."""


def usage(pid: int) -> tuple[int, int, float]:
    """``(open files, threads, resident MiB)`` of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024


async def calls(home: Path, count: int) -> None:
    async with connect(home=home, node="otter") as client:
        for at in range(0, count, FLIGHT):
            await asyncio.gather(*(client.call("echo", text=f"{at + i}") for i in range(min(FLIGHT, count - at))))


def test_calls_leave_nothing_behind(cluster: Any) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron", slots=64)
    cluster.gather()
    processes = {"otter": cluster.nodes["otter"], "heron": cluster.nodes["heron"], "worker": cluster.workers["heron"]}
    asyncio.run(calls(cluster.home, 2000))
    first = {name: usage(process.pid) for name, process in processes.items()}
    asyncio.run(calls(cluster.home, Limits().work.ended_remembered))
    warm = {name: usage(process.pid) for name, process in processes.items()}
    asyncio.run(calls(cluster.home, 10_000))
    for name, process in processes.items():
        files, threads, mib = usage(process.pid)
        assert abs(files - first[name][0]) <= 2, f"{name}: {first[name][0]} open files, then {files}"
        assert abs(threads - first[name][1]) <= 1, f"{name}: {first[name][1]} threads, then {threads}"
        assert mib - warm[name][2] < GROWTH_MIB_MAX, f"{name}: {warm[name][2]:.1f} MiB, then {mib:.1f}"
    manager = cluster.client("otter").statistics()["manager"]
    assert (manager["live"], manager["failed"]) == (0, 0)


@contextmanager
def in_a_thread(work: Callable[[], None]) -> Iterator[None]:
    """Runs `work` again and again beside what is inside."""
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failed and not thread.is_alive()


def garbage_at_door(door: str, rng: Random) -> None:
    """Noise, a frame that is too long, one that is cut short, one of zeros, HTTP, and a well-formed frame of noise."""
    host, port = door.rsplit(":", 1)
    noise = rng.randbytes(200)
    for said in (noise, b"\xff\xff\xff\xff", b"\0\0\1\0cut", bytes(64), b"GET / HTTP/1.1\r\n\r\n", len(noise).to_bytes(4, "big") + noise):
        try:
            with socket.create_connection((host, int(port)), timeout=10) as stream:
                stream.sendall(said)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(4096):
                    pass
        except OSError:  # the door has hung up already
            continue


def garbage_at_router(dealer: zmq.Socket[bytes], address: str, rng: Random) -> None:
    """A ZeroMQ peer without a key, whose frames stay with him, and bytes that are no ZeroMQ at all."""
    with contextlib.suppress(zmq.Again):
        dealer.send_multipart([rng.randbytes(80)])
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(rng.randbytes(500))
    except ConnectionError:
        return


def test_a_node_under_load_shrugs_off_garbage(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron", slots=64)
    cluster.gather()
    info = cluster.info("heron")
    asyncio.run(calls(cluster.home, 500))
    before = usage(cluster.nodes["heron"].pid)
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDTIMEO, 100)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.connect(f"tcp://{info['router']}")
    door_rng, router_rng = Random("door"), Random("router")
    try:
        with (
            in_a_thread(lambda: garbage_at_door(info["door"], door_rng)),
            in_a_thread(lambda: garbage_at_router(dealer, info["router"], router_rng)),
        ):
            asyncio.run(calls(cluster.home, 3000))
    finally:
        dealer.close()
        context.term()
    counted = cluster.client("heron").status()["refusals"]
    assert sum(counted.values()) >= 10, counted
    assert counted["tls_failed"] >= 5, counted
    assert cluster.states("otter") == cluster.states("heron") == {"otter": "alive", "heron": "alive"}
    eventually(lambda: usage(cluster.nodes["heron"].pid)[0] <= before[0] + 2, "the strangers' connections to be closed")
    assert usage(cluster.nodes["heron"].pid)[2] - before[2] < 64
    assert cluster.client("otter").statistics()["manager"]["leases_over"] == 0
