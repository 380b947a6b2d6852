"""What the coordinator's handler asks of its own node, and what is told inside a node about the office."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.ids import Fence, TaskId
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict

OFFICE_REQUESTS = -(1 << 40)
"""Below: what `office.py` asks of the other machines of its node; above, and below 0: what the ticker does."""
FORWARDED = -(1 << 50)
"""Below: what other nodes have this one manage."""


@dataclass(slots=True)
class Coordinate:
    """Of the handler that runs the office's task: its decisions about what it was given before, and: what else is asked? Answered by
    ``{"asked": [...], "held": [...]}``, within `wait_ms`; refused where the task's lease does not hold here."""

    request: int
    task: TaskId
    fence: Fence
    generation: int
    verdicts: tuple[Verdict, ...] = ()
    wait_ms: int = 0
    words: tuple[Signed, ...] = field(default=())
    """The verdicts, signed by this node."""


@dataclass(slots=True)
class OfficeChanged:
    """Another node holds the office, or nobody does any more: the directory's `seat`."""
