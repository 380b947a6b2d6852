"""Reads a text, prints its words: ``tally < text``, ``tally --version``."""

import sys

from tally import VERSION
from tally.counting import top

ROWS = 5


def main() -> int:
    if sys.argv[1:] == ["--version"]:
        print(VERSION)
        return 0
    for word, count in top(sys.stdin.read(), ROWS):
        print(count, word)
    return 0
