"""The node's Unix socket: where clients and workers of the same account meet it.

    [id, "call", {...}] --> Call(request) --> node ... Reply(request) --> [id, ok, body]
    views (status, nodes, caps, ...)      answered here, from callables of the application: the core is not asked
    put, read, fetch                      the node's files          attach, started, ended, ...          `workers.py`
    secret                                `secrets.py`, for workers only

Invariant: every request gets one reply, unless its connection ends or it says `gone`; then the node hears RequestGone once. Only processes
of the node's own account are spoken to. Who sends what is no frame is cut off; a wrong parameter is an error in the reply. Decides nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mesh.core.inputs import Call, Drain, Enquire, FileWanted, Leave, RequestGone, Step, StreamNext, Submit
from mesh.core.work.desk import ALL, ONE
from mesh.core.work.gates import verdict_of
from mesh.core.work.inputs import EffectBegin, EffectEnd
from mesh.effects import Reply
from mesh.errors import MeshError, NoNode, NoSuchFile, Overloaded, Refused, TooBig
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.signed import Signed
from mesh.messages.waits import WAIT, Verdict
from mesh.runtime.disk.blobs import Blobs
from mesh.runtime.params_local import COMMANDS, digest_of, effect_of, how_of, number_of, text_of, work_of
from mesh.runtime.peers import peer_of
from mesh.runtime.protocol_local import PATH_BYTES_MAX, BadFrame, Channel
from mesh.runtime.workers import Workers

VERSION = 1
CONNECTIONS_MAX = 1024
REQUESTS_MAX = 20_000
"""Unanswered, of all connections together: beyond, a request is refused as `overloaded`."""
PIECE_BYTES_MAX = 4 * 1024 * 1024
FETCH_TIMEOUT_S = 60.0
QUESTIONS = (*ONE, *ALL)

Decoder = Callable[[dict[str, Any]], dict[str, Any]]
View = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]
Secret = Callable[[int, str, TaskId, Fence], str]
_WORKER_VERBS = frozenset(("started", "progress", "said", "items", "waits", "ended", "priced"))


@dataclass(frozen=True, slots=True)
class LocalStatistics:
    connections: int
    requests: int
    waiting: int
    refusals: dict[str, int]


class _Connection:
    """One client or worker. `requests` maps its own ids to the node's."""

    __slots__ = ("channel", "pid", "requests", "streams", "tasks", "worker")

    def __init__(self) -> None:
        self.channel: Channel
        self.pid = 0
        self.worker = 0
        self.requests: dict[int, int] = {}
        self.streams: dict[str, int] = {}
        """The client's names of its streams, and their requests here."""
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def end_stream(self, request: int) -> None:
        if self.streams:
            self.streams = {name: each for name, each in self.streams.items() if each != request}


class LocalServer:
    """`name` is the node's, `views` answer read-only verbs, `sources` names the nodes a file may be fetched from, `stop` ends the process.

    `may_request`, `may_ask`: whether this home's certificate lets it ask for a capability, or a question of the desk.
    `decoders` turn the node's answer to a question into the client's document, such as ``{"story": unpack_and_check}``. `secret` gives the
    text of a secret to the worker of that number, for a task that it runs.
    """

    def __init__(
        self,
        path: Path,
        me: NodeId,
        tell: Callable[[NodeId, Any], None],
        workers: Workers,
        blobs: Blobs,
        views: Mapping[str, View],
        limits: WorkLimits,
        *,
        name: str = "",
        stop: Callable[[], None] | None = None,
        decoders: Mapping[str, Decoder] | None = None,
        sources: Callable[[], tuple[NodeId, ...]] = tuple,
        may_request: Callable[[str], bool] | None = None,
        may_ask: Callable[[str], bool] | None = None,
        secret: Secret | None = None,
        seal: Callable[[Verdict], Signed],
    ) -> None:
        self._path, self._me, self._name, self._tell = path, me, name or me, tell
        self._workers, self._blobs, self._views, self._limits = workers, blobs, views, limits
        self._stop, self._decoders, self._sources = stop, decoders or {}, sources
        self._may_request, self._may_ask, self._secret, self._seal = may_request, may_ask, secret, seal
        self._boot, self._last = os.urandom(8).hex(), 0
        self._connections: dict[_Connection, None] = {}
        self._requests: dict[int, tuple[_Connection, int, str]] = {}
        self._dirty: dict[_Connection, None] = {}
        self._refusals: Counter[str] = Counter()
        self._leaving: dict[int, None] = {}
        self._drained: dict[int, int] = {}
        """Drains that a farewell waits for, and which farewell."""
        self.effects: dict[type, Callable[[Any], None]] = {Reply: self._reply}
        self._verbs: dict[str, Callable[[_Connection, int, dict[str, Any]], None]] = {
            "hello": self._do_hello,
            "call": self._do_call,
            "stream": self._do_stream,
            "next": self._do_next,
            "submit": self._do_submit,
            "step": self._do_step,
            "effect": self._do_effect,
            "effected": self._do_effected,
            "ask": self._do_ask,
            "gone": self._do_gone,
            "down": self._do_down,
            "drain": self._do_drain,
            "attach": self._do_attach,
            "secret": self._do_secret,
            "put": self._do_put,
            "read": self._do_read,
            "fetch": self._do_fetch,
        }

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Replaces a socket that a dead node left. Raises NoNode if the path is too long, OSError."""
        if len(os.fsencode(self._path)) > PATH_BYTES_MAX:
            raise NoNode(f"the path of the node's socket is longer than {PATH_BYTES_MAX} bytes: {self._path}", fix="use a shorter --home")
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=listener, backlog=256)
        except BaseException:
            listener.close()
            raise
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.channel.close()
            self._path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Write the replies that were collected."""
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for connection in dirty:
                connection.channel.flush()

    def statistics(self) -> LocalStatistics:
        return LocalStatistics(len(self._connections), self._last, len(self._requests), dict(self._refusals))

    # ---- connections

    def _accept(self) -> Channel:
        connection = _Connection()
        connection.channel = Channel(
            lambda message: self._take(connection, message),
            lambda reason: self._lost(connection, reason),
            on_open=lambda: self._opened(connection),
        )
        self._connections[connection] = None
        return connection.channel

    def _opened(self, connection: _Connection) -> None:
        assert connection.channel.transport is not None
        try:
            connection.pid, uid = peer_of(connection.channel.transport.get_extra_info("socket"))
        except OSError:
            uid = -1
        if uid != os.geteuid():
            self._cut(connection, "other_account")
        elif len(self._connections) > CONNECTIONS_MAX:
            self._cut(connection, "too_many_connections")

    def _cut(self, connection: _Connection, reason: str) -> None:
        self._refusals[reason] += 1
        connection.channel.close(reason)

    def _lost(self, connection: _Connection, _reason: str) -> None:
        self._connections.pop(connection, None)
        self._dirty.pop(connection, None)
        for task in connection.tasks.values():
            task.cancel()
        for number in list(connection.requests):
            self._do_gone(connection, 0, {"id": number})
        self._blobs.forget_owner(connection)
        if connection.worker:
            self._workers.gone(connection.worker, connection.channel)

    def _take(self, connection: _Connection, message: list[Any]) -> None:
        number, verb, params = message
        if connection.channel.closed:
            return
        try:
            if verb in _WORKER_VERBS and connection.worker:
                self._workers.take(connection.worker, verb, params)
            elif (do := self._verbs.get(verb)) is not None:
                do(connection, number, params)
            elif (command := COMMANDS.get(verb)) is not None:
                asked = command(params)
                self._check_request(getattr(asked, "capability", ""))
                asked.request = self._request(connection, number, verb)
                if verb == "coordinate":
                    asked.words = tuple(map(self._seal, asked.verdicts))
                self._tell(self._me, asked)
            elif verb in self._views:
                self._do_view(connection, number, verb, params)
            else:
                raise Refused(
                    f"this node knows no verb {verb!r}", fix="use the same version of the package on both sides", code="unknown_verb"
                )
        except BadFrame as bad:
            self._cut(connection, bad.reason)
        except MeshError as error:
            self._refusals[error.code] += 1
            self._answer(connection, number, False, error.body())

    def _answer(self, connection: _Connection, number: int, ok: bool, body: dict[str, Any]) -> None:
        if number:
            try:
                connection.channel.send_soon([number, ok, body])
            except BadFrame:
                self._refusals["reply_too_big"] += 1
                error = Refused("the answer is larger than the local socket carries", fix="ask for less at once", code="too_big")
                connection.channel.send_soon([number, False, error.body()])

    def leave(self, wait_ms: int = 0) -> None:
        """Take the node out as `down` does, with nobody to answer: it says LEFT, then `stop` is called.

        What runs has `wait_ms` to end before that; nothing new is taken meanwhile.
        """
        self._last += 1
        self._leave(self._last, wait_ms)

    def _leave(self, request: int, wait_ms: int) -> None:
        self._leaving[request] = None
        if not wait_ms:
            self._tell(self._me, Leave(request))
            return
        self._last += 1
        self._drained[self._last] = request
        self._tell(self._me, Drain(self._last, wait_ms))

    # ---- requests to the node

    def _request(self, connection: _Connection, number: int, verb: str) -> int:
        if number in connection.requests or not number:
            raise BadFrame("request_id_used")
        if len(self._requests) >= REQUESTS_MAX:
            raise Overloaded(f"{REQUESTS_MAX} requests wait for this node already", fix="wait for some of them")
        self._last += 1
        self._requests[self._last] = (connection, number, verb)
        connection.requests[number] = self._last
        return self._last

    def _reply(self, effect: Reply) -> None:
        if (farewell := self._drained.pop(effect.request, None)) is not None:
            self._tell(self._me, Leave(farewell))
            return
        found = self._requests.pop(effect.request, None)
        if found is not None:
            self._pass_on(effect, *found)
        if self._leaving.pop(effect.request, False) is None and self._stop is not None:
            self.flush()
            self._stop()

    def _pass_on(self, effect: Reply, connection: _Connection, number: int, verb: str) -> None:
        connection.requests.pop(number, None)
        connection.end_stream(effect.request)
        ok, body = effect.ok, effect.body
        if ok and verb in self._decoders:
            try:
                body = self._decoders[verb](body)
            except MeshError as error:
                ok, body = False, error.body()
        if not connection.channel.closed:
            try:
                connection.channel.send([number, ok, body])
            except BadFrame:
                self._answer(connection, number, ok, body)
            self._dirty[connection] = None

    def _do_gone(self, connection: _Connection, _number: int, params: dict[str, Any]) -> None:
        number = params.get("id")
        if type(number) is not int:
            raise BadFrame("bad_gone")
        request = connection.requests.pop(number, None)
        if request is not None and request not in self._leaving:
            del self._requests[request]
            connection.end_stream(request)
            self._tell(self._me, RequestGone(request))
        elif (task := connection.tasks.pop(number, None)) is not None:
            task.cancel()

    def _do_call(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        request, parent = self._request(connection, number, "call"), text_of(params, "parent")
        how = how_of(params)
        self._tell(self._me, Call(request, capability, data, timeout_ms, parent, files, False, *how))

    def _do_stream(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        """Answered at its end, as a call is. `stream` is the client's name for it, by which its `next` find it."""
        capability, data, timeout_ms, files = self._work(params)
        request = self._request(connection, number, "stream")
        connection.streams[text_of(params, "stream")] = request
        parent = text_of(params, "parent")
        how = how_of(params)
        self._tell(self._me, Call(request, capability, data, timeout_ms, parent, files, True, *how))

    def _do_next(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        of = connection.streams.get(text_of(params, "stream"), 0)
        after, epoch = number_of(params, "after", 0), number_of(params, "epoch", 0)
        self._tell(self._me, StreamNext(self._request(connection, number, "next"), of, after, epoch))

    def _do_submit(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        retries, by, key = number_of(params, "retries", -1), text_of(params, "by"), text_of(params, "key")
        request = self._request(connection, number, "submit")
        bounds, placement, rank, budget, baggage = how_of(params)
        how = placement, rank, budget, baggage
        self._tell(self._me, Submit(request, capability, data, timeout_ms, retries, files, by, bounds, key, *how))

    def _do_step(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        parent, name, fence = text_of(params, "parent"), text_of(params, "name"), number_of(params, "fence", 0)
        request = self._request(connection, number, "step")
        bounds, placement, rank, budget, baggage = how_of(params)
        how = bounds, rank, placement, number_of(params, "retries", -1), budget, baggage
        self._tell(self._me, Step(request, parent, fence, name, capability, data, timeout_ms, files, *how))

    def _do_effect(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        task, fence, key, call, once = *effect_of(params), params.get("once")
        if not connection.worker or type(once) is not bool:
            raise BadFrame("bad_effect")
        self._tell(self._me, EffectBegin(self._request(connection, number, "effect"), connection.worker, task, fence, key, call, once))

    def _do_effected(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        said, output, error = effect_of(params), params.get("output"), text_of(params, "error")
        if not connection.worker or type(output) is not bytes:
            raise BadFrame("bad_effect")
        if len(output) > self._limits.body_bytes_max:
            raise TooBig(what="the outcome of an effect", size_bytes=len(output), size_bytes_max=self._limits.body_bytes_max)
        self._tell(self._me, EffectEnd(self._request(connection, number, "effected"), *said, output, error))

    def _work(self, params: dict[str, Any]) -> tuple[str, bytes, int, tuple[tuple[str, int], ...]]:
        """What call, submit and step share. Raises BadFrame, TooBig, Refused."""
        work = work_of(params, self._limits.body_bytes_max)
        self._check_request(work[0])
        return work

    def _check_request(self, capability: str) -> None:
        if capability not in ("", WAIT) and self._may_request is not None and not self._may_request(capability):
            message = f"this home's certificate does not let it ask for {capability}"
            raise Refused(message, fix="mesh id; mesh invite --request, there", code="not_granted")

    def _do_ask(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        question, key, args = text_of(params, "question"), text_of(params, "key"), params.get("args", {})
        if question not in QUESTIONS or type(args) is not dict:
            raise Refused(f"no such question: {question!r}", code="unknown_verb")
        if self._may_ask is not None and not self._may_ask(question):
            raise Refused(
                f"this home's certificate does not let it ask for {question}", fix="mesh id; mesh invite --role, there", code="not_granted"
            )
        words: tuple[Signed, ...] = ()
        if question == "answer":
            if (verdict := verdict_of(key, args, time.time_ns() // 1_000_000)) is None:
                raise BadFrame("bad_answer")
            words = (self._seal(verdict),)
        self._tell(self._me, Enquire(self._request(connection, number, question), question, key, args, words))

    def _do_down(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        wait_ms = max(0, number_of(params, "wait_ms", round(1000 * self._limits.drain_s)))
        self._leave(self._request(connection, number, "down"), wait_ms)

    def _do_drain(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        wait_ms, undo = max(0, number_of(params, "wait_ms", 0)), params.get("undo", False)
        if type(undo) is not bool:
            raise BadFrame("bad_undo")
        self._tell(self._me, Drain(self._request(connection, number, "drain"), wait_ms, undo))

    # ---- answered here

    def _do_hello(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        if params.get("v") != VERSION:
            raise Refused(
                f"this node speaks version {VERSION} of the local protocol",
                fix="use the same version of the package on both sides",
                code="version",
            )
        body = {
            "v": VERSION,
            "node": self._name,
            "id": self._me,
            "pid": os.getpid(),
            "boot": self._boot,
            "blobs": str(self._blobs.folder),
            "body_bytes_max": self._limits.body_bytes_max,
            "adopt_grace_s": self._limits.adopt_grace_s,
        }
        self._answer(connection, number, True, body)

    def _do_view(self, connection: _Connection, number: int, verb: str, params: dict[str, Any]) -> None:
        answer = self._views[verb](params)
        if inspect.isawaitable(answer):
            self._spawn(connection, number, _awaited(answer))
        else:
            self._answer(connection, number, True, answer)

    def _do_attach(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        if connection.worker:
            raise BadFrame("attached_twice")
        connection.worker = self._workers.attach(connection.channel, connection.pid, params)
        self._answer(connection, number, True, {"worker": connection.worker})
        self._workers.flush()  # what waited for it

    def _do_secret(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        name, task, fence = text_of(params, "name"), text_of(params, "task"), number_of(params, "fence", 0)
        if not connection.worker or self._secret is None:
            raise Refused("only a worker is told a secret, for a task that it runs", fix="mesh secret list", code="secret_not_held")
        self._answer(connection, number, True, {"text": self._secret(connection.worker, name, task, fence)})

    def _do_put(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        upload, offset, data, last = text_of(params, "upload"), number_of(params, "offset", 0), params.get("data"), params.get("last")
        if type(data) is not bytes or type(last) is not bool or offset < 0 or len(data) > PIECE_BYTES_MAX:
            raise BadFrame("bad_put")
        self._spawn(connection, number, self._blobs.upload(connection, upload, offset, data, last))

    def _do_read(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        file, offset, size = digest_of(params), number_of(params, "offset", 0), number_of(params, "size", 0)
        if offset < 0 or not 0 <= size <= PIECE_BYTES_MAX:
            raise BadFrame("bad_read")
        self._spawn(connection, number, self._blobs.read(file, offset, size))

    def _do_fetch(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        """Bring a file into this node's store. `size` -1: only say whether it is here."""
        file, size = digest_of(params), number_of(params, "size", -1)
        if self._blobs.has(file):
            self._answer(connection, number, True, {"file": file, "here": True})
            return
        sources = self._sources()
        if size < 0 or not sources:
            raise NoSuchFile(f"the file {file[:12]}... is not in this node's store" + ("" if sources else ", and no other node is linked"))
        self._tell(self._me, FileWanted(file, size, sources))
        self._spawn(connection, number, self._arrival(file))

    async def _arrival(self, file: str) -> dict[str, Any]:
        await self._blobs.arrival(file, FETCH_TIMEOUT_S)
        return {"file": file, "here": True}

    def _spawn(self, connection: _Connection, number: int, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        """Answer when `work` ends; it ends with its connection."""

        async def answer() -> None:
            try:
                ok, body = True, await work
            except MeshError as error:
                self._refusals[error.code] += 1
                ok, body = False, error.body()
            except Exception:
                # A bug in a view: its client must not wait for ever, and the bug must not go unseen.
                self._refusals["internal"] += 1
                self._answer(connection, number, False, {"code": "internal", "message": "the node failed to answer", "fix": "mesh doctor"})
                raise
            finally:
                connection.tasks.pop(number, None)
            self._answer(connection, number, ok, body)

        connection.tasks[number] = asyncio.get_running_loop().create_task(answer())


async def _awaited(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await answer
