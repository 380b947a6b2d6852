"""Keyed submits: a task that runs only if its key stands for it, over the whole mesh.

    Submit(key) --Submitted, kept--> ClaimWanted --the key keepers (core/keeping/keys.py)--> ClaimSettled
        for this task: Claimed; it is entered, as any other            for another: Claimed; this one never was
        and either way whoever waits hears which task it is, or that the key was given to other work

Invariants: nothing is claimed before it is kept, so a task that a key stands for is driven by somebody, whoever dies; nothing is
acknowledged and nothing awarded before the claim is settled; a successor repeats the claim and hears the same. The key is free again when
its task's record is forgotten. A client may give up waiting, the claim does not: asked again under the same key, the answer is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.core.inputs import RequestGone, Submit
from mesh.core.keeping.inputs import ClaimDropped, ClaimSettled, ClaimWanted, KeysForgotten, KeysMoved
from mesh.core.work.book import Book, Effects
from mesh.core.work.opening import opened, opened_again
from mesh.core.work.task import PENDING, Task
from mesh.effects import Append, Later, Need, Reply, Tell
from mesh.ids import TASK_KEY_CHARACTERS_MAX, Hash, TaskId, content_hash
from mesh.messages.claims import Choice
from mesh.messages.records import Claimed


@dataclass(frozen=True, slots=True)
class ClaimKept:
    """This task is kept, and may be claimed for."""

    key: str
    task: TaskId


@dataclass(frozen=True, slots=True)
class WaitEnds:
    """Whoever waits for the claim of this task has waited long enough."""

    key: str
    task: TaskId


@dataclass(slots=True)
class Claim:
    task: Task
    requests: list[int] = field(default_factory=list)

    @property
    def work(self) -> Hash:
        return work_of(self.task.capability, self.task.input_hash)


def work_of(capability: str, input_hash: Hash) -> Hash:
    return content_hash(f"{capability}\n{input_hash}".encode())


class Claims:
    def __init__(self, book: Book) -> None:
        self._book = book
        self._open: dict[str, dict[TaskId, Claim]] = {}
        """By key: tasks of which it is not known yet whether it stands for them."""
        self._won: dict[str, TaskId] = {}
        """Keys that stand for tasks entered here in this life."""

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    # ---- asking

    def submit(self, now_s: float, submit: Submit) -> Effects:
        if len(submit.key) > TASK_KEY_CHARACTERS_MAX:
            message = f"a key of {len(submit.key)} characters; at most {TASK_KEY_CHARACTERS_MAX}"
            yield Reply(submit.request, False, {"code": "bad_key", "message": message, "fix": "give a shorter --key"}, need=Need.FREE)
            return
        work = work_of(submit.capability, content_hash(submit.input))
        won = self._book.find(self._won.get(submit.key, ""))
        if won is not None:
            yield self._answer(submit.request, submit.key, work, Choice(won.id, work_of(won.capability, won.input_hash)))
            return
        for claim in self._open.get(submit.key, {}).values():
            if claim.work == work:
                claim.requests.append(submit.request)
                self._book.deadlines.set(WaitEnds(submit.key, claim.task.id), now_s + self._book.limits.claim_wait_s)
                return
        task = opened(self._book, now_s, submit)
        yield from self._begin(now_s, task, [submit.request])

    def _begin(self, now_s: float, task: Task, requests: list[int]) -> Effects:
        self._open.setdefault(task.key, {})[task.id] = Claim(task, requests)
        self._book.deadlines.set(WaitEnds(task.key, task.id), now_s + self._book.limits.claim_wait_s)
        yield from self._book.submit(task)
        yield Later(ClaimKept(task.key, task.id), need=Need.KEPT)

    def resume(self, _now_s: float, task: Task) -> Effects:
        """One of an earlier life, or of another's: its claim is repeated."""
        claim = self._open.setdefault(task.key, {}).setdefault(task.id, Claim(task))
        yield Tell(ClaimWanted(task.key, Choice(task.id, claim.work)))

    def repeat(self) -> Effects:
        """This node leads its log again: what waited to be kept may have been forsaken."""
        for key, claims in self._open.items():
            for task in claims:
                yield Later(ClaimKept(key, task), need=Need.KEPT)

    def let_go(self, now_s: float, taken: int) -> Effects:
        """Others claim for these tasks now. Clients that wait here get new ones, for which the same key is claimed."""
        for key, claims in list(self._open.items()):
            gone = [claim for claim in claims.values() if 0 < claim.task.seq <= taken]
            for claim in gone:
                self._close(claim.task)
            if gone and key not in self._open:
                yield Tell(ClaimDropped(key))
            for claim in gone:
                if claim.requests:
                    yield from self._once_more(now_s, claim)
        self._won = {key: task for key, task in self._won.items() if self._book.find(task) is not None}

    def _once_more(self, now_s: float, claim: Claim) -> Effects:
        old = claim.task
        task = opened_again(self._book, now_s, old, old.input, by=old.by, key=old.key)
        yield from self._begin(now_s, task, claim.requests)

    def on_kept(self, _now_s: float, _me: str, kept: ClaimKept) -> Effects:
        claim = self._open.get(kept.key, {}).get(kept.task)
        if claim is not None:
            yield Tell(ClaimWanted(kept.key, Choice(claim.task.id, claim.work)))

    def on_moved(self, _now_s: float, _me: str, _moved: KeysMoved) -> Effects:
        """Those that keep the keys now know of none: every claim that stands here is made again."""
        tasks = [*self._book.ended.values(), *self._book.tasks.values()]
        for task in tasks:
            if task.key:
                yield Tell(ClaimWanted(task.key, Choice(task.id, work_of(task.capability, task.input_hash))))

    # ---- hearing

    def on_settled(self, now_s: float, _me: str, settled: ClaimSettled) -> Effects:
        choice = settled.choice
        for claim in list(self._open.get(settled.key, {}).values()):
            task = claim.task
            self._close(task)
            yield Append(Claimed(task.id, choice.task, int(now_s * 1000)))
            if choice.task == task.id:
                task.state = PENDING
                self._won[settled.key] = task.id
                self._book.enter(now_s, task)
            for request in claim.requests:
                yield self._answer(request, settled.key, claim.work, choice)

    def _answer(self, request: int, key: str, work: Hash, choice: Choice) -> Reply:
        if work == choice.work:
            return Reply(request, True, {"task": choice.task, "survives": self._book.survives()}, need=Need.FREE)
        message = f"the key {key!r} was given to other work, or to the same with other arguments: {choice.task}"
        return Reply(request, False, {"code": "key_taken", "message": message, "fix": f"mesh task {choice.task}"}, need=Need.FREE)

    def _close(self, task: Task) -> None:
        claims = self._open[task.key]
        del claims[task.id]
        if not claims:
            del self._open[task.key]
        self._book.deadlines.clear(WaitEnds(task.key, task.id))

    def expire_wait(self, _now_s: float, _me: str, due: WaitEnds) -> Effects:
        """The claim goes on: that nobody has accepted it cannot be known."""
        claim = self._open.get(due.key, {}).get(due.task)
        requests = []
        if claim is not None:
            requests, claim.requests = claim.requests, []
        keepers = self._book.directory.guard.key_keepers
        away = [self._book.directory.name_of(node) for node in keepers if not self._book.is_linked(node)]
        whom = (
            f"{' and '.join(away)}, who keep the mesh's keys, cannot be reached"
            if away
            else "too few of those who keep the mesh's keys answer"
        )
        message = f"{whom}; whether the key {due.key!r} is taken is not known yet, and is asked on"
        for request in requests:
            error = {"code": "key_undecided", "message": message, "fix": "mesh nodes; then the same again, with the same --key"}
            yield Reply(request, False, error, need=Need.FREE)

    def forget(self, _now_s: float, _me: str, gone: RequestGone) -> None:
        """Its client hung up. The task stays: it may be claimed already."""
        for claims in self._open.values():
            for claim in claims.values():
                if gone.request in claim.requests:
                    claim.requests.remove(gone.request)

    # ---- what was forgotten

    def free(self) -> Effects:
        """Keys of tasks whose records are gone."""
        keys, self._book.unkeyed = tuple(self._book.unkeyed), []
        for key, task in keys:
            if self._won.get(key) == task:
                del self._won[key]
        yield Tell(KeysForgotten(keys))
