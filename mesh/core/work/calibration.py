"""Who is wrong about how long it takes: per node and capability, what an award really took over what was expected of it.

    AWARD (expected: start + service) ... RESULT after so long --> ratio, a moving average --> percent, on every candidate's record

Invariant: what it says depends on this manager's own awards alone, never on what the other side reports. Between 50 and 400 percent;
within what chance makes of it, 100. Old experience fades, so that nobody is out of work for good; of a node that was started anew there
is none. Who is wrong by more is believed no figure below a quarter of what was measured: with its 400 percent that is the measured time.
Who says nothing is taken at the measured time. Does not choose (`market.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mesh.ids import NodeId
from mesh.messages.records import Candidate

LEAST_PCT, MOST_PCT = 50, 400
CHANCE_PCT = (60, 170)
"""Service times vary: an average of ten awards says nothing within these. (Narrower costs more in wrong turns than liars do.)"""
WEIGHT = 0.1
"""Of the newest award."""
SLACK_MS = 20
"""Of both sides of a ratio: the way there and back, and a disk's sync, are nobody's lie."""
SAMPLE_MAX = 8.0
"""One award that took a hundred times as long (its node was stopped) counts as this."""
HALF_LIFE_S = 60.0


@dataclass(frozen=True, slots=True)
class Model:
    """Of one node and capability, from this manager's own awards."""

    served_ms: int
    """From when it was to start to its result, on average."""
    of_expected_pct: int
    """What awards took, of what was expected of them; it fades towards 100."""
    age_s: int
    """Since the newest one."""


class _Record:
    __slots__ = ("at_s", "ratio", "service_ms")

    def __init__(self) -> None:
        self.ratio = 1.0
        self.service_ms = 0.0
        self.at_s = 0.0

    def ratio_now(self, now_s: float) -> float:
        left: float = 0.5 ** (max(0.0, now_s - self.at_s) / HALF_LIFE_S)
        return 1.0 + (self.ratio - 1.0) * left


class Calibration:
    """`rows_max` bounds how many pairs are remembered; the one that was measured longest ago goes first."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._records: dict[tuple[NodeId, str], _Record] = {}

    def learn(self, now_s: float, node: NodeId, capability: str, start_ms: int, service_ms: int, took_ms: float) -> None:
        """An award on which `node` was to start after `start_ms` and to need `service_ms` had its result after `took_ms`. Of who had never
        run such work, and said so by 0, only the time is learned."""
        key = (node, capability)
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record
        if len(self._records) > self._rows_max:
            del self._records[next(iter(self._records))]
        if service_ms:
            before = record.ratio_now(now_s)
            # What was expected is our own floor then, not its word: that it was right clears nobody.
            slack_ms = 0 if 100 * before >= MOST_PCT and service_ms <= int(record.service_ms) // 4 else SLACK_MS
            sample = max(took_ms + slack_ms, 1.0) / max(start_ms + service_ms + slack_ms, 1)
            record.ratio = before + WEIGHT * (min(sample, SAMPLE_MAX) - before)
        served_ms = max(0.0, took_ms - start_ms)
        record.service_ms += (served_ms - record.service_ms) * (WEIGHT if record.service_ms else 1.0)
        record.at_s = now_s

    def applied(self, now_s: float, capability: str, candidate: Candidate) -> Candidate:
        """The candidate as it is believed. Itself if there is nothing against it."""
        record = self._records.get((candidate.node, capability))
        if record is None:
            return candidate
        if not candidate.service_ms:
            return replace(candidate, service_ms=int(record.service_ms))
        ratio = record.ratio_now(now_s)
        pct = round(100 * ratio)
        if CHANCE_PCT[0] <= pct <= CHANCE_PCT[1]:
            return candidate
        service_ms = max(candidate.service_ms, int(record.service_ms) // 4) if pct >= MOST_PCT else candidate.service_ms
        return replace(candidate, service_ms=service_ms, calibration_pct=min(MOST_PCT, max(LEAST_PCT, pct)))

    def forget(self, node: NodeId) -> None:
        """It is another one now: it was started anew, perhaps on another machine or with other code."""
        for key in [key for key in self._records if key[0] == node]:
            del self._records[key]

    def model(self, now_s: float, node: NodeId, capability: str) -> Model | None:
        """What is known of this pair; None: nothing."""
        record = self._records.get((node, capability))
        if record is None:
            return None
        return Model(int(record.service_ms), round(100 * record.ratio_now(now_s)), max(0, int(now_s - record.at_s)))

    def __len__(self) -> int:
        return len(self._records)
