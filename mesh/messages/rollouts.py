"""Staged rollouts: how far each has come, and what was seen of both versions.

  ROLLOUTS     --with each link, and when something is new-->     marks, and what the sender's own awards have shown

A mark of a tripped rollout counts before one that is not; of two that are not, the greater stage. Of what one life of a node has seen, the
greater count. Members are believed about both, as about schedules.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId


@dataclass(slots=True)
class Mark:
    """How far the rollout of `capability` has come whose `edition` this is (`core/policy/rollouts.py`). With a `reason` it has ended: all
    new work goes to the old version, as long as the policy in force names that very rollout."""

    edition: int
    capability: str
    stage: int = 0
    reason: str = ""
    """Which limit was broken, and the figures."""
    by: NodeId = ""
    """Who saw that."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one version's runs: all, those that failed, and what the others took in all."""

    runs: int = 0
    failed: int = 0
    took_ms: int = 0


@dataclass(slots=True)
class Tally:
    """What one life of a node has seen of a rollout, by the work that it manages."""

    edition: int
    capability: str
    node: NodeId
    incarnation: int
    new: Seen
    old: Seen


@dataclass(slots=True)
class Rollouts:
    marks: tuple[Mark, ...] = ()
    tallies: tuple[Tally, ...] = ()
