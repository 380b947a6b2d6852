"""The explorer is a tool of `scripts/`: here at small sizes, `scripts/explore` has the full ones."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
