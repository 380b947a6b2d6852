"""What a client's request says, read field by field. Raises BadFrame where a field is not what it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.core.coordination.inputs import Coordinate
from mesh.core.triggers.inputs import ScheduleAsk, SubscribersAsk
from mesh.core.work.gates import NOTE_CHARACTERS_MAX
from mesh.core.work.inputs import Checkpoint, OfHandler, Spend
from mesh.core.work.spending import unfit
from mesh.errors import Refused, TooBig
from mesh.ids import (
    BAGGAGE_BYTES_MAX,
    KEY_CHARACTERS_MAX,
    LABELS_MAX,
    PRIORITY_MAX,
    SHARE_CHARS_MAX,
    Baggage,
    Fence,
    Rank,
    TaskId,
    baggage_bytes,
    is_label,
)
from mesh.messages.triggers import Plan
from mesh.messages.waits import Verdict
from mesh.messages.work import Amounts, Bounds, Placement
from mesh.runtime.protocol_local import BadFrame
from mesh.versions import is_wanted

_PLAN_FIELDS = (str, str, str, str, int, int, str, int, str, bytes, bool)
SIGNALS_MAX = 256
"""Names of signals that one task has waited for."""
FILES_MAX = 256
"""Named in one value."""
DECISIONS_MAX = 1000
WAIT_MS_MAX = 10_000


def work_of(params: dict[str, Any], input_bytes_max: int) -> tuple[str, bytes, int, tuple[tuple[str, int], ...]]:
    """Capability, arguments, timeout in milliseconds (0: none) and files. Raises also TooBig."""
    capability, data, files = params.get("capability"), params.get("input"), params.get("files", [])
    if type(capability) is not str or type(data) is not bytes or type(files) is not list:
        raise BadFrame("bad_work")
    if len(data) > input_bytes_max:
        raise TooBig(what=f"the arguments for {capability}", size_bytes=len(data), size_bytes_max=input_bytes_max)
    if len(files) > FILES_MAX:
        raise TooBig(f"{len(files)} files in one value, over the {FILES_MAX} that may travel together", fix="pack them into an archive")
    for file in files:
        if type(file) is not list or [type(part) for part in file] != [str, int]:
            raise BadFrame("bad_work")
    return capability, data, max(0, number_of(params, "timeout_ms", 0)), tuple((sha256, size) for sha256, size in files)


def effect_of(params: dict[str, Any]) -> tuple[TaskId, Fence, str, int]:
    return text_of(params, "task"), number_of(params, "fence", 0), text_of(params, "key"), number_of(params, "call", 0)


def text_of(params: dict[str, Any], name: str) -> str:
    value = params.get(name, "")
    if type(value) is not str:
        raise BadFrame(f"bad_{name}")
    return value


def number_of(params: dict[str, Any], name: str, default: int) -> int:
    value = params.get(name, default)
    if type(value) is not int:
        raise BadFrame(f"bad_{name}")
    return value


def bounds_of(params: dict[str, Any]) -> Bounds:
    """Queue, run and heartbeat timeout in milliseconds; 0 each where nothing is said."""
    value = params.get("bounds", [0, 0, 0])
    if type(value) is not list or [type(ms) for ms in value] != [int, int, int] or min(value) < 0:
        raise BadFrame("bad_bounds")
    return value[0], value[1], value[2]


def placement_of(params: dict[str, Any]) -> Placement:
    value = params.get("placement", {})
    where = value.get("where", []) if type(value) is dict else None
    if (
        type(where) is not list
        or len(where) > LABELS_MAX
        or not all(type(one) is str and (is_label(one) or is_wanted(one)) for one in where)
    ):
        raise BadFrame("bad_placement")
    near, apart = text_of(value, "near"), text_of(value, "apart")
    hedge = value.get("hedge", False)
    if max(len(near), len(apart)) > KEY_CHARACTERS_MAX or type(hedge) is not bool:
        raise BadFrame("bad_placement")
    return Placement(tuple(sorted(where)), near, apart, hedge)


def rank_of(params: dict[str, Any]) -> Rank:
    """Priority (0: not said) and share key ("": not said)."""
    value = params.get("rank", [0, ""])
    if type(value) is not list or [type(part) for part in value] != [int, str]:
        raise BadFrame("bad_rank")
    priority, share = value
    if not 0 <= priority <= PRIORITY_MAX or len(share) > SHARE_CHARS_MAX:
        raise BadFrame("bad_rank")
    return priority, share


def amounts_of(params: dict[str, Any], name: str) -> Amounts:
    """A budget, or what is spent: names and thousandths."""
    value = params.get(name, [])
    if type(value) is not list or not all(type(pair) is list and [type(part) for part in pair] == [str, int] for pair in value):
        raise BadFrame(f"bad_{name}")
    found = tuple((one, amount) for one, amount in value)
    if unfit(found):
        raise BadFrame(f"bad_{name}")
    return found


def baggage_of(params: dict[str, Any]) -> Baggage:
    value = params.get("baggage", [])
    if type(value) is not list or not all(type(one) is list and [type(part) for part in one] == [str, str] for one in value):
        raise BadFrame("bad_baggage")
    baggage = tuple(sorted((name, text) for name, text in value))
    if baggage_bytes(baggage) > BAGGAGE_BYTES_MAX:
        raise TooBig(what="the baggage", size_bytes=baggage_bytes(baggage), size_bytes_max=BAGGAGE_BYTES_MAX)
    return baggage


def how_of(params: dict[str, Any]) -> tuple[Bounds, Placement, Rank, Amounts, Baggage]:
    return bounds_of(params), placement_of(params), rank_of(params), amounts_of(params, "budget"), baggage_of(params)


def anew_of(params: dict[str, Any]) -> tuple[bool, tuple[tuple[str, int], ...]]:
    """Of a checkpoint: whether the task begins anew from it, and how many signals of each name it has had."""
    anew, signals = params.get("anew", False), params.get("signals", [])
    if type(anew) is not bool or type(signals) is not list or len(signals) > SIGNALS_MAX:
        raise BadFrame("bad_checkpoint")
    for signal in signals:
        if type(signal) is not list or [type(part) for part in signal] != [str, int]:
            raise BadFrame("bad_checkpoint")
    return anew, tuple((name, had) for name, had in signals)


def digest_of(params: dict[str, Any]) -> str:
    file = text_of(params, "file")
    if len(file) != 64 or not set(file) <= set("0123456789abcdef"):
        raise Refused(f"{file!r} is no SHA-256: it has 64 hexadecimal digits", fix="sha256sum FILE", code="bad_hash")
    return file


def checkpoint_of(params: dict[str, Any]) -> Checkpoint:
    task, fence, value = text_of(params, "task"), number_of(params, "fence", 0), params.get("value")
    if type(value) is not bytes:
        raise BadFrame("bad_checkpoint")
    return Checkpoint(0, task, fence, value, *anew_of(params))


def spend_of(params: dict[str, Any]) -> Spend:
    task, fence, key, call = effect_of(params)
    return Spend(0, task, fence, call, text_of(params, "kind"), key, amounts_of(params, "amounts"))


def of_handler(params: dict[str, Any]) -> OfHandler:
    question, args = text_of(params, "question"), params.get("args")
    if question not in ("read", "write", "reply") or type(args) is not dict:
        raise BadFrame("bad_question")
    return OfHandler(0, text_of(params, "task"), number_of(params, "fence", 0), question, args, text_of(params, "about"))


def schedule_of(params: dict[str, Any]) -> ScheduleAsk:
    action, name, plan = text_of(params, "action"), text_of(params, "name"), params.get("plan", [])
    if action not in ("list", "add", "remove", "pause", "resume"):
        raise BadFrame("bad_schedule")
    return ScheduleAsk(0, action, name, (plan_of(plan),) if action == "add" else ())


def plan_of(fields: Any) -> Plan:
    """A schedule, field by field: what its values mean the client has looked at."""
    if not is_plan(fields):
        raise BadFrame("bad_schedule")
    return Plan(*fields)


def is_plan(fields: Any) -> bool:
    return type(fields) is list and tuple(map(type, fields)) == _PLAN_FIELDS


def subscribers_of(params: dict[str, Any]) -> SubscribersAsk:
    return SubscribersAsk(0, text_of(params, "topic"))


def coordinate_of(params: dict[str, Any]) -> Coordinate:
    """Decisions are ``[gate, input, approve, note, scope]``."""
    task, fence, generation = text_of(params, "task"), number_of(params, "fence", 0), number_of(params, "generation", 0)
    rows = params.get("decisions", [])
    if type(rows) is not list or len(rows) > DECISIONS_MAX or not 0 < generation < 1 << 32:
        raise BadFrame("bad_coordinate")
    if not all(type(row) is list and tuple(map(type, row)) == (str, str, bool, str, str) for row in rows):
        raise BadFrame("bad_coordinate")
    epoch, at_ms = (generation, fence), max(0, number_of(params, "at_ms", 0))
    verdicts = tuple(
        Verdict(gate, digest, approve, "coordinator", note[:NOTE_CHARACTERS_MAX], b"", at_ms, b"", epoch, scope)
        for gate, digest, approve, note, scope in rows
    )
    return Coordinate(0, task, fence, generation, verdicts, min(max(0, number_of(params, "wait_ms", 0)), WAIT_MS_MAX))


COMMANDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "checkpoint": checkpoint_of,
    "coordinate": coordinate_of,
    "spend": spend_of,
    "of_handler": of_handler,
    "schedule": schedule_of,
    "subscribers": subscribers_of,
}
"""Verbs that are one input to the node each; its request's number is filled in by whoever asks."""
