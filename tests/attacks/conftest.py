"""The arena of `scripts/attacks`: real nodes, and attackers in processes of their own. Small sizes; `scripts/attack` has the full ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from attacks.arena import FEW_FILES, arena
from attacks.spaces import why_not

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ground() -> Iterator[Any]:
    """otter, attacked by one after the other, and heron."""
    with arena() as made:
        yield made


@pytest.fixture
def poor_ground() -> Iterator[Any]:
    """otter may have 64 files open."""
    with arena(FEW_FILES) as made:
        yield made


@pytest.fixture
def spaces() -> None:
    """Skips where there can be no network namespaces."""
    if why := why_not():
        pytest.skip(f"NOTICE: {why}, so nobody stands between, and nothing is captured")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
