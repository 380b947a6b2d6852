"""Random flows follow the model, under kills; and bugs planted in the interpreter are seen. `scripts/flows` runs thousands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from graphs.campaign import Campaign

from mesh.flows.interpreter import _Interpreter
from mesh.flows.run import State
from mesh.flows.saga import Saga


def bad(seeds: range, kills: int) -> dict[int, list[str]]:
    return asyncio.run(asyncio.wait_for(Campaign(seeds, kills=kills).run(), 60))


def test_random_flows_follow_the_model_while_nodes_die() -> None:
    assert bad(range(41, 61), 3) == {}


async def _first_only(self: Any, step: Any) -> tuple[tuple[str, ...], str]:
    for need in step.needs[:1]:
        await asyncio.shield(self._state.end_of(need))
    return step.needs[:1], ""


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "seen"),
    [
        (Saga, "to_undo", lambda saga: [work for step in saga._order for work in saga._committed[step]], "is undone before it"),
        (State, "lost", lambda state, step: False, "the flow succeeded, and should not"),
        (_Interpreter, "_joined", _first_only, "only .* had ended|and should not"),
    ],
    ids=["the first is undone first", "a failure is none", "the first need is enough"],
)
def test_a_planted_bug_is_seen(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrong: Callable[..., Any], seen: str) -> None:
    monkeypatch.setattr(owner, name, wrong)
    assert re.search(seen, str(bad(range(1, 13), 0)))
