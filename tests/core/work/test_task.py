"""The table of states: every transition, and what is not in it."""

from __future__ import annotations

import pytest

from mesh.core.work.task import STATES, TERMINAL, TRANSITIONS, Task
from mesh.effects import Need

EVENTS = sorted({event for _, event in TRANSITIONS})


def task(state: str) -> Task:
    made = Task("n.1.1", "greet", b"", "", False, Need.FREE, 0.0)
    made.state = state
    return made


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_a_task_moves_by_the_table_or_not_at_all(state, event):
    moved = task(state)
    if (state, event) in TRANSITIONS:
        moved.move(event)
        assert moved.state == TRANSITIONS[state, event]
    else:
        with pytest.raises(AssertionError, match="no transition"):
            moved.move(event)
        assert moved.state == state


def test_an_ended_task_never_moves():
    assert not [key for key in TRANSITIONS if key[0] in TERMINAL]


def test_every_state_is_reached_and_every_live_one_can_end():
    reached, ending = {"pending"}, set(TERMINAL)
    for _ in STATES:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
        ending |= {state for (state, _), to in TRANSITIONS.items() if to in ending}
    assert reached == set(STATES) == ending
