"""What work spends of a budget: asked by the worker's node, kept by the task's manager (`core/work/accounts.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import Fence, TaskId
from mesh.messages.work import Amounts

SPEND, RESERVE, SETTLE, LOOK = "spend", "reserve", "settle", "look"


@dataclass(slots=True)
class SpendAsk:
    """``ctx.spend``, ``ctx.reserve`` and ``ctx.budget`` of a worker of the sender. Repeated until answered by EFFECT_ANSWER: noted, with
    what is left (JSON); known (this key was counted before); or refused. Of one attempt the next is asked when this one is answered."""

    ask: int
    task: TaskId
    fence: Fence
    call: int
    """Counts the questions of this attempt, from 1 on."""
    kind: str
    """spend, reserve, settle (what was reserved under `key` has cost so much), look."""
    key: str = ""
    """Of what is reserved always; of what is spent where it shall count once for all attempts."""
    amounts: Amounts = ()
