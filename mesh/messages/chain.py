"""The chain of commits that each journal is, and what is told of it.

A *commit* is one group of at most 256 entries: one fsync, one signature, one link to the commit before. `(author, incarnation, seq)` is the
only dot in the system.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed


@dataclass(slots=True)
class Commit:
    """Entries ``first .. first+count-1`` of one author's incarnation. Body of a signed object; its hash is that of the body's bytes."""

    author: NodeId
    incarnation: int
    epoch: int
    first: int
    count: int
    prev: bytes
    """SHA-256 of the commit before (of any incarnation of this author); 32 zero bytes for the very first."""
    merkle_root: bytes
    """Over leaves ``sha256(0x00 || entry)`` and nodes ``sha256(0x01 || left || right)``; an odd one moves up unchanged."""
    hlc: int
    """Hybrid logical clock: milliseconds of Unix time << 16 | counter."""


# ---- messages


@dataclass(slots=True)
class Heads:
    """The newest commits the sender knows, of any author, as their authors signed them."""

    heads: tuple[Signed, ...]


@dataclass(slots=True)
class Fork:
    """Two commits for one place: proof that `author` equivocated, or that an old disk came back to life. Kept and shown for ever."""

    author: NodeId
    one: Signed
    other: Signed


@dataclass(slots=True)
class Witness:
    """By a node that saw this commit of `author` and every one before it that it knew of fit together. Body of a signed object."""

    author: NodeId
    incarnation: int
    last: int
    """Number of the commit's last entry."""
    head: bytes
    at_ms: int


@dataclass(slots=True)
class Witnessed:
    """Co-signatures of the receiver's own journal, for it to keep."""

    witnesses: tuple[Signed, ...]
