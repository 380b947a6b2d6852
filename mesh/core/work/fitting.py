"""Labels and versions: which workers fit what a task asks for, and what to say when nobody does.

    task: zone=eu, gpu        worker: gpu=a100, zone=eu  fits        zone=us  lacks zone=eu, gpu
    task: @^2                 worker: version 2.1        fits        version 1  lacks version ^2

A wanted ``name=value`` must be there as it is, a wanted ``name`` with whatever value, a wanted ``@range`` as a version that is in it
(`mesh/versions.py`). Pure text: knows no task and no node's state but whether it is gone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from mesh.core.directory import DEAD, LEFT, ReadDirectory, Row
from mesh.core.work.breaker import OPEN
from mesh.messages.membership import Offer, Variant
from mesh.versions import MARK, alternatives, matches, order, words

NEAREST = 3


def has(labels: Iterable[str], wanted: str) -> bool:
    """``!wanted``: whether it has not (a policy may ask for that)."""
    if wanted.startswith("!"):
        return not has(labels, wanted[1:])
    if wanted.startswith(MARK):
        return any(label.startswith(MARK) and matches(label[1:], wanted[1:]) for label in labels)
    return any(label == wanted or label.partition("=")[0] == wanted for label in labels)


def fits_worker(labels: tuple[str, ...], where: tuple[str, ...]) -> bool:
    return all(has(labels, wanted) for wanted in where)


def marked(labels: tuple[str, ...], version: str) -> tuple[str, ...]:
    """What a worker is for one capability: its labels, and the version it has."""
    return (*labels, MARK + version)


def kinds(offer: Offer | Variant) -> Iterator[tuple[str, ...]]:
    """Of the workers with this one version."""
    return (marked(labels, offer.version) for labels in offer.labels or ((),))


def all_kinds(offer: Offer) -> Iterator[tuple[str, ...]]:
    yield from kinds(offer)
    for variant in offer.variants:
        yield from kinds(variant)


def fits(offer: Offer, where: tuple[str, ...]) -> bool:
    """Whether some worker behind this offer has all of them."""
    return not where or any(fits_worker(labels, where) for labels in all_kinds(offer))


def lacks(offer: Offer, where: tuple[str, ...]) -> str:
    """Why it does not fit, for the record."""
    there = list(all_kinds(offer))
    missing = [wanted for wanted in where if not any(has(labels, wanted) for labels in there)]
    return f"lacks {', '.join(map(words, missing or where))}"


def _offering(directory: ReadDirectory, capability: str) -> list[Row]:
    return [row for row in directory.offering(capability) if row.state not in (DEAD, LEFT)]


def offered(directory: ReadDirectory, capability: str, where: tuple[str, ...] = ()) -> bool:
    """By anybody who is not known to be gone."""
    return any(fits(row.offers[capability], where) for row in _offering(directory, capability))


def narrowed(directory: ReadDirectory, capability: str, where: tuple[str, ...]) -> tuple[str, ...]:
    """Where it wants one version or else another: with the first of them that somebody offers who can take work now, or might soon."""
    for place, wanted in enumerate(where):
        if "|" not in wanted:
            continue
        rows = [row for row in _offering(directory, capability) if not (row.draining or row.revoked or _rests(row, capability))]
        found = [(*where[:place], one, *where[place + 1 :]) for one in alternatives(wanted)]
        return next((one for one in found if any(fits(row.offers[capability], one) for row in rows)), where)
    return where


def _rests(row: Row, capability: str) -> bool:
    load = row.load.get(capability)
    return load is not None and load.breaker == OPEN


def unmet(directory: ReadDirectory, capability: str, where: tuple[str, ...]) -> str:
    """Which of the labels nobody who offers it has, with the nearest that there are; "" if somebody fits."""
    rows = _offering(directory, capability)
    if not where or not rows or any(fits(row.offers[capability], where) for row in rows):
        return ""
    there = sorted({label for row in rows for labels in all_kinds(row.offers[capability]) for label in labels})
    missing = [wanted for wanted in where if not has(there, wanted)]
    if not missing:
        return f"nobody has {' and '.join(map(words, where))} together"
    near = list(dict.fromkeys(words(label) for wanted in missing for label in _nearest(wanted, there)))[:NEAREST]
    return f"nobody has {' or '.join(map(words, missing))}" + (f"; nearest: {', '.join(near)}" if near else "")


def _nearest(wanted: str, there: list[str]) -> list[str]:
    """Other values of the same label, then what is written alike; of versions the newest."""
    if wanted.startswith(MARK):
        return sorted((label for label in there if label.startswith(MARK)), key=lambda label: order(label[1:]), reverse=True)
    name = wanted.partition("=")[0]
    labels = [label for label in there if not label.startswith(MARK)]
    same = [label for label in labels if label.partition("=")[0] == name]
    return same or difflib.get_close_matches(wanted, labels, NEAREST, 0.5)
