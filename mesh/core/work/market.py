"""Whom to ask, and who wins: pure choices from the directory and the manager's own awards.

    rows that offer it --who can be asked--> eligible --fresh load, room, short and known service--> AWARD to the best of a sample of 3
                                                      --only busy--> BUSY (wait for room)     --else--> AUCTION

Why a sample: with cached load, best-of-all herds onto one node, best-of-3 with local correction does not (Sparrow; own simulation).
Invariant: same inputs, same choice; the winner follows from the candidates' fields alone, so that anybody can recompute it.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field
from random import Random

from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, ReadDirectory, Row
from mesh.core.work.book import Book
from mesh.core.work.breaker import OPEN
from mesh.core.work.task import Task
from mesh.ids import Fence, NodeId, TaskId
from mesh.messages.membership import LoadRow
from mesh.messages.records import Candidate

RULE = "least start_ms + service_ms + round(1000 * cost) wins; ties: least sha256(task|fence|node)"
SAMPLE = 3
SHORT_SERVICE_MS = 1000
"""From here on an auction's round trip costs nothing beside the work, and asking for the true queue pays."""
SCAN_MAX = 8
"""Up to so many nodes are all looked at; of more, a random few, until three can be asked."""
DECLINES_BEFORE_AUCTION = 2

NOBODY, BUSY, ASK_ALL, TAKE = "nobody", "busy", "auction", "award"


@dataclass(slots=True)
class Choice:
    """`way`: TAKE (from `candidates`), ASK_ALL (the `eligible`), BUSY or NOBODY. `refusals` are ``(node, name, reason)``."""

    way: str
    eligible: list[Row] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    refusals: list[tuple[NodeId, str, str]] = field(default_factory=list)


def score_ms(candidate: Candidate) -> int:
    return candidate.start_ms + candidate.service_ms + round(1000 * candidate.cost)


def tie_break(task: TaskId, fence: Fence, node: NodeId) -> bytes:
    return hashlib.sha256(f"{task}|{fence}|{node}".encode()).digest()


def best(task: TaskId, fence: Fence, candidates: list[Candidate]) -> Candidate:
    """By `RULE`. There is at least one candidate."""
    if len(candidates) == 1:
        return candidates[0]
    scores = [score_ms(candidate) for candidate in candidates]
    least = min(scores)
    tied = [candidate for candidate, score in zip(candidates, scores) if score == least]
    return tied[0] if len(tied) == 1 else min(tied, key=lambda candidate: tie_break(task, fence, candidate.node))


def nearest(directory: ReadDirectory, capability: str) -> list[str]:
    """Offered names like `capability`, most alike first."""
    names = {name for row in directory.rows() if row.state not in (DEAD, LEFT) for name in row.offers}
    return difflib.get_close_matches(capability, sorted(names), 3, 0.5)


def offered(directory: ReadDirectory, capability: str) -> bool:
    """By anybody who is not known to be gone."""
    return any(row.state not in (DEAD, LEFT) for row in directory.offering(capability))


def sample(random: Random, rows: list[Row], size: int) -> list[Row]:
    """`size` of them at random, or all as they are."""
    count = len(rows)
    if count <= size:
        return rows
    pool = list(rows)
    for i in range(size):
        j = i + int(random.random() * (count - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:size]


class Market:
    def __init__(self, book: Book) -> None:
        self._book = book
        self._echo_old_s = book.limits.lease_s - 2 * book.limits.beat_s
        """A lease that echoes an older stamp would be over before two beats."""

    def choose(self, now_s: float, task: Task, *, force: bool = False) -> Choice:
        """What to do with a task in line. `force`: never BUSY, ask those who are."""
        rows = self._book.directory.offering(task.capability)
        choice = Choice(NOBODY)
        if len(rows) <= SCAN_MAX or force:
            self._scan(now_s, task, rows, choice)
            drawn = sample(self._book.random, choice.eligible, SAMPLE)
        else:
            drawn = self._draw(now_s, task, rows)
            if drawn:
                choice.way = self._weigh(now_s, task, choice, drawn)
                if choice.way == TAKE:
                    return choice
                choice = Choice(NOBODY)
            self._scan(now_s, task, rows, choice)
            drawn = choice.eligible
        if drawn:
            asides = len(choice.refusals)
            choice.way = self._weigh(now_s, task, choice, drawn)
            if choice.way == BUSY and len(drawn) < len(choice.eligible):
                others = [row for row in choice.eligible if row not in drawn]
                choice.way = self._weigh(now_s, task, choice, others)
            if choice.way == BUSY and force:
                choice.way = ASK_ALL
            if choice.way == ASK_ALL:
                choice.candidates = []
                del choice.refusals[asides:]
        return choice

    # ---- who can be asked

    def _unfit(self, now_s: float, task: Task, row: Row) -> str:
        """Why not; empty: can be asked."""
        if row.revoked:
            return "revoked"
        if row.state != ALIVE and row.state != SUSPECT:
            return row.state
        if not row.linked:
            return "not_linked"
        if row.draining:
            return "draining"
        if row.node != self._book.me and (not row.stamp_ms or now_s - row.stamp_at_s > self._echo_old_s):
            return "not_heard"
        if (load := row.load.get(task.capability)) is not None and load.breaker == OPEN:
            return "breaker_open"
        if row.node == task.excluded:
            return "failed_before"
        return row.state if row.state == SUSPECT else ""

    def _scan(self, now_s: float, task: Task, rows: list[Row], choice: Choice) -> None:
        """All of them. Suspects only if there is no other; who failed before only if nobody else is left."""
        spare: dict[str, list[Row]] = {}
        for row in rows:
            reason = self._unfit(now_s, task, row)
            if not reason:
                choice.eligible.append(row)
            else:
                choice.refusals.append((row.node, row.name, reason))
                if reason in (SUSPECT, "failed_before"):
                    spare.setdefault(reason, []).append(row)
        if not choice.eligible and spare:
            choice.eligible = spare.get(SUSPECT) or spare["failed_before"]
            chosen = [row.node for row in choice.eligible]
            choice.refusals = [refusal for refusal in choice.refusals if refusal[0] not in chosen]

    def _draw(self, now_s: float, task: Task, rows: list[Row]) -> list[Row]:
        """Three at random that can be asked; none if they are hard to find."""
        found = []
        for row in sample(self._book.random, rows, 3 * SAMPLE):
            if not self._unfit(now_s, task, row):
                found.append(row)
                if len(found) == SAMPLE:
                    return found
        return []

    # ---- from cached load

    def _cached(self, now_s: float, task: Task, row: Row) -> Candidate | int:
        """A candidate; or the room it has by the cache: 0 none, -1 not known (no fresh load, never run there, long)."""
        book = self._book
        if now_s - row.load_at_s > book.limits.load_fresh_s:
            return -1
        load = row.load.get(task.capability)
        if load is None:
            return -1
        given = book.holder(row.node).correction(row, task.capability)
        if load.room - given <= 0:
            return 0
        if not 0 < load.service_ms < SHORT_SERVICE_MS:
            return -1
        return self._candidate(task, row, load, given)

    def _candidate(self, task: Task, row: Row, load: LoadRow, given: int) -> Candidate:
        before = load.busy + load.queued + given - load.slots + 1
        start_ms = before * load.service_ms // load.slots if before > 0 and load.slots > 0 else 0
        return Candidate(row.node, row.name, start_ms, load.service_ms, 0.0, row.offers[task.capability].agent)

    def _weigh(self, now_s: float, task: Task, choice: Choice, rows: list[Row]) -> str:
        """The way that the cached load of `rows` suggests; fills in candidates and refusals."""
        unknown = priced = False
        for row in rows:
            priced = priced or row.offers[task.capability].priced
            known = self._cached(now_s, task, row)
            if known == 0:
                choice.refusals.append((row.node, row.name, "busy"))
            elif isinstance(known, int):
                unknown = True
            else:
                choice.candidates.append(known)
        if not choice.candidates and not unknown:
            return BUSY
        if priced or task.declines >= DECLINES_BEFORE_AUCTION:
            return ASK_ALL
        asked = self._book.line(task.capability).quiet
        if unknown and not asked and len(choice.eligible) == 1 and (only := self._only(now_s, task, rows[0])) is not None:
            choice.candidates.append(only)
            return TAKE
        return ASK_ALL if unknown else TAKE

    def _only(self, now_s: float, task: Task, row: Row) -> Candidate | None:
        """One node can be asked, and it is this one or told of room lately: an auction would tell nothing more than its ACCEPT does."""
        load = row.load.get(task.capability)
        if load is not None and now_s - row.load_at_s <= self._book.limits.load_fresh_s:
            return self._candidate(task, row, load, self._book.holder(row.node).correction(row, task.capability))
        if row.node == self._book.me:
            return Candidate(row.node, row.name, 0, 0, 0.0, row.offers[task.capability].agent)
        return None
