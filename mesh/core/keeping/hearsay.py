"""Who took over, as others tell it: where neither the author nor the taker can say it, and who drives the task now shall be believed.

    ann's task: ann --> bob --> cat, who drives it      ann and bob are gone      others --TOOK--> its holder, who never heard of bob

Invariant: it is believed once two members have said the same, as two ballots are believed where the taker shows them. Proven to somebody
new it cannot be: what a revoked node has signed counts for nothing any more. Bounded: the oldest single word is forgotten first.
"""

from __future__ import annotations

from mesh.core.directory import DEAD, LEFT, Directory, Heir
from mesh.ids import NodeId

Word = tuple[NodeId, int, int, int, NodeId]
"""Author, incarnation, counter, term, taker: see `directory.Heir`."""
SINGLE_WORDS_MAX = 1024
"""Heard from one alone; 300 bytes each."""


class Hearsay:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._single: dict[Word, NodeId] = {}
        """Who has said it."""

    def known(self, about: NodeId = "") -> list[Word]:
        """What this node knows and nobody else would say; `about`: only where it is the author or the taker."""
        return [
            (author, heir.incarnation, heir.counter, heir.term, heir.taker)
            for author, heirs in self._directory.heirs.items()
            if self._is_gone(author)
            for heir in heirs
            if about in ("", author, heir.taker) and self._is_gone(heir.taker)
        ]

    def hear(self, sender: NodeId, words: tuple[Word, ...]) -> None:
        for word in words:
            first = self._single.pop(word, sender)
            if first == sender or self._directory.revoked(first):
                self._single[word] = sender
            else:
                self._directory.inherit(word[0], Heir(*word[1:]))
        while len(self._single) > SINGLE_WORDS_MAX:
            del self._single[next(iter(self._single))]

    def _is_gone(self, node: NodeId) -> bool:
        row = self._directory.get(node)
        return row is None or row.revoked or (row.state in (DEAD, LEFT) and not row.linked)
