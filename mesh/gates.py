"""What a handler waits for that nobody computes: a signal, a person's approval, a time that outlives the node. Each is a step of its own.

    await ctx.signal("paid")                      <-- m.signal(task, "paid", {...}), mesh signal TASK paid
    await ctx.approval("send it?", subject=mail)  <-- m.approve(gate), mesh approve GATE, at any node
    await ctx.sleep(3600, name="cool down")

Invariant: what was waited for once is there at once when the handler is run again, as the result of any step is; the name of a gate's step
holds the hash of all that it asks, so an answer to other inputs is no answer to this. Raises and decides nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.bounding import checked_s
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.context import Port, TaskInfo

WAIT = "mesh.wait"
NAME_CHARACTERS_MAX = 200
QUESTION_CHARACTERS_MAX = 4000
DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Decision:
    """How a gate was answered. True if it was approved: ``if await ctx.approval(...):``."""

    approved: bool
    by: tuple[dict[str, str], ...]
    """Who answered: ``{"node", "person", "note"}`` each. Nobody: its time was over."""
    output: Any
    """What was asked about, or what an approver has put in its place."""
    edited: bool = False
    expired: bool = False

    def __bool__(self) -> bool:
        return self.approved

    @property
    def note(self) -> str:
        """What those who answered wrote, in one line."""
        return "; ".join(one["note"] for one in self.by if one["note"])


class Waits:
    """Those of one run of a handler. Counts the signals of each name that were waited for; `had`: before it last began anew."""

    __slots__ = ("_had", "_port", "_signals", "_task")

    def __init__(self, task: TaskInfo, port: Port, had: dict[str, int]) -> None:
        self._task, self._port = task, port
        self._had, self._signals = had, dict(had)

    def had(self, anew: bool) -> dict[str, int]:
        """How many signals of each name the next attempt need not wait for, if it goes on from a checkpoint that is made now."""
        if anew:
            self._had = dict(self._signals)
        return self._had

    def signal(self, name: str, timeout_s: float | None) -> Coroutine[Any, Any, Any]:
        name, number = checked_name("a signal", name), self._signals.get(name, 0)
        self._signals[name] = number + 1
        return self._step(f"signal/{name}/{number}", {"wait": "signal", "name": name, "n": number}, timeout_s)

    def update(self, name: str, timeout_s: float | None) -> tuple[int, Coroutine[Any, Any, Any]]:
        """Which one of that name it is, and its value, as it comes: as a signal of its own kind."""
        name = f"~{name}"
        number = self._signals.get(name, 0)
        self._signals[name] = number + 1
        return number, self._step(f"signal/{name}/{number}", {"wait": "signal", "name": name, "n": number}, timeout_s)

    def not_had(self, name: str, number: int) -> None:
        """Nobody waits for that update any more: it is still to come."""
        if self._signals.get(f"~{name}") == number + 1:
            self._signals[f"~{name}"] = number

    def sleep(self, seconds: float, name: str) -> Coroutine[Any, Any, None]:
        ms = max(1, round(float(seconds) * 1000))
        return self._step(f"sleep/{checked_name('a pause', name)}", {"wait": "sleep", "name": name, "ms": ms}, ms / 1000)

    async def approval(self, question: str, name: str, subject: Any, how: dict[str, Any], expires_s: float | None) -> Decision:
        if not isinstance(question, str) or not 0 < len(question) <= QUESTION_CHARACTERS_MAX:
            raise UsageError("a gate asks a question", fix=f"give a text of 1 to {QUESTION_CHARACTERS_MAX} characters")
        name = checked_name("a gate", name or question[:NAME_CHARACTERS_MAX])
        arguments = {"wait": "gate", "name": name, "question": question, "subject": subject, **how}
        digest = hashlib.sha256(values.dump(arguments)[0]).hexdigest()[:DIGEST_DIGITS]
        answer = await self._step(f"gate/{name[: NAME_CHARACTERS_MAX - DIGEST_DIGITS]}~{digest}", arguments, expires_s)
        output = answer["output"] if answer["edited"] else subject
        return Decision(answer["approved"], tuple(answer["by"]), output, answer["edited"], answer["expired"])

    def _step(self, name: str, arguments: dict[str, Any], timeout_s: float | None) -> Coroutine[Any, Any, Any]:
        within_s = checked_s(timeout_s)
        how = {"timeout_ms": max(1, round(within_s * 1000)) if within_s else 0}
        return self._port.step(self._task, name, WAIT, arguments, how)


def checked_name(what: str, name: str) -> str:
    """`name`, if it can name what is waited for. Raises UsageError."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX or "/" in name or "~" in name:
        raise UsageError(f"{name!r} cannot name {what}", fix=f"use a text of 1 to {NAME_CHARACTERS_MAX} characters, without / and ~")
    return name


def gate_options(
    expires_s: float | None,
    *,
    quorum: int = 1,
    approvers: Sequence[str] = (),
    separate: bool | None = None,
    on_expire: str = "deny",
    escalate_to: Sequence[str] = (),
) -> dict[str, Any]:
    """The rules of one gate as its arguments. Raises UsageError."""
    if isinstance(approvers, str) or isinstance(escalate_to, str):
        raise UsageError("approvers are a list of nodes' names", fix='approvers=["ann", "bob"]')
    people = len(set(approvers) | set(escalate_to))
    if type(quorum) is not int or quorum < 1 or (approvers and quorum > people):
        raise UsageError(f"quorum={quorum!r} is out of range", fix=f"give a number from 1 to {people or 64}: so many have to approve")
    if on_expire not in ("deny", "escalate"):
        raise UsageError(f"on_expire={on_expire!r}", fix='"deny", or "escalate" with approvers and escalate_to')
    if on_expire == "escalate" and not (approvers and escalate_to and expires_s):
        raise UsageError("a gate escalates from approvers to others, in half its time", fix="give approvers, escalate_to, expires_s")
    rules: dict[str, Any] = {"quorum": quorum, "approvers": list(approvers), "on_expire": on_expire, "escalate_to": list(escalate_to)}
    return rules if separate is None else rules | {"separate": bool(separate)}
