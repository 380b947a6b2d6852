"""What a wait is for, and when it is over: pure rules, a wait's arguments and what was said to it in, an outcome out.

    {"wait": "sleep"}                                        over when its time is
    {"wait": "signal", "name", "n"}                          over with the n-th signal of that name that its parent gets
    {"wait": "reply", "name", "n"}                           over with what the handler answers to that update (`updates.py`)
    {"wait": "gate", "question", "subject", "quorum", ...}   over with so many approvals, with one denial, or when its time is

Invariant: the outcome is a function of the arguments and of the answers on record alone, so whoever manages the task later comes to the
same. A node counts once. Knows no clock but the age it is given, and nobody's certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.core.work.errands import json_object
from mesh.core.work.task import Said
from mesh.core.work.waits import dumps
from mesh.ids import TaskId
from mesh.messages.waits import Verdict

SLEEP, SIGNAL, GATE, REPLY = "sleep", "signal", "gate", "reply"
DENY, ESCALATE = "deny", "escalate"
APPROVERS_MAX = 64
TEXT_CHARACTERS_MAX = 4000
NOTE_CHARACTERS_MAX = 2000
PERSON_CHARACTERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate's arguments, checked. `approvers`: names or ids of nodes; nobody named: everybody who may approve at all."""

    question: str
    quorum: int = 1
    approvers: tuple[str, ...] = ()
    separate: bool | None = None
    """Whether who asked for the work may not approve it; None: as the mesh's mode has it."""
    on_expire: str = DENY
    escalate_to: tuple[str, ...] = ()

    def asked(self, age_ms: int, timeout_ms: int) -> tuple[str, ...]:
        """Who may answer now. Past half of its time a gate that escalates is for those named for that, too."""
        if self.on_expire != ESCALATE or not self.approvers or 2 * age_ms < timeout_ms:
            return self.approvers
        return (*self.approvers, *self.escalate_to)


@dataclass(frozen=True, slots=True)
class Wait:
    kind: str
    name: str = ""
    gate: Gate = field(default_factory=lambda: Gate(""))


def output_bytes_max(body_bytes_max: int) -> int:
    """Of what an approver puts in the place of a gate's subject: its entry holds that twice, once as it was signed."""
    return body_bytes_max // 2


def wait_of(data: bytes) -> Wait | str:
    """The wait that these arguments (JSON) ask for; or, in words, what is wrong with them."""
    args = json_object(data)
    if args is None:
        return "the arguments of a wait are an object"
    kind, name = args.get("wait"), args.get("name", "")
    if kind not in (SLEEP, SIGNAL, GATE, REPLY) or not isinstance(name, str) or len(name) > TEXT_CHARACTERS_MAX:
        return f"a wait is one of {SLEEP}, {SIGNAL}, {GATE}, {REPLY}, and has a name"
    if kind != GATE:
        return Wait(kind, name)
    gate = _gate_of(args)
    return gate if isinstance(gate, str) else Wait(kind, name, gate)


def _gate_of(args: dict[str, Any]) -> Gate | str:
    question, quorum, separate = args.get("question"), args.get("quorum", 1), args.get("separate")
    approvers, to, on_expire = args.get("approvers", []), args.get("escalate_to", []), args.get("on_expire", DENY)
    if not isinstance(question, str) or not 0 < len(question) <= TEXT_CHARACTERS_MAX:
        return f"a gate asks a question of 1 to {TEXT_CHARACTERS_MAX} characters"
    if not _names(approvers) or not _names(to):
        return f"approvers are a list of at most {APPROVERS_MAX} names of nodes"
    if type(quorum) is not int or not 1 <= quorum <= APPROVERS_MAX or (approvers and quorum > len(set(approvers) | set(to))):
        return "a quorum is a number from 1 to that of the approvers"
    if separate not in (None, True, False) or on_expire not in (DENY, ESCALATE) or (on_expire == ESCALATE and not (approvers and to)):
        return "a gate that expires is denied, or escalates from its approvers to others"
    return Gate(question, quorum, tuple(approvers), separate, on_expire, tuple(to))


def _names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= APPROVERS_MAX and all(isinstance(one, str) and one for one in value)


def outcome(wait: Wait, said: Sequence[Said], *, expired: bool) -> bytes | None:
    """The result (JSON) that the wait ends with; None: it is not over, or it ends without one (a signal that did not come)."""
    if wait.kind == SLEEP:
        return b"null" if expired else None
    if wait.kind == SIGNAL:
        return said[0].output or b"null" if said else None
    return _verdict(wait.gate, said, expired=expired) if wait.kind == GATE else None


def _verdict(gate: Gate, said: Sequence[Said], *, expired: bool) -> bytes | None:
    by_node = {one.node: one for one in said}
    denial = next((one for one in said if not one.approve), None)
    granted = [one for one in by_node.values() if one.approve]
    if denial is not None:
        return _decision(False, [denial])
    if len(granted) >= gate.quorum:
        return _decision(True, granted)
    return _decision(False, granted, expired=True) if expired else None


def _decision(approved: bool, said: Sequence[Said], *, expired: bool = False) -> bytes:
    edited = next((one.output for one in reversed(said) if one.output), b"")
    by = [{"node": one.node, "person": one.person, "note": one.note} for one in said]
    head = dumps({"approved": approved, "expired": expired, "by": by})
    return head[:-1] + b',"edited":' + (b"true" if edited else b"false") + b',"output":' + (edited or b"null") + b"}"


def verdict_of(gate: TaskId, args: dict[str, Any], wall_ms: int) -> Verdict | None:
    """A client's answer to a gate, as the statement that his node signs; None: a field is not what it should be."""
    approve, person, note, digest = args.get("approve"), args.get("person", ""), args.get("note", ""), args.get("input")
    if type(approve) is not bool or type(digest) is not str or type(person) is not str or type(note) is not str:
        return None
    output = dumps(args.get("output")) if args.get("edited") else b""
    return Verdict(gate, digest, approve, person[:PERSON_CHARACTERS_MAX], note[:NOTE_CHARACTERS_MAX], output, wall_ms)
