"""What of the journal is in no hurry: what nothing waits for travels with the next that something does, or soon.

    entry, lazy -> something in the outbox waits for it?  yes: written now             no: held, for `company_s` at most
    NewHead -----> something waits for the keepers?       yes: to the machines now     no: held, for `company_s` at most

Invariant: at the end of a turn nothing waits for what is held; what is held keeps its order. So a manager writes that an award was bound
with the result, and a contractor's journal, for whose keepers nothing waits, costs them a sync for many tasks and not three for each.
Knows no time: both callers ask at the end of each turn, and set a timer while something is held.
"""

from __future__ import annotations

from mesh.core.inputs import NewHead
from mesh.core.outbox import Outbox
from mesh.effects import Append


class Company:
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._first = 0
        """The first entry that the disk was not given; 0: it has all."""
        self._urgent = False
        self._heads: list[NewHead] = []

    def appended(self, seq: int, append: Append) -> None:
        self._first = self._first or seq
        self._urgent = self._urgent or not append.lazy

    def committed(self, head: NewHead) -> None:
        self._heads.append(head)

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._first or self._heads)

    def heads(self, *, late: bool) -> list[NewHead]:
        """What the machines are to hear now. `late`: it has been held for long enough."""
        if not self._heads or not (late or self._outbox.waits_for_keepers()):
            return []
        heads, self._heads = self._heads, []
        return heads

    def write(self, *, late: bool) -> bool:
        """Whether the disk is to be given all that was appended."""
        if not self._first or not (late or self._urgent or self._outbox.waits_for(self._first)):
            return False
        self._first, self._urgent = 0, False
        return True
