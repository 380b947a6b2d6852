"""The gate that a rule puts before a piece of work: what exactly is asked, and whether what people have signed lets it pass.

Invariant: what is asked is a function of rule, capability and input alone. So whoever runs the work can tell from the signed answers
whether they are to this very question, and trusts no manager about it; asked with other input, it is another question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from mesh.ids import Hash, NodeId, content_hash
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict

PREFIX = "policy/"
"""What the steps begin with in which such gates are: no step of a handler does."""
SUBJECT_BYTES_MAX = 64 * 1024
"""Larger arguments are asked about by their hash."""
ADMISSION = "admission"


def step_of(rule: str, asked: Hash, effect: str = "", turn: int = 1) -> str:
    """The name of the step: another question of the same rule is another gate, which ends the one before (`waiting.py`). `turn`: such a
    question may come again."""
    name = f"{PREFIX}{rule}" + (f"/effect/{hashlib.sha256(effect.encode()).hexdigest()[:16]}" if effect else "")
    return f"{name}~{asked[:16]}" + (f".{turn}" if turn > 1 else "")


def is_before(step: str) -> bool:
    """Whether it is a gate before the work itself, and not before an effect of it."""
    return step.startswith(PREFIX) and "/effect/" not in step


def question(rule: str, gate: dict[str, Any], capability: str, data: bytes, effect: str = "") -> bytes:
    """The arguments of the gate."""
    subject: dict[str, Any] = {"capability": capability} | _arguments(data)
    if effect:
        subject["effect"] = effect
    options = {key: value for key, value in gate.items() if key != "expires_ms"}
    whole = {"wait": "gate", "name": f"{PREFIX}{rule}", "rule": rule, "subject": subject} | options
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def _arguments(data: bytes) -> dict[str, Any]:
    """What is no JSON, or holds what is no text, is asked about by its hash too: whoever asks for work may send anything."""
    if len(data) <= SUBJECT_BYTES_MAX:
        try:
            found = json.loads(data or b"null")
            json.dumps(found, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return {"arguments_hash": content_hash(data)}
        return {"arguments": found}
    return {"arguments_hash": content_hash(data)}


def passes(
    gate: dict[str, Any], asked: Hash, words: Iterable[Signed], name_of: Callable[[NodeId], str], asker: NodeId, *, separate: bool
) -> bool:
    """Whether these answers are enough: to exactly the question whose hash is `asked`, by as many of those who may answer.

    `asker`: who asked for the work; `separate`: what holds where the rule says nothing of it.
    """
    who = [*gate["approvers"], *gate["escalate_to"]] if gate["approvers"] else []
    apart = separate if gate["separate"] is None else gate["separate"]
    said: dict[NodeId, bool] = {}
    for word in words:
        verdict = word.body
        if not isinstance(verdict, Verdict) or verdict.input != asked:
            continue
        if who and word.author not in who and name_of(word.author) not in who:
            continue
        if not (apart and word.author == asker):
            said[word.author] = verdict.approve
    return all(said.values()) and sum(said.values()) >= gate["quorum"]
