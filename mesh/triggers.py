"""What of an agent starts by itself, as it is declared: ``@agent.every("5m")`` and ``@agent.on("file.*")``. `Agent` inherits it.

    @agent.every("0 6 * * 1-5", tz="Europe/Berlin")        each decorator returns the function unchanged; a function that is
    @agent.capability(retries=3)                           no capability yet becomes one
    async def report(tick: str) -> None: ...

Misuse raises here, where it stands. Runs nothing: schedules are acted on by the nodes (`core/triggers/ticker.py`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import DeclarationError, UsageError
from mesh.messages.triggers import Plan

if TYPE_CHECKING:
    from mesh.agent import Capability

F = TypeVar("F", bound=Callable[..., Any])
PATTERNS_MAX = 32
PLANS_MAX = 16
"""Of one capability."""
A_TICK = "2026-10-05T06:00:00Z"


class Triggers:
    """Schedules and subscriptions of an agent, by capability."""

    name: str
    capabilities: dict[str, Capability]

    def __init__(self) -> None:
        self.plans: dict[str, tuple[Plan, ...]] = {}
        self.topics: dict[str, tuple[str, ...]] = {}
        self.implied: dict[str, None] = {}
        """Capabilities that a trigger made."""

    def _imply(self, function: Any, local: dict[str, Any]) -> None:
        raise NotImplementedError

    def every(
        self,
        when: str,
        /,
        *,
        tz: str = "",
        name: str | None = None,
        jitter_s: float = 0.0,
        catch_up: str = "none",
        catch_up_max: int = 100,
        overlap: str = "skip",
        arguments: dict[str, Any] | None = None,
    ) -> Callable[[F], F]:
        """Run the function at each tick: one durable task over the whole mesh, however many nodes serve it. Raises DeclarationError.

        `when`: an interval, ``"30s"``, ``"5m"``, ``"12h"``, ``"1d"`` (ticks at its multiples since 1970, UTC), or a cron expression in time
        zone `tz` (UTC where nothing is said). A parameter `tick` gets the tick's time in ISO 8601; `arguments` are the others.
        `jitter_s`: each tick is acted on so much later at most. `catch_up`: of ticks that passed while nobody was there to act on them
        ``"none"`` is made good, the ``"last"``, or ``"all"`` (the newest `catch_up_max`); a minute late is not missed. `overlap`:
        ``"skip"`` a tick while the task before has not ended, or ``"allow"``. `name`: of the schedule, mesh-wide; AGENT.CAPABILITY if not
        said.
        """

        from mesh.schedules import plan_of

        local = sys._getframe(1).f_locals

        def declare(function: F) -> F:
            capability = self._made(function, local)
            given = dict(arguments or {})
            wants_tick = "tick" in capability.shape.parameters and "tick" not in given
            what = f"every {when!r} of {capability.name!r}"
            times: dict[str, Any] = {"tz": tz, "jitter_s": jitter_s, "catch_up": catch_up, "catch_up_max": catch_up_max, "overlap": overlap}
            chosen = f"{self.name}.{capability.name}" if name is None else name
            try:
                plan = plan_of(chosen, capability.name, when, arguments=given, wants_tick=wants_tick, **times)
                # What each of its tasks would fail of is said now.
                capability.shape.arguments(json.dumps(given | ({"tick": A_TICK} if wants_tick else {})).encode(), None)
            except UsageError as error:
                raise DeclarationError(what, error.message, error.fix) from None
            self._add(what, capability, plan)
            return function

        return declare

    def _add(self, what: str, capability: Capability, plan: Plan) -> None:
        if any(plan.name == other.name for plans in self.plans.values() for other in plans):
            raise DeclarationError(what, f"agent {self.name!r} has a schedule {plan.name!r} already", "give one of them name=...")
        plans = self.plans.get(capability.name, ())
        if len(plans) >= PLANS_MAX:
            raise DeclarationError(what, f"{capability.name!r} has {len(plans)} schedules already", "make some of them one")
        self.plans[capability.name] = (*plans, plan)

    def on(self, pattern: str, /) -> Callable[[F], F]:
        """Run the function for each event whose topic fits `pattern`: one durable task per event. Raises DeclarationError.

        ``*`` stands for one word of a topic, ``**`` (or ``>``) at the end for all that follow. The function gets those of the event's
        values that it names, and `topic` and `event_id` if it names them.
        """
        from mesh.schedules import checked_pattern

        local = sys._getframe(1).f_locals

        def declare(function: F) -> F:
            capability = self._made(function, local)
            what, topics = f"on {pattern!r} of {capability.name!r}", self.topics.get(capability.name, ())
            try:
                checked = checked_pattern(pattern)
            except UsageError as error:
                raise DeclarationError(what, error.message, error.fix) from None
            if checked in topics:
                raise DeclarationError(what, "there is one already", "keep one")
            if len(topics) >= PATTERNS_MAX:
                raise DeclarationError(what, f"{capability.name!r} has {len(topics)} patterns already", 'use a wider one: "file.**"')
            self.topics[capability.name] = (*topics, checked)
            return function

        return declare

    def _made(self, function: Any, local: dict[str, Any]) -> Capability:
        """The capability that the function is; made one with all that is usual, if it is none yet."""
        known = [capability for capability in self.capabilities.values() if capability.function is function]
        if not known:
            self._imply(function, local)
            self.implied[function.__name__] = None
            known = [self.capabilities[function.__name__]]
        return known[-1]
