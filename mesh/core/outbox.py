"""What waits for the disk, here and at the keepers. The only place that knows the rule: nothing leaves before what it needs is safe.

    FREE ----------------------------------------------> leaves
    SYNCED --until the own disk has `after`------------> leaves            `release`
    KEPT ----until a majority of the keepers has it too-> leaves, or is forsaken: another has taken the log over            `kept`

What nothing waits for need not go to the disk, or on to the keepers, by itself: see `company.py`.

Invariant: within one need, effects leave in the order they were made; what is KEPT is synced as well. While nobody keeps the journal
(`NOBODY`, the beginning) what is synced is kept, and all effects leave in the order they were made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import itemgetter

from mesh.effects import Effect, Later, Need, Reply, Send

NOBODY = -1
"""As a watermark: only this node keeps its journal."""

PUT_BACK = {
    "code": "rolled_back",
    "message": "this node's disk was put back to an older state than its keepers hold, so it takes no work that must survive",
    "fix": "mesh doctor",
}

Waiting = deque[tuple[int, Effect]]
"""With the number in which order they were made."""


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    synced: int
    waiting: int
    released: int
    kept: int = NOBODY
    """-1: nobody but this node keeps its journal."""
    forsaken: int = 0
    """Messages that never left, because another had taken the log over."""


class Outbox:
    """Holds effects, in order, until their watermark is reached. `synced` is the last journal number known to be on disk."""

    def __init__(self, synced: int = 0) -> None:
        self._synced = synced
        self._kept = NOBODY
        self._safe = synced
        """Synced and kept up to here."""
        self._for_disk: Waiting = deque()
        self._for_keepers: Waiting = deque()
        self._made = 0
        self._released = 0
        self._forsaken = 0

    def may_leave(self, effect: Effect) -> bool:
        """True if `effect` may be performed now; else it waits, and comes back from `release` or `kept`."""
        if effect.after <= self._safe:
            return True
        if effect.need is Need.KEPT:
            waiting = self._for_keepers
        elif effect.after <= self._synced:
            return True
        else:
            waiting = self._for_disk
        self._made += 1
        waiting.append((self._made, effect))
        return False

    def release(self, synced: int) -> list[Effect]:
        """The disk has everything up to `synced`: what may leave now, in the order it was made."""
        assert synced >= self._synced, "a disk does not forget what it has synced"
        self._synced = synced
        return self._free()

    def kept(self, seq: int, *, forsaken: bool = False, lost: bool = False) -> list[Effect]:
        """A majority of the keepers has everything up to `seq` (`NOBODY`: there are none): what may leave now, in the order it was made.

        `forsaken`: of what then still waits for them, messages never leave. Answers to clients go on waiting: the log may come back.
        `lost`: it does not, so clients are told.
        """
        self._kept = seq
        free = self._free()
        if forsaken:
            left: Waiting = deque(each for each in self._for_keepers if type(each[1]) not in (Send, Later))
            self._forsaken += len(self._for_keepers) - len(left)
            self._for_keepers = left
        if lost:
            free += [Reply(each.request, False, PUT_BACK) for _, each in self._for_keepers if isinstance(each, Reply)]
            self._for_keepers.clear()
        return free

    def _free(self) -> list[Effect]:
        self._safe = self._synced if self._kept == NOBODY else min(self._kept, self._synced)
        free = [*_up_to(self._for_disk, self._synced), *_up_to(self._for_keepers, self._safe)]
        free.sort(key=itemgetter(0))
        self._released += len(free)
        return [effect for _, effect in free]

    def waits_for(self, entry: int) -> bool:
        """Whether something here waits for this entry, or a later one, to be on disk or kept."""
        return any(waiting and waiting[-1][1].after >= entry for waiting in (self._for_disk, self._for_keepers))

    def waits_for_keepers(self) -> bool:
        return bool(self._for_keepers)

    def statistics(self) -> OutboxStatistics:
        waiting = len(self._for_disk) + len(self._for_keepers)
        return OutboxStatistics(self._synced, waiting, self._released, self._kept, self._forsaken)


def _up_to(waiting: Waiting, seq: int) -> list[tuple[int, Effect]]:
    found = []
    while waiting and waiting[0][1].after <= seq:
        found.append(waiting.popleft())
    return found
