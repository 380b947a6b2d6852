"""What people answer to work that waits for them. A `Verdict` is signed by the node at which it was given, and stands on record as it was
signed: who wants to know whether a gate was passed rightly asks nobody."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import Hash, TaskId
from mesh.messages.membership import NO_EPOCH, Epoch

WAIT = "mesh.wait"
"""The capability of steps that nobody runs: their manager holds them until somebody settles them, or their time is over."""


@dataclass(slots=True)
class Verdict:
    """Of one person about one gate. Body of a signed object."""

    task: TaskId
    input: Hash
    """Of exactly what was asked: of anything else it says nothing."""
    approve: bool
    person: str
    """Who answers, as the account's owner is called there; the node vouches for the account, not for the name."""
    note: str = ""
    output: bytes = b""
    """JSON in place of what was asked about; empty: as it is."""
    at_ms: int = 0
    """By the signer's clock."""
    certificate: bytes = b""
    """The signer's chain, so that the word can be judged by itself. (Members judge by what they know of him.)"""
    epoch: Epoch = NO_EPOCH
    """Of a coordinator: under which he says so."""
    scope: str = ""
    """Likewise: ``RULE CAPABILITY``, which his word may be taken for while there is no coordinator; of a manager who went by that: why."""


def signal_step(name: str, number: int) -> str:
    """The name of the step in which a task waits for its signal of that name, counted from 0."""
    return f"signal/{name}/{number}"


def update_step(name: str, number: int) -> str:
    """The name of the step that waits for the answer to that update, counted from 0. (What it brings comes as the signal ``~NAME``.)"""
    return f"update/{name}/{number}"


def signal_of(step: str) -> tuple[str, int] | None:
    """Which signal a step of that name waits for; None: none."""
    kind, _, rest = step.partition("/")
    name, _, number = rest.rpartition("/")
    return (name, int(number)) if kind == "signal" and name and number.isdecimal() else None
