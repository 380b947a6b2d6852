"""Whether this node may still know all that it has promised as a keeper: not after an older image of its disk was put back.

    start --> unsure: says nothing about a log --its members have sent the heads they know of, or doubt_s are over--> sure
    a head of its own that its disk lacks, or a SHIP that names what it had --> lapsed, as long as this life lasts, in every log until
        the leader has made it a member anew (`Replica.lapse`)

Invariant: evidence comes with a link, before anything else that a peer says; so nobody's word about a log is heard before what that peer
knows against this disk. A lapse is on record, and each later life begins lapsed: an image from after it tells of it too. Does not see an
image that nobody who is here knows to be old. Source: Liskov and Cowling, Viewstamped Replication Revisited (2012), section 4.3.
"""

from __future__ import annotations

from random import Random

from mesh.core.keeping.replica import Replica
from mesh.ids import NodeId
from mesh.limits import KeepingLimits

BITS = 62
"""Of a lapse's number: no two are alike."""


class Memory:
    def __init__(self, limits: KeepingLimits, random: Random) -> None:
        self._limits, self._random = limits, random
        self._sure_at_s = float("inf")
        self._heard: dict[NodeId, None] = {}
        self.lapse = 0
        """Of this life; 0: none that is known."""

    def began(self, now_s: float) -> None:
        self._sure_at_s = now_s + self._limits.doubt_s

    def heard(self, peer: NodeId) -> bool:
        """`peer` has sent the heads that it knows. True: for the first time."""
        first = peer not in self._heard
        self._heard[peer] = None
        return first

    def is_sure(self, now_s: float, replica: Replica) -> bool:
        """Whether all who could know better have been heard, as far as they are here."""
        others = [member for member in replica.log.members if member != replica.me]
        return now_s >= self._sure_at_s or all(member in self._heard for member in others)

    def fails(self) -> None:
        """The disk was put back."""
        self.lapse = self.lapse or 1 + self._random.getrandbits(BITS)
