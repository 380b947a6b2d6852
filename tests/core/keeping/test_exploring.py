"""The consensus, explored at small sizes: every interleaving within bounds, and some walks. `scripts/explore` has the full sizes."""

from __future__ import annotations

import pytest
from exploring.sizes import SMALL, space_of
from exploring.walk import Walk


@pytest.mark.parametrize("name", SMALL)
def test_every_promise_holds_in_every_state(name):
    found = space_of(SMALL[name]).explore(100_000)
    assert (found.broken, found.whole) == ("", True)
    assert found.states > 300 and found.depth > 8, found


@pytest.mark.parametrize("seed", range(12))
def test_every_promise_holds_on_a_walk_and_things_go_on_after_it(seed):
    assert Walk(seed, 600).run().broken == ""
