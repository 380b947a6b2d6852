"""A staged rollout as values: which side of it a piece of work is on, and whether what was seen of the new version breaks the limits.

    [[rollout]]
    capability = "report.render"      from = "1"      to = "2.0"
    stages = [5, 25, 100]             hold = "10m"                        (or share = 10, and no stages)
    failure_pct_max = 5               latency_pct_max = 150               runs_min = 20

`stages`: percent of new work that nobody's handler asked for; the next one begins when this has stood for `hold`, `runs_min` runs of the
new version ended, and no limit is broken. The whole tree of such work is on one side: which, says a hash of its id, so that whoever was on
the new side of a smaller stage is on that of a greater one. Pure: the mesh's table of stages and figures is in `rolling.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from mesh.core.policy.fields import Bad, Fields
from mesh.core.policy.flags import chosen
from mesh.ids import is_name
from mesh.messages.rollouts import Mark, Seen
from mesh.versions import FORM, RANGE_CHARS_MAX, is_range

ROLLOUTS_MAX = 16
STAGES_MAX = 10
HOLD_MS = 600_000


@dataclass(frozen=True, slots=True)
class Rollout:
    """`latency_pct_max`: the new version's runs may take so much of what the old one's take on the average; 0: no such limit."""

    capability: str
    old: str
    new: str
    """Ranges of versions."""
    stages: tuple[int, ...]
    hold_ms: int
    failure_pct_max: int
    latency_pct_max: int
    runs_min: int
    edition: int = 0
    """Which rollout this is: a hash of all that it says. In whatever version of the policy it stands, it goes on where it was; with
    another `attempt` it is another one."""

    def share(self, mark: Mark | None) -> int:
        """Percent that go to the new version."""
        if mark is None:
            return self.stages[0]
        return 0 if mark.reason else self.stages[min(mark.stage, len(self.stages) - 1)]

    def wanted(self, mark: Mark | None, task: str) -> str:
        """The range of versions for work that belongs to this root. On the new side the old one will do where nobody offers the new."""
        return f"{self.new}|{self.old}" if chosen(self.capability, task, self.share(mark)) else self.old


@dataclass(slots=True)
class Figures:
    """All that was seen of a rollout, at all nodes."""

    new: Seen
    old: Seen

    def said(self) -> str:
        """For people and for the record."""
        of = f"{self.new.failed} of {self.new.runs} runs of the new version failed"
        old, new = mean_ms(self.old), mean_ms(self.new)
        return of + (f"; it takes {new:.0f} ms, the old one {old:.0f} ms" if old and new else "")


def mean_ms(seen: Seen) -> float:
    """Of runs that did not fail; at least 1, so that two that take next to nothing are alike; 0: there was none."""
    good = seen.runs - seen.failed
    return max(1.0, seen.took_ms / good) if good else 0.0


def broken(rollout: Rollout, figures: Figures) -> str:
    """Which limit is, in words; "": none. As soon as no run to come can mend it before there are `runs_min`."""
    new, old = figures.new, figures.old
    if 100 * new.failed > rollout.failure_pct_max * max(new.runs, rollout.runs_min):
        return f"more than {rollout.failure_pct_max} % fail"
    enough = min(new.runs - new.failed, old.runs - old.failed) >= rollout.runs_min
    if rollout.latency_pct_max and enough and 100 * mean_ms(new) > rollout.latency_pct_max * mean_ms(old):
        return f"it takes more than {rollout.latency_pct_max} % of what the old version takes"
    return ""


# ---- the document


def section(rows: list[Any]) -> tuple[dict[str, Any], ...]:
    """The checked list ``[[rollout]]``. Raises Bad."""
    rollouts = [_read(row, i) for i, row in enumerate(rows)]
    if len(rollouts) > ROLLOUTS_MAX:
        raise Bad(("rollout",), f"{len(rollouts)} rollouts", f"keep at most {ROLLOUTS_MAX}: each travels with every piece of work")
    for i, rollout in enumerate(rollouts):
        if any(other.capability == rollout.capability for other in rollouts[:i]):
            raise Bad(("rollout", i, "capability"), f"there are two rollouts of {rollout.capability}", "end one before the next begins")
    return tuple(rows)


def rollouts_of(rows: tuple[dict[str, Any], ...]) -> dict[str, Rollout]:
    """By capability, of a list that was checked."""
    return {found.capability: found for found in (_read(row, i) for i, row in enumerate(rows))}


def _read(row: Any, number: int) -> Rollout:
    fields = Fields(row, ("rollout", number))
    capability = fields.name("capability", "")
    if not is_name(capability):
        fields.bad("capability", f"{capability!r} is no capability's name", 'write it as `mesh caps` lists it: "report.render"')
    old, new = _range(fields, "from"), _range(fields, "to")
    if old == new:
        fields.bad("to", "it is the version that it comes from", 'write the new one: to = "2.0"')
    found = Rollout(
        capability,
        old,
        new,
        _stages(fields),
        fields.duration_ms("hold") or HOLD_MS,
        fields.number("failure_pct_max", 5, 0, 100),
        fields.number("latency_pct_max", 0, 100, 10_000),
        fields.number("runs_min", 20, 1, 1_000_000),
        _edition(row),
    )
    fields.number("attempt", 1, 1, 1_000_000)
    fields.end()
    return found


def _edition(row: dict[str, Any]) -> int:
    """63 bits, as many as an integer on the wire has."""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _range(fields: Fields, key: str) -> str:
    wanted = "".join(fields.text(key).split())
    if not is_range(wanted) or "|" in wanted or len(wanted) > RANGE_CHARS_MAX // 2 - 1:
        fields.bad(key, f"{wanted!r} is no range of versions", f'{FORM}: {key} = "^2"')
    return wanted


def _stages(fields: Fields) -> tuple[int, ...]:
    if not fields.has("stages"):
        if "share" not in fields.table:
            fields.bad("share", "nothing says how much goes to the new version", "write share = 10, or stages = [5, 25, 100]")
        return (fields.number("share", 0, 0, 100),)
    if fields.has("share"):
        fields.bad("share", "there are stages, too", "write one of the two")
    stages = fields.table["stages"]
    whole = isinstance(stages, list) and all(type(one) is int and 0 < one <= 100 for one in stages)
    if not whole or not 0 < len(stages) <= STAGES_MAX or sorted(set(stages)) != stages:
        fields.bad("stages", f"{stages!r:.60} are no stages", "write percentages that grow, at most ten: stages = [5, 25, 100]")
    return tuple(stages)
