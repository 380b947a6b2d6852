"""Merkle trees over journal entries and over envelope headers: one signature for many, and a short proof for each.

            root                 leaf(x)    = sha256(0x00 || x)
           /    \\                node(l, r) = sha256(0x01 || l || r)
        node     |               an odd one at the end of a level moves up unchanged
       /    \\    |
     l0     l1   l2

Invariant: `root_from_path(leaf, index, count, path) == root(leaves)` for honest paths, and for no other leaf, index or count of the same
tree. The two prefixes keep a node from being passed off as a leaf. Does not sign and knows no formats. Shape: RFC 6962, section 2.1, except
that levels are paired from the left, which for the odd one gives the same tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()
"""The root over no leaves."""

_sha256 = hashlib.sha256


def leaf(data: bytes) -> bytes:
    """The 32-byte leaf of one entry or header."""
    return _sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\x01" + left + right).digest()


def _above(level: Sequence[bytes]) -> list[bytes]:
    up = [_sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
    if len(level) & 1:
        up.append(level[-1])
    return up


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over `leaves` (as made by `leaf`), in order."""
    if not leaves:
        return EMPTY
    level = leaves
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings of leaf `index` from the bottom up; levels where it moves up alone add nothing. Raises IndexError out of range."""
    return paths(leaves, [index])[0]


def paths(leaves: Sequence[bytes], indices: Sequence[int]) -> list[list[bytes]]:
    """The path of each of `indices`, building the tree once. Raises IndexError out of range."""
    if any(not 0 <= index < len(leaves) for index in indices):
        raise IndexError(f"no such leaf among {len(leaves)}: {list(indices)}")
    found: list[list[bytes]] = [[] for _ in indices]
    places = list(indices)
    level = leaves
    while len(level) > 1:
        for which, place in enumerate(places):
            sibling = place ^ 1
            if sibling < len(level):
                found[which].append(level[sibling])
            places[which] = place >> 1
        level = _above(level)
    return found


def path_length(index: int, count: int) -> int:
    """How many siblings the path of leaf `index` of `count` has."""
    length = 0
    while count > 1:
        length += (index ^ 1) < count
        index, count = index >> 1, (count + 1) >> 1
    return length


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root that this path claims; None if its length or a size is wrong. Work is bounded by log2(count), whatever a peer sends."""
    if not 0 <= index < count or len(path) != path_length(index, count) or any(len(sibling) != 32 for sibling in path):
        return None
    here, siblings = leaf, iter(path)
    while count > 1:
        if (index ^ 1) < count:
            sibling = next(siblings)
            here = node(sibling, here) if index & 1 else node(here, sibling)
        index, count = index >> 1, (count + 1) >> 1
    return here
