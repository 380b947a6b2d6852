"""A node or worker that counts what it does: `costs_node.py FILE WORDS of mesh`. At SIGUSR1 it writes all counts so far to FILE, as JSON.

After each millisecond of its main thread's CPU time it looks where that thread is. A function in C is booked on who called it.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

EVERY_NS = 1_000_000


class _Sigevent(ctypes.Structure):
    _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_byte * 48))


class Sampler:
    """CPU seconds of the main thread by function: `own` where it is the innermost one, `with_callees` wherever it is on the stack."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.with_callees: Counter[str] = Counter()
        self._used_s = time.thread_time()
        signal.signal(signal.SIGPROF, self._sample)
        libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
        # By this thread's own time: a timer of the whole process would book what other threads use on whatever this one does then.
        if libc.timer_create(time.CLOCK_THREAD_CPUTIME_ID, ctypes.byref(_Sigevent(None, signal.SIGPROF, 0)), ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        every = (ctypes.c_long * 4)(0, EVERY_NS, 0, EVERY_NS)
        libc.timer_settime(timer, 0, every, None)
        atexit.register(libc.timer_delete, timer)

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        used_s = time.thread_time()  # the kernel's ticks are coarser than the timer
        spent_s, self._used_s = used_s - self._used_s, used_s
        seen: dict[str, None] = {}
        while frame is not None:
            seen[f"{_short(frame.f_code.co_filename)}:{frame.f_code.co_qualname}"] = None
            frame = frame.f_back
        self.own[next(iter(seen), "")] += spent_s
        for name in seen:
            self.with_callees[name] += spent_s


def threads_s() -> dict[str, float]:
    """CPU seconds of each of this process's threads so far, those of libzmq included."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        run_ns = int((task / "schedstat").read_text().split()[0])
        used[names.get(int(task.name), "libzmq")] += run_ns / 1e9
    return dict(used)


def _short(file: str) -> str:
    """From the package's folder on."""
    for folder in ("/site-packages/", "/mesh/", "/python3"):
        _, found, after = file.rpartition(folder)
        if found:
            return after.partition("/")[2] if folder == "/python3" else after
    return Path(file).name


def counting(counts: Counter[str]) -> None:
    """Put counters around what costs something outside of Python."""
    from mesh.core.node import Node
    from mesh.effects import Append
    from mesh.runtime.disk.store import Store
    from mesh.runtime.links import links
    from mesh.wire import ed25519

    signer_of, verifier_of, in_transaction = ed25519.signer_of, ed25519.verifier_of, Store._in_transaction

    def counted(what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            counts[what] += 1
            return do(*args)

        return run

    def signing(seed: bytes) -> Any:
        public, sign = signer_of(seed)
        return public, counted("signatures", sign)

    ed25519.signer_of = signing
    ed25519.verifier_of = lambda key: counted("verifications", verifier_of(key))
    Store._in_transaction = counted("fsyncs", in_transaction)  # type: ignore[method-assign]
    queue, seal, handle = links.Links._queue, links.seal_flush, Node.handle

    def queued(self: Any, link: Any, message: Any) -> None:
        counts[f"sent {type(message).__name__}"] += 1
        queue(self, link, message)

    def sealed(*args: Any, **more: Any) -> Any:
        made = seal(*args, **more)
        counts["envelopes"] += len(made)
        counts["bytes"] += sum(len(frame) for frames in made for frame in frames)
        return made

    def handled(self: Any, now_s: float, sender: str, body: Any = None) -> list[Any]:
        made = handle(self, now_s, sender, body)
        for effect in made:
            if type(effect) is Append:
                counts[f"wrote {type(effect.entry).__name__}"] += 1
        return made

    links.Links._queue = queued  # type: ignore[method-assign]
    links.seal_flush = sealed
    Node.handle = handled  # type: ignore[method-assign]


def report(counts: Counter[str], sampler: Sampler) -> dict[str, Any]:
    return {
        "cpu_s": time.process_time(),
        "counts": dict(counts),
        "own": dict(sampler.own),
        "with_callees": dict(sampler.with_callees),
        "threads": threads_s(),
    }


def main() -> None:
    path = Path(sys.argv.pop(1))
    counts: Counter[str] = Counter()
    if sys.argv[1] == "up":
        counting(counts)
    sampler = Sampler()

    def write(_number: int, _frame: Any) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(report(counts, sampler)))
        new.replace(path)

    signal.signal(signal.SIGUSR1, write)
    from mesh.inspector.cli import main as mesh

    mesh()


if __name__ == "__main__":
    main()
