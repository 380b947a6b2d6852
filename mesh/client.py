"""The mesh, as a program sees it: call, submit, and look around. A client is no member; the node it talks to manages its work.

    async with connect() as m:
        await m.call("greet", name="Bob")                             waits, and dies with its caller
        task = await m.options(timeout_s=60).submit("report.render")  durable
        await task.result()

Importing this costs little: msgpack, asyncio, and the folders' layout. Runs on asyncio.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from mesh import values
from mesh.answering import KEEP as KEEP
from mesh.answering import Answering
from mesh.answering import State as State
from mesh.answering import answer_in as answer_in
from mesh.bounding import checked_baggage, checked_key, checked_retries, checked_s, wait_ms
from mesh.errors import NoSuchFile, Refused, TooBig, UsageError, task_error
from mesh.files import CHUNK_BYTES, WINDOW, File, Shelf, is_hash, put
from mesh.labels import Labels
from mesh.options import how_of, versioned
from mesh.policies import Governing
from mesh.presiding import Presiding
from mesh.publishing import Triggering
from mesh.reading import logs_of_node, logs_of_task, story_of
from mesh.reconnecting import Reconnecting, find_socket
from mesh.streaming import Stream

Document = dict[str, Any]

TIMEOUT_S = 60.0
VIEW_TIMEOUT_S = 10.0
SLACK_S = 0.5
"""The node ends a call in time itself, and says more about it; only if it does not, the client gives up."""


class Connection(Protocol):
    """What `Mesh` needs below it: a `Link` to a node, or a simulated one."""

    @property
    def node(self) -> Document: ...

    async def ask(self, verb: str, params: Document, *, timeout_s: float | None = None, what: str = "") -> Document: ...

    def close(self) -> None: ...


@asynccontextmanager
async def connect(
    home: str | os.PathLike[str] | None = None, node: str | None = None, timeout_s: float | None = TIMEOUT_S
) -> AsyncIterator[Mesh]:
    """A connection to a node of this machine: the home's first running one, or the one called `node`.

    `home`: a folder; else $MESH_HOME, else the platform's. `timeout_s` bounds each call and each question; None: no bound.
    Raises NoNode, whose fix says how to start one.
    """
    reconnecting = Reconnecting(lambda: find_socket(home, node))
    await reconnecting.open()
    try:
        yield Mesh(reconnecting, checked_s(timeout_s))
    finally:
        reconnecting.close()


class Task:
    """A submitted task. It lives on without this object; `Mesh.result(task.id)` finds it again from any node."""

    def __init__(self, mesh: Mesh, id: str, survives: str) -> None:
        self._mesh = mesh
        self.id = id
        self.survives = survives
        """``"restart"``: this node's restart. ``"node-loss"``: the loss of any node."""

    async def result(self, timeout_s: float | None = None) -> Any:
        """Wait for its end, however long, or at most `timeout_s`. Raises TaskFailed, TaskCancelled, InvalidArgument, TimedOut, NoNode."""
        return self._mesh.value_of(await self._mesh.result(self.id, timeout_s=timeout_s))

    async def status(self) -> Document:
        """Where it stands: the document of ``mesh task ID``."""
        return await self._mesh.task(self.id)

    async def why(self) -> list[Document]:
        """Its story so far, from the journal: who was asked, who offered what, who won, what became of it."""
        entries: list[Document] = (await self._mesh.story(self.id))["entries"]
        return entries

    async def cancel(self, reason: str = "") -> Document:
        """Ask for its end. Returns its state now."""
        return await self._mesh.cancel(self.id, reason=reason)

    def __repr__(self) -> str:
        return f"Task({self.id!r})"


class Work:
    """`call` and `submit` under some options."""

    _key = ""

    def __init__(self, connection: Connection, timeout_s: float | None, retries: int | None, how: Document) -> None:
        self._connection, self._timeout_s, self._retries, self._how = connection, timeout_s, retries, how

    async def call(self, capability: str, /, **arguments: Any) -> Any:
        """Run `capability` somewhere and return its result. Dies with its caller.

        Raises NoSuchCapability (within a second, with the nearest name), InvalidArgument, TaskFailed, TimedOut, NodeLost, TooBig.
        """
        params = await self._params(capability, arguments)
        timeout_s = self._timeout_s
        params["timeout_ms"] = round(timeout_s * 1000) if timeout_s else 0
        bound_s = timeout_s + SLACK_S if timeout_s else None
        body = await self._connection.ask("call", params, timeout_s=bound_s, what=f"the call of {capability!r}")
        if body.get("state") != "done":
            raise task_error(body.get("error") or {}, str(body.get("task") or ""), str(body.get("state") or ""))
        return values.load(bytes(body.get("output") or b"null"), self._shelf)

    def stream(self, capability: str, /, **arguments: Any) -> Stream:
        """The items of a generator capability, as they come: ``async for item in m.stream("rows", n=3)``. Dies with its reader.

        The options' timeout bounds the wait for each item. A slow reader slows the handler. If the handler is lost, an idempotent one's
        stream goes on with the next item; another's begins anew, which StreamRestarted says. What is no generator gives its one result.
        """

        async def params() -> Document:
            return await self._params(capability, arguments) | {"timeout_ms": 0}

        shelf = self._shelf
        return Stream(self._connection, params, lambda data: values.load(data, shelf), self._timeout_s, f"the stream of {capability!r}")

    async def submit(self, capability: str, /, **arguments: Any) -> Task:
        """Hand in durable work; returns once it is on disk. The options' timeout bounds the task, their retries its tries.

        With a key (`options`): the one task of the whole mesh that was submitted under it, from whichever node.
        Raises NoSuchCapability, InvalidArgument, TooBig, NoNode, TimedOut if the node does not take it in time, or cannot find out in time
        whether the key is taken (again under the same key, the answer is the same); Refused if the key was given to other work.
        """
        params = await self._params(capability, arguments)
        params["timeout_ms"] = round(self._task_timeout_s * 1000) if self._task_timeout_s else 0
        params["retries"] = checked_retries(self._retries)
        params |= {"by": _who(), "key": self._key}
        body = await self._connection.ask("submit", params, timeout_s=TIMEOUT_S, what=f"the submit of {capability!r}")
        return Task(self._mesh, str(body["task"]), str(body["survives"]))

    @property
    def _task_timeout_s(self) -> float | None:
        return self._timeout_s

    @property
    def _mesh(self) -> Mesh:
        raise NotImplementedError

    @property
    def _shelf(self) -> Shelf | None:
        return getattr(self._connection, "shelf", None)

    async def _params(self, capability: str, arguments: Document) -> Document:
        if not isinstance(capability, str) or not capability:
            raise UsageError(f"{capability!r} is no capability's name", fix="mesh caps")
        capability, how = versioned(capability, self._how)
        data, files = await values.encode(arguments, self._connection.ask, self._shelf)
        maximum = int(self._connection.node.get("body_bytes_max") or 0)
        if maximum and len(data) > maximum:
            raise TooBig(what=f"the arguments for {capability}", size_bytes=len(data), size_bytes_max=maximum)
        return {"capability": capability, "input": data, "files": files, **how}


class View(Work):
    """A mesh with options set."""

    def __init__(
        self, mesh: Mesh, timeout_s: float | None, task_timeout_s: float | None, retries: int | None, how: Document, key: str
    ) -> None:
        super().__init__(mesh._connection, timeout_s, retries, how)
        self._key = key
        self._parent, self._own_timeout_s = mesh, task_timeout_s

    @property
    def _task_timeout_s(self) -> float | None:
        return self._own_timeout_s

    @property
    def _mesh(self) -> Mesh:
        return self._parent


class Mesh(Work, Triggering, Answering, Governing, Presiding):
    """What `connect` gives. Every method returns the JSON document of the command line's verb of the same name."""

    def __init__(self, connection: Connection, timeout_s: float | None = TIMEOUT_S) -> None:
        super().__init__(connection, timeout_s, None, {})

    @property
    def node(self) -> Document:
        """The node that answers: ``{"node": name, "id", "pid", ...}``."""
        return self._connection.node

    @property
    def _mesh(self) -> Mesh:
        return self

    def _any(self) -> Mesh:
        return self

    @property
    def _task_timeout_s(self) -> float | None:
        return None  # a submitted task is bounded only where somebody says so

    def options(
        self,
        *,
        timeout_s: float | None = None,
        retries: int | None = None,
        queue_timeout_s: float | None = None,
        run_timeout_s: float | None = None,
        heartbeat_timeout_s: float | None = None,
        key: str = "",
        where: Labels | None = None,
        near: str = "",
        apart: str = "",
        hedge: bool = False,
        priority: int | None = None,
        share: str | None = None,
        budget: Mapping[str, float] | None = None,
        baggage: Mapping[str, str] | None = None,
    ) -> View:
        """The same mesh with options of each call or submitted task; times in seconds. Raises UsageError.

        `timeout_s`: from now to its end. `queue_timeout_s`: until somebody has taken it. `run_timeout_s`: of one run of its handler.
        `heartbeat_timeout_s`: silence after which its handler is taken for stuck. The last three are the capability's own where nothing is
        said. `retries`: tries after a failure of the handler, for submitted work. `where`: labels that whoever runs it must have:
        ``{"zone": "eu", "gpu": True}`` (True: whatever its value), or ``["zone=eu", "gpu"]``. Work with the same text as `near` goes where
        the last such went, unless another node is done half a second sooner; with the same `apart` it spreads over the nodes.
        `hedge`: if the capability is idempotent and this takes longer than 95 % of such work did, it is begun once more elsewhere, and the
        first result counts: for at most a twentieth of a node's tasks, and only while the handler has used no effect, step or checkpoint.
        `key`: what is submitted under it is one task, whichever nodes it is submitted to and however often, until that task's record is
        forgotten. `priority`: 1 to 9, the greater goes first where work waits; 5 where nothing is said. What waits rises with time, so that
        it gets its turn. `share`: a key, such as a tenant's name; waiting work of one priority is taken key by key in turns, however much
        of each there is. Steps and calls of a handler have priority and share of its task. `budget`: what the work and all that it begins
        may spend, such as ``{"usd": 5, "tokens": 200_000, "calls": 100, "time_s": 600}``: names are free, but for `calls` (steps and calls
        that are begun) and `time_s` (seconds that handlers run, added up). `baggage`: names and texts, 2 KiB in all, that go along with the
        work and all that it leads to, as ``ctx.baggage``.
        """
        checked_retries(retries)
        checked_s(timeout_s)
        how = how_of(
            queue_timeout_s=queue_timeout_s,
            run_timeout_s=run_timeout_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            where=where,
            near=near,
            apart=apart,
            hedge=hedge,
            priority=priority,
            share=share,
            budget=budget,
            baggage=checked_baggage(baggage),
        )
        return View(self, timeout_s if timeout_s is not None else self._timeout_s, timeout_s, retries, how, checked_key(key))

    # ---- looking

    async def status(self) -> Document:
        """This node: health, workers, counts."""
        return await self._view("status")

    async def nodes(self) -> Document:
        """Every node this one knows."""
        return await self._view("nodes")

    async def caps(self, *, everything: bool = False, stats: bool = False) -> Document:
        """What can be called, and who offers it. `everything`: the mesh's own capabilities too, such as ``mesh.flow``. `stats`: with
        ``"models"``, what this node knows of how each node does it."""
        return await self._view("caps", {"all": everything, "stats": stats})

    async def statistics(self) -> Document:
        """Every component's counters."""
        return await self._view("statistics")

    async def verify(self, export: str | os.PathLike[str] | None = None) -> Document:
        """Check this node's journal: every signature, link and hash. `export`: also write it there, for an independent verifier."""
        return await self._view("verify", {"export": str(Path(export).absolute())} if export is not None else {})

    async def office(self, verb: str, /, **params: Any) -> Document:
        """Ask the node about trust: invite, trust, admit, grant, revoke, rotate, restart. Raises Refused, UsageError, NoNode."""
        return await self._view(verb, params)

    async def tasks(self, *, skip: int = 0) -> Document:
        """Tasks of the whole mesh, newest first, 500 of each manager; `missing` names nodes that did not answer. `skip`: without the
        newest so many of each."""
        return {"schema": "mesh.tasks/1", **await self._ask("tasks", "", {"skip": skip} if skip else None)}

    async def task(self, task: str) -> Document:
        """One task. Raises NoSuchTask."""
        return {"schema": "mesh.task/1", **await self._ask("task", task)}

    async def checkpoint(self, task: str) -> Document:
        """``{"task", "state", "checkpoint"}``: what a running task's handler has kept last by ``ctx.checkpoint``; None: nothing."""
        return {"schema": "mesh.checkpoint/1", **await self._ask("kept", task)}

    async def result(self, task: str, *, timeout_s: float | None = None) -> Document:
        """Wait for a task's end: ``{"task", "state", "result"}``, or ``"error"`` if it failed. Raises TimedOut, NoSuchTask."""
        params = {"question": "result", "key": task, "args": {}}
        body = await self._connection.ask("ask", params, timeout_s=checked_s(timeout_s), what=f"the result of {task}")
        return {"schema": "mesh.result/1", **body}

    async def cancel(self, task: str, *, reason: str = "") -> Document:
        """End a task and its steps: ``{"task", "state"}``, its state now."""
        return {"schema": "mesh.cancel/1", **await self._ask("cancel", task, {"by": _who(), "reason": reason})}

    async def retry(self, task: str) -> Document:
        """Submit a task that failed or was cancelled once more: ``{"task", "survives"}`` of the new one. Raises Refused, NoSuchTask."""
        return {"schema": "mesh.retry/1", **await self._ask("retry", task, {"by": _who()})}

    async def story(self, task: str, *, pages: int = 0) -> Document:
        """``{"task", "entries": [...]}``: every journal entry about it and its steps, each with who wrote it and whether that is proven.

        `pages`: at most so many of them, from its beginning; 0: all. Raises NoSuchTask, NoNode.
        """
        return {"schema": "mesh.story/1", **await story_of(self._ask, task, pages)}

    async def audit(self, about: str = "", *, everywhere: bool = False, since: int = 0, limit: int = 0) -> Document:
        """``{"entries": [{"what", "about", "by", "note", "node", "wall_ms", "verified", ...}], "missing": [...]}``, oldest first.

        `about`: only what concerns that node (name or id), home or invitation. Of this node's journal: all entries after number `since`, or
        the newest `limit` of them. `everywhere`: the newest of every linked node; `missing` names those that did not answer.
        """
        entries: list[Document] = []
        while True:
            args: Document = {"all": True, "limit": limit} if everywhere else {"since": since, "limit": limit}
            page = await self._ask("audit", about, args)
            entries += page["entries"]
            since = int(page.get("more") or 0)
            if not since:
                return {"schema": "mesh.audit/1", "entries": entries, "missing": page["missing"]}

    async def logs(self, task: str = "", *, node: str = "", after: dict[str, int] | None = None) -> Document:
        """What the handlers of a task, or all on a node (name or id), printed and logged, oldest first:
        ``{"lines": [{"at_ms", "node", "attempt", "stream", "text", ...}], "missing": [{"attempt", "node", "reason"}], "after": {...}}``.

        `after`: only what came since the answer that said so. Of a node: the newest page. Each attempt keeps its newest 1 MiB, in the
        memory of the node that ran it: `missing` says whose lines did not come, and why. Raises NoSuchTask, UsageError for both or neither,
        MeshError if nobody in reach has any.
        """
        if bool(task) == bool(node):
            raise UsageError("logs of what?", fix="give a task, or node=...")
        found = logs_of_task(self._ask, task, after or {}) if task else logs_of_node(self._ask, node, after or {})
        return {"schema": "mesh.logs/1", **await found}

    async def find(self, sha256: str) -> Document:
        """``{"tasks": [{"task", "as", "capability", ...}]}`` that read or made these bytes."""
        return {"schema": "mesh.find/1", "hash": sha256, **await self._ask("hash", sha256)}

    async def body(self, sha256: str) -> bytes:
        """The bytes behind a hash in a story: arguments, a result. Raises MeshError if nobody in reach has them."""
        return bytes((await self._ask("body", sha256))["body"])

    # ---- files

    async def put(self, path: str | os.PathLike[str]) -> Document:
        """Put a file into the node's store: ``{"sha256", "size", "name"}``. Raises OSError, MeshError (disk full, too big)."""
        source = File.of(path)
        sha256, size = await put(self._connection.ask, Path(path))
        return {"schema": "mesh.put/1", "sha256": sha256, "size": size, "name": source.name}

    async def get(self, sha256: str, to: str | os.PathLike[str]) -> int:
        """Save a file by its hash, wherever in the mesh it is, and return its size in bytes. `to` is replaced whole, or not at all.

        Raises NoSuchFile, UsageError, OSError.
        """
        if not is_hash(sha256):
            raise UsageError(f"{sha256!r} is no SHA-256: it has 64 hexadecimal digits", fix="sha256sum FILE")
        try:
            await self._connection.ask("fetch", {"file": sha256, "size": -1}, timeout_s=VIEW_TIMEOUT_S)
        except NoSuchFile:
            size = await self._size_of(sha256)
            await self._connection.ask("fetch", {"file": sha256, "size": size}, what=f"the file {sha256[:12]}...")
        return await self._save(sha256, Path(to))

    async def _size_of(self, sha256: str) -> int:
        """From the story of a task that made or read it: whoever sends it has to send exactly so much."""
        for row in (await self.find(sha256))["tasks"]:
            for entry in (await self.story(row["task"]))["entries"]:
                for ref in entry.get("files") or ():
                    if ref[0] == sha256:
                        return int(ref[1])
        raise NoSuchFile(f"no task known here read or made the file {sha256[:12]}...")

    async def _save(self, sha256: str, to: Path) -> int:
        handle, temporary = tempfile.mkstemp(prefix=f".{to.name}.", dir=to.parent)
        hasher = hashlib.sha256()
        try:
            with os.fdopen(handle, "wb") as out:

                def take(data: bytes) -> None:
                    out.write(data)
                    hasher.update(data)

                size = await self._read_all(sha256, take)
            if hasher.hexdigest() != sha256:
                raise Refused(f"the node's copy of {sha256[:12]}... has other bytes", fix="mesh doctor", code="wrong_bytes")
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, to)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return size

    async def _read_all(self, sha256: str, take: Callable[[bytes], None]) -> int:
        """Give `take`, which may block, the file's pieces in order; a few are asked for ahead. Returns the size."""

        def piece(offset: int) -> asyncio.Future[Document]:
            params = {"file": sha256, "offset": offset, "size": CHUNK_BYTES}
            return asyncio.ensure_future(self._connection.ask("read", params, timeout_s=TIMEOUT_S))

        first = await piece(0)
        total = int(first["total"])
        await asyncio.to_thread(take, first["data"])
        offsets = range(len(first["data"]), total, CHUNK_BYTES)
        ahead = [piece(offset) for offset in offsets[:WINDOW]]
        try:
            for i in range(len(offsets)):
                data = (await ahead.pop(0))["data"]
                if i + WINDOW < len(offsets):
                    ahead.append(piece(offsets[i + WINDOW]))
                await asyncio.to_thread(take, data)
        finally:
            for each in ahead:
                each.cancel()
        return total

    # ---- the node

    async def down(self, wait_s: float | None = None) -> Document:
        """Take this node out: it says so to the others, and ends. What runs has `wait_s` (5) to end first; nothing new is taken then."""
        name = self.node.get("node", "")
        params = {} if wait_s is None else {"wait_ms": wait_ms(wait_s)}
        await self._connection.ask("down", params, timeout_s=(wait_s or 0.0) + VIEW_TIMEOUT_S)
        return {"schema": "mesh.down/1", "node": name}

    async def drain(self, *, wait_s: float = 0.0, undo: bool = False) -> Document:
        """Let this node take no more work: ``{"node", "draining", "running"}``. What has not started goes to others, what runs ends.

        Returns at once, or when nothing runs any more, at most `wait_s` later. `undo`: it takes work again. Raises UsageError, NoNode.
        """
        params = {"wait_ms": wait_ms(wait_s), "undo": undo}
        body = await self._connection.ask("drain", params, timeout_s=wait_s + VIEW_TIMEOUT_S, what="the drain")
        return {"schema": "mesh.drain/1", "node": self.node.get("node", ""), **body}

    # ---- below

    def value_of(self, document: Document) -> Any:
        """The value in a `result` document, files as `File`. Raises the typed error of a task that failed."""
        if document.get("state") != "done":
            raise task_error(document.get("error") or {}, str(document.get("task") or ""), str(document.get("state") or ""))
        return values.with_files(document.get("result"), self._shelf)

    async def _view(self, verb: str, params: Document | None = None) -> Document:
        return await self._connection.ask(verb, params or {}, timeout_s=self._timeout_s, what=verb)

    async def _ask(self, question: str, key: str = "", args: Document | None = None) -> Document:
        params = {"question": question, "key": key, "args": args or {}}
        return await self._connection.ask("ask", params, timeout_s=self._timeout_s or VIEW_TIMEOUT_S, what=question)


def _who() -> str:
    """Who asks, for the record: the account's name."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"
