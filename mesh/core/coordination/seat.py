"""Who holds the mesh's office of coordinator, as far as this node knows.

    a LOAD that names an epoch --> in office            its node is gone, or says that it is no more --> nobody is

Invariant: the epoch that is known here only grows; who holds the office under an older one counts for nothing. An epoch is the number of
the office's task, counted as those before it ended, and that task's fence: who holds it is who was awarded it, as of any task.
"""

from __future__ import annotations

from mesh.ids import NodeId
from mesh.messages.membership import NO_EPOCH, Epoch


class Seat:
    """Written by `office.py` alone; the directory's `seat`."""

    def __init__(self) -> None:
        self.holder: NodeId = ""
        """In office now, and within reach; "": nobody."""
        self.epoch: Epoch = NO_EPOCH
        """The newest that was heard of, whether anybody holds it still."""
        self.last: NodeId = ""
        """Who holds or held it under that."""
        self.since_s = 0.0
        """Since when, by what is known here, that has been so."""
        self.mine: Epoch = NO_EPOCH
        """Under which this node holds it."""

    def heard(self, now_s: float, node: NodeId, epoch: Epoch) -> bool:
        """What `node` says of itself. True if that changed anything."""
        if epoch == NO_EPOCH:
            return self.lost(now_s, node)
        if (epoch, node) == (self.epoch, self.holder) or not self.speaks(node, epoch):
            return False
        self.holder = self.last = node
        self.epoch, self.since_s = epoch, now_s
        return True

    def speaks(self, node: NodeId, epoch: Epoch) -> bool:
        """Whether, for all that is known here, `node` holds the office under that epoch, and nobody under a newer one."""
        return epoch > self.epoch or (epoch, node) == (self.epoch, self.last)

    def lost(self, now_s: float, node: NodeId) -> bool:
        """It is out of reach, or out of office."""
        if self.holder != node:
            return False
        self.holder, self.since_s = "", now_s
        return True
