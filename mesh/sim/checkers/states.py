"""Shared values, judged by what users were told: each place is one register, read and written as if by one user after the other.

V1   one version, one write: none is given out twice, and a write that is said again has the version it had
V2   a write that is asked for after another was acknowledged has the greater version
V3   a write over a version was over exactly that one: no acknowledged write of its place lies between, and over nothing was over nothing
V4   a reading gives the newest write that was acknowledged before it was asked for, or a later one, and that one's value
V5   when all faults are over, every state answers

Versions are the witnesses: with them each law is about two answers. A run in which a disk was put back, or a node revoked, is not judged
from then on: what only that node had kept is gone with it, as its tasks are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.sim.history import Answered, Phase, PutBack, Takes, Touched, Upheld, Verdict
from mesh.sim.sharing import Touch

Place = tuple[str, str]
UNKNOWN = 1 << 62


@dataclass(frozen=True, slots=True)
class _Write:
    version: int
    touch: Touch
    acked_s: float


class StateChecker:
    def __init__(self) -> None:
        self._asked: dict[int, tuple[float, Touch]] = {}
        self._owners: dict[tuple[str, int], str] = {}
        """By scope and version: which event it was given to."""
        self._events: dict[str, int] = {}
        self._tried: dict[Place, dict[str, Touch]] = {}
        """Every write that was asked for, whatever came of it."""
        self._writes: dict[Place, list[_Write]] = {}
        """Those that were acknowledged."""
        self._over = False
        self._unanswered: dict[int, Touch] = {}
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {Touched: self._touched, Answered: self._answered, PutBack: self._lost, Upheld: self._lost, Phase: self._phase}

    def _touched(self, record: Touched) -> Iterator[Verdict]:
        touch: Touch = record.touch
        self._asked[record.request] = record.at_s, touch
        if touch.event:
            self._tried.setdefault((touch.scope, touch.place), {})[touch.event] = touch
        if touch.final:
            self._unanswered[record.request] = touch
        return iter(())

    def _lost(self, _record: PutBack | Upheld) -> Iterator[Verdict]:
        self._over = True
        return iter(())

    def _phase(self, record: Phase) -> Iterator[Verdict]:
        if record.name == "settled" and not self._over:
            for touch in dict.fromkeys(self._unanswered.values()):
                yield Verdict(record.at_s, "V5", f"nobody could say what stands at {touch.place!r} of {touch.scope!r}")

    def _answered(self, record: Answered) -> Iterator[Verdict]:
        asked_s, touch = self._asked.pop(record.request, (0.0, None))
        if touch is None or not record.ok or self._over:
            return
        self._unanswered.pop(record.request, None)
        version, place = record.body["version"], (touch.scope, touch.place)
        if not touch.event:
            yield from self._read(record, asked_s, touch, version)
            return
        first = self._events.setdefault(touch.event, version)
        owner = self._owners.setdefault((touch.scope, version), touch.event)
        if first != version or owner != touch.event:
            yield Verdict(record.at_s, "V1", f"version {version} of {touch.scope!r} is {owner}, and {touch.event} got it after {first}")
        writes = self._writes.setdefault(place, [])
        if any(write.touch.event == touch.event for write in writes):
            return
        before = max((write.version for write in self._of(touch.scope) if write.acked_s < asked_s), default=0)
        if not record.body.get("repeated") and before > version:
            yield Verdict(record.at_s, "V2", f"{touch.event} got version {version} of {touch.scope!r}, {before} was acknowledged before")
        writes.append(_Write(version, touch, record.at_s))
        yield from self._overs(record.at_s, place, writes)

    def _of(self, scope: str) -> Iterator[_Write]:
        return (write for (name, _), writes in self._writes.items() if name == scope for write in writes)

    def _overs(self, at_s: float, place: Place, writes: list[_Write]) -> Iterator[Verdict]:
        writes.sort(key=lambda write: write.version)
        for before, write in zip([None, *writes], writes, strict=False):
            stood = before.version if before is not None and before.touch.value is not None else 0
            over = write.touch.over
            if over > 0 and before is not None and before.version > over:
                yield Verdict(at_s, "V3", f"{place}: version {write.version} was written over {over}, and {before.version} lies between")
            elif over == 0 and stood and not self._may_be_gone(place, stood, write.version):
                yield Verdict(at_s, "V3", f"{place}: version {write.version} was written over nothing, and {stood} stood there")

    def _may_be_gone(self, place: Place, after: int, until: int = UNKNOWN) -> bool:
        """Somebody has asked to delete it, and that may have come between."""
        tried = self._tried.get(place, {}).values()
        return any(after < self._events.get(touch.event, until - 1) < until for touch in tried if touch.value is None)

    def _read(self, record: Answered, asked_s: float, touch: Touch, version: int) -> Iterator[Verdict]:
        place = (touch.scope, touch.place)
        writes = self._writes.get(place, [])
        newest = max((write for write in writes if write.acked_s < asked_s), key=lambda write: write.version, default=None)
        before = newest.version if newest is not None else 0
        if version == 0:
            if newest is not None and newest.touch.value is not None and not self._may_be_gone(place, before):
                yield Verdict(record.at_s, "V4", f"{place} was read as nothing after version {before}")
            return
        if version < before:
            yield Verdict(record.at_s, "V4", f"{place} was read at version {version} after {before}")
        owner, value = self._owners.get((touch.scope, version)), record.body["value"]
        tried = self._tried.get(place, {})
        if not any(one.value == value for event, one in tried.items() if owner in (None, event)):
            yield Verdict(record.at_s, "V4", f"{place} was read as {value!r} at version {version}, which is {owner}")
