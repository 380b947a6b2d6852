"""What goes into the triggers machine besides messages, and what it asks of its caller."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.effects import Effect
from mesh.messages.triggers import Plan


@dataclass(slots=True)
class ReadWall(Effect):
    """Tell the time that people go by. Ends as `WallRead`."""


@dataclass(slots=True)
class WallRead:
    wall_ms: int
    """Milliseconds since 1970. May have jumped since the last one."""


@dataclass(slots=True)
class ScheduleAsk:
    """A person's word about schedules: ``list``, ``add`` (a `plan`), ``remove``, ``pause``, ``resume`` (by `name`).

    Answered by ``{"schedules": [...]}``, or ``{"name"}`` once that is kept.
    """

    request: int
    action: str
    name: str = ""
    plan: tuple[Plan, ...] = ()

    @property
    def capability(self) -> str:
        """What is asked for by it; "": nothing."""
        return self.plan[0].capability if self.plan else ""


@dataclass(slots=True)
class SubscribersAsk:
    """Who subscribes to `topic`? Answered by ``{"subscribers": [{"capability", "takes"}]}``: the names of arguments it takes; None: any."""

    request: int
    topic: str

    @property
    def capability(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class TicksDue:
    """A tick may be over, or the clock may have been set."""
