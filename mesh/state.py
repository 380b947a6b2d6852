"""Versioned values that outlive nodes: of a submitted task with all its steps, or shared by the whole mesh under a name.

    ctx.state.get("seen")               the state of the task at the top, for every handler below it
    ctx.state.shared("prices")          a state of the mesh, from a handler      m.state("prices")   from a client
    m.state(task=ID)                    what a running task lets be known of itself: reading it is the query of a workflow engine

Invariant: what was written is read by whoever reads later, wherever he asks and whoever died meanwhile; versions only grow; a write with
``if_version`` is applied only to that version; one with an event counts once, however often it is said. A value is JSON: files stay where
they are, and travel by hash. Nothing is cached here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mesh import values
from mesh.errors import Refused, UsageError, VersionConflict
from mesh.ids import author_of
from mesh.messages.scopes import SCOPE_NAME_CHARACTERS_MAX, STATE, is_scope_name, scope_key

if TYPE_CHECKING:
    from mesh.context import Context
    from mesh.files import Ask

Document = dict[str, Any]
REVOKED_MAX = 8
"""Openers of one name that were revoked, one after the other."""
TRIES_MAX = 100
"""Of one `update`: so often others may have been faster."""
EVENT_CHARACTERS_MAX = 64


class Versioned(NamedTuple):
    """``value, version = await state.get(key)``. Version 0: nothing stands there."""

    value: Any
    version: int


class Scope(Protocol):
    """How a question about one state reaches whoever keeps it."""

    async def __call__(self, question: str, args: Document) -> Document: ...


Put = Callable[[Document, int | None, str], Coroutine[Any, Any, Document]]


class State:
    """One state. Every method raises Refused (its task has ended; too few of those who keep it are here), NoNode, UsageError."""

    def __init__(self, scope: Scope, prefix: str = "") -> None:
        self._scope, self._event_prefix = scope, prefix

    async def get(self, key: str, default: Any = None) -> Versioned:
        """The value and its version; ``(default, 0)`` if nothing stands there."""
        found = await self._scope("read", {"key": checked_key(key)})
        version = int(found["version"])
        return Versioned(found["value"] if version else default, version)

    async def list(self, prefix: str = "") -> Document:
        """``{"task", "version", "bytes", "keys": [{"key", "version", "bytes", "by"}]}``, in order of keys; no values."""
        whole = await self._scope("read", {"prefix": prefix})
        while whole["more"]:
            page = await self._scope("read", {"prefix": prefix, "after": whole["keys"][-1]["key"]})
            whole = page | {"keys": whole["keys"] + page["keys"]}
        return {name: value for name, value in whole.items() if name != "more"}

    async def set(self, key: str, value: Any, *, if_version: int | None = None, event: str = "") -> int:
        """Write it, and return its version: greater than all before it. JSON of at most 64 KiB.

        `if_version`: only if that version stands there; 0: only if nothing does. `event`: what the writer calls this write: said again, it
        is not done again, and the first answer is given. Raises VersionConflict, TooBig; UsageError for a File in it.
        """
        return int((await self._put({"key": checked_key(key), **jsonable(value)}, if_version, event))["version"])

    async def delete(self, key: str, *, if_version: int | None = None, event: str = "") -> int:
        """Let nothing stand there. Returns a version that is greater than all before it. Raises VersionConflict."""
        return int((await self._put({"key": checked_key(key), "delete": True}, if_version, event))["version"])

    async def update(self, key: str, function: Callable[[Any], Any], *, event: str = "") -> Versioned:
        """Write ``function(value)`` in place of the value (None: nothing stands there), again and again until nobody was faster.

        `function` may be called several times. Returns what was written. With an `event`, as in `set`: at most once, and whoever repeats it
        gets what was written then. Raises VersionConflict if others were faster a hundred times.
        """
        for _ in range(TRIES_MAX - 1):
            try:
                return await self._replace(key, function, event)
            except VersionConflict:
                continue
        return await self._replace(key, function, event)

    async def _replace(self, key: str, function: Callable[[Any], Any], event: str) -> Versioned:
        return await self._replace_by(self._put, key, function, event)

    async def _replace_by(self, put: Put, key: str, function: Callable[[Any], Any], event: str) -> Versioned:
        found = await self.get(key)
        given = jsonable(function(found.value))
        written = await put({"key": key, **given}, found.version, event)
        if not written.get("repeated"):
            return Versioned(given["value"], int(written["version"]))
        if "value" in written:
            return Versioned(written["value"], int(written["version"]))
        if found.version == int(written["version"]):
            return Versioned(found.value, found.version)
        message = f"{key!r} was written as version {written['version']} by this event before, and written over since"
        raise Refused(message, code="value_forgotten", fix="keep values that are asked for again below 1 KiB, or as a step's result")

    async def _put(self, what: Document, if_version: int | None, event: str) -> Document:
        if if_version is not None and (type(if_version) is not int or if_version < 0):
            raise UsageError(f"if_version={if_version!r} is no version", fix="give the version that get() returned, or 0 for none")
        if not isinstance(event, str) or len(event) > EVENT_CHARACTERS_MAX or not (event == "" or event.isprintable()):
            raise UsageError(f"{event!r} cannot name a write", fix=f"give a text of at most {EVENT_CHARACTERS_MAX} characters, or none")
        args = what | {"if_version": -1 if if_version is None else if_version, "event": self._event_prefix + event if event else ""}
        return await self._scope("write", args)


class ContextState(State):
    """The state of a handler's task tree: of the submitted task at its top, shared with all its steps. Plain calls have none.

    A write with an `event` is also an effect of this task: every later attempt of the handler gets the first outcome.
    """

    def __init__(self, context: Context, name: str = "") -> None:
        self._context, self._name = context, name
        super().__init__(self._ask, f"{context.task.id}/")

    def shared(self, name: str) -> State:
        """The state of that name, one over the whole mesh. It begins with whoever names it first."""
        return ContextState(self._context, checked_scope(name))

    async def _ask(self, question: str, args: Document) -> Document:
        context = self._context
        return await context._port.of_handler(context.task, question, args, self._name)

    async def _put(self, what: Document, if_version: int | None, event: str) -> Document:
        if not event:
            return await super()._put(what, if_version, event)

        async def write() -> Document:
            return {"value": what.get("value")} | await super(ContextState, self)._put(what, if_version, event)

        return await self._once(event, write)

    async def _replace(self, key: str, function: Callable[[Any], Any], event: str) -> Versioned:
        if not event:
            return await super()._replace(key, function, event)

        async def write() -> Document:
            return (await self._replace_by(super(ContextState, self)._put, key, function, event))._asdict()

        outcome = await self._once(event, write)
        return Versioned(outcome["value"], int(outcome["version"]))

    async def _once(self, event: str, write: Callable[[], Coroutine[Any, Any, Document]]) -> Document:
        outcome: Document = await self._context._keyed.perform(f"state/{self._name}/{event}", write, False)
        return outcome


def client_state(ask: Ask, name: str, task: str, by: str) -> State:
    """A client's. `ask` puts a verb to its node."""
    if bool(name) == bool(task):
        raise UsageError("a state is a shared one, by its name, or a task's", fix='m.state("prices"), or m.state(task=task.id)')
    opened = Opened(checked_scope(name) if name else "", by)

    async def scope(question: str, args: Document) -> Document:
        async def say(about: str) -> Document:
            return await ask("ask", {"question": question, "key": about, "args": args | {"by": by}})

        return await opened.about(ask, say) if name else await say(task)

    return State(scope)


class Opened:
    """The shared state of one name, as found: the task that holds it, which whoever names it first has opened.

    What a revoked node had opened is gone with its tasks. The name begins anew then, as another state, the same one for all who know.
    """

    def __init__(self, name: str, by: str) -> None:
        self._name, self._by = name, by
        self._task = ""
        self._gone: tuple[str, ...] = ()

    async def about(self, ask: Ask, say: Callable[[str], Coroutine[Any, Any, Document]]) -> Document:
        """What `say` answers about the task that holds it. `ask` puts a verb to the node."""
        while True:
            if not self._task:
                self._task = await self._open(ask)
            try:
                return await say(self._task)
            except Refused as error:
                if error.code != "node_revoked" or len(self._gone) == REVOKED_MAX:
                    raise
                self._gone, self._task = (*self._gone, author_of(self._task)[:8]), ""

    async def _open(self, ask: Ask) -> str:
        data, _ = values.dump({"name": self._name})
        work = {"capability": STATE, "input": data, "files": [], "timeout_ms": 0, "retries": -1}
        body = await ask("submit", work | {"by": self._by, "key": scope_key(self._name, self._gone)})
        return str(body["task"])


def jsonable(value: Any) -> Document:
    """``{"value"}``, as plain JSON. Raises UsageError for a File in it, InvalidArgument."""
    data, files = values.dump({"value": value})
    if files:
        fix = "pass it as an argument or a result, which name its sha256, and keep that here"
        raise UsageError("a state holds no File: its bytes would go through, and end with, the node that manages the state", fix=fix)
    loaded: Document = values.load(data, None)
    return loaded


def checked_key(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= 200 or not key.isprintable():
        raise UsageError(f"{key!r} cannot be a key", fix="use a text of 1 to 200 printable characters")
    return key


def checked_scope(name: str) -> str:
    if not is_scope_name(name):
        fix = f"use a text of 1 to {SCOPE_NAME_CHARACTERS_MAX} printable characters, without /"
        raise UsageError(f"{name!r} cannot name a shared state", fix=fix)
    return name


class BlockingState:
    """The same for plain functions and scripts: every method blocks. `wait` runs a coroutine to its end."""

    def __init__(self, state: State, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._state, self._wait = state, wait

    def get(self, key: str, default: Any = None) -> Versioned:
        """As `State.get`."""
        found: Versioned = self._wait(self._state.get(key, default))
        return found

    def list(self, prefix: str = "") -> Document:
        """As `State.list`."""
        found: Document = self._wait(self._state.list(prefix))
        return found

    def set(self, key: str, value: Any, *, if_version: int | None = None, event: str = "") -> int:
        """As `State.set`."""
        return int(self._wait(self._state.set(key, value, if_version=if_version, event=event)))

    def delete(self, key: str, *, if_version: int | None = None, event: str = "") -> int:
        """As `State.delete`."""
        return int(self._wait(self._state.delete(key, if_version=if_version, event=event)))

    def update(self, key: str, function: Callable[[Any], Any], *, event: str = "") -> Versioned:
        """As `State.update`; `function` is called on the loop, so it only computes."""
        found: Versioned = self._wait(self._state.update(key, function, event=event))
        return found

    def shared(self, name: str) -> BlockingState:
        """As `ContextState.shared`."""
        assert isinstance(self._state, ContextState), "only a handler's state leads to others"
        return BlockingState(self._state.shared(name), self._wait)
