"""Counts words; those that every text has do not count."""

import re
from collections import Counter

COMMON = frozenset(
    ("a", "and", "are", "as", "at", "be", "but", "for", "in", "is", "it", "of", "on", "or", "that", "the", "to", "was", "with")
)


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+(?:['’]\w+)*", text.lower()) if word not in COMMON]


def top(text: str, rows: int) -> list[tuple[str, int]]:
    """The most frequent words, those that are equally frequent by the alphabet."""
    return sorted(Counter(words(text)).items(), key=lambda each: (-each[1], each[0]))[:rows]
