"""When it is written down which entries are still needed, so that a start, and a take-over, read those instead of all.

    NewHead: so many entries since the last sum --FindOpen--> the store reads (off the loop) --OpenFound--> Summed

Invariant: one question at a time, and the next one only when the last sum is on disk, so each goes on from the one before. Where too much
is open nothing is written, and it is tried again so many entries later. A node whose disk was put back writes none: its numbers are
taken. Does not decide what is needed (`still_open.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.core.directory import ReadDirectory
from mesh.core.inputs import NewHead, Replay
from mesh.core.records.inputs import OpenFound
from mesh.core.records.journal import last_of
from mesh.effects import Append, FindOpen, Need
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Summed


class Summing:
    def __init__(self, directory: ReadDirectory, limits: RecordsLimits) -> None:
        self._directory, self._limits = directory, limits
        self._upto = 0
        """Of the last sum, or of the last question that brought none."""
        self._asked = False
        self._seq = 0
        """The last sum's own number: it must be on disk before the next one is begun."""
        self.inputs: dict[type, Any] = {Replay: self._do_replay, NewHead: self._on_new_head, OpenFound: self._on_open_found}

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        if type(replay.entry) is Summed:
            self._upto = replay.entry.upto

    def _on_new_head(self, _now_s: float, _me: NodeId, new: NewHead) -> Iterator[Any]:
        seq = last_of(new.signed.body)
        if self._asked or seq < max(self._seq, self._upto + self._limits.sum_entries) or self._directory.guard.behind:
            return
        self._asked = True
        yield FindOpen(self._directory.guard.yielded(), need=Need.FREE)

    def _on_open_found(self, now_s: float, _me: NodeId, found: OpenFound) -> Iterator[Any]:
        self._asked = False
        if found.upto <= self._upto or self._directory.guard.behind:
            return
        self._upto = found.upto
        if found.open is not None:
            summed = Append(Summed(found.upto, found.open, int(now_s * 1000)))
            yield summed
            self._seq = summed.seq
