"""The client against a toy node: options, errors, timeouts, restart of the node, files, and what importing it costs."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh import Agent, File
from mesh import sync as mesh_sync
from mesh.core.inputs import Call, RequestGone, Submit
from mesh.errors import InvalidArgument, MeshError, NodeLost, NoNode, NoSuchFile, NoSuchTask, TimedOut, TooBig, UsageError
from mesh.values import dump, load


def echo() -> Agent:
    agent = Agent("echo")

    @agent.capability(name="echo")
    async def say(value: str = "") -> str:
        return value

    return agent


def test_submit_gives_a_handle(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.serving(echo()), toy.client() as m:
            task = await m.options(timeout_s=60, retries=2).submit("echo", value="x")
            assert (task.id, task.survives) == ("toy.1.1", "restart")
            submitted = await toy.until(Submit)
            assert (submitted.timeout_ms, submitted.retries, json.loads(submitted.input)) == (60_000, 2, {"value": "x"})
            assert submitted.by
            await toy.until(lambda body: getattr(body, "outcome", "") == "ok")
            assert await task.result() == "x"
            assert (await task.status())["state"] == "held"
            assert (await m.status())["node"] == "toy" and m.node["node"] == "toy"
            with pytest.raises(NoSuchTask):
                await m.task("nobody.1.1")
            second = await m.submit("echo", value="y")
            assert toy.seen[-1] is not None and second.id == "toy.1.2"
            assert [body.timeout_ms for body in toy.seen if isinstance(body, Submit)] == [60_000, 0], "no bound unless somebody sets one"

    with_toy(story)


def test_arguments_and_options_are_checked_before_anything_is_sent(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.client() as m:
            sent = len(toy.seen)
            for value, words in (
                (object(), "'value' cannot travel: object"),
                (float("nan"), "not JSON compliant"),
                (Path("x"), "File.of"),
                (io.BytesIO(), "File.of"),
                (iter([1]), "pass a list"),
            ):
                with pytest.raises(InvalidArgument, match=words):
                    await m.call("echo", value=value)
            with pytest.raises(TooBig, match="use File"):
                await m.call("echo", value="x" * 600_000)
            for bad in (lambda: m.options(timeout_s=0), lambda: m.options(timeout_s=float("nan")), lambda: m.options(retries=-1)):
                with pytest.raises(UsageError):
                    bad()
            with pytest.raises(UsageError):
                await m.call("")
            with pytest.raises(FileNotFoundError):
                File.of("/nowhere/at/all")
            assert len(toy.seen) == sent

    with_toy(story)


def test_a_node_that_does_not_answer_in_time(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.answers = False
        async with toy.client() as m:
            with pytest.raises(TimedOut, match=r"the call of 'echo' was not answered within"):
                await m.options(timeout_s=0.02).call("echo")
            call, gone = await toy.until(Call), await toy.until(RequestGone)
            assert call.timeout_ms == 20 and gone.request == call.request
            with pytest.raises(TimedOut):
                await m.result("toy.1.1", timeout_s=0.02)

    with_toy(story)


def test_a_restarted_node_is_found_again_and_what_was_under_way_is_lost(tmp_path: Path, toy_class: Callable[..., Any]) -> None:
    async def main() -> None:
        first = toy_class(tmp_path)
        first.answers = False
        async with first.running():
            client = first.client()
            m = await client.__aenter__()
            call = asyncio.ensure_future(m.call("echo"))
            await first.until(Call)
        with pytest.raises(NodeLost):
            await call
        with pytest.raises(NoNode):
            await m.status()
        second = toy_class(tmp_path)
        async with second.running(), second.serving(echo()):
            assert await m.call("echo", value="again") == "again"
            await client.__aexit__(None, None, None)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_files_by_hash(with_toy: Any, tmp_path: Path) -> None:
    async def story(toy: Any) -> None:
        source = tmp_path / "data.bin"
        source.write_bytes(b"0123456789" * 1_000_000)
        async with toy.client() as m:
            found = await m.put(source)
            assert found["size"] == 10_000_000 and found["name"] == "data.bin"
            assert await m.get(found["sha256"], tmp_path / "copy.bin") == 10_000_000
            assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()
            empty = tmp_path / "empty"
            empty.write_bytes(b"")
            assert await m.get((await m.put(empty))["sha256"], tmp_path / "copy.bin") == 0
            with pytest.raises(UsageError, match="64 hexadecimal"):
                await m.get("abc", tmp_path / "x")
            with pytest.raises(MeshError):
                await m.get("00" * 32, tmp_path / "x")
            assert not list(tmp_path.glob(".x*")) and not (tmp_path / "x").exists()

    with_toy(story)


def test_a_file_that_is_elsewhere_cannot_be_opened_without_a_source(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.client() as m:
            file = load(json.dumps({"$file": {"sha256": "11" * 32, "size": 4, "name": "x"}}).encode(), m._shelf)
            with pytest.raises(NoSuchFile, match="no other node is linked"):
                await file.fetch()

    with_toy(story)


def test_values_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    data, files = dump({"a": [1, "ü", None], "b": {"f": File.of(path)}, "c": {3}, "d": (1, 2)})
    assert json.loads(data) == {"a": [1, "ü", None], "b": {"f": {"$file": {"sha256": "", "size": 3, "name": "f"}}}, "c": [3], "d": [1, 2]}
    assert len(files) == 1
    assert load(b'{"x": {"$file": {"sha256": "zz", "size": 1, "name": "n"}}}', None) == {
        "x": {"$file": {"sha256": "zz", "size": 1, "name": "n"}}
    }


def test_the_same_blocking(tmp_path: Path, toy_class: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.client.find_socket", lambda home=None, node=None: tmp_path / "node.sock")
    ready, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def node() -> None:
        async def main() -> None:
            toy = toy_class(tmp_path)
            async with toy.running(), toy.serving(echo()):
                loops.append(asyncio.get_running_loop())
                ready.set()
                await over.wait()

        asyncio.run(main())

    thread = threading.Thread(target=node)
    thread.start()
    assert ready.wait(10)
    try:
        with mesh_sync.connect() as m:
            assert m.call("echo", value="x") == "x"
            task = m.options(retries=1).submit("echo", value="y")
            assert task.id == "toy.1.2" and m.status()["node"] == "toy"
            with pytest.raises(InvalidArgument):
                m.call("echo", other=1)
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join()


def test_no_node_names_the_command(tmp_path: Path) -> None:
    async def main() -> None:
        async with mesh.connect(home=tmp_path):
            raise AssertionError("not reached")

    with pytest.raises(NoNode) as caught:
        asyncio.run(main())
    assert caught.value.fix == f"mesh up --home {tmp_path}" and caught.value.exit_code == 3


HEAVY = ("zeroconf", "rich", "typer", "cryptography", "pydantic", "zmq", "numpy", "matplotlib")


@pytest.mark.parametrize(("statement", "absent"), [("import mesh", ("asyncio", "msgpack", *HEAVY)), ("from mesh import connect", HEAVY)])
def test_importing_is_cheap(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys, json\nprint(json.dumps([m for m in {absent!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_public_names() -> None:
    assert sorted(mesh.__all__) == ["Agent", "Bid", "Context", "File", "MeshError", "Retry", "Secret", "StreamRestarted", "connect", "flow"]
    assert all(getattr(mesh, name) is not None for name in mesh.__all__) and dir(mesh) == sorted(mesh.__all__)
    with pytest.raises(AttributeError):
        _ = mesh.nothing
