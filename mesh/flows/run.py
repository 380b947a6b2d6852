"""What is known of one run of a flow: which steps have ended and how, what they gave, and what each may see.

    fate of a step: done, skipped (its condition was false, or nothing it needs was done), failed, unreached (what it needs failed)

Invariant: fates and what a step sees are a function of the flow, its input and the results of the steps, never of the order in which these
came; where a join does not wait for all, what it had when it went is on record. Drives nothing: that is `interpreter.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from mesh.flows.expressions import Flags
from mesh.flows.order import followers_of
from mesh.flows.spec import Document, Flow, Step

DONE, SKIPPED, FAILED, UNREACHED = "done", "skipped", "failed", "unreached"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed. `task` is that of the work that did, "" if none began."""

    step: str
    message: str
    task: str = ""


@dataclass(slots=True)
class Ended:
    """How one step ended, and the steps that whatever comes after it may speak of."""

    fate: str
    result: Any = None
    failure: Failure | None = None
    seen: int = 0
    """Steps before it that count, as bits: see `State.bit`."""


@dataclass(slots=True)
class State:
    flow: Flow
    given: Document
    about: Document
    """The variable ``flow`` of expressions."""
    ended: dict[str, Ended] = field(default_factory=dict)
    degraded: list[Document] = field(default_factory=list)
    bit: dict[str, int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    since: dict[str, int] = field(default_factory=dict)
    """The version in which a step came or was replaced, where that is not the first: its work has names of its own."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while steps may begin."""
    flags: Flags = field(default_factory=lambda: Flags({}))
    _ends: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    def end_of(self, step: str) -> asyncio.Future[None]:
        """Set when the step has ended."""
        if step not in self._ends:
            self._ends[step] = asyncio.get_running_loop().create_future()
        return self._ends[step]

    def end(self, step: str, ended: Ended) -> None:
        self.ended[step] = ended
        if not (future := self.end_of(step)).done():
            future.set_result(None)

    def name_of(self, step: Step) -> str:
        """What its work is called."""
        return f"{step.id}@{self.since[step.id]}" if step.id in self.since else step.id

    def done(self, step: str) -> bool:
        return step in self.ended and self.ended[step].fate == DONE

    def lost(self, step: str) -> bool:
        """It failed, or could not be reached."""
        return step in self.ended and self.ended[step].fate in (FAILED, UNREACHED)

    def seen_by(self, needs: list[str] | tuple[str, ...]) -> int:
        """What a step that counts on these may speak of."""
        mask = 0
        for need in needs:
            mask |= self.ended[need].seen | self.bit_of(need)
        return mask

    def bit_of(self, step: str) -> int:
        return self.bit.setdefault(step, 1 << len(self.bit))

    def scope(self, seen: int, **more: Any) -> Document:
        """The variables of an expression."""
        return {"input": self.given, "flow": self.about, "flag": self.flags, "steps": _Results(self, seen), **more}

    def sinks(self) -> list[Step]:
        """The steps that nothing needs: the ends of the flow."""
        followers = followers_of(self.flow.steps)
        return [step for step in self.flow.steps if not followers[step.id]]

    def first_failure(self) -> Failure | None:
        """In the order of the flow, not of time."""
        return next(
            (self.ended[step.id].failure for step in self.flow.steps if step.id in self.ended and self.ended[step.id].failure), None
        )


class _Results(dict[str, Any]):
    """The results of the steps that are seen, looked up when they are asked for."""

    def __init__(self, state: State, seen: int) -> None:
        super().__init__()
        self._state, self._seen = state, seen

    def __contains__(self, step: object) -> bool:
        return isinstance(step, str) and self._state.done(step) and bool(self._seen & self._state.bit_of(step))

    def __missing__(self, step: str) -> Any:
        if step not in self:
            raise KeyError(step)
        return self._state.ended[step].result
