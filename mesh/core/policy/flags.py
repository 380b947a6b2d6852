"""Feature flags: which value each has for one piece of work that is nobody's step, and for all that it asks for in turn.

    [[flag]]
    name = "new-model"          default = false         share = 10          by = "share"
    match = { capability = "report.*", from = "desk" }

`share` percent of the work that matches get the other value than the default, chosen by a hash of the flag's name and of the task's id, or
of its share key where ``by = "share"`` says so and it has one: so one tenant sees one thing. A greater share keeps whom a smaller one had.
Pure: a value is a function of the flag and of the work. Where it is kept is in `steering.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh.core.policy.fields import Bad, Fields
from mesh.core.policy.rules import like
from mesh.ids import is_name

FLAGS_MAX = 64
BY = ("task", "share")
PARTS = 10_000
"""Shares are counted in hundredths of a percent."""


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    default: bool = False
    share: int = 0
    """Percent."""
    by: str = "task"
    capability: tuple[str, ...] = ("*",)
    origin: tuple[str, ...] = ()

    def value(self, capability: str, origin: Sequence[str], task: str, share_key: str) -> bool:
        """`origin`: names of the node where it was asked for. Work that does not match has the default."""
        if not any(like(pattern, capability) for pattern in self.capability):
            return self.default
        if self.origin and not any(like(pattern, name) for pattern in self.origin for name in origin):
            return self.default
        key = share_key if self.by == "share" and share_key else task
        return self.default ^ chosen(self.name, key, self.share)


def chosen(name: str, key: str, share: int) -> bool:
    """Whether `key` is among the `share` percent. Those of a smaller share are among those of a greater one."""
    place = int.from_bytes(hashlib.sha256(f"{name}|{key}".encode()).digest()[:8]) % PARTS
    return place < share * PARTS // 100


def section(rows: list[Any]) -> tuple[dict[str, Any], ...]:
    """The checked list ``[[flag]]``. Raises Bad."""
    flags = [_read(row, i) for i, row in enumerate(rows)]
    if len(flags) > FLAGS_MAX:
        raise Bad(("flag",), f"{len(flags)} flags", f"keep at most {FLAGS_MAX}: each travels with every piece of work")
    for i, flag in enumerate(flags):
        if any(other.name == flag.name for other in flags[:i]):
            raise Bad(("flag", i, "name"), f"there are two flags {flag.name!r}", "give each a name of its own")
    return tuple(rows)


def flags_of(rows: tuple[dict[str, Any], ...]) -> tuple[Flag, ...]:
    """Of a list that was checked."""
    return tuple(_read(row, i) for i, row in enumerate(rows))


def _read(row: Any, number: int) -> Flag:
    fields = Fields(row, ("flag", number))
    name = fields.name("name", "")
    if not is_name(name):
        fields.bad("name", f"{name!r} is no name", "a flag has a name of its own: letters, digits and _.-")
    match = Fields(fields.table["match"] if fields.has("match") else {}, ("flag", number, "match"))
    by = fields.name("by", "task")
    if by not in BY:
        fields.bad("by", f"{by!r} cannot stand here", 'write by = "task" or by = "share"')
    found = Flag(
        name,
        bool(fields.flag("default", False)),
        fields.number("share", 0, 0, 100),
        by,
        match.patterns("capability", ("*",)),
        match.patterns("from"),
    )
    match.end()
    fields.end()
    return found
