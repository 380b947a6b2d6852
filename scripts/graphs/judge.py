"""What handlers saw, against what the model says. Knows names and times only; the mesh is not asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from graphs.generate import Case
from graphs.model import Expected, model


@dataclass(frozen=True)
class Event:
    """`what`: begin, done, fail. `work` is a name as the interpreter gives it."""

    at_s: float
    what: str
    work: str
    node: str


@dataclass(frozen=True)
class Kill:
    at_s: float
    node: str


LATE_S = 2.5
"""A result is on record at its manager's keepers by then, or it is not known to have been."""


def faults(case: Case, outcome: dict[str, Any], error: str, events: list[Event], kills: list[Kill]) -> list[str]:
    """What is not as it should be; `outcome` is the flow's result, or `error` says why it has none."""
    expected = model(case.flow, case.conditions, case.fails, case.turns)
    found = list(_ends(case, expected, outcome, error))
    allowed = {name for names in expected.works.values() for name in names}
    allowed |= {f"{name}/undo" for name in expected.undone} if expected.fails else set()
    begun = {event.work for event in events if event.what == "begin"}
    found += [f"{name} ran, and should not" for name in sorted(begun - allowed)]
    waited = expected.works if expected.fails else {name: works for name, works in expected.works.items() if name in expected.waited}
    must = {name for works in waited.values() for name in works} | (allowed & {f"{name}/undo" for name in expected.undone})
    found += [f"{name} never ran" for name in sorted(must - begun)]
    found += [*_order(case, expected, events), *_doubles(events, kills)]
    return found + (list(_undoing(expected, events, kills, error)) if expected.fails else [])


def _ends(case: Case, expected: Expected, outcome: dict[str, Any], error: str) -> Iterable[str]:
    if bool(error) != expected.fails:
        yield f"the flow {'failed: ' + error if error else 'succeeded'}, and should not"
    if error:
        return
    for step in case.flow.steps:
        told = next((fate for fate in ("skipped", "failed", "left") if step.id in outcome[fate]), "done")
        wanted = expected.fates[step.id].replace("unreached", "failed")
        if told != wanted and (told != "left" or step.id in expected.waited):
            yield f"{step.id} is told as {told}, and is {wanted}"


def _first(events: list[Event], what: str, work: str) -> float:
    return next((event.at_s for event in events if event.what == what and event.work == work), float("inf"))


def _order(case: Case, expected: Expected, events: list[Event]) -> Iterable[str]:
    """Nothing begins before what its join waits for has ended."""
    for step in case.flow.steps:
        begins = min((_first(events, "begin", name) for name in expected.works.get(step.id, ())), default=float("inf"))
        if begins == float("inf"):
            continue
        over = [need for need in step.needs if _over(expected, need, events, begins, done_only=step.join != "settled")]
        wanted = step.quorum or len(step.needs)
        if step.join == "settled":
            over += [need for need in step.needs if need not in over and expected.fates[need] in ("skipped", "unreached")]
        if len(over) < wanted:
            yield f"{step.id} began when of {', '.join(step.needs)} only {', '.join(over) or 'none'} had ended"


def _over(expected: Expected, step: str, events: list[Event], at_s: float, *, done_only: bool) -> bool:
    if done_only and expected.fates[step] != "done":
        return False
    ends = [min(_first(events, "done", name), _first(events, "fail", name)) for name in expected.works.get(step, ())]
    return (step in expected.works) and all(end <= at_s for end in ends)


def _doubles(events: list[Event], kills: list[Kill]) -> Iterable[str]:
    """Work begins again only where the node that ran it died before its result was safe."""
    for i, event in enumerate(events):
        if event.what != "begin":
            continue
        earlier = [one for one in events[:i] if one.work == event.work]
        for begin in (one for one in earlier if one.what == "begin"):
            here = (one.at_s for one in earlier if one.what != "begin" and one.node == begin.node)
            end = next((at_s for at_s in here if at_s >= begin.at_s), event.at_s)
            if not any(begin.at_s <= kill.at_s <= end + LATE_S for kill in kills):
                yield f"{event.work} began again at {event.at_s:.2f} s, and no node had died between its first begin and end"


def _undoing(expected: Expected, events: list[Event], kills: list[Kill], error: str) -> Iterable[str]:
    """One after the other, and what came later first."""
    undone = sorted(expected.undone, key=lambda name: _first(events, "begin", f"{name}/undo"))
    for name in undone:
        if f"{name}," not in f"{error.partition('; undone: ')[2]},".replace(";", ","):
            yield f"{name} is not among what the failure calls undone"
    for before, after in pairwise(undone):
        if _first(events, "done", f"{before}/undo") > _first(events, "begin", f"{after}/undo"):
            yield f"{after} was being undone before {before} was"
    for i, early in enumerate(undone):
        for late in undone[i + 1 :]:
            here, there = (re.split(r"[#\[]", work)[0] for work in (early, late))
            if here == there and _number(early) < _number(late):
                yield f"{early} was done before {late}, and is undone before it"
            elif here != there and _first(events, "done", early) < _first(events, "begin", late):
                if max(_all(events, here)) < _first(events, "begin", late):
                    yield f"{here} was done before {late} began, and is undone before it"
            elif here != there and _surely_before(events, kills, here, there):
                yield f"the end of {here} was on record before {there} ended, and it is undone before it"


def _number(work: str) -> int:
    return int(work.strip("]").replace("#", "[").partition("[")[2] or 0)


def _all(events: list[Event], step: str) -> list[float]:
    """When its work ended, each piece and each time."""
    return [event.at_s for event in events if event.what != "begin" and re.fullmatch(rf"{step}([#\[][0-9]+\]?)?(/fallback)?", event.work)]


def _surely_before(events: list[Event], kills: list[Kill], early: str, late: str) -> bool:
    """`early` ended, and that was on record, before `late` did; nobody died around that."""
    ends = [_all(events, step) for step in (early, late)]
    if any(not end for end in ends):
        return False
    first, second = (max(end) for end in ends)
    return first + 0.3 < second and not any(first - 3 < kill.at_s < first + 0.3 for kill in kills)
