"""What is told inside a node about its mesh's policy."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.messages.signed import Signed


@dataclass(slots=True)
class Stated:
    """A trust statement is held from now on."""

    signed: Signed


@dataclass(slots=True)
class PolicyChanged:
    """Another rulebook is in force: that of the directory."""

    version: int


@dataclass(slots=True)
class Ran:
    """A run that this node manages has ended: as which version, and how."""

    capability: str
    version: str
    failed: bool
    service_ms: int
