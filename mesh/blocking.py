"""The context of handlers that are plain functions: what `Context` does, blocking. They run in threads; its work is done on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.context import Context, Document, TaskInfo
from mesh.gates import Decision, gate_options
from mesh.spends import BlockingReservation, Reservation, checked_key, spent_of

if TYPE_CHECKING:
    from mesh.secret import Secret
    from mesh.state import BlockingState
    from mesh.updating import BlockingUpdate

T = TypeVar("T")


class BlockingContext:
    """The same for plain functions, which run in a thread: every method blocks. Import it as ``from mesh.sync import Context``."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def task(self) -> TaskInfo:
        return self._context.task

    @property
    def lifespan(self) -> Any:
        return self._context.lifespan

    @property
    def baggage(self) -> dict[str, str]:
        """As `Context.baggage`."""
        return self._context.baggage

    def progress(self, fraction: float, note: str = "") -> None:
        """As `Context.progress`."""
        self._context.progress(fraction, note)

    def beat(self) -> None:
        """As `Context.beat`."""
        self._context.beat()

    def log(self, text: str) -> None:
        """As `Context.log`."""
        self._context.log(text)

    def flag(self, name: str, default: bool = False) -> bool:
        return self._context.flag(name, default)

    def options(self, **options: Any) -> BlockingContext:
        """As `Context.options`."""
        return BlockingContext(self._context.options(**options))

    def step(self, name: str, capability: str, /, **arguments: Any) -> Any:
        """As `Context.step`."""
        context = self._context
        return self._wait(context._port.step(context.task, name, capability, arguments, context._how))

    def call(self, capability: str, /, **arguments: Any) -> Any:
        """As `Context.call`."""
        context = self._context
        return self._wait(context._port.call(context.task, capability, arguments, context._how))

    @property
    def checkpointed(self) -> Any:
        """As `Context.checkpointed`."""
        return self._context.checkpointed

    def checkpoint(self, value: Any, *, anew: bool = False) -> None:
        """As `Context.checkpoint`."""
        self._wait(self._context._port.checkpoint(self.task, value, self._context._waits.had(anew), anew))

    def effect(self, key: str, function: Callable[[], Any], *, at_most_once: bool = False) -> Any:
        """As `Context.effect`; a plain function runs in this very thread."""
        return self._context._keyed.perform_here(key, function, at_most_once, self._wait)

    def tx(self, db: Any, function: Callable[[Any], Any], key: str = "tx") -> Any:
        """As `Context.tx`; SQLite is used in this very thread."""
        effect = self._context._transaction(db, function, key, blocking=True)
        return self._context._keyed.perform_here(key, effect, False, self._wait)

    def spend(self, key: str = "", /, **amounts: float) -> None:
        """As `Context.spend`."""
        self._wait(self._context._spend(checked_key(key), spent_of(amounts)))

    def reserve(self, key: str = "", /, **amounts: float) -> BlockingReservation:
        """As `Context.reserve`: ``with ctx.reserve(usd=0.5) as r:``."""
        return BlockingReservation(Reservation(self.task, self._context._port, key, amounts), self._wait)

    def budget(self) -> dict[str, float]:
        """As `Context.budget`."""
        return dict(self._wait(self._context._left()))

    def sleep(self, seconds: float, name: str = "") -> None:
        """As `Context.sleep`."""
        waits, port = self._context._waits, self._context._port
        self._wait(waits.sleep(seconds, name) if name else port.sleep(self.task, seconds))

    def signal(self, name: str, timeout_s: float | None = None) -> Any:
        """As `Context.signal`."""
        return self._wait(self._context._waits.signal(name, timeout_s))

    def update(self, name: str, timeout_s: float | None = None) -> BlockingUpdate:
        """As `Context.update`; `reply` and `refuse` block."""
        from mesh.updating import BlockingUpdate, next_update

        return BlockingUpdate(self._wait(next_update(self._context, name, timeout_s)), self._wait)

    @property
    def state(self) -> BlockingState:
        """As `Context.state`."""
        from mesh.state import BlockingState, ContextState

        return BlockingState(ContextState(self._context), self._wait)

    def approval(self, question: str, *, name: str = "", subject: Any = None, expires_s: float | None = None, **rules: Any) -> Decision:
        """As `Context.approval`."""
        how = gate_options(expires_s, **rules)
        return self._wait(self._context._waits.approval(question, name, subject, how, expires_s))

    def publish(self, topic: str, /, *, event_id: str = "", **values: Any) -> Document:
        """As `Context.publish`."""
        context = self._context
        return self._wait(context._port.publish(context.task, topic, event_id or context._next_event(), values))

    def secret(self, name: str) -> Secret:
        """As `Context.secret`."""
        return self._wait(self._context._port.secret(self.task, name))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._context._loop)
        try:
            return future.result()
        except BaseException:  # the handler is being stopped: so is what it waits for
            future.cancel()
            raise
