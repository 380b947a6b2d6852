"""The mesh on paper of `scripts/attacks/world.py`, for every test here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from attacks.world import World


@pytest.fixture
def world() -> World:
    return World()
