"""What starts work by itself: schedules and how far each has come. Who subscribes to what stands in the offers (`messages/membership.py`).

  SCHEDULES     --with each link, and when something is new-->     rows of schedules that people added or paused, and marks

The rows are a map in which the greater ``(version, by)`` wins; of marks the later. Members are believed about both, as about keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId, TaskId


@dataclass(slots=True)
class Plan:
    """A schedule: at each tick one task of `capability`. Ticks are times of the wall clock, in whole milliseconds since 1970: those of the
    cron expression in time zone `tz`, or all multiples of `every_ms`."""

    name: str
    capability: str
    cron: str = ""
    tz: str = ""
    every_ms: int = 0
    jitter_ms: int = 0
    """Each tick is acted on so much later at most; how much is a hash of name and tick, so that all nodes agree."""
    catch_up: str = "none"
    """What becomes of ticks that nobody acted on in time: ``none``, the ``last`` one, or ``all``."""
    catch_up_max: int = 1
    """Of ``all``: so many, the newest."""
    overlap: str = "skip"
    """``skip``: no task while that of the tick before has not ended; ``allow``."""
    input: bytes = b"{}"
    wants_tick: bool = False
    """The task gets the tick's time as its argument `tick`, in ISO 8601."""


@dataclass(slots=True)
class PlanRow:
    """What people said of the schedule `name`. Without a `plan`: it is an agent's own, or there is none any more."""

    name: str
    version: int
    by: NodeId
    plan: tuple[Plan, ...] = ()
    paused: bool = False
    since_ms: int = 0
    """Ticks up to then are nobody's: when it was added, or resumed."""


@dataclass(slots=True)
class Mark:
    """How far a schedule has come: nothing is left to do about ticks up to `upto_ms`. The newest that was acted on is `fired_ms` (0: none
    yet), and its task `task`."""

    name: str
    upto_ms: int
    fired_ms: int = 0
    task: TaskId = ""


@dataclass(slots=True)
class Schedules:
    rows: tuple[PlanRow, ...] = ()
    marks: tuple[Mark, ...] = ()
