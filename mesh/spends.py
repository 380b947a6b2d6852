"""What handlers spend of a budget: ``ctx.spend``, ``ctx.reserve``, ``ctx.budget``, and what a plain call may spend below them.

    ctx.spend   --spend-->   node --> the task's manager: on record, or BudgetExceeded
    ctx.reserve --reserve--> ... what it was for ... --settle: it cost so much-->
    ctx.call under a budget: reserve (one call, and its own budget) --> call --> settle (what it says it spent)

Invariant: of one run there is one question at a time, numbered from 1 on, so that a repeated one is known. What was reserved and never
settled counts in full: who was stopped in between cannot say what it cost.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mesh.core.work.spending import CALLS, KEPT_BY_THE_MESH, TIME_S, UNNAMED
from mesh.errors import MeshError, Refused, UsageError
from mesh.ids import AMOUNT_MAX, LABELS_MAX, is_name

if TYPE_CHECKING:
    from mesh.context import Port, TaskInfo
    from mesh.runs import Clock, Run

Document = dict[str, Any]
KEY_CHARACTERS_MAX = 200
_FORM = f"give a number from 0 to {AMOUNT_MAX / 1000:g}; what is finer than a thousandth counts as one, so count it in a smaller unit"


def spent_of(amounts: Mapping[str, float]) -> list[list[Any]]:
    """What a handler says it spends, in thousandths, rounded up. Raises UsageError."""
    found = []
    for name, amount in amounts.items():
        if not is_name(name):
            raise UsageError(f"{name!r} is no name of what is spent", fix="use letters, digits and _.-, at most 64")
        if name in KEPT_BY_THE_MESH:
            raise UsageError(f"{name} is kept by the mesh itself", fix="leave it out; the budget may have it")
        if type(amount) not in (int, float) or not 0 <= amount <= AMOUNT_MAX / 1000:
            raise UsageError(f"{name}={amount!r} cannot be spent", fix=_FORM)
        found.append([name, math.ceil(round(1000 * amount, 6))])
    if not found:
        raise UsageError("nothing is spent", fix="ctx.spend(tokens=1200, usd=0.02)")
    if len(found) > LABELS_MAX:
        raise UsageError(f"{len(found)} names of what is spent", fix=f"give at most {LABELS_MAX}")
    return sorted(found)


def checked_key(key: str) -> str:
    if not isinstance(key, str) or len(key) > KEY_CHARACTERS_MAX or key.startswith(UNNAMED):
        fix = f"use at most {KEY_CHARACTERS_MAX} characters, of which the first is not {UNNAMED}"
        raise UsageError(f"{key!r} cannot be the key of what is spent", fix=fix)
    return key


class Reservation:
    """What ``ctx.reserve`` gives: ``async with ctx.reserve(usd=0.5) as r: ...; r.spent(usd=0.31)``."""

    __slots__ = ("_amounts", "_key", "_port", "_said", "_task", "known")

    def __init__(self, task: TaskInfo, port: Port, key: str, amounts: Mapping[str, float]) -> None:
        self._task, self._port, self._key, self._amounts = task, port, checked_key(key), spent_of(amounts)
        self._said: list[list[Any]] | None = None
        self.known = False
        """What has this key was settled by an earlier attempt: it counts no second time."""

    def spent(self, **amounts: float) -> None:
        """What it has cost: that counts, and the rest is given back. Nothing said: all that was reserved counts; ``spent()``: nothing."""
        self._said = spent_of(amounts) if amounts else []

    async def __aenter__(self) -> Reservation:
        answer = await self._port.spend(self._task, "reserve", self._key, self._amounts)
        self.known, self._key = answer["state"] == "known", answer["key"]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self.known or (error is not None and not isinstance(error, Exception)):
            return  # a handler that is being stopped asks for nothing more: what it had reserved counts
        try:
            await self._port.spend(self._task, "settle", self._key, self._amounts if self._said is None else self._said)
        except MeshError as problem:
            if error is None:
                raise
            error.add_note(f"what it cost could not be put on record: {problem.message}")


class BlockingReservation:
    """The same for plain functions: ``with ctx.reserve(usd=0.5) as r: ...``."""

    __slots__ = ("_reservation", "_wait")

    def __init__(self, reservation: Reservation, wait: Callable[[Any], Any]) -> None:
        self._reservation, self._wait = reservation, wait

    @property
    def known(self) -> bool:
        return self._reservation.known

    def spent(self, **amounts: float) -> None:
        """As `Reservation.spent`."""
        self._reservation.spent(**amounts)

    def __enter__(self) -> BlockingReservation:
        self._wait(self._reservation.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if error is None or isinstance(error, Exception):
            self._wait(self._reservation.__aexit__(kind, error, where))


class Spends:
    """What a runner has of this, for its handlers."""

    _relayed: bool
    _clock: Clock

    def _living(self, task: TaskInfo) -> Run:
        raise NotImplementedError

    async def _ask_for(self, run: Run, verb: str, params: Document) -> Document:
        raise NotImplementedError

    async def _may_start(self, run: Run) -> None:
        raise NotImplementedError

    async def _effect(self, task: TaskInfo, verb: str, capability: str, arguments: Document, params: Document) -> Any:
        raise NotImplementedError

    async def call(self, task: TaskInfo, capability: str, arguments: Document, how: Document) -> Any:
        return await self._effect(task, "call", capability, arguments, self._living(task).child(self._clock.now_ms(), how))

    async def spend(self, task: TaskInfo, kind: str, key: str, amounts: list[list[Any]]) -> Document:
        return await self.spend_for(self._living(task), {"kind": kind, "key": key, "amounts": amounts})

    async def spend_for(self, run: Run, params: Document) -> Document:
        """``{"state", "left", "key"}``. In a process of its own a handler's questions are numbered by its worker."""
        if self._relayed:
            return await self._ask_for(run, "spend", params)
        if run.redactor is not None:
            run.redactor.check("the key of what is spent", params["key"].encode())
        if run.spending is None:
            run.spending = asyncio.Lock()
        async with run.spending:
            await self._may_start(run)
            run.spends += 1
            key = params["key"] or (f"{UNNAMED}{run.fence}.{run.spends}" if params["kind"] == "reserve" else "")
            what = params | {"task": run.task, "fence": run.fence, "call": run.spends, "key": key}
            answer = await self._ask_for(run, "spend", what)
        return {"state": answer["state"], "left": json.loads(answer["output"]), "key": key}

    async def begin_call(self, run: Run, verb: str, params: Document) -> Document:
        """A step, or a call: what a call may spend is reserved first, since its manager does not keep this budget."""
        if verb != "call" or not run.budgets:
            return await self._ask_for(run, verb, params)
        own = dict(params.get("budget") or ())
        granted = {name: own.get(name, 0) for name in run.budgets if name != TIME_S} | own
        reserved = _added({name: amount for name, amount in own.items() if name != TIME_S}, run.budgets)
        params = params | {"budget": [list(pair) for pair in sorted(granted.items())]}
        if not reserved:
            return await self._ask_for(run, verb, params)
        held = await self.spend_for(run, {"kind": "reserve", "key": "", "amounts": reserved})
        try:
            reply = await self._ask_for(run, verb, params)
        except Refused:
            await self.spend_for(run, {"kind": "settle", "key": held["key"], "amounts": []})  # it was not begun
            raise
        used = {str(name): int(amount) for name, amount in reply.get("spent") or () if name != TIME_S}
        await self.spend_for(run, {"kind": "settle", "key": held["key"], "amounts": _added(used, run.budgets)})
        return reply


def _added(amounts: dict[str, int], budgets: tuple[str, ...]) -> list[list[Any]]:
    """With the one call that it is."""
    more = {CALLS: amounts.get(CALLS, 0) + 1000} if CALLS in budgets else {}
    return [list(pair) for pair in sorted((amounts | more).items()) if pair[1]]
