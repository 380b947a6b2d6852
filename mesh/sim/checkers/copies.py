"""Which entries of a journal are copies: the log of another author, told again by whoever takes over from him."""

from __future__ import annotations

from mesh.ids import NodeId
from mesh.messages.records import Inherited
from mesh.sim.history import Appended


class Copies:
    """Ask once for every entry that is appended, in order."""

    def __init__(self) -> None:
        self._left: dict[NodeId, int] = {}

    def is_copy(self, record: Appended) -> bool:
        left = self._left.get(record.node, 0)
        if left:
            self._left[record.node] = left - 1
            return True
        if type(record.entry) is Inherited:
            self._left[record.node] = record.entry.count
        return False

    def down(self, node: NodeId) -> None:
        """What it had not copied by then it never copies."""
        self._left.pop(node, None)
