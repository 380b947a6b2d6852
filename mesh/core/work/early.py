"""What others say before this node knows which tasks of its journal are still its own.

    a message of another --put off--> heard when the keepers follow this node, or when others are known to have taken its tasks over

Only a question about a task that is known to be another's is answered meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mesh.core.work.book import Book
from mesh.ids import NodeId, author_of
from mesh.messages.work import Ask

EARLY_MAX = 1024


class Early:
    """The oldest goes first: it is said again, or asked again."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._said: deque[tuple[NodeId, Any]] = deque(maxlen=EARLY_MAX)

    def put_off(self, sender: NodeId, item: Any) -> bool:
        """False: it can be answered at once."""
        if type(item) is Ask and author_of(item.key) == self._book.me and not self._book.is_mine(item.key):
            return False
        self._said.append((sender, item))
        return True

    def forget(self, node: NodeId) -> None:
        """It was revoked. What it said counts no more, though it said so in time: nothing had come of it yet."""
        kept = [(sender, item) for sender, item in self._said if sender != node]
        for _ in range(len(self._said) - len(kept)):
            self._book.count("node_revoked")
        self._said = deque(kept, maxlen=EARLY_MAX)

    def take(self) -> list[tuple[NodeId, Any]]:
        said = list(self._said)
        self._said.clear()
        return said
