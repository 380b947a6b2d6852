"""The tree against a direct recursion, and proofs against every lie a peer could tell with them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.records import merkle

ENTRIES = st.lists(st.binary(max_size=20), min_size=1, max_size=70)


def by_recursion(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962: split at the largest power of two below the length."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + by_recursion(leaves[:split]) + by_recursion(leaves[split:])).digest()


@given(ENTRIES)
def test_pairing_from_the_left_gives_the_tree_of_rfc_6962(entries: list[bytes]) -> None:
    leaves = [merkle.leaf(entry) for entry in entries]
    assert merkle.root(leaves) == by_recursion(leaves)


def test_known_root() -> None:
    """Vectors of RFC 6962 implementations: no entry, one empty entry."""
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.root([merkle.leaf(b"")]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@given(ENTRIES, st.data())
def test_a_path_leads_to_the_root_and_no_other_does(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [merkle.leaf(entry) for entry in entries]
    root, count = merkle.root(leaves), len(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = merkle.path(leaves, index)
    assert merkle.root_from_path(leaves[index], index, count, path) == root
    assert merkle.root_from_path(merkle.leaf(b"another" * 9), index, count, path) != root
    assert merkle.root_from_path(leaves[index], index, count, [*path, bytes(32)]) is None
    if path:
        assert merkle.root_from_path(leaves[index], index, count, path[1:]) is None
        level = data.draw(st.integers(0, len(path) - 1))
        bad = bytearray(path[level])
        bad[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        assert merkle.root_from_path(leaves[index], index, count, [*path[:level], bytes(bad), *path[level + 1 :]]) != root
    other = data.draw(st.integers(0, count - 1))
    if leaves[other] != leaves[index]:
        assert merkle.root_from_path(leaves[index], other, count, path) != root


def test_a_node_is_no_leaf() -> None:
    """Without the prefixes the two middle hashes could be passed off as an entry of a tree of two."""
    leaves = [merkle.leaf(bytes([i])) for i in range(4)]
    left, right = merkle.node(*leaves[:2]), merkle.node(*leaves[2:])
    assert merkle.root([left, right]) == merkle.root(leaves)
    assert merkle.leaf(leaves[0] + leaves[1]) != left


@pytest.mark.parametrize("index,count", [(-1, 4), (4, 4), (0, 0), (5, 1)])
def test_places_outside_the_tree_have_no_root(index: int, count: int) -> None:
    assert merkle.root_from_path(bytes(32), index, count, []) is None


def test_siblings_of_a_wrong_size_have_no_root() -> None:
    assert merkle.root_from_path(bytes(32), 0, 2, [bytes(31)]) is None


def test_a_path_of_an_absurd_count_is_refused_before_it_is_walked() -> None:
    assert merkle.root_from_path(bytes(32), 0, 1 << 40, [bytes(32)] * 39) is None


def test_paths_of_no_such_leaf() -> None:
    with pytest.raises(IndexError):
        merkle.path([bytes(32)], 1)


def test_a_thousand_proofs_at_once() -> None:
    leaves = [merkle.leaf(str(i).encode()) for i in range(1000)]
    root = merkle.root(leaves)
    for index, path in enumerate(merkle.paths(leaves, range(1000))):
        assert merkle.root_from_path(leaves[index], index, 1000, path) == root
        assert len(path) <= 10
