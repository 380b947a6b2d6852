"""New work as the mesh's policy has it: sent elsewhere, with the labels it must have, and no more time and retries than it may.

Invariant: what is ruled when work is made stands in its own fields, and in its entry: whoever manages it later need not rule again. What
must be asked again (denials, gates, effects, results) is in `governor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mesh.core.directory import ReadDirectory
from mesh.core.policy.rules import FREE, Ruling, Work
from mesh.core.work.fitting import offered
from mesh.core.work.spending import shrunk
from mesh.core.work.task import Task
from mesh.ids import COORDINATE, NodeId, TaskId, author_of
from mesh.messages.waits import WAIT
from mesh.messages.work import Amounts, Placement


@dataclass(slots=True)
class Wish:
    """What was asked for, of all that a policy may change."""

    capability: str
    input: bytes
    placement: Placement
    timeout_ms: int
    retries: int
    durable: bool
    budget: Amounts = ()
    rules: tuple[str, ...] = ()
    down: tuple[str, ...] = ()


class Origins:
    """Where work comes from, and what it passes on. `find`: a task that is managed here."""

    def __init__(self, directory: ReadDirectory, find: Callable[[TaskId], Task | None]) -> None:
        self._directory, self._find = directory, find
        self.behalf: NodeId = ""
        """While work is made that a client of another node has asked for: that node."""

    def of(self, task: Task | TaskId) -> NodeId:
        """The node at which the work was asked for that this belongs to, as far up as is known here."""
        name, known = (task, None) if isinstance(task, str) else (task.parent or task.id, None if task.parent else task)
        while (known := known or self._find(name)) is not None and known.parent:
            name, known = known.parent, None
        held = self._directory.origins.get(name)
        return (known.origin if known is not None else "") or (held[0] if held is not None else author_of(name))

    def told(self, task: Task) -> NodeId:
        """For whoever runs it; "": as its id, or its parent's, says. Also where no rule has a say: what it asks for may have one."""
        if task.rules:
            return self.of(task)
        if not task.parent and not task.origin:
            return ""
        origin = self.of(task)
        return origin if origin != author_of(task.parent or task.id) else ""

    @property
    def here(self) -> NodeId:
        """Where what a client asks for now is asked for."""
        return self.behalf or self._directory.me

    @contextmanager
    def behind(self, node: NodeId) -> Iterator[None]:
        """What is made meanwhile is made for that node; "": for this one."""
        before, self.behalf = self.behalf, node
        try:
            yield
        finally:
            self.behalf = before

    def lent(self, task: Task) -> None:
        """A new task: its files, and its origin, are with whoever asked for it."""
        if self.behalf:
            task.origin = self.behalf
            task.sources = (self.behalf,) if task.files else ()

    def down(self, parent: TaskId) -> tuple[str, ...]:
        """Labels that whatever `parent` asks for must be run with; it runs here, or is managed here."""
        if (known := self._find(parent)) is not None:
            return known.down
        held = self._directory.origins.get(parent)
        return held[1] if held is not None else ()

    def ruled(self, wish: Wish, parent: TaskId, step: str) -> Wish:
        if wish.capability in (WAIT, COORDINATE):
            return wish
        origin, inherited = (self.of(parent), self.down(parent)) if parent else (self.here, ())
        return ruled(self._directory, wish, origin, inherited, is_step=bool(step))


def ruled(directory: ReadDirectory, wish: Wish, origin: NodeId, inherited: tuple[str, ...], *, is_step: bool) -> Wish:
    """`inherited`: labels of the work that asks for this. A step has what was reserved for it."""
    book = directory.rulebook
    ruling = FREE
    if book.rules:
        names = (origin, directory.name_of(origin))
        ruling = book.ruling(Work(wish.capability, wish.input, names, wish.placement.where, wish.durable))
    down = union(inherited, ruling.down)
    where = union(wish.placement.where, union(inherited, ruling.require))
    capability = _capability(directory, wish.capability, ruling)
    if where == wish.placement.where and ruling is FREE and not down:
        return wish
    return Wish(
        capability,
        wish.input,
        replace(wish.placement, where=where) if where != wish.placement.where else wish.placement,
        _least(wish.timeout_ms, ruling.timeout_ms),
        min(wish.retries, ruling.retries) if wish.retries >= 0 and ruling.retries >= 0 else max(wish.retries, ruling.retries),
        wish.durable,
        wish.budget if is_step else shrunk(wish.budget, ruling.budget),
        (str(ruling.version), *ruling.rules) if ruling.rules else (),
        down,
    )


def _capability(directory: ReadDirectory, capability: str, ruling: Ruling) -> str:
    if ruling.route:
        return ruling.route
    gone: Callable[[str], bool] = lambda name: not offered(directory, name)  # noqa: E731
    return ruling.fallback if ruling.fallback and gone(capability) and not gone(ruling.fallback) else capability


def union(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys((*some, *others)))) if others else some


def _least(one: int, other: int) -> int:
    """Of two bounds, where 0 is none."""
    return min(one, other) if one and other else one or other
