"""The gate before critical work, which the mesh's coordinator answers by himself: what is asked, and whether an answer holds.

Invariant: as of a gate that people answer: what is asked follows from rule, capability and input alone, so whoever runs the work judges the
answer by himself. An answer holds for its epoch: under a newer one it counts for nothing. While no coordinator is in sight, and only then,
a manager's own word counts, of the kind that the rule allows; that he goes by an earlier decision he shows by that decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.core.directory import ReadDirectory
from mesh.core.policy.central import CACHED, OPEN
from mesh.core.policy.gating import PREFIX, question
from mesh.core.policy.rules import Admit
from mesh.ids import COORDINATE, Hash, NodeId, content_hash
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict

MARK = "admission"
ADMISSION: dict[str, Any] = {"question": "May it start? (the mesh's coordinator answers)", "quorum": 1, MARK: True}


def step_of(rule: str, number: int) -> str:
    """Of the gate, counted from 0: an answer that has run out is asked for once more."""
    return f"{PREFIX}{rule}/{MARK}/{number}"


def asked_of(rule: str, capability: str, data: bytes) -> bytes:
    return question(rule, ADMISSION, capability, data)


def scope_of(rule: str, capability: str) -> str:
    return f"{rule} {capability}"


def may_coordinate(directory: ReadDirectory, node: NodeId) -> bool:
    """Whether it offers to (which its certificate has to allow)."""
    row = directory.get(node)
    return row is not None and COORDINATE in row.offers and not row.revoked


def holds(
    directory: ReadDirectory, rule: str, admit: Admit, capability: str, asked: Hash, words: Sequence[Signed], manager: NodeId
) -> bool:
    """Whether these words, which came with work from `manager`, let it start here."""
    verdicts = [(word.author, word.body) for word in words if isinstance(word.body, Verdict)]
    for author, verdict in verdicts:
        if verdict.input != asked or not verdict.approve or verdict.epoch < directory.seat.epoch:
            continue
        if author != manager or verdict.scope == scope_of(rule, capability):
            if may_coordinate(directory, author) and directory.seat.speaks(author, verdict.epoch):
                return True
        elif (
            verdict.scope == admit.absent
            and not directory.seat.holder
            and (admit.absent == OPEN or (admit.absent == CACHED and _shown(directory, rule, capability, verdicts)))
        ):
            return True
    return False


def _shown(directory: ReadDirectory, rule: str, capability: str, verdicts: list[tuple[NodeId, Verdict]]) -> bool:
    """The decision that a manager goes by: for this very rule and capability, of whoever may coordinate, none newer being known."""
    return any(
        verdict.approve
        and verdict.scope == scope_of(rule, capability)
        and directory.seat.speaks(author, verdict.epoch)
        and may_coordinate(directory, author)
        for author, verdict in verdicts
    )


def asks(rule: str, capability: str, data: bytes) -> Hash:
    return content_hash(asked_of(rule, capability, data))
