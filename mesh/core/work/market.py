"""Whom to ask, and who wins: pure choices from the directory and the manager's own awards.

    rows that offer it --who can be asked--> eligible --fresh load, room, short and known service--> AWARD to the best of a sample of 3
                                                      --only busy, or the busy ones are sooner done--> BUSY (wait for room)
                                                      --else--> AUCTION                 released for an idle node --> AWARD to that node

Who can be asked is here, well, and has the labels that the task wants (`fitting.py`).
Why a sample: with cached load, best-of-all herds onto one node, best-of-3 with local correction does not (Sparrow; own simulation).
If none of three could start it at once, three of those who could are looked for: one idle node beats three short queues.
Invariant: same inputs, same choice; the winner follows from the candidates' fields alone, so that anybody can recompute it.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, ReadDirectory, Row
from mesh.core.work.book import Book
from mesh.core.work.breaker import OPEN
from mesh.core.work.fitting import fits, lacks, narrowed
from mesh.core.work.offering import terms, version_at, version_of
from mesh.core.work.task import Task
from mesh.ids import Fence, NodeId, TaskId
from mesh.messages.membership import LoadRow
from mesh.messages.records import Candidate

RULE = "least (start_ms + service_ms) * calibration_pct // 100 + transfer_ms + round(1000 * cost) wins; ties: least sha256(task|fence|node)"
SAMPLE = 3
SHORT_SERVICE_MS = 1000
"""From here on an auction's round trip costs nothing beside the work, and asking for the true queue pays."""
SCAN_MAX = 8
"""Up to so many nodes are all looked at; of more, first a random few, until three can be asked."""
WIDE = 64
"""So many are looked at if none of those few could start it at once."""
NEAR = 1.1
"""Within a tenth of the best, a candidate is as good: what is known of them is older than that is exact."""
DECLINES_BEFORE_AUCTION = 2
RECORDED = 8
"""Candidates in one decision, the best; each of a lot has its own."""

Item = TypeVar("Item")

NOBODY, BUSY, ASK_ALL, TAKE = "nobody", "busy", "auction", "award"


@dataclass(slots=True)
class Choice:
    """`way`: TAKE (from `candidates`), ASK_ALL (the `eligible`), BUSY or NOBODY. `refusals` are ``(node, name, reason)``."""

    way: str
    eligible: list[Row] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    refusals: list[tuple[NodeId, str, str]] = field(default_factory=list)
    by: str = "award"
    """As the record calls it: award (from cached load), or pull (an idle node asked for it)."""
    priced: bool = False
    """User code prices the work, so it is asked about each task."""
    long: bool = False
    """It takes so long that asking everybody pays."""


def score_ms(candidate: Candidate) -> int:
    expected_ms = (candidate.start_ms + candidate.service_ms) * candidate.calibration_pct // 100
    return expected_ms + candidate.transfer_ms + round(1000 * candidate.cost)


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


def keenest(candidates: list[Candidate]) -> list[Candidate]:
    """As many as a decision of a lot puts on record: those of the least scores."""
    return candidates if len(candidates) <= RECORDED else sorted(candidates, key=score_ms)[:RECORDED]


def nearest(directory: ReadDirectory, capability: str) -> list[str]:
    """Offered names like `capability`, most alike first."""
    names = {name for row in directory.rows() if row.state not in (DEAD, LEFT) for name in row.offers}
    return difflib.get_close_matches(capability, sorted(names), 3, 0.5)


def sample(random: Random, rows: list[Item], size: int) -> list[Item]:
    """`size` of them at random, or all as they are."""
    count = len(rows)
    if count <= size:
        return rows
    pool = list(rows)
    for i in range(size):
        j = i + int(random.random() * (count - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:size]


def liked(task: Task, drawn: list[Row], rows: list[Row]) -> list[Row]:
    """Those that were drawn, and the task's favourite in any case."""
    return drawn + [row for row in rows if row.node == task.favourite and row not in drawn] if task.favourite else drawn


class Market:
    def __init__(self, book: Book) -> None:
        self._book = book
        self._echo_old_s = book.limits.lease_s - 2 * book.limits.beat_s
        """A lease that echoes an older stamp would be over before two beats."""

    def choose(self, now_s: float, task: Task, ahead: int = 1, *, force: bool = False) -> Choice:
        """What to do with a task in line. `ahead`: how many wait there, itself included. `force`: never BUSY, ask those who are."""
        rows, unlike = self._offering(task)
        if task.pulled:
            (there, here), task.pulled = task.pulled, ()
            # It may have stood in line for a while: who pulled it may have lost its workers since, or be about to go.
            if self._still_takes(now_s, task, there):
                return Choice(TAKE, candidates=[there, here] if self._still_takes(now_s, task, here) else [there], by="pull")
        rooted = task.files or task.placement.near or task.placement.apart
        self.prefer(now_s, task, rows)
        if len(rows) > SCAN_MAX and not force and not rooted:
            drawn = self._draw(now_s, task, rows)
            choice = Choice(NOBODY)
            if drawn:
                choice.way = self._weigh(now_s, task, choice, drawn)
                if choice.way == TAKE and any(not candidate.start_ms for candidate in choice.candidates):
                    return choice
        choice = self._among_all(now_s, task, liked(task, sample(self._book.random, rows, WIDE), rows), ahead, force)
        choice.refusals += unlike
        return choice

    def _offering(self, task: Task) -> tuple[list[Row], list[tuple[NodeId, str, str]]]:
        """Who offers it and has the labels that it asks for; and some of the others, as refusals."""
        rows, where = self._book.directory.offering(task.capability), self.where(task)
        if not where:
            return rows, []
        fit = [row for row in rows if fits(row.offers[task.capability], where)]
        others = [row for row in rows if row.state not in (DEAD, LEFT) and not fits(row.offers[task.capability], where)]
        return fit, [(row.node, row.name, lacks(row.offers[task.capability], where)) for row in others[:RECORDED]]

    def where(self, task: Task) -> tuple[str, ...]:
        """What whoever runs it must have, today: of versions that will do only the one that is meant now."""
        wanted = task.placement.where
        return narrowed(self._book.directory, task.capability, wanted) if wanted else wanted

    def prefer(self, now_s: float, task: Task, rows: list[Row] | None = None) -> None:
        """Note where it likes to be, of those that can be asked."""
        if task.placement.near:
            rows = self._offering(task)[0] if rows is None else rows
            task.favourite = self._book.affinity.favourite(task.placement.near, [r.node for r in rows if not self._unfit(now_s, task, r)])

    def room_beside(self, now_s: float, task: Task) -> bool:
        """Another node than its holder has a free slot for it, for all that is known."""
        for row in self._offering(task)[0]:
            load = row.load.get(task.capability)
            if row.node == task.holder or load is None or self._unfit(now_s, task, row):
                continue
            if load.busy + load.queued + self._book.holder(row.node).correction(row, task.capability) < load.slots:
                return True
        return False

    def _still_takes(self, now_s: float, task: Task, candidate: Candidate) -> bool:
        row = self._book.directory.get(candidate.node)
        return row is not None and task.capability in row.offers and not self._unfit(now_s, task, row)

    def pulling(self, now_s: float, task: Task, node: NodeId, service_ms: int, ahead: int) -> Choice | None:
        """The award of a task in line to an idle node that asks for it; None if it cannot be asked, or others will be done sooner."""
        row = self._book.directory.get(node)
        if row is None or task.capability not in row.offers or self._unfit(now_s, task, row):
            return None
        self.prefer(now_s, task)
        way_ms = self._book.way_ms(task, node)
        asking = self.candidate(task, row, 0, service_ms, way_ms)
        eligible = [other for other in self._offering(task)[0][:WIDE] if not self._unfit(now_s, task, other)]
        choice = Choice(TAKE, eligible, [asking], by="pull")
        return None if self._worth_waiting(now_s, task, choice, ahead) else choice

    def _among_all(self, now_s: float, task: Task, rows: list[Row], ahead: int, force: bool) -> Choice:
        """Nobody of a few could start it at once, or there are only a few."""
        choice = Choice(NOBODY)
        self._scan(now_s, task, rows, choice)
        if not choice.eligible:
            return choice
        asides = len(choice.refusals)
        choice.way = self._weigh(now_s, task, choice, choice.eligible)
        if choice.way == TAKE:
            self._thin_out(choice)
            if not force and (self._would_queue(task.capability, choice, ahead) or self._worth_waiting(now_s, task, choice, ahead)):
                choice.way = BUSY
        if choice.way == BUSY and force:
            choice.way = ASK_ALL
        if choice.way == ASK_ALL:
            choice.candidates = []
            del choice.refusals[asides:]
        return choice

    def _thin_out(self, choice: Choice) -> None:
        """Three of those that are about the best, filled up with others: stale loads must not herd."""
        near = min(map(score_ms, choice.candidates)) * NEAR
        good = [candidate for candidate in choice.candidates if score_ms(candidate) <= near]
        rest = [candidate for candidate in choice.candidates if score_ms(candidate) > near]
        chosen = sample(self._book.random, good, SAMPLE)
        choice.candidates = chosen + sample(self._book.random, rest, SAMPLE - len(chosen))

    def _would_queue(self, capability: str, choice: Choice, ahead: int) -> bool:
        """Long work waits here, for the first node that falls idle, and not behind other work; unless so much of it is in line that every
        slot gets one more anyway, and need not wait for the next award when it is done."""
        least = min(choice.candidates, key=score_ms)
        if not least.start_ms or least.service_ms < self._book.limits.wait_ms_target:
            return False
        slots = sum(row.load[capability].slots for row in choice.eligible if capability in row.load)
        return ahead < slots

    def _worth_waiting(self, now_s: float, task: Task, choice: Choice, ahead: int) -> bool:
        """Before the best of those with room would be done with it, the full ones will be done with all that is in line: a slow node does
        not take the last task if a fast one finishes it sooner."""
        least = min(choice.candidates, key=score_ms)
        done = 0
        for row in choice.eligible:
            load = row.load.get(task.capability)
            given = self._book.holder(row.node).correction(row, task.capability)
            if (
                load is None
                or not load.service_ms
                or not load.slots
                or load.room > given
                or now_s - row.load_at_s > self._book.limits.load_fresh_s
            ):
                continue
            full = self._candidate(task, row, load, given)
            # On the average the one that runs is half done.
            left_ms = score_ms(least) - (full.start_ms - load.service_ms // (2 * load.slots)) - full.transfer_ms
            done += max(0, left_ms * load.slots // load.service_ms)
        return done >= ahead

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
        if row.node == task.barred:
            return "has_the_first"
        if task.placement.where and not fits(row.offers[task.capability], where := self.where(task)):
            return lacks(row.offers[task.capability], where)
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
        return book.calibration.applied(now_s, task.capability, self._candidate(task, row, load, given))

    def _candidate(self, task: Task, row: Row, load: LoadRow, given: int) -> Candidate:
        before = load.busy + load.queued + given - load.slots + 1
        start_ms = before * load.service_ms // load.slots if before > 0 and load.slots > 0 else 0
        way_ms = self._book.way_ms(task, row.node)
        return self.candidate(task, row, start_ms, load.service_ms, way_ms)

    def version(self, task: Task, node: NodeId) -> str:
        """Which it would run as at that node; "": not known."""
        return version_at(self._book.directory, node, task.capability, self.where(task))

    def candidate(self, task: Task, row: Row, start_ms: int, service_ms: int, way_ms: int = 0) -> Candidate:
        offer, where = row.offers[task.capability], self.where(task)
        agent, version = terms(offer, where).agent, version_of(offer, where)
        return Candidate(row.node, row.name, start_ms, service_ms, 0.0, agent, transfer_ms=way_ms, version=version)

    def _weigh(self, now_s: float, task: Task, choice: Choice, rows: list[Row]) -> str:
        """The way that the cached load of `rows` suggests; fills in candidates and refusals."""
        unknown = False
        for row in rows:
            choice.priced = choice.priced or row.offers[task.capability].priced
            load = row.load.get(task.capability)
            choice.long = choice.long or (load is not None and load.service_ms >= SHORT_SERVICE_MS)
            known = self._cached(now_s, task, row)
            if known == 0:
                choice.refusals.append((row.node, row.name, "busy"))
            elif isinstance(known, int):
                unknown = True
            else:
                choice.candidates.append(known)
        if not choice.candidates and not unknown:
            return BUSY
        if choice.priced or task.declines >= DECLINES_BEFORE_AUCTION:
            return ASK_ALL
        asked = self._book.line_of(task).quiet
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
            return self.candidate(task, row, 0, 0)
        return None
