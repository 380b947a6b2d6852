"""What a worker states of its machine when it registers: labels, resources, and what each of its capabilities needs. Raises Refused.

A node believes its own user's workers about the machine, and nothing about the form in which they say it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mesh.errors import Refused
from mesh.ids import AMOUNT_MAX, LABELS_MAX, is_label, is_name
from mesh.messages.membership import Offer

Amounts = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Stated:
    labels: tuple[str, ...]
    resources: Amounts
    needs: dict[str, Amounts]

    def on(self, offer: Offer) -> Offer:
        needs = self.needs.get(offer.capability)
        return replace(offer, needs=needs) if needs else offer


def stated_of(params: dict[str, Any]) -> Stated:
    labels, needs = params.get("labels", []), params.get("needs", {})
    if type(labels) is not list or len(labels) > LABELS_MAX or not all(type(one) is str and is_label(one) for one in labels):
        raise _bad("labels")
    if type(needs) is not dict or not all(type(name) is str for name in needs):
        raise _bad("needs")
    found = {name: _amounts(rows, "needs") for name, rows in needs.items()}
    return Stated(tuple(sorted(labels)), _amounts(params.get("resources", []), "resources"), found)


def _amounts(rows: Any, what: str) -> Amounts:
    if type(rows) is not list or len(rows) > LABELS_MAX:
        raise _bad(what)
    for row in rows:
        if type(row) is not list or [type(part) for part in row] != [str, int] or not is_name(row[0]) or not 0 < row[1] <= AMOUNT_MAX:
            raise _bad(what)
    if len({row[0] for row in rows}) != len(rows):
        raise _bad(what)
    return tuple(sorted((name, amount) for name, amount in rows))


def _bad(what: str) -> Refused:
    message = f"the node does not take this worker: the form of its {what}"
    return Refused(message, fix="use the same version of the package on both sides", code="bad_attach")
