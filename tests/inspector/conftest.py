"""Real nodes for the command line to talk to, and one that hangs; the command line itself runs in this process, as `main` would run it."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.inspector.verbs import dispatch
from mesh.joining import make_mesh
from mesh.launch import spawn, start_node, wait_ready
from mesh.runtime.home import Home

LIMIT_S = 60.0
GREETER = '''
from pathlib import Path
from mesh import Agent, Context, File

agent = Agent("greeter")

@agent.on("guest.*")
@agent.capability
async def greet(name: str) -> str:
    """Say hello."""
    with (Path(__file__).parent / "greeted.txt").open("a") as ran:
        ran.write(name + "\\n")
    return f"hello {name}"

@agent.capability
def shout(text: File) -> File:
    """The same text, louder."""
    path = Path(__file__).parent / "loud.txt"
    path.write_text(text.path.read_text().upper())
    return File.of(path)

@agent.capability
def nasty() -> str:
    """Text that a terminal would obey."""
    return "red \\x1b[31m and \\u202e back"

@agent.capability
def broken(number: int) -> int:
    """Fails."""
    return number // 0

@agent.capability
async def noisy(ctx: Context, text: str) -> None:
    """Prints, and logs."""
    print(text)
    ctx.log("and that was all")

@agent.capability
async def careful(ctx: Context, n: int) -> dict:
    """Asks first, then waits to be told."""
    decision = await ctx.approval("pay it?", subject={"n": n})
    return {"ok": decision.approved, "out": decision.output, "told": await ctx.signal("go")}

@agent.capability
async def stateful(ctx: Context) -> dict:
    """Keeps a limit that can be changed while it runs."""
    await ctx.state.set("limit", 1)

    async def change(limit: int) -> int:
        if limit > 9:
            raise ValueError("too much")
        return (await ctx.state.update("limit", lambda _: limit)).value

    async with ctx.answering("limit", change):
        await ctx.signal("go")
    await ctx.state.shared("seen").update("tenants", lambda known: [*(known or []), ctx.baggage["tenant"]])
    return {"limit": (await ctx.state.get("limit")).value, "baggage": ctx.baggage}

@agent.capability
async def forever(ctx: Context) -> None:
    """Waits until it is cancelled."""
    await ctx.sleep(3600)
'''


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"not one document: {self.out!r}; stderr: {self.err}"
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


def run_mesh(*words: str) -> Ran:
    """One command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = dispatch(list(words))
        except KeyboardInterrupt:
            code = 130
    return Ran(code, out.getvalue(), err.getvalue())


def until(done: Callable[[], Any], what: str) -> Any:
    """What `done` returns, as soon as that is true: somebody else's doing, within a bound that only a defect exceeds."""
    end = time.monotonic() + LIMIT_S
    while not (found := done()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
    return found


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """`until`, for tests."""
    return until


@pytest.fixture(scope="session")
def mesh() -> Callable[..., Ran]:
    return run_mesh


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    """A folder with a short path: sockets live below it."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-"))
    yield folder
    shutil.rmtree(folder)


def here_only(home: Path, more: str = "") -> Path:
    """Whatever mesh this home comes to be in, its nodes stay on this machine."""
    Home(home).make().config_path.write_text(f'bind = "127.0.0.1"\nmdns = false\n{more}')
    return home


@pytest.fixture(scope="session")
def on_loopback() -> Callable[[Path], Path]:
    """`here_only`, for tests."""
    return here_only


def _up(home: Path, name: str, more: str = "") -> None:
    start_node(Home(here_only(home, more)).node(name), ["--home", str(home), "--name", name, "--no-mdns"])


def _down(home: Path) -> None:
    for folder in Home(home).running():
        ran = run_mesh("down", "--home", str(home), "--node", folder.name)
        assert ran.code == 0, ran.err


@pytest.fixture(scope="session")
def node(root: Path) -> Iterator[Path]:
    """The home of a node `otter` with an agent, in a mesh that others may join."""
    home, target = here_only(root / "home"), root / "greeter.py"
    target.write_text(GREETER)
    make_mesh(Home(home), "token", "lab")
    _up(home, "otter")
    log = root / "worker.log"
    worker = spawn(["run", str(target), "--home", str(home), "--name", "otter"], log)
    try:
        wait_ready(Home(home).node("otter"), _Known(home), log)
        offered = run_mesh("call", "greet", "name=first", "--home", str(home), "--json")
        while offered.code == 5 and worker.poll() is None:  # not attached yet: that is the event waited for
            offered = run_mesh("call", "greet", "name=first", "--home", str(home), "--json")
        assert offered.code == 0, offered.out + offered.err + log.read_text()
        yield home
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        _down(home)


class _Known:
    """Stands for the process of a node that runs already."""

    def __init__(self, home: Path) -> None:
        info = Home(home).node("otter").info()
        assert info is not None
        self.pid = info["pid"]

    def poll(self) -> None:
        return None


@pytest.fixture(scope="session")
def bare(root: Path) -> Iterator[Path]:
    """The home of a node with nothing on it, not even what is in stock, in an open mesh."""
    home = root / "bare"
    _up(home, "heron", "stock = false\n")
    yield home
    _down(home)


@pytest.fixture(scope="session")
def nobody(root: Path) -> Path:
    """A home that was never used."""
    return root / "nobody"


@pytest.fixture(scope="session")
def hung(root: Path) -> Iterator[Path]:
    """The home of a node that holds its lock and listens, and never says a word."""
    home = root / "hung"
    folder = Home(home).node("lynx").make()
    lock = folder.lock()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.make_socket_folder()))
        listener.listen(256)
        folder.write_info({"name": "lynx", "node": "x", "pid": 1, "door": "127.0.0.1:1", "socket": str(folder.socket_path)})
        yield home
    lock.release()
