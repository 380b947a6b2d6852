"""The declaration of an agent: plain functions, made capabilities by a decorator that returns them unchanged.

    agent = Agent("greeter")
    @agent.capability                     what it can do; hints and docstring are the schema
    @agent.bid("name")                    what it asks for it; None declines
    @agent.lifespan                       what it opens once: models, connections
    @agent.every("5m")  @agent.on("a.*")  what starts it by itself (`triggers.py`)

Misuse raises here, where it stands, never at the first call. Runs nothing: that is `worker.py`.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from mesh.errors import DeclarationError, UsageError
from mesh.ids import OURS
from mesh.labels import Amounts, Labels, amounts_of, labels_of, unmet
from mesh.limits import IsolationLimits
from mesh.messages.membership import Offer
from mesh.schemas import Shape, shape_of
from mesh.triggers import Triggers
from mesh.versions import VERSION_FORM, is_version

loading: ContextVar[bool] = ContextVar("loading", default=False)
"""True while `mesh run` imports a file: `Agent.run` at that file's end has nothing to do then."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
NAME_CHARACTERS_MAX = 64
CONCURRENCY_MAX = 1024
RETRIES_MAX = 1000
LIMIT_MAX = 100_000
_NAME_FIX = f"use letters, digits, - and _, parts joined by dots, at most {NAME_CHARACTERS_MAX} characters"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing an agent can do."""

    name: str
    function: Callable[..., Any]
    shape: Shape
    is_async: bool
    version: str
    idempotent: bool
    timeout_s: float
    queue_timeout_s: float
    heartbeat_timeout_s: float
    retries: int
    give_up_on: tuple[type[BaseException], ...]
    on_lost: str
    needs: Amounts
    """Of one run, in thousandths."""
    limit: int
    rate: tuple[int, int]
    """So many starts within so many milliseconds over the whole mesh; (0, 0): no such bound."""
    limits: IsolationLimits | None
    """Of the process that each task gets to itself; None: handlers run in the worker."""

    def offer(self, agent: Agent) -> Offer:
        """As the mesh advertises it."""
        return Offer(
            capability=self.name,
            agent=agent.name,
            version=self.version,
            doc=self.shape.doc,
            idempotent=self.idempotent,
            timeout_ms=round(self.timeout_s * 1000),
            retries=self.retries,
            on_lost=self.on_lost,
            priced=self.name in agent.prices,
            input_schema=self.shape.input_schema,
            output_schema=self.shape.output_schema,
            tags=agent.tags,
            queue_timeout_ms=round(self.queue_timeout_s * 1000),
            heartbeat_ms=round(self.heartbeat_timeout_s * 1000),
            needs=self.needs,
            limit=self.limit,
            rate=self.rate[0],
            rate_ms=self.rate[1],
            topics=agent.topics.get(self.name, ()),
            schedules=agent.plans.get(self.name, ()),
        )


@dataclass(frozen=True, slots=True)
class PriceFunction:
    """An ``@agent.bid`` function. `parameters` are those of the work's arguments that it wants to see."""

    function: Callable[..., Any]
    parameters: tuple[str, ...]
    is_async: bool


class Agent(Triggers):
    """A named set of capabilities, served by one worker process at a time (more of them share the work).

    `tags` are words for people and filters. `concurrency` is how many handlers run at once in one worker. `labels` say what its machine
    is: ``{"zone": "eu", "gpu": True}``; work can ask for them. `resources` say what the machine has: ``{"gpu": 1, "memory_gib": 16}``;
    several agents of one node that name the same resource share it. ``mesh run --label --resource`` adds to both.
    Raises DeclarationError if a name or a number is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        tags: list[str] | tuple[str, ...] = (),
        concurrency: int = 8,
        labels: Labels | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        _check_name("the agent's name", name)
        if type(concurrency) is not int or not 1 <= concurrency <= CONCURRENCY_MAX:
            raise DeclarationError(f"agent {name!r}", f"concurrency is {concurrency!r}", f"give a whole number from 1 to {CONCURRENCY_MAX}")
        if isinstance(tags, str):
            raise DeclarationError(f"agent {name!r}", "tags is one text", f"write tags=[{tags!r}]")
        super().__init__()
        self.name = name
        self.tags = tuple(tags)
        self.concurrency = concurrency
        self.labels = _declared(f"agent {name!r}", lambda: labels_of(labels))
        self.resources = _declared(f"agent {name!r}", lambda: amounts_of(resources))
        self.capabilities: dict[str, Capability] = {}
        self.prices: dict[str, PriceFunction] = {}
        self.made_in: str = sys._getframe(1).f_globals.get("__name__", "")
        """The module whose code made it."""
        self._lifespan: Callable[[], Any] | None = None

    @overload
    def capability(self, function: F, /) -> F: ...

    @overload
    def capability(
        self,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        heartbeat_timeout_s: float | None = None,
        retries: int = 0,
        give_up_on: tuple[type[BaseException], ...] = (),
        on_lost: str = "retry",
        version: str = "1",
        isolation: str = "worker",
        limits: Mapping[str, int] | None = None,
        needs: Mapping[str, float] | None = None,
        limit: int | None = None,
        rate: str | None = None,
    ) -> Callable[[F], F]: ...

    def capability(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        heartbeat_timeout_s: float | None = None,
        retries: int = 0,
        give_up_on: tuple[type[BaseException], ...] = (),
        on_lost: str = "retry",
        version: str = "1",
        isolation: str = "worker",
        limits: Mapping[str, int] | None = None,
        needs: Mapping[str, float] | None = None,
        limit: int | None = None,
        rate: str | None = None,
    ) -> Any:
        """Make a function a capability, under its own name or `name`. Returns it unchanged. Raises DeclarationError.

        `idempotent`: running it twice does no harm, so it is restarted elsewhere at once when its node falls silent. `timeout_s`: one
        run is stopped after so long (None: never). `queue_timeout_s`: work that nobody has taken by then fails. `heartbeat_timeout_s`: a
        handler that says neither ``ctx.progress()`` nor ``ctx.beat()`` for so long is taken for stuck, and its work is tried elsewhere.
        `retries`: how often a failed run is tried again, after pauses that grow (a handler may name one: ``raise Retry(after_s=30)``), and
        not after an exception of a class in `give_up_on`. `on_lost`: ``"retry"`` runs it again
        when its node is lost, ``"fail"`` is for what must not repeat. `version`: callers may ask for a range of
        them, ``"name@^2"``. `needs`: what one run takes of its
        node's resources, ``{"gpu": 1}``: held until the handler has ended; work that finds too little waits.

        `isolation`: ``"process"`` gives each task a process of its own, which is killed at once when the task is stopped, with an empty
        environment and resource `limits`: ``memory_mib`` (address space), ``cpu_s``, ``open_files``, ``file_mib``. It loads this module
        again, and opens the lifespan again; starting it takes some 0.3 s. It is not a sandbox: it may read what its user may read.

        `limit`: so many run at once over the whole mesh, and no more, whoever dies; `rate`: so many start, such as ``"10/s"``,
        ``"100/m"``, ``"5/h"``. Where nodes declare different ones the least counts. What waits for its turn is in line as usual.
        """
        local = sys._getframe(1).f_locals

        def declare(function: F) -> F:
            times = (timeout_s, queue_timeout_s, heartbeat_timeout_s)
            bounds = (isolation, limits, limit, rate)
            self._declare(function, name, idempotent, times, retries, give_up_on, on_lost, version, bounds, needs, local)
            return function

        return declare if function is None else declare(function)

    def _imply(self, function: Any, local: dict[str, Any]) -> None:
        self._declare(function, None, False, (None, None, None), 0, (), "retry", "1", ("worker", None, None, None), None, local)

    def _declare(
        self,
        function: F,
        name: str | None,
        idempotent: bool,
        times: tuple[float | None, float | None, float | None],
        retries: int,
        give_up_on: tuple[type[BaseException], ...],
        on_lost: str,
        version: str,
        bounds: tuple[str, Mapping[str, int] | None, int | None, str | None],
        needs: Mapping[str, float] | None,
        local: dict[str, Any],
    ) -> None:
        if not inspect.isfunction(function):
            raise DeclarationError(
                f"agent {self.name!r}", f"{function!r} is not a plain function", "put @agent.capability on a def or async def"
            )
        chosen = function.__name__ if name is None else name
        _check_name("the capability's name", chosen)
        what = f"capability {chosen!r}"
        if chosen.startswith(OURS) and not self.made_in.startswith(OURS):
            raise DeclarationError(what, f"names that begin with {OURS} are the mesh's own", "give it another name")
        if chosen in self.capabilities:
            fix = "write @agent.capability below the trigger" if chosen in self.implied else "give one of them name=..."
            raise DeclarationError(what, f"agent {self.name!r} has it already", fix)
        for timeout, seconds in zip(("timeout_s", "queue_timeout_s", "heartbeat_timeout_s"), times, strict=True):
            if seconds is not None and not 0 < seconds < 10_000_000:
                raise DeclarationError(what, f"{timeout} is {seconds!r}", "give seconds above 0, or leave it out")
        if type(retries) is not int or not 0 <= retries <= RETRIES_MAX:
            raise DeclarationError(what, f"retries is {retries!r}", f"give a whole number from 0 to {RETRIES_MAX}")
        if not isinstance(give_up_on, tuple) or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in give_up_on):
            raise DeclarationError(what, f"give_up_on is {give_up_on!r}", "give a tuple of exception classes: give_up_on=(ValueError,)")
        if on_lost not in ("retry", "fail"):
            raise DeclarationError(what, f"on_lost is {on_lost!r}", "write on_lost='retry' or on_lost='fail'")
        if not is_version(str(version)):
            raise DeclarationError(what, f"version is {version!r}", VERSION_FORM)
        self.capabilities[chosen] = Capability(
            name=chosen,
            function=function,
            shape=shape_of(function, chosen, local),
            is_async=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
            version=str(version),
            idempotent=bool(idempotent),
            timeout_s=times[0] or 0.0,
            queue_timeout_s=times[1] or 0.0,
            heartbeat_timeout_s=times[2] or 0.0,
            retries=retries,
            give_up_on=give_up_on,
            on_lost=on_lost,
            needs=_declared(what, lambda: amounts_of(needs, "needs")),
            limit=_limit(what, bounds[2]),
            rate=_rate(what, bounds[3]),
            limits=_limits(what, bounds[0], bounds[1]),
        )

    def bid(self, capability: str) -> Callable[[F], F]:
        """Price the work of `capability`: the function gets its arguments (those it names), and returns `Bid`, or None to decline.

        A file's bytes are not here yet then, its name and size are. Raises DeclarationError.
        """
        what = f"bid for {capability!r}"
        if not isinstance(capability, str):
            raise DeclarationError("a bid", "does not name its capability", 'write @agent.bid("name")')
        if capability not in self.capabilities:
            raise DeclarationError(what, f"agent {self.name!r} has no such capability yet", "declare the capability above it")
        if capability in self.prices:
            raise DeclarationError(what, "there is one already", "keep one")

        def declare(function: F) -> F:
            known = self.capabilities[capability].shape.parameters
            wanted = tuple(inspect.signature(function).parameters)
            for name in wanted:
                if name not in known:
                    raise DeclarationError(what, f"the capability has no parameter {name!r}", f"name some of: {', '.join(known) or 'none'}")
            self.prices[capability] = PriceFunction(function, wanted, inspect.iscoroutinefunction(function))
            return function

        return declare

    def lifespan(self, function: F) -> F:
        """Open what all handlers share, once per worker: an async generator function that yields it once, and closes it after.

        What it yields is ``ctx.lifespan``. A function that returns an async context manager will do as well. Raises DeclarationError.
        """
        what = f"lifespan of agent {self.name!r}"
        if self._lifespan is not None:
            raise DeclarationError(what, "there is one already", "keep one")
        if inspect.signature(function).parameters:
            raise DeclarationError(what, "takes parameters", "write def lifespan():")
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise DeclarationError(what, "is not an async generator", "write async def, and yield once")
        self._lifespan = asynccontextmanager(function) if inspect.isasyncgenfunction(function) else function
        return function

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        """The lifespan: yields what handlers share, None without one."""
        if self._lifespan is None:
            yield None
            return
        manager: AbstractAsyncContextManager[Any] = self._lifespan()
        async with manager as value:
            yield value

    def offers(self) -> tuple[Offer, ...]:
        """What a worker of this agent registers. Raises DeclarationError if there is nothing, or not what a capability needs."""
        if not self.capabilities:
            raise DeclarationError(f"agent {self.name!r}", "has no capability", "put @agent.capability on a function")
        for capability in self.capabilities.values():
            if lacking := unmet(capability.needs, self.resources):
                name = lacking.partition("=")[0]
                fix = f"mesh run FILE --resource {name}=AMOUNT, or Agent(..., resources={{{name!r}: AMOUNT}})"
                raise DeclarationError(f"agent {self.name!r}", f"its {capability.name!r} needs {lacking}", fix)
        return tuple(capability.offer(self) for capability in self.capabilities.values())

    def run(self, *, home: str | os.PathLike[str] | None = None, node: str = "") -> None:
        """Serve it from this process until Ctrl-C: the same as ``mesh run``. Blocks.

        Attaches to the home's node (`home`: a folder; else $MESH_HOME, else the platform's), or to the one called `node`. If it does not
        run, it is started, and ends with its last worker. Raises DeclarationError, MeshError if no node can be started.
        """
        if loading.get():
            return
        from mesh.worker import run_agent

        run_agent(self, None if home is None else Path(home), node)

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, {', '.join(self.capabilities) or 'no capabilities'})"


def _declared(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except UsageError as error:
        raise DeclarationError(what, error.message, error.fix) from error


def _limit(what: str, limit: int | None) -> int:
    """0: none. Raises DeclarationError."""
    if limit is not None and (type(limit) is not int or not 1 <= limit <= LIMIT_MAX):
        raise DeclarationError(what, f"limit is {limit!r}", f"give a whole number from 1 to {LIMIT_MAX}: so many run at once in the mesh")
    return limit or 0


def _rate(what: str, rate: str | None) -> tuple[int, int]:
    """Starts, and within how many milliseconds; (0, 0): none. Raises DeclarationError."""
    if rate is None:
        return 0, 0
    found = re.fullmatch(r"([0-9]{1,6})/([smh])", rate) if isinstance(rate, str) else None
    if found is None or not 1 <= int(found[1]) <= LIMIT_MAX:
        raise DeclarationError(what, f"rate is {rate!r}", 'write rate="10/s", "100/m" or "5/h"')
    return int(found[1]), {"s": 1000, "m": 60_000, "h": 3_600_000}[found[2]]


def _limits(what: str, isolation: str, limits: Mapping[str, int] | None) -> IsolationLimits | None:
    """None for handlers that run in the worker. Raises DeclarationError."""
    if isolation not in ("worker", "process"):
        raise DeclarationError(what, f"isolation is {isolation!r}", "write isolation='process', or leave it out")
    if isolation == "worker":
        if limits is not None:
            raise DeclarationError(what, "has limits, but no process of its own", "add isolation='process'")
        return None
    known = IsolationLimits.__slots__
    for name, value in (limits or {}).items():
        if name not in known or type(value) is not int or value <= 0:
            raise DeclarationError(what, f"limits has {name!r}: {value!r}", f"give whole numbers above 0, of {', '.join(known)}")
    return IsolationLimits(**(limits or {}))


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise DeclarationError(what, f"{name!r} cannot be one", _NAME_FIX)
