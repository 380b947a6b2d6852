"""How a client's work, and its answer, travel between the node it was asked of and the node that manages it: a line of JSON, then bytes.

Invariant: what comes from another node is taken apart field by field; what is not what it should be is no work.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mesh.core.inputs import Call, Submit
from mesh.core.work.errands import json_object
from mesh.core.work.spending import unfit
from mesh.ids import BAGGAGE_BYTES_MAX, KEY_CHARACTERS_MAX, LABELS_MAX, PRIORITY_MAX, SHARE_CHARS_MAX, baggage_bytes, is_label
from mesh.messages.work import Placement
from mesh.versions import is_wanted

FILES_MAX = 256
TEXT_MAX = 1000
NUMBER_MAX = 2**53
"""What is counted here has to fit into entries and messages. Milliseconds for longer than anybody waits."""
_HASH = re.compile(r"[0-9a-f]{64}")
_TASK = re.compile(r"[A-Za-z0-9_.-]{0,128}")


def packed(work: Call | Submit) -> bytes:
    placement = work.placement
    head: dict[str, Any] = {
        "timeout_ms": work.timeout_ms,
        "files": [list(one) for one in work.files],
        "bounds": list(work.bounds),
        "rank": list(work.rank),
        "where": list(placement.where),
        "near": placement.near,
        "apart": placement.apart,
        "hedge": placement.hedge,
        "budget": [list(one) for one in work.budget],
        "baggage": [list(one) for one in work.baggage],
    }
    if isinstance(work, Submit):
        head |= {"submit": True, "retries": work.retries, "by": work.by, "key": work.key}
    else:
        head |= {"submit": False, "parent": work.parent}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + work.input


def work_in(request: int, capability: str, data: bytes) -> Call | Submit | None:
    """None: it is none."""
    line, _, given = data.partition(b"\n")
    head = json_object(line)
    if head is None or json_object(given) is None or not _fits(head):
        return None
    budget, baggage = tuple((name, most) for name, most in head["budget"]), tuple((name, text) for name, text in head["baggage"])
    placement = Placement(tuple(head["where"]), head["near"], head["apart"], head["hedge"])
    files = tuple((sha256, size) for sha256, size in head["files"])
    bounds, rank = (head["bounds"][0], head["bounds"][1], head["bounds"][2]), (head["rank"][0], head["rank"][1])
    if head["submit"]:
        retries, by, key = head["retries"], head["by"], head["key"]
        return Submit(request, capability, given, head["timeout_ms"], retries, files, by, bounds, key, placement, rank, budget, baggage)
    return Call(request, capability, given, head["timeout_ms"], head["parent"], files, False, bounds, placement, rank, budget, baggage)


_KINDS: dict[str, type] = {
    "timeout_ms": int,
    "files": list,
    "bounds": list,
    "rank": list,
    "where": list,
    "near": str,
    "apart": str,
    "hedge": bool,
    "budget": list,
    "baggage": list,
}
_OF_SUBMIT: dict[str, type] = {"retries": int, "by": str, "key": str}


def _fits(head: dict[str, Any]) -> bool:
    if type(submit := head.get("submit")) is not bool:
        return False
    kinds = _KINDS | (_OF_SUBMIT if submit else {"parent": str})
    if any(type(head.get(name)) is not kind for name, kind in kinds.items()):
        return False
    if any(len(head[name]) > TEXT_MAX for name, kind in kinds.items() if kind is str) or len(head["files"]) > FILES_MAX:
        return False
    if not _pairs(head["files"], int) or not all(_HASH.fullmatch(sha256) and 0 <= size <= NUMBER_MAX for sha256, size in head["files"]):
        return False
    if submit and not -1 <= head["retries"] <= NUMBER_MAX:
        return False
    if not submit and not _TASK.fullmatch(head["parent"]):
        return False
    if not _pairs(head["budget"], int) or not _pairs(head["baggage"], str):
        return False
    if unfit(tuple(map(tuple, head["budget"]))) or baggage_bytes(tuple(map(tuple, head["baggage"]))) > BAGGAGE_BYTES_MAX:
        return False
    if len(head["where"]) > LABELS_MAX or not all(type(one) is str and (is_label(one) or is_wanted(one)) for one in head["where"]):
        return False
    bounds, rank = head["bounds"], head["rank"]
    if (
        [type(one) for one in bounds] != [int] * 3
        or not 0 <= min(bounds) <= max(bounds) <= NUMBER_MAX
        or not 0 <= head["timeout_ms"] <= NUMBER_MAX
        or max(len(head["near"]), len(head["apart"])) > KEY_CHARACTERS_MAX
    ):
        return False
    return [type(one) for one in rank] == [int, str] and 0 <= rank[0] <= PRIORITY_MAX and len(rank[1]) <= SHARE_CHARS_MAX


def _pairs(value: list[Any], kind: type) -> bool:
    return all(type(one) is list and [type(part) for part in one] == [str, kind] for one in value)


def parcel(body: dict[str, Any]) -> bytes:
    """A reply's body: its output, which is JSON already, behind the rest."""
    output = body.get("output")
    head = {name: value for name, value in body.items() if name != "output"}
    return json.dumps(head, separators=(",", ":")).encode() + (b"\n" + output if isinstance(output, bytes) else b"")


def unpacked(data: bytes) -> dict[str, Any] | None:
    line, mark, output = data.partition(b"\n")
    head = json_object(line)
    return None if head is None else head | ({"output": output} if mark else {})
