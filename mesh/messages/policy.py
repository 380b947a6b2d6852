"""The mesh's own rules: what may run, where, after whose word, and how its results leave. Signed by who admits members, told on to all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Policy:
    """By a root key, or by an issuer's, which `certificate` then shows. Of all that are known the one of the greatest ``(seq, author)``
    counts. Body of a signed object."""

    mesh: str
    seq: int
    text: str
    """The document as canonical JSON: `mesh/core/policy/document.py` reads it."""
    person: str
    """Who set it, as the account's owner is called there."""
    note: str
    at_ms: int
    certificate: bytes = b""
    """The issuer's, as a chain of one; empty: by a root."""
