"""Patterns of capabilities against a model that lists every name: what is within grants no name that the wider one does not."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.wire.patterns import covers, is_pattern, within

NAMES = ["".join(letters) for size in range(5) for letters in product("ab*", repeat=size)]
"""Every name of up to four of three letters, one of them the star: longer than any pattern below, so that nothing is missed."""
PATTERNS = st.lists(st.text("ab*", max_size=3), max_size=4).map(tuple)


def allowed(patterns: tuple[str, ...]) -> set[str]:
    """All names that the patterns stand for, by the words of the documentation."""
    found = set()
    for pattern in patterns:
        if pattern[-1:] == "*":
            found |= {name for name in NAMES if name[: len(pattern) - 1] == pattern[:-1]}
        found.add(pattern)
    return found


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(PATTERNS)
def test_covers_agrees_with_the_list(patterns: tuple[str, ...]) -> None:
    for name in NAMES:
        assert covers(patterns, name) == (name in allowed(patterns))


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(PATTERNS, PATTERNS)
def test_within_agrees_with_the_list(patterns: tuple[str, ...], wider: tuple[str, ...]) -> None:
    if within(patterns, wider):
        assert allowed(patterns) <= allowed(wider)
    elif allowed(patterns) <= allowed(wider):
        # The names are finite here, so several patterns together may happen to cover what no single one does.
        assert any(not any(allowed((one,)) <= allowed((other,)) for other in wider) for one in patterns)


@pytest.mark.parametrize(
    ("patterns", "wider", "holds"),
    [
        ((), (), True),
        ((), ("a",), True),
        (("a",), (), False),
        (("*",), ("*",), True),
        (("*",), ("a*",), False),
        (("a*",), ("*",), True),
        (("a*",), ("a",), False),
        (("a",), ("a*",), True),
        (("ab*",), ("a*",), True),
        (("a*",), ("ab*",), False),
        (("a", "b"), ("a",), False),
        (("a", "b"), ("b", "a"), True),
        (("x*y",), ("x*y",), True),
        (("xzy",), ("x*y",), False),
        (("",), ("*",), True),
        (("",), ("a*",), False),
    ],
)
def test_within(patterns: tuple[str, ...], wider: tuple[str, ...], holds: bool) -> None:
    assert within(patterns, wider) == holds


def test_a_star_counts_only_at_the_end() -> None:
    assert covers(("ocr.*",), "ocr.pages") and covers(("ocr.*",), "ocr.") and not covers(("ocr.*",), "ocr")
    assert not covers(("*.pages",), "ocr.pages") and covers(("*.pages",), "*.pages")
    assert covers(("greet",), "greet") and not covers(("greet",), "greeting") and not covers((), "greet")


@pytest.mark.parametrize("text", ["*", "ocr", "ocr.*", "a" * 64, "a" * 64 + "*", "A1_.-x"])
def test_what_a_pattern_is(text: str) -> None:
    assert is_pattern(text)


@pytest.mark.parametrize("text", ["", "**", "*x", "a b", "a;b", "1a", ".a", "a" * 65, "a**", "a\n", "*\n", "*~", "a~", "~*"])
def test_what_a_pattern_is_not(text: str) -> None:
    assert not is_pattern(text)
