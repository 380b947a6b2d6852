"""The coordinator's books: what it has admitted, as far as the terms of a rule count it. Pure; the agent keeps it in its task's checkpoint.

    terms of a rule: {"limit": so many at once, "rate": [so many, in so many ms], "total": so many ever}, each if it is there

Invariant: counted before it is said, so whoever takes the office over never admits what was counted already once more. What runs is counted
by its managers' word, said again and again: what nobody has named for a while is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Document = dict[str, Any]

HELD_S = 10.0
"""What no manager has named for so long runs no more; they say it five times as often."""
TASKS_KEPT_MAX = 400
"""Held at once, that go into the checkpoint, which has 64 KiB. Of more, whoever takes over hears from their managers first."""
HEARD_S = 3.0
BUCKETS, FEW = 20, 20
"""Starts are counted in so many buckets of their window, and in one each where there are more than a few rules that count them."""
RULES_MAX = 200


class Books:
    def __init__(self, kept: Document | None = None, now_s: float = 0.0) -> None:
        kept = kept or {}
        self.admitted, self.refused = int(kept.get("admitted", 0)), int(kept.get("refused", 0))
        self.paused = False
        self._rules: dict[str, Document] = {name: dict(row) for name, row in dict(kept.get("rules", {})).items()}
        """``{"total": admitted ever, "starts": [[first_s, last_s, count], ...], "held": [task, ...]}``."""
        self._full_until_s = now_s + HEARD_S if kept.get("more") else 0.0
        self._held: dict[tuple[str, str], float] = {(name, task): now_s for name, row in self._rules.items() for task in row["held"]}

    def saw(self, now_s: float, held: Iterable[tuple[str, str]]) -> None:
        """These run, or are about to."""
        for name in held:
            self._held[name] = now_s
        for name, at_s in list(self._held.items()):
            if now_s - at_s > HELD_S:
                del self._held[name]

    def room(self, now_s: float, row: Document) -> str:
        """ "": it may be admitted by the terms of its rule; ``full``: not now; else why it never will be."""
        terms, known = row.get("terms") or {}, self._rules.get(row["rule"], {})
        if (total := terms.get("total")) and known.get("total", 0) >= total and not self._counted(row):
            return f"rule {row['rule']} admits {total} in all, and has admitted as many"
        limit = 0 if self._counted(row) else int(terms.get("limit", 0))
        if limit and (now_s < self._full_until_s or self._running(row["rule"]) >= limit):
            return "full"
        if (rate := terms.get("rate")) and self._started(now_s, row["rule"], rate[1]) >= rate[0]:
            return "full"
        return ""

    def admit(self, now_s: float, row: Document) -> None:
        self.admitted += 1
        terms = row.get("terms") or {}
        if not terms:
            return
        if row["rule"] not in self._rules and len(self._rules) >= RULES_MAX:
            del self._rules[next(iter(self._rules))]
        known = self._rules.setdefault(row["rule"], {"total": 0, "starts": [], "held": []})
        known["total"] += not self._counted(row)
        self._held[row["rule"], row["task"]] = now_s
        if rate := terms.get("rate"):
            self._started(now_s, row["rule"], rate[1])
            starts = known["starts"]
            if starts and now_s - starts[-1][0] < rate[1] / 1000 / BUCKETS:
                starts[-1] = [starts[-1][0], now_s, starts[-1][2] + 1]
            else:
                starts.append([now_s, now_s, 1])

    def _counted(self, row: Document) -> bool:
        """The same task again: its admission had run out, or it was given by somebody who held the office before."""
        return (row["rule"], row["task"]) in self._held

    def _running(self, rule: str) -> int:
        return sum(name == rule for name, _ in self._held)

    def _started(self, now_s: float, rule: str, window_ms: int) -> int:
        """Within the window, by the clock of whoever is in office; what lies ahead of it was another's, and counts from now. A bucket
        counts until its last is out: rather too many than too few."""
        starts = self._rules.get(rule, {}).get("starts", [])
        fresh = [one for one in starts if now_s - one[1] < window_ms / 1000]
        starts[:] = [[min(first_s, now_s), min(last_s, now_s), count] for first_s, last_s, count in fresh]
        return sum(count for _, _, count in starts)

    def kept(self, waiting: int) -> Document:
        """For the checkpoint, and for whoever looks (`mesh coordinator`)."""
        rules: Document = {}
        newest = list(self._held)[-TASKS_KEPT_MAX:]
        for name, row in self._rules.items():
            starts = row["starts"] if len(self._rules) <= FEW or not row["starts"] else [_merged(row["starts"])]
            rules[name] = {"total": row["total"], "starts": starts, "held": [task for rule, task in newest if rule == name]}
        about = {"admitted": self.admitted, "refused": self.refused, "paused": self.paused, "waiting": waiting, "rules": rules}
        return about | ({"more": True} if len(self._held) > len(newest) else {})


def _merged(starts: list[Any]) -> list[Any]:
    return [starts[0][0], starts[-1][1], sum(count for _, _, count in starts)]
