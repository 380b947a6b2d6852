"""The replay window against a plain set of numbers."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.wire.replay import ReplayWindow

SIZE = 64


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=40))
def test_agrees_with_a_set(steps: list[tuple[int, int]]) -> None:
    """A range is new if none of it was seen; ranges that begin further back than the window are refused whether seen or not."""
    window, seen, newest = ReplayWindow(SIZE), set(), 0
    for first, count in steps:
        wanted = set(range(first, first + count))
        new = first >= 1 and count >= 1 and not wanted & seen and (first > newest or newest - first < SIZE)
        assert window.peek(first, count) == new
        if new:
            window.accept(first, count)
            seen |= wanted
            newest = max(newest, first + count - 1)
            assert window.newest == newest


def test_every_short_story() -> None:
    """All orders in which three small ranges can come, in a window of six."""
    steps = list(product(range(1, 10), range(1, 4)))
    for story in product(steps, repeat=3):
        window, seen, newest = ReplayWindow(6), set[int](), 0
        for first, count in story:
            wanted = set(range(first, first + count))
            new = not wanted & seen and newest - first < 6
            assert window.peek(first, count) is new, story
            if new:
                window.accept(first, count)
                seen |= wanted
                newest = max(newest, first + count - 1)


def test_edges() -> None:
    window = ReplayWindow(1024)
    window.accept(1, 32)
    assert not window.peek(32, 1) and not window.peek(1, 1) and not window.peek(32, 2) and window.peek(33, 1)
    window.accept(2000, 1)
    assert window.peek(2000 - 1023, 1) and not window.peek(2000 - 1024, 1)
    window.accept(2000 - 1023, 1023)
    assert not any(window.peek(number, 1) for number in range(1, 2001))
    window.accept(2**62, 32)
    assert not window.peek(2000, 1) and not window.peek(2**62 + 31, 1) and window.peek(2**62 - 900, 5)


def test_the_bitmap_does_not_grow() -> None:
    window = ReplayWindow(SIZE)
    for number in range(1, 10_000, 3):
        window.accept(number, 2)
    assert window._seen.bit_length() <= SIZE


def test_peek_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.peek(9, 3) and window.peek(9, 3) and window.newest == 0


def test_accepting_twice_is_a_bug_here_not_a_peer() -> None:
    window = ReplayWindow()
    window.accept(1, 1)
    with pytest.raises(AssertionError):
        window.accept(1, 1)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 5), (-3, 9), (1, 0), (5, -1)])
def test_numbers_begin_at_one_and_ranges_are_not_empty(first: int, count: int) -> None:
    assert not ReplayWindow(SIZE).peek(first, count)
