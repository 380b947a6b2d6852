"""Handlers that each task runs in a process of its own: honest ones, and those that die or try what they should not."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from mesh import Agent, Context, File, Secret
from mesh.sync import Context as BlockingContext

agent = Agent("isolated", concurrency=4)
SMALL = {"memory_mib": 1024, "cpu_s": 1, "open_files": 64, "file_mib": 1}


@agent.lifespan
async def life() -> AsyncIterator[dict[str, str]]:
    yield {"model": f"m{os.getpid()}"}
    print("lifespan closed")


@agent.capability(isolation="process")
async def where(ctx: Context, name: str = "x") -> dict[str, Any]:
    return {"pid": os.getpid(), "ppid": os.getppid(), "group": os.getpgid(0), "lifespan": ctx.lifespan["model"], "name": name}


@agent.capability(isolation="process")
def plain(ctx: BlockingContext, table: File) -> File:
    ctx.progress(0.5, "half")
    doubled = ctx.options(timeout_s=60, priority=9).call("outside", n=21)
    assert ctx.options(near="here").step("one", "outside", n=1) == 2
    assert [ctx.effect("print", lambda: {"pid": os.getpid()}) for _ in range(2)] == [{"pid": os.getpid()}] * 2
    out = Path(os.environ["TMPDIR"]) / "out.txt"
    out.write_text(f"{table.path.read_text()} {doubled} {table.path.name}")
    return File.of(out)


@agent.capability
async def outside(n: int) -> int:
    return 2 * n


@agent.capability(isolation="process")
async def told(ctx: Context, password: Secret) -> int:
    print(f"printing {password.reveal()} here")
    print(f"and {password.reveal()} there", file=sys.stderr)
    ctx.progress(0.1, password.reveal())
    ctx.log(f"logged {password.reveal()}")
    return len(password.reveal()) + len((await ctx.secret("db")).reveal())


@agent.capability(isolation="process")
def numbers(n: int) -> Iterator[int]:
    yield from range(n)
    if n > 100:
        raise ValueError("too many")


@agent.capability(isolation="process")
async def fails(password: Secret) -> None:
    raise ValueError(f"not with {password.reveal()}")


@agent.capability(isolation="process")
async def gives_away(password: Secret) -> str:
    return password.reveal()


@agent.capability(isolation="process")
def spin(ctx: BlockingContext, mark: str) -> None:
    """Keeps the GIL, and has a grandchild."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(mark).write_text(f"{os.getpid()} {grandchild.pid}")
    ctx.progress(0.5, "spinning")
    while True:
        pass


@agent.capability(isolation="process", limits=SMALL)
def dies(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "segv":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "cpu":
        while True:
            pass
    if how == "memory":
        bytearray(2 * 1024**3)
    if how == "disk":
        (Path(os.environ["TMPDIR"]) / "big").write_bytes(bytes(2 * 1024**2))
    if how == "files":
        [open(os.devnull) for _ in range(100)]  # noqa: SIM115
    if how == "sysexit":
        raise SystemExit(4)


@agent.capability(isolation="process", limits=SMALL)
def looks() -> dict[str, Any]:
    """What a handler finds that it was not given."""
    descriptors = {int(name): os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(int(name))}
    return {
        "environ": dict(os.environ),
        "descriptors": {number: target for number, target in descriptors.items() if not target.startswith("/proc/")},
        "limits": [resource.getrlimit(which)[0] for which in (resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)],
        "argv": sys.argv,
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "home": os.listdir(os.path.expanduser("~")),
    }


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@agent.capability(isolation="process")
def prints(count: int) -> int:
    """Two lines, then a flood in one line."""
    print("first\nsecond")
    sys.stdout.write("x" * count)
    return count


@agent.capability(isolation="process")
def forges(frames: list[Any]) -> None:
    """Speaks the protocol of its line by itself. Bytes come as ``{"hex": ...}``."""
    import socket

    from mesh.runtime.protocol_local import frame

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    with socket.socket(fileno=os.dup(int(sys.argv[1]))) as line:
        for message in frames:
            line.sendall(bytes.fromhex(message["raw"]) if isinstance(message, dict) else frame(plain(message)))
    time.sleep(600)


@agent.capability(isolation="process")
def leaves_a_child() -> int:
    """One that has left the process group, and holds what it inherited."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True).pid


@agent.capability(isolation="process")
async def reaches(ctx: Context, name: str) -> int:
    return len((await ctx.secret(name)).reveal())


@agent.capability(isolation="process")
async def waits(ctx: Context) -> None:
    ctx.progress(0.5, str(os.getpid()))
    await ctx.sleep(600)


@agent.capability(isolation="process")
def fills(size: int) -> str:
    return "x" * size
