"""The deadlines of keeping."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId


@dataclass(frozen=True, slots=True)
class BeatDue:
    """Leaders say that they live; followers notice who does not."""


@dataclass(frozen=True, slots=True)
class CampaignDue:
    """Time to stand for election in the log of `author`, if nobody leads it still."""

    author: NodeId


@dataclass(frozen=True, slots=True)
class RosterDue:
    """Time to look at who keeps the own journal."""


@dataclass(frozen=True, slots=True)
class KeysDue:
    """Time to look at who keeps the mesh's keys."""


@dataclass(frozen=True, slots=True)
class ClaimDue:
    """The claim of `key` has brought no answer: another turn."""

    key: str
