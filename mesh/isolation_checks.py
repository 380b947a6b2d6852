"""What a handler's own process says, checked before the worker acts on it: user code shares that process, and may say anything.

Invariant: what these functions return has the form that the node and the runner expect, and bounds; else they raise BadFrame, TypeError,
ValueError or KeyError, and the process is killed.
"""

from __future__ import annotations

import json
import math
from typing import Any

from mesh.capture import LINE_CHARS_MAX
from mesh.failures import DETAILS_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX
from mesh.files import CHUNK_BYTES, is_hash
from mesh.messages.scopes import is_scope_name
from mesh.runtime.params_local import amounts_of, baggage_of, bounds_of, number_of, placement_of, rank_of
from mesh.runtime.protocol_local import BadFrame
from mesh.values import FILES_MAX

TEXT_CHARACTERS_MAX = 200
HOW = ("bounds", "placement", "rank", "timeout_ms", "retries", "budget", "baggage")
LINES_MAX = 4096
"""Of one lot: more than a `RunLog` gives."""
KINDS = ("error", "invalid_argument", "invalid_result", "too_big", "outcome_unknown", "over_budget")
"""What a handler's failure can be; all else is the worker's to say."""


def ended(params: dict[str, Any], size_max: int) -> tuple[str, bytes, tuple[tuple[str, int], ...], dict[str, Any]]:
    """``(outcome, output, files, error)``: ``ok`` with JSON of at most `size_max` bytes, or ``error``."""
    outcome, output, files, error = params["outcome"], params["output"], params["files"], params["error"]
    if outcome not in ("ok", "error") or type(output) is not bytes or len(output) > size_max or type(error) is not dict:
        raise BadFrame("bad_ended")
    if outcome == "ok":
        json.loads(output)
    return outcome, output, tuple((sha256, size) for sha256, size in _files(files)), _error(error) if outcome == "error" else {}


def _files(files: Any) -> list[list[Any]]:
    if type(files) is not list or len(files) > FILES_MAX:
        raise BadFrame("bad_files")
    for file in files:
        if type(file) is not list or len(file) != 2 or not is_hash(file[0]) or type(file[1]) is not int or file[1] < 0:
            raise BadFrame("bad_files")
    return files


def _error(error: dict[str, Any]) -> dict[str, Any]:
    kind, retryable = error.get("kind"), error.get("retryable") is True
    found: dict[str, Any] = {"kind": kind if kind in KINDS else "error", "retryable": retryable}
    for name, characters in (("message", MESSAGE_CHARACTERS_MAX), ("details", DETAILS_CHARACTERS_MAX), ("argument", TEXT_CHARACTERS_MAX)):
        value = error.get(name)
        if type(value) is str:
            found[name] = value[:characters]
    after_ms = error.get("retry_after_ms")
    return found | {"retry_after_ms": after_ms} if type(after_ms) is int and after_ms >= 0 else found


def progress(params: dict[str, Any]) -> tuple[float, str]:
    """``(fraction, note)``."""
    fraction, note = params["fraction"], params["note"]
    if type(fraction) is not float or not math.isfinite(fraction) or not 0 <= fraction <= 1 or type(note) is not str:
        raise BadFrame("bad_progress")
    return fraction, note


def said(params: dict[str, Any]) -> list[str]:
    """The texts that it logged: their time and place are the worker's to say."""
    lines = params["lines"]
    if type(lines) is not list or len(lines) > LINES_MAX:
        raise BadFrame("bad_said")
    return [str(text)[:LINE_CHARS_MAX] for _, _, text in lines]


def _counts(value: Any) -> list[list[Any]]:
    """Names, and how many of each."""
    if type(value) is not list or len(value) > FILES_MAX or any(type(one) is not list for one in value):
        raise BadFrame("bad_checkpoint")
    return [[_text(name), _call(count)] for name, count in value]


def request(verb: str, params: dict[str, Any], size_max: int) -> dict[str, Any]:
    """The parameters, made anew of what is known."""
    if verb == "secret":
        return {"name": _text(params["name"])}
    if verb == "emit":
        if type(params["data"]) is not bytes or len(params["data"]) > size_max:
            raise BadFrame("bad_item")
        json.loads(params["data"])
        return {"data": params["data"]}
    if verb == "checkpoint":
        if type(params["value"]) is not bytes or len(params["value"]) > size_max:
            raise BadFrame("bad_checkpoint")
        return {"value": params["value"], "anew": params["anew"] is True, "signals": _counts(params["signals"])}
    if verb in ("step", "call"):
        data = params["input"]
        if type(data) is not bytes or len(data) > size_max:
            raise BadFrame("bad_work")
        work = {"capability": _text(params["capability"]), "input": data, "files": _files(params["files"]), **_how(params)}
        return work | {"name": _text(params["name"])} if verb == "step" else work
    if verb == "spend":
        key, kind = params["key"], params["kind"]
        if type(key) is not str or len(key) > TEXT_CHARACTERS_MAX or kind not in ("spend", "reserve", "settle", "look"):
            raise BadFrame("bad_spend")
        return {"kind": kind, "key": key, "amounts": [list(pair) for pair in amounts_of(params, "amounts")]}
    if verb == "of_handler":
        question, args, scope = params["question"], params["args"], params["scope"]
        if question not in ("read", "write", "reply") or type(args) is not dict or (scope != "" and not is_scope_name(scope)):
            raise BadFrame("bad_question")
        if len(json.dumps(args)) > 2 * size_max:
            raise BadFrame("bad_question")
        return {"question": question, "args": args, "scope": scope}
    if verb == "effect":
        return {"key": _text(params["key"]), "call": _call(params["call"]), "once": params["once"] is True}
    if verb == "effected":
        output, error = params["output"], params["error"]
        if type(output) is not bytes or len(output) > size_max or type(error) is not str:
            raise BadFrame("bad_effect")
        said = {"key": _text(params["key"]), "call": _call(params["call"])}
        return said | {"output": output, "error": error[:MESSAGE_CHARACTERS_MAX]}
    if verb == "put":
        upload, offset, data, last = _text(params["upload"]), params["offset"], params["data"], params["last"]
        if type(offset) is not int or offset < 0 or type(data) is not bytes or len(data) > CHUNK_BYTES or type(last) is not bool:
            raise BadFrame("bad_put")
        return {"upload": upload, "offset": offset, "data": data, "last": last}
    if verb == "fetch":
        if not is_hash(params["file"]) or type(params["size"]) is not int or params["size"] < 0:
            raise BadFrame("bad_fetch")
        return {"file": params["file"], "size": params["size"]}
    raise BadFrame("unknown_verb")


def _how(params: dict[str, Any]) -> dict[str, Any]:
    """What is said of where, when and how long."""
    how: dict[str, Any] = {name: params[name] for name in HOW if name in params}
    bounds_of(how)
    placement_of(how)
    rank_of(how)
    amounts_of(how, "budget")
    baggage_of(how)
    if number_of(how, "timeout_ms", 0) < 0:
        raise BadFrame("bad_timeout_ms")
    if number_of(how, "retries", -1) < -1:
        raise BadFrame("bad_retries")
    return how


def _call(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 53:
        raise BadFrame("bad_call")
    return value


def _text(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= TEXT_CHARACTERS_MAX:
        raise BadFrame("bad_text")
    return value
