"""The node's socket against strangers, bad frames and clients that go away; workers' frames checked."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import Call, Drain, HandlerEnded, Leave, RequestGone, WorkerAttached, WorkerGone
from mesh.effects import Reply
from mesh.errors import NoNode, Refused
from mesh.link import Link
from mesh.runtime import local
from mesh.runtime.protocol_local import Splitter, frame

OFFER = ["c", "agent", "1", "", False, 0, 0, "retry", False, "{}", "{}", [], 0, 0, 4, 10, 1000, [], []]
ATTACH = {"agent": "agent", "concurrency": 2, "offers": [OFFER], "running": []}
CALL = {"capability": "c", "input": b"{}", "timeout_ms": 0, "files": []}


class Raw:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer, self._splitter = reader, writer, Splitter()
        self._got: list[list[Any]] = []

    def send(self, *message: Any) -> None:
        self._writer.write(frame(list(message)))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def next(self) -> list[Any]:
        """The next message; an empty list when the node has cut the connection."""
        while not self._got:
            try:
                data = await asyncio.wait_for(self._reader.read(65536), 10)
            except ConnectionResetError:
                data = b""
            if not data:
                self.close()
                return []
            self._got = self._splitter.feed(data)
        return self._got.pop(0)

    def close(self) -> None:
        self._writer.close()


async def raw(toy: Any) -> Raw:
    return Raw(*await asyncio.open_unix_connection(str(toy.path)))


def test_the_socket_is_its_owners_and_says_hello(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        assert stat.S_IMODE(toy.path.stat().st_mode) == 0o600
        client = await raw(toy)
        client.send(1, "hello", {"v": 1})
        number, ok, body = await client.next()
        assert (number, ok, body["node"], body["id"], body["pid"]) == (1, True, "toy", "toy", os.getpid())
        client.send(2, "hello", {"v": 99})
        assert (await client.next())[1:] == [
            False,
            {
                "code": "version",
                "message": "this node speaks version 1 of the local protocol",
                "fix": "use the same version of the package on both sides",
            },
        ]
        client.send(3, "nonsense", {})
        assert (await client.next())[2]["code"] == "unknown_verb"
        client.send(4, "slow", {})
        assert await client.next() == [4, True, {"slow": True}]
        client.close()

    with_toy(story)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frame([1, "call", {"capability": 1, "input": b"", "files": []}]),
        frame([1, "call", CALL | {"input": "text"}]),
        frame([1, "call", CALL | {"files": [["x"]]}]),
        frame([1, "call", CALL | {"timeout_ms": "soon"}]),
        frame([0, "call", CALL]),
        frame([1, "put", {"upload": "u", "offset": 0, "data": "text", "last": True}]),
        frame([1, "read", {"file": "ab" * 32, "offset": -1, "size": 1}]),
        frame([0, "gone", {"id": "x"}]),
        frame([1, "effect", {"task": "t", "fence": 1, "key": "k", "call": 1, "once": False}]),  # of no worker
        frame([1, "effected", {"task": "t", "fence": 1, "key": "k", "call": 1, "output": b"", "error": ""}]),
        frame([1, "call", CALL]) + frame([1, "call", CALL]),
    ],
    ids=["http", "name", "input", "files", "timeout", "no_id", "put", "offset", "gone", "effect", "effected", "id_twice"],
)
def test_what_is_no_request_is_cut_off_and_counted(with_toy: Any, data: bytes) -> None:
    async def story(toy: Any) -> None:
        toy.answers = False
        client = await raw(toy)
        client.write(data)
        assert await client.next() == []
        assert sum(toy.server.statistics().refusals.values()) <= 1
        other = await raw(toy)
        other.send(1, "status", {})
        assert (await other.next())[2]["node"] == "toy", "nobody else notices"
        other.close()

    with_toy(story)


def test_a_wrong_hash_or_question_is_an_answer(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        client = await raw(toy)
        for number, verb, params, code in (
            (1, "read", {"file": "abc", "offset": 0, "size": 1}, "bad_hash"),
            (2, "read", {"file": "ab" * 32, "offset": 0, "size": 1}, "no_such_file"),
            (3, "fetch", {"file": "ab" * 32, "size": 5}, "no_such_file"),
            (4, "ask", {"question": "colour", "key": "x"}, "unknown_verb"),
        ):
            client.send(number, verb, params)
            got = await client.next()
            assert (got[0], got[1], got[2]["code"]) == (number, False, code)
        client.close()

    with_toy(story)


def test_a_client_that_goes_is_told_once_per_request(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.answers = False
        client = await raw(toy)
        for number in (1, 2, 3):
            client.send(number, "call", CALL)
        await toy.until(lambda body: isinstance(body, Call) and body.request == 3)
        client.send(0, "gone", {"id": 2})
        await toy.until(RequestGone)
        client.close()
        await toy.until(lambda body: isinstance(body, RequestGone) and body.request == 3)
        assert sorted(body.request for body in toy.seen if isinstance(body, RequestGone)) == [1, 2, 3]
        assert toy.server.statistics().waiting == 0
        toy.perform[Reply](Reply(1, True, {}))

    with_toy(story)


def test_too_many_requests_are_refused_not_queued(with_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "REQUESTS_MAX", 2)

    async def story(toy: Any) -> None:
        toy.answers = False
        client = await raw(toy)
        for number in (1, 2, 3):
            client.send(number, "call", CALL)
        got = await client.next()
        assert got[0] == 3 and (got[2]["code"], got[2]["retry_after_ms"]) == ("overloaded", 1000)
        client.close()

    with_toy(story)


def test_another_account_is_cut_off(with_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "peer_of", lambda _: (1, os.geteuid() + 1))

    async def story(toy: Any) -> None:
        client = await raw(toy)
        client.send(1, "status", {})
        assert await client.next() == []
        assert toy.server.statistics().refusals == {"other_account": 1}

    with_toy(story)


def test_down_answers_and_then_stops(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.client() as mesh:
            assert (await mesh.down())["node"] == "toy"
            await asyncio.wait_for(toy.stopped.wait(), 10)

    with_toy(story)


def test_leaving_without_a_client_stops_too(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        toy.server.leave()
        await asyncio.wait_for(toy.stopped.wait(), 10)

    with_toy(story)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"agent": ""}, "bad_attach"),
        ({"concurrency": 0}, "bad_attach"),
        ({"offers": []}, "bad_attach"),
        ({"offers": [OFFER[:-1]]}, "bad_attach"),
        ({"offers": [[1, *OFFER[1:]]]}, "bad_attach"),
        ({"offers": [[*OFFER[:-2], ["file.**.x"], []]]}, "bad_attach"),
        ({"offers": [[*OFFER[:-1], [["p", "c"]]]]}, "bad_attach"),
        ({"offers": [[*OFFER[:9], "x" * 20_000, *OFFER[10:]]]}, "schema_too_big"),
        ({"running": [["t", "1"]]}, "bad_attach"),
    ],
)
def test_a_worker_that_registers_nonsense_is_refused(with_toy: Any, change: dict[str, Any], code: str) -> None:
    async def story(toy: Any) -> None:
        client = await raw(toy)
        client.send(1, "attach", ATTACH | change)
        got = await client.next()
        assert got[:2] == [1, False] and got[2]["code"] == code
        assert not any(isinstance(body, WorkerAttached) for body in toy.seen)
        client.close()

    with_toy(story)


def test_what_a_worker_offers_arrives_field_by_field(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        client = await raw(toy)
        client.send(1, "attach", ATTACH)
        (offer,) = (await toy.until(WorkerAttached)).offers
        assert (offer.capability, offer.agent, offer.limit, offer.rate, offer.rate_ms) == ("c", "agent", 4, 10, 1000)
        assert (offer.labels, offer.needs, offer.queue_timeout_ms) == ((), (), 0)
        client.close()

    with_toy(story)


@pytest.mark.parametrize(
    "lot",
    [
        ["ended", {"items": [["t", 1, "maybe", b"", [], {}, 0]]}],
        ["ended", {"items": [["t", 1, "ok", "text", [], {}, 0]]}],
        ["ended", {"items": [["t", 1, "ok", b"", [["h"]], {}, 0]]}],
        ["ended", {"items": 3}],
        ["started", {"items": [["t"]]}],
        ["progress", {"items": [["t", 1, "half", ""]]}],
        ["priced", {"items": [[1, "t", float("nan"), None]]}],
        ["priced", {"items": [[1, "t", -1.0, None]]}],
    ],
    ids=["outcome", "output", "files", "items", "started", "fraction", "nan", "negative"],
)
def test_a_worker_that_talks_nonsense_is_gone(with_toy: Any, lot: list[Any]) -> None:
    async def story(toy: Any) -> None:
        client = await raw(toy)
        client.send(1, "attach", ATTACH)
        assert (await client.next())[:2] == [1, True]
        assert [(one.agent, one.pid) for one in toy.workers.attached()] == [("agent", os.getpid())]
        client.send(0, *lot)
        assert await client.next() == []
        assert (await toy.until(WorkerGone)).worker == 1
        assert not any(isinstance(body, HandlerEnded) for body in toy.seen) and len(toy.workers) == 0

    with_toy(story)


def test_lots_travel_together(with_toy: Any) -> None:
    """What one turn executes is one frame, and stops come after what they stop."""

    async def story(toy: Any) -> None:
        worker = await raw(toy)
        worker.send(1, "attach", ATTACH)
        await worker.next()
        client = await raw(toy)
        client.write(b"".join(frame([number, "call", CALL]) for number in range(1, 11)))
        client.write(frame([0, "gone", {"id": 4}]))
        number, verb, params = await worker.next()
        assert (number, verb, len(params["items"])) == (0, "execute", 10)
        number, verb, params = await worker.next()
        assert verb == "stop" and params["items"] == [["toy.1.4", 1, "gone"]]
        items = [[f"toy.1.{n}", 1, "ok", b"%d" % n, [], {}, 0] for n in range(1, 11)]
        worker.send(0, "ended", {"items": items})
        answers = [await client.next() for _ in range(9)]
        assert [(number, body["output"]) for number, _, body in answers] == [(n, b"%d" % n) for n in range(1, 11) if n != 4]
        assert toy.workers.statistics().executed == 10
        worker.close()
        client.close()

    with_toy(story)


def test_paths_too_long_for_the_kernel_are_explained(tmp_path: Path, toy_class: Any) -> None:
    async def main() -> None:
        folder = tmp_path / ("x" * 100)
        folder.mkdir()
        with pytest.raises(NoNode, match="longer than"):
            await Link(folder / "node.sock").open()
        with pytest.raises(BaseExceptionGroup) as caught:
            async with toy_class(folder).running():
                pass
        assert caught.value.subgroup(NoNode)

    asyncio.run(main())


def test_views_that_refuse(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        def refuse(_: dict[str, Any]) -> dict[str, Any]:
            raise Refused("not now", code="later")

        toy.server._views["status"] = refuse
        async with toy.client() as mesh:
            with pytest.raises(Refused, match="not now"):
                await mesh.status()

    with_toy(story)


STRANGER = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
with socket.socket(socket.AF_UNIX) as line:
    try:
        line.connect(sys.argv[1])
    except PermissionError:
        sys.exit(13)
    try:
        line.sendall(bytes.fromhex(sys.argv[2]))
        answer = line.recv(65536)
    except ConnectionError:
        answer = b""
sys.exit(1 if answer else 7)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_account_is_kept_out_twice(toy_class: Any) -> None:
    """By the folder and the socket's own mode; and where somebody has opened both, by what the kernel says of the peer."""

    async def visit(path: Path) -> int:
        asking = frame([1, "hello", {"v": 1}]).hex()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", STRANGER, str(path), asking)
        return await process.wait()

    async def main(folder: Path) -> None:
        async with toy_class(folder).running() as toy:
            assert await visit(toy.path) == 13, "the folder is its owner's"
            folder.chmod(0o711)
            assert await visit(toy.path) == 13, "and so is the socket"
            toy.path.chmod(0o666)
            assert await visit(toy.path) == 7, "cut off without a word"
            assert dict(toy.server.statistics().refusals) == {"other_account": 1}
            assert toy.server.statistics().connections == 0 and not toy.seen
            mine = await raw(toy)
            mine.send(1, "hello", {"v": 1})
            assert (await mine.next())[2]["node"] == "toy"
            mine.close()

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mesh-") as folder:
        asyncio.run(asyncio.wait_for(main(Path(folder)), 30))


def test_a_farewell_drains_first_and_then_leaves(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        client = await raw(toy)
        client.send(1, "drain", {"wait_ms": 10, "undo": True})
        assert await client.next() == [1, True, {"draining": False, "running": 0}]
        client.send(2, "down", {"wait_ms": 700})
        assert await client.next() == [2, True, {}]
        told = [body for body in toy.seen if type(body) in (Drain, Leave)]
        assert [type(body) for body in told] == [Drain, Drain, Leave]
        assert (told[1].wait_ms, told[1].undo, told[2].request) == (700, False, told[1].request - 1)
        client.send(3, "drain", {"undo": 1})
        assert await client.next() == []

    with_toy(story)
