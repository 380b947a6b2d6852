"""Signed objects: what is relayed or kept stands alone, signed by its author under its own tag, and travels as received bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.ids import NodeId


@dataclass(slots=True, eq=False)
class Signed:
    """A statement of `author`. Cores only see verified ones; one made here is signed by the wire when it first leaves.

    `raw` is ``msgpack [tag, author, body bytes, signature]`` as received, empty until signed. Equality is that of author and body.
    """

    author: NodeId
    body: Any
    raw: bytes = b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signed) and (self.author, self.body) == (other.author, other.body)

    __hash__ = None  # type: ignore[assignment]
