"""The yardsticks: a DEALER and a ROUTER in two processes, one message each way; raw, or signed and checked one by one.

The signed echo uses the same codec, signer and event loop as the mesh: one signature and one check per message, no batches.
    echo.py serve raw|signed ADDRESS          echo.py measure raw|signed ADDRESS SECONDS   (one JSON line)
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import zmq

from mesh.messages.work import Result
from mesh.wire.codec import decode, encode, kind_of
from mesh.wire.ed25519 import signer_of, verifier_of

SEEDS = {"serve": b"\x01" * 32, "measure": b"\x02" * 32}
BODY = json.dumps({"task": "noop", "n": 123456, "ok": True, "tag": "abc", "text": "x" * 40}).encode()


class End:
    """One socket on the loop: drained until empty, no task per message."""

    def __init__(self, socket: zmq.Socket[bytes], signed: bool, role: str) -> None:
        self._socket, self._signed = socket, signed
        other = "measure" if role == "serve" else "serve"
        self._public, self._sign = signer_of(SEEDS[role])
        self._verify = verifier_of(signer_of(SEEDS[other])[0])
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.on_message = lambda route, message: None
        self._loop.add_reader(socket.getsockopt(zmq.FD), self._drain)

    def send(self, route: list[bytes], message: Result) -> None:
        body = encode(message, lambda signed: signed.raw)
        frames = [*route, self._sign(body), body] if self._signed else [*route, body]
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        kind = kind_of(Result("", 0, "", b""))
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._signed:
                if not self._verify(frames[-2], frames[-1]):
                    raise SystemExit("a signature does not hold")
                route = frames[:-2]
            else:
                route = frames[:-1]
            self.on_message(route, decode(kind, frames[-1], lambda raw: None))


async def serve(signed: bool, address: str) -> None:
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.set_hwm(100_000)
    socket.bind(address)
    end = End(socket, signed, "serve")
    end.on_message = end.send
    print("ready", flush=True)
    await asyncio.Event().wait()


async def measure(signed: bool, address: str, seconds: float) -> None:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.set_hwm(100_000)
    socket.connect(address)
    end = End(socket, signed, "measure")
    waiting: dict[int, asyncio.Future[None]] = {}

    def arrived(route: list[bytes], message: Result) -> None:
        waiting.pop(message.fence).set_result(None)

    end.on_message = arrived
    count = 0

    async def call() -> None:
        nonlocal count
        count += 1
        future = asyncio.get_running_loop().create_future()
        waiting[count] = future
        end.send([], Result("a.1.1", count, "0" * 64, BODY))
        await future

    print(json.dumps(await figures(call, seconds)), flush=True)


async def figures(call: object, seconds: float, windows: tuple[int, ...] = (64,)) -> dict[str, float]:
    """p50 and p99 in us one at a time, then calls/s with each window in flight."""
    for _ in range(200):
        await call()  # type: ignore[operator]
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        await call()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    times.sort()
    found = {"p50_us": times[len(times) // 2] * 1e6, "p99_us": times[int(len(times) * 0.99)] * 1e6}
    for window in windows:
        done = 0
        end = time.perf_counter() + seconds

        async def loop(until: float) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await call()  # type: ignore[operator]
                done += 1

        started = time.perf_counter()
        await asyncio.gather(*(loop(end) for _ in range(window)))
        found[f"per_s_{window}"] = done / (time.perf_counter() - started)
    return found


if __name__ == "__main__":
    _, what, mode, where, *rest = sys.argv
    asyncio.run(serve(mode == "signed", where) if what == "serve" else measure(mode == "signed", where, float(rest[0])))
