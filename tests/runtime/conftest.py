"""Meshes on paper of `scripts/attacks/world.py`, and the toys of `tests/conftest.py`, for every test here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
