"""Labels: which workers fit what a task asks for, and what to say when nobody does.

    task: zone=eu, gpu        worker: gpu=a100, zone=eu  fits        zone=us  lacks zone=eu, gpu

A wanted ``name=value`` must be there as it is, a wanted ``name`` with whatever value. Pure text: knows no task and no node's state but
whether it is gone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mesh.core.directory import DEAD, LEFT, ReadDirectory, Row
from mesh.messages.membership import Offer

NEAREST = 3


def has(labels: Iterable[str], wanted: str) -> bool:
    """``!wanted``: whether it has not (a policy may ask for that)."""
    if wanted.startswith("!"):
        return not has(labels, wanted[1:])
    return any(label == wanted or label.partition("=")[0] == wanted for label in labels)


def fits_worker(labels: tuple[str, ...], where: tuple[str, ...]) -> bool:
    return all(has(labels, wanted) for wanted in where)


def fits(offer: Offer, where: tuple[str, ...]) -> bool:
    """Whether some worker behind this offer has all of them."""
    return not where or any(fits_worker(labels, where) for labels in offer.labels or ((),))


def lacks(offer: Offer, where: tuple[str, ...]) -> str:
    """Why it does not fit, for the record."""
    missing = [wanted for wanted in where if not any(has(labels, wanted) for labels in offer.labels or ((),))]
    return f"lacks {', '.join(missing or where)}"


def _offering(directory: ReadDirectory, capability: str) -> list[Row]:
    return [row for row in directory.offering(capability) if row.state not in (DEAD, LEFT)]


def offered(directory: ReadDirectory, capability: str, where: tuple[str, ...] = ()) -> bool:
    """By anybody who is not known to be gone."""
    return any(fits(row.offers[capability], where) for row in _offering(directory, capability))


def unmet(directory: ReadDirectory, capability: str, where: tuple[str, ...]) -> str:
    """Which of the labels nobody who offers it has, with the nearest that there are; "" if somebody fits."""
    rows = _offering(directory, capability)
    if not where or not rows or any(fits(row.offers[capability], where) for row in rows):
        return ""
    there = sorted({label for row in rows for labels in row.offers[capability].labels for label in labels})
    missing = [wanted for wanted in where if not has(there, wanted)]
    if not missing:
        return f"nobody has {' and '.join(where)} together"
    near = list(dict.fromkeys(label for wanted in missing for label in _nearest(wanted, there)))[:NEAREST]
    return f"nobody has {' or '.join(missing)}" + (f"; nearest: {', '.join(near)}" if near else "")


def _nearest(wanted: str, there: list[str]) -> list[str]:
    """Other values of the same label, then what is written alike."""
    name = wanted.partition("=")[0]
    same = [label for label in there if label.partition("=")[0] == name]
    return same or difflib.get_close_matches(wanted, there, NEAREST, 0.5)
