"""One scope of versioned values: pure rules, what stands on record in, values and refusals out.

    Stored entries, in order --apply--> values by key, each with its version; the newest writes, to know one that is repeated

Invariants: each write of a scope has the next version, so the versions of a key only grow, also over its deletion; a write that names a
version is applied only to exactly that one; a write that is repeated is known by its event among the newest `WRITES_REMEMBERED` of its
scope; what a task has written under a fence, it does not write under a smaller one. What is needed of the entries later is bounded
(`Needed`): the newest of each key that has a value, and the newest writes. Knows no clock, no disk and no task.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from mesh.ids import Fence, TaskId
from mesh.limits import WorkLimits
from mesh.messages.records import Stored
from mesh.messages.scopes import STATE, is_scope_name, scope_key
from mesh.messages.waits import WAIT

KEY_CHARACTERS_MAX = 200
WRITES_REMEMBERED = 512
"""Of one scope, the newest: a repeated one is known among them, and gets its first answer."""
VALUE_REMEMBERED_BYTES = 1024
"""With values up to here; of longer ones the first answer has the version alone, once they were written over."""


@dataclass(frozen=True, slots=True)
class Value:
    version: int
    data: bytes
    """JSON."""
    by: str


@dataclass(frozen=True, slots=True)
class Write:
    """One that was applied."""

    key: str
    version: int
    event: str
    writer: TaskId
    fence: Fence
    data: bytes | None
    """None: it was too long to be remembered, or the key was deleted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One that somebody wants applied. `data` None: delete. `if_version` -1: whatever stands there; 0: if nothing does."""

    key: str
    data: bytes | None
    if_version: int = -1
    event: str = ""
    writer: TaskId = ""
    fence: Fence = 0


class Scope:
    __slots__ = ("_writes", "size_bytes", "values", "version")

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.version = 0
        self.size_bytes = 0
        self._writes: deque[Write] = deque(maxlen=WRITES_REMEMBERED)

    def apply(self, entry: Stored, data: bytes) -> None:
        """What stands on record. `data`: the value whose hash the entry has."""
        old = self.values.pop(entry.key, None)
        self.size_bytes -= _size(entry.key, old.data) if old is not None else 0
        if entry.output:
            self.values[entry.key] = Value(entry.version, data, entry.by)
            self.size_bytes += _size(entry.key, data)
        self.version = max(self.version, entry.version)
        kept = data if entry.output and len(data) <= VALUE_REMEMBERED_BYTES else None
        self._writes.append(Write(entry.key, entry.version, entry.event, entry.writer, entry.fence, kept))

    def version_of(self, key: str) -> int:
        """0: it has no value."""
        value = self.values.get(key)
        return value.version if value is not None else 0

    def repeated(self, wanted: Wanted) -> Write | None:
        """The write that this one repeats, if it does."""
        if not wanted.event:
            return None
        return next((one for one in reversed(self._writes) if one.event == wanted.event), None)

    def problem(self, wanted: Wanted, limits: WorkLimits) -> dict[str, Any] | None:
        """None, or why it is not applied."""
        key, data = wanted.key, wanted.data
        if wanted.writer and any(one.writer == wanted.writer and one.fence > wanted.fence for one in self._writes):
            return _no("stale_fence", "a newer attempt of this task has written to this state: this one was replaced", "mesh why TASK")
        if (found := self.version_of(key)) != wanted.if_version >= 0:
            stands = f"stands at version {found}" if found else "has no value"
            message = f"{key!r} {stands}, not at version {wanted.if_version}: nothing was written"
            return _no("version_conflict", message, "read it again, and decide again") | {"version": found}
        if data is None:
            return None
        if len(data) > limits.state_value_bytes_max:
            message = f"the value of {key!r} is {len(data)} bytes as JSON, over the {limits.state_value_bytes_max} that one may have"
            return _no("too_big", message, "pass large data as File, as an argument or a result, and keep its sha256 here")
        old = self.values.get(key)
        grown = self.size_bytes + _size(key, data) - (_size(key, old.data) if old is not None else 0)
        if (old is None and len(self.values) >= limits.state_keys_max) or grown > limits.state_bytes_max:
            most = f"{limits.state_keys_max} keys and {limits.state_bytes_max} bytes"
            message = f"it has {len(self.values)} keys and {self.size_bytes} bytes, and at most {most} fit"
            return _no("state_full", message, "mesh state delete what is not needed, or take another scope")
        return None


def _size(key: str, data: bytes) -> int:
    return len(key.encode()) + len(data)


def _no(code: str, message: str, fix: str) -> dict[str, Any]:
    return {"code": code, "message": message, "fix": fix}


def unfit(wanted: Wanted) -> dict[str, Any] | None:
    """None, or what is wrong with it whatever the scope holds."""
    if not is_state_key(wanted.key):
        return _no("bad_key", f"a key is a text of 1 to {KEY_CHARACTERS_MAX} printable characters", "mesh state --help")
    if len(wanted.event) > KEY_CHARACTERS_MAX:
        return _no("bad_event", f"an event's id has at most {KEY_CHARACTERS_MAX} characters", "give a shorter one")
    return None


def is_state_key(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= KEY_CHARACTERS_MAX and text.isprintable()


class Needed:
    """Which entries of one scope are needed: as many as it may have keys, and the newest writes. Numbered as the caller likes, upwards."""

    __slots__ = ("_newest", "_of_keys")

    def __init__(self) -> None:
        self._of_keys: dict[str, int] = {}
        self._newest: deque[int] = deque(maxlen=WRITES_REMEMBERED)

    def add(self, number: int, entry: Stored) -> None:
        self._newest.append(number)
        if entry.output:
            self._of_keys[entry.key] = number
        else:
            self._of_keys.pop(entry.key, None)

    def numbers(self) -> set[int]:
        return {*self._of_keys.values(), *self._newest}


def not_submitted(capability: str, key: str, name: object) -> dict[str, Any] | None:
    """None, or why work of this capability is not for clients to submit. `name`: of the shared scope, as its arguments say."""
    if capability == WAIT:
        return _no("is_step", f"{WAIT} is no work: a handler waits by ctx.approval, ctx.signal or ctx.sleep(name=...)", "mesh approvals")
    if capability == STATE and not (is_scope_name(name) and f"{key}/".startswith(f"{scope_key(str(name))}/")):
        message = f"{STATE} is no work: shared state is opened by ctx.state.shared(name), m.state(name) or mesh state"
        return _no("is_state", message, "mesh state --help")
    return None
