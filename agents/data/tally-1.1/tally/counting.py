"""Counts words; those that every text has do not count. They are in ``common.txt``, where translators find them."""

import re
from collections import Counter
from functools import cache
from pathlib import Path


@cache
def common() -> frozenset[str]:
    try:
        return frozenset(Path(__file__).with_name("common.txt").read_text(encoding="utf-8").split())
    except OSError:
        return frozenset()


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+(?:['’]\w+)*", text.lower()) if word not in common()]


def top(text: str, rows: int) -> list[tuple[str, int]]:
    """The most frequent words, those that are equally frequent by the alphabet."""
    return sorted(Counter(words(text)).items(), key=lambda each: (-each[1], each[0]))[:rows]
