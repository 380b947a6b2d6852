"""The node: machines side by side, one table of routes. Knows no kind of input by name.

    input ---> every machine that has a method for its type ---> effects, in order
                         ^                    |
                         '--- facts, own messages, due deadlines

Invariant: one input is handled to its end (all facts and own messages that follow from it) before the next. Does no I/O, keeps no
clock. The shape follows dask's worker state machine and h11; see docs/architecture.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Protocol

from mesh.core.deadlines import Deadlines
from mesh.effects import Append, Later, Need, Refused, Reply, Send, Tell
from mesh.ids import NodeId
from mesh.messages import KINDS

STEPS_MAX = 1_000_000
"""Facts and own messages that one input may lead to: far more than every task of a full node."""

MESSAGES = frozenset(KINDS.values())

Method = Callable[[float, NodeId, Any], Any]


class Machine(Protocol):
    """A table ``input type -> method``; each method is ``(now_s, sender, input) -> effects``."""

    @property
    def inputs(self) -> Mapping[type, Method]: ...


class Node:
    """Composes machines over one `Deadlines`. `journal_seq` is the number of the last entry already in the journal.

    `outlaws`: no message of theirs reaches any machine. (The wire refuses their envelopes before that; this holds without it.)
    `kept`: whether others keep this journal; then what must be kept before it is said, is so also where it is said to this node itself.
    """

    def __init__(
        self,
        me: NodeId,
        machines: tuple[Machine, ...],
        deadlines: Deadlines,
        journal_seq: int = 0,
        outlaws: Container[NodeId] = (),
        kept: Callable[[], bool] = lambda: False,
    ) -> None:
        self.me = me
        self._kept = kept
        self._outlaws = outlaws
        self.seq = journal_seq
        self.machines = machines
        self._deadlines = deadlines
        self._routes: dict[type, list[Method]] = {}
        for machine in machines:
            for kind, method in machine.inputs.items():
                self._routes.setdefault(kind, []).append(method)

    def handle(self, now_s: float, sender: NodeId, body: Any = None) -> list[Any]:
        """Feed what is due, then one input (None: only a wake-up). Returns `Append`, `Refused` and outward effects, each with its `after`.

        Raises KeyError for an input no machine has a method for: a bug here, never a peer's doing (the wire refuses unknown kinds).
        """
        effects: list[Any] = []
        todo: deque[tuple[NodeId, Any]] = deque()
        at_s = self._deadlines.next()
        if at_s is not None and at_s <= now_s:
            for due in self._deadlines.pop_due(now_s):
                todo.append((self.me, due))
        if sender in self._outlaws and type(body) in MESSAGES:
            self._sort((Refused("revoked", sender),), effects, todo)
        elif body is not None:
            todo.append((sender, body))
        steps = 0
        while todo:
            steps += 1
            assert steps < STEPS_MAX, f"machines answer each other without end, lately about {type(todo[0][1]).__name__}"
            who, item = todo.popleft()
            for method in self._routes[type(item)]:
                made = method(now_s, who, item)
                if made is not None:
                    self._sort(made, effects, todo)
        return effects

    def _sort(self, made: Iterable[Any], effects: list[Any], todo: deque[tuple[NodeId, Any]]) -> None:
        for effect in made:
            kind = type(effect)
            if kind is Tell:
                todo.append((self.me, effect.fact))
            elif (kind is Send and effect.to == self.me) or (kind is Reply and effect.request < 0):  # of a client that is a machine here
                said = effect.message if kind is Send else effect
                if effect.need is Need.KEPT and self._kept():
                    effects.append(Later(said, need=Need.KEPT, after=self.seq))
                else:
                    todo.append((self.me, said))
            elif kind is Append:
                self.seq += 1
                effect.seq = self.seq
                effects.append(effect)
            elif kind is Refused:
                effects.append(effect)
                if Refused in self._routes:  # a machine keeps count of them
                    todo.append((self.me, effect))
            else:
                if effect.need is not Need.FREE:
                    effect.after = self.seq
                effects.append(effect)

    def wake_at(self) -> float | None:
        """When `handle` wants to be called at the latest (with any input, or none)."""
        return self._deadlines.next()

    def routes(self) -> Iterator[type]:
        return iter(self._routes)
