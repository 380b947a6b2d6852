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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mesh.core.inputs import Call, EffectBegin, EffectEnd, Enquire, FileWanted, Leave, RequestGone, Step, Submit
from mesh.effects import Reply
from mesh.errors import MeshError, NoNode, NoSuchFile, Refused, TooBig
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.runtime.disk.blobs import Blobs
from mesh.runtime.peers import peer_of
from mesh.runtime.protocol_local import PATH_BYTES_MAX, BadFrame, Channel
from mesh.runtime.workers import Workers

VERSION = 1
CONNECTIONS_MAX = 1024
REQUESTS_MAX = 20_000
"""Unanswered, of all connections together: beyond, a request is refused with `node_busy`."""
FILES_MAX = 256
"""Named in one value."""
PIECE_BYTES_MAX = 4 * 1024 * 1024
FETCH_TIMEOUT_S = 60.0
QUESTIONS = ("task", "tasks", "result", "cancel", "story", "hash", "body", "audit")

Decoder = Callable[[dict[str, Any]], dict[str, Any]]
View = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]
Secret = Callable[[int, str, TaskId, Fence], str]
_WORKER_VERBS = frozenset(("started", "progress", "waits", "ended", "priced"))


@dataclass(frozen=True, slots=True)
class LocalStatistics:
    connections: int
    requests: int
    waiting: int
    refusals: dict[str, int]


class _Connection:
    """One client or worker. `requests` maps its own ids to the node's."""

    __slots__ = ("channel", "pid", "requests", "tasks", "worker")

    def __init__(self) -> None:
        self.channel: Channel
        self.pid = 0
        self.worker = 0
        self.requests: dict[int, int] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}


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
    ) -> None:
        self._path, self._me, self._name, self._tell = path, me, name or me, tell
        self._workers, self._blobs, self._views, self._limits = workers, blobs, views, limits
        self._stop, self._decoders, self._sources = stop, decoders or {}, sources
        self._may_request, self._may_ask, self._secret = may_request, may_ask, secret
        self._boot = os.urandom(8).hex()
        self._connections: dict[_Connection, None] = {}
        self._requests: dict[int, tuple[_Connection, int, str]] = {}
        self._last = 0
        self._dirty: dict[_Connection, None] = {}
        self._refusals: Counter[str] = Counter()
        self._leaving: dict[int, None] = {}
        self.effects: dict[type, Callable[[Any], None]] = {Reply: self._reply}
        self._verbs: dict[str, Callable[[_Connection, int, dict[str, Any]], None]] = {
            "hello": self._do_hello,
            "call": self._do_call,
            "submit": self._do_submit,
            "step": self._do_step,
            "effect": self._do_effect,
            "effected": self._do_effected,
            "ask": self._do_ask,
            "gone": self._do_gone,
            "down": self._do_down,
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
            self._workers.gone(connection.worker)

    def _take(self, connection: _Connection, message: list[Any]) -> None:
        number, verb, params = message
        if connection.channel.closed:
            return
        try:
            if verb in _WORKER_VERBS and connection.worker:
                self._workers.take(connection.worker, verb, params)
            elif (do := self._verbs.get(verb)) is not None:
                do(connection, number, params)
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

    def leave(self) -> None:
        """Take the node out as `down` does, with nobody to answer: it says LEFT, then `stop` is called."""
        self._last += 1
        self._leaving[self._last] = None
        self._tell(self._me, Leave(self._last))

    # ---- requests to the node

    def _request(self, connection: _Connection, number: int, verb: str) -> int:
        if number in connection.requests or not number:
            raise BadFrame("request_id_used")
        if len(self._requests) >= REQUESTS_MAX:
            raise Refused(f"{REQUESTS_MAX} requests wait for this node already", fix="wait for some of them", code="node_busy")
        self._last += 1
        self._requests[self._last] = (connection, number, verb)
        connection.requests[number] = self._last
        return self._last

    def _reply(self, effect: Reply) -> None:
        found = self._requests.pop(effect.request, None)
        if found is not None:
            self._pass_on(effect, *found)
        if self._leaving.pop(effect.request, False) is None and self._stop is not None:
            self.flush()
            self._stop()

    def _pass_on(self, effect: Reply, connection: _Connection, number: int, verb: str) -> None:
        connection.requests.pop(number, None)
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
            self._tell(self._me, RequestGone(request))
        elif (task := connection.tasks.pop(number, None)) is not None:
            task.cancel()

    def _do_call(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        parent = _text(params, "parent")
        self._tell(self._me, Call(self._request(connection, number, "call"), capability, data, timeout_ms, parent, files))

    def _do_submit(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        retries, by = _number(params, "retries", -1), _text(params, "by")
        self._tell(self._me, Submit(self._request(connection, number, "submit"), capability, data, timeout_ms, retries, files, by))

    def _do_step(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        capability, data, timeout_ms, files = self._work(params)
        parent, name, fence = _text(params, "parent"), _text(params, "name"), _number(params, "fence", 0)
        request = self._request(connection, number, "step")
        self._tell(self._me, Step(request, parent, fence, name, capability, data, timeout_ms, files))

    def _do_effect(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        task, fence, key, call, once = *_effect(params), params.get("once")
        if not connection.worker or type(once) is not bool:
            raise BadFrame("bad_effect")
        self._tell(self._me, EffectBegin(self._request(connection, number, "effect"), connection.worker, task, fence, key, call, once))

    def _do_effected(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        said, output, error = _effect(params), params.get("output"), _text(params, "error")
        if not connection.worker or type(output) is not bytes:
            raise BadFrame("bad_effect")
        if len(output) > self._limits.body_bytes_max:
            raise TooBig(what="the outcome of an effect", size_bytes=len(output), size_bytes_max=self._limits.body_bytes_max)
        self._tell(self._me, EffectEnd(self._request(connection, number, "effected"), *said, output, error))

    def _work(self, params: dict[str, Any]) -> tuple[str, bytes, int, tuple[tuple[str, int], ...]]:
        """What call, submit and step share. Raises BadFrame, TooBig."""
        capability, data, files = params.get("capability"), params.get("input"), params.get("files", [])
        if type(capability) is not str or type(data) is not bytes or type(files) is not list:
            raise BadFrame("bad_work")
        if self._may_request is not None and not self._may_request(capability):
            raise Refused(
                f"this home's certificate does not let it ask for {capability}",
                fix="mesh id; mesh invite --request, there",
                code="not_granted",
            )
        if len(data) > self._limits.body_bytes_max:
            raise TooBig(what=f"the arguments for {capability}", size_bytes=len(data), size_bytes_max=self._limits.body_bytes_max)
        if len(files) > FILES_MAX:
            raise TooBig(f"{len(files)} files in one value, over the {FILES_MAX} that may travel together", fix="pack them into an archive")
        for file in files:
            if type(file) is not list or [type(part) for part in file] != [str, int]:
                raise BadFrame("bad_work")
        return capability, data, max(0, _number(params, "timeout_ms", 0)), tuple((sha256, size) for sha256, size in files)

    def _do_ask(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        question, key, args = _text(params, "question"), _text(params, "key"), params.get("args", {})
        if question not in QUESTIONS or type(args) is not dict:
            raise Refused(f"no such question: {question!r}", code="unknown_verb")
        if self._may_ask is not None and not self._may_ask(question):
            raise Refused(
                f"this home's certificate does not let it ask for {question}", fix="mesh id; mesh invite --role, there", code="not_granted"
            )
        self._tell(self._me, Enquire(self._request(connection, number, question), question, key, args))

    def _do_down(self, connection: _Connection, number: int, _params: dict[str, Any]) -> None:
        request = self._request(connection, number, "down")
        self._leaving[request] = None
        self._tell(self._me, Leave(request))

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

    def _do_secret(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        name, task, fence = _text(params, "name"), _text(params, "task"), _number(params, "fence", 0)
        if not connection.worker or self._secret is None:
            raise Refused("only a worker is told a secret, for a task that it runs", fix="mesh secret list", code="secret_not_held")
        self._answer(connection, number, True, {"text": self._secret(connection.worker, name, task, fence)})

    def _do_put(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        upload, offset, data, last = _text(params, "upload"), _number(params, "offset", 0), params.get("data"), params.get("last")
        if type(data) is not bytes or type(last) is not bool or offset < 0 or len(data) > PIECE_BYTES_MAX:
            raise BadFrame("bad_put")
        self._spawn(connection, number, self._blobs.upload(connection, upload, offset, data, last))

    def _do_read(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        file, offset, size = _hash(params), _number(params, "offset", 0), _number(params, "size", 0)
        if offset < 0 or not 0 <= size <= PIECE_BYTES_MAX:
            raise BadFrame("bad_read")
        self._spawn(connection, number, self._blobs.read(file, offset, size))

    def _do_fetch(self, connection: _Connection, number: int, params: dict[str, Any]) -> None:
        """Bring a file into this node's store. `size` -1: only say whether it is here."""
        file, size = _hash(params), _number(params, "size", -1)
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


def _effect(params: dict[str, Any]) -> tuple[TaskId, Fence, str, int]:
    return _text(params, "task"), _number(params, "fence", 0), _text(params, "key"), _number(params, "call", 0)


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name, "")
    if type(value) is not str:
        raise BadFrame(f"bad_{name}")
    return value


def _number(params: dict[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    if type(value) is not int:
        raise BadFrame(f"bad_{name}")
    return value


def _hash(params: dict[str, Any]) -> str:
    file = _text(params, "file")
    if len(file) != 64 or not set(file) <= set("0123456789abcdef"):
        raise Refused(f"{file!r} is no SHA-256: it has 64 hexadecimal digits", fix="sha256sum FILE", code="bad_hash")
    return file
