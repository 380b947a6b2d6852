"""Schedules and subscriptions as users write them: ``"5m"``, ``"0 6 * * 1-5"``, ``"file.*"``. Raises UsageError for what is none, with the
form it should have; runs nothing (`core/triggers/ticker.py` does).
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from mesh.core.triggers.calendar import CATCH_UP_MAX, EVERY_MS_MIN
from mesh.core.triggers.topics import is_pattern, is_topic
from mesh.errors import UsageError
from mesh.messages.triggers import Plan
from mesh.options import versioned
from mesh.runtime.almanac import ticks_of, zone_of

CATCH_UP = ("none", "last", "all")
OVERLAP = ("skip", "allow")
NAME_CHARACTERS_MAX = 64
INPUT_BYTES_MAX = 16 * 1024
"""Arguments travel with the schedule to every node."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_EVERY = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DAY_S = 86_400.0
_FORM = 'write an interval such as "30s", "5m", "12h", "1d", or a cron expression such as "0 6 * * 1-5"'


def plan_of(
    name: str,
    capability: str,
    when: str,
    *,
    tz: str = "",
    jitter_s: float = 0.0,
    catch_up: str = "none",
    catch_up_max: int = 100,
    overlap: str = "skip",
    arguments: dict[str, Any] | None = None,
    wants_tick: bool = False,
) -> Plan:
    """The schedule `name`, checked. `when`: an interval or a cron expression of five fields, or six with seconds first."""
    what = f"the schedule {name!r}"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        fix = f"use letters, digits, - and _, parts joined by dots, at most {NAME_CHARACTERS_MAX} characters"
        raise UsageError(f"{name!r} cannot be the name of a schedule", fix=fix)
    every_ms, cron = _when(what, when, tz)
    versioned(capability, {})
    if type(jitter_s) not in (int, float) or not 0 <= jitter_s <= _DAY_S:
        raise UsageError(f"{what}: jitter_s is {jitter_s!r}", fix=f"give seconds from 0 to {_DAY_S:g}")
    if catch_up not in CATCH_UP:
        raise UsageError(f"{what}: catch_up is {catch_up!r}", fix='write catch_up="none", "last" or "all"')
    if type(catch_up_max) is not int or not 1 <= catch_up_max <= CATCH_UP_MAX:
        raise UsageError(f"{what}: catch_up_max is {catch_up_max!r}", fix=f"give a whole number from 1 to {CATCH_UP_MAX}")
    if overlap not in OVERLAP:
        raise UsageError(f"{what}: overlap is {overlap!r}", fix='write overlap="skip" or overlap="allow"')
    bound = catch_up_max if catch_up == "all" else 1
    return Plan(
        name, capability, cron, tz, every_ms, round(jitter_s * 1000), catch_up, bound, overlap, _input(what, arguments or {}), wants_tick
    )


def _when(what: str, when: Any, tz: Any) -> tuple[int, str]:
    """Milliseconds, or 0 and a cron expression."""
    if not isinstance(when, str) or not isinstance(tz, str):
        raise UsageError(f"{what}: {when!r} is no time", fix=_FORM)
    every = _EVERY.fullmatch(when.strip())
    if every is not None:
        every_ms = round(float(every[1]) * _UNIT_MS[every[2]])
        if not EVERY_MS_MIN <= every_ms <= 366 * _DAY_S * 1000:
            raise UsageError(f"{what}: the interval {when!r} is out of range", fix="give one from 1s to 366d")
        if tz:
            raise UsageError(f"{what}: an interval has no time zone", fix="leave tz out, or write a cron expression")
        return every_ms, ""
    if len(when.split()) not in (5, 6):
        raise UsageError(f"{what}: {when!r} is neither an interval nor a cron expression", fix=_FORM)
    try:
        zone = zone_of(tz)
    except ValueError as error:
        fix = 'name one such as tz="Europe/Berlin" (if this machine has none: pip install tzdata)'
        raise UsageError(f"{what}: {error}", fix=fix) from None
    try:
        first = next(ticks_of(when, zone, time.time_ns() // 1_000_000), None)
    except ValueError as error:
        raise UsageError(f"{what}: {when!r} is no cron expression: {error}", fix=_FORM) from None
    if first is None:
        raise UsageError(f"{what}: {when!r} never comes", fix=_FORM)
    return 0, " ".join(when.split())


def _input(what: str, arguments: dict[str, Any]) -> bytes:
    """Plain JSON: a schedule carries no file."""
    try:
        data = json.dumps(arguments, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: its arguments are not plain JSON ({error})", fix="give numbers, text, lists and dicts") from None
    if len(data) > INPUT_BYTES_MAX:
        raise UsageError(f"{what}: {len(data)} bytes of arguments", fix=f"give at most {INPUT_BYTES_MAX}: the rest in a file, by its hash")
    return data


def checked_pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or not is_pattern(pattern):
        fix = 'write words joined by dots: "file.created", "file.*" (one word), "file.**" (all below)'
        raise UsageError(f"{pattern!r} is no pattern of topics", fix=fix)
    return pattern


def checked_topic(topic: Any) -> str:
    if not isinstance(topic, str) or not is_topic(topic):
        raise UsageError(f"{topic!r} is no topic", fix="write words joined by dots: letters, digits, - and _, such as file.created")
    return topic
