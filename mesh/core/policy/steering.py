"""What is decided once for a piece of work that is nobody's step, and holds for all that it asks for in turn: flags, and sides of rollouts.

    "+new-model"  "-other"        the flag is on, off
    "report.render@2.0|1"         work of that capability runs as the first of these versions that anybody offers

These *pins* are worked out when such work is made, stand in its entry, and go with every award: a policy that changes, a manager that dies,
a handler that is run again change nothing about them. A node's table of what is in force is written by `rolling.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mesh.ids import OFF, ON
from mesh.messages.rollouts import Mark
from mesh.messages.work import Placement
from mesh.versions import MARK, split

if TYPE_CHECKING:
    from mesh.core.policy.flags import Flag
    from mesh.core.policy.rollouts import Rollout

Pins = tuple[str, ...]


@dataclass(slots=True)
class Steering:
    flags: tuple[Flag, ...] = ()
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    """Of those rollouts, by capability."""

    def pins(self, capability: str, origin: Sequence[str], task: str, share_key: str) -> Pins:
        """Of new work: `origin` are the names of the node where it was asked for, `task` its id."""
        on = (flag.value(capability, origin, task, share_key) for flag in self.flags)
        found = [(ON if value else OFF) + flag.name for flag, value in zip(self.flags, on, strict=True)]
        return (*found, *(name + MARK + one.wanted(self.marks.get(name), task) for name, one in self.rollouts.items()))


def steered(placement: Placement, capability: str, pins: Pins) -> Placement:
    """With the range of versions that the work is pinned to, unless it asks for one itself."""
    wanted = next((pin.removeprefix(capability) for pin in pins if split(pin)[0] == capability), "") if pins else ""
    if not wanted or any(word.startswith(MARK) for word in placement.where):
        return placement
    return replace(placement, where=tuple(sorted((*placement.where, wanted))))
