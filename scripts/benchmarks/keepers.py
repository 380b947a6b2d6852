"""Keepers per author against keepers per record: a model in virtual time, from a seed.

    manager: entries of its tasks --one group commit--> two keepers --synced there, head co-signed--> kept (two of three disks)

    author   a node's journal is one log; the same two keepers guard all its tasks; one vote moves all of it
    record   every task has a log of its own, with two keepers drawn by its id; every log votes for itself

Given to both: a task is managed where it was submitted; 4 entries a task, three of them waited for; a disk that syncs what waits as soon as
it is idle; one envelope per peer and flush; one signature per flush, over all commits, heads or votes in it, whatever their number. So what
is left is what the designs themselves cost. Not modelled: messages to contractors before the death (the same in both), loss, how long it
takes until the death is suspected; nothing else happens while a dead node's tasks are taken over. It is a model: `scripts/bench kills`
measures the real thing.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import Any

from common import percentile, show

ENTRY_BYTES = 200
ENVELOPE_BYTES = 400
LOG_BYTES = 100
"""What a log says of itself in an append, a co-signature or a vote: id, epoch, length, head."""
SIGN_S, CHECK_S = 25e-6, 60e-6
ITEM_S = 10e-6
"""To decode, judge and keep one entry, head or vote."""
SYNC_S, HOP_S = 3e-3, 0.3e-3
GROUP_MAX = 256
ENTRIES_PER_TASK = 4
LOTS = 10

Then = Callable[[], None]


@dataclass(eq=False)
class Task:
    number: int
    manager: int
    keepers: tuple[int, ...]
    contractor: int
    entries: int = 0
    done: bool = False


@dataclass(eq=False)
class Entry:
    """`copies`: disks that hold it; `kept` is called when there are as many as it needs."""

    log: Any
    leader: int
    keepers: tuple[int, ...]
    kept: Then
    needs: int = 2
    copies: int = 0


@dataclass(eq=False)
class Node:
    number: int
    up: bool = True
    cpu_free_s: float = 0.0
    syncing: bool = False
    syncs: int = 0
    waiting: list[Entry] = field(default_factory=list)


class Model:
    def __init__(self, design: str, nodes: int, rate: float, live: int, seed: int) -> None:
        """`rate` tasks per second and `live` unfinished tasks, per node."""
        self.design, self.rate, self.live = design, rate, live
        self.rng = Random(f"{seed}/{nodes}/{rate}/{live}")
        self.now_s, self._count = 0.0, 0
        self._heap: list[tuple[float, int, Then]] = []
        self.nodes = [Node(number) for number in range(nodes)]
        self.tasks: dict[int, Task] = {}
        self.submitted = 0
        self.quiet = False
        self.seen: Counter[str] = Counter()
        self.kept_s: list[float] = []
        self.guards = [self._drawn(f"author {number}", number) for number in range(nodes)]

    def _drawn(self, name: str, manager: int) -> tuple[int, ...]:
        """Two other nodes, as rendezvous hashing spreads them."""
        others = [node.number for node in self.nodes if node.number != manager and node.up]
        return tuple(Random(name).sample(others, 2))

    # ---- time, processors, disks, the network

    def after(self, delay_s: float, what: Then) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_s + delay_s, self._count, what))

    def run(self, until_s: float) -> None:
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._heap)
            what()
        self.now_s = until_s

    def work(self, node: Node, cost_s: float, then: Then) -> None:
        node.cpu_free_s = max(node.cpu_free_s, self.now_s) + cost_s
        self.after(node.cpu_free_s - self.now_s, lambda: then() if node.up else None)

    def sign(self, node: Node, then: Then) -> None:
        self.seen["signatures"] += 1
        self.work(node, SIGN_S, then)

    def send(self, to: int, content_bytes: int, items: int, checks: int, then: Then) -> None:
        """One envelope of a flush that was signed already. `checks`: of the envelope, and of what is signed in it."""
        self.seen["messages"] += 1
        self.seen["bytes"] += ENVELOPE_BYTES + content_bytes
        node = self.nodes[to]

        def arrive() -> None:
            self.seen["checks"] += checks
            self.work(node, checks * CHECK_S + items * ITEM_S, then)

        self.after(HOP_S, arrive)

    def write(self, node: Node, entries: list[Entry]) -> None:
        node.waiting.extend(entries)
        self._sync(node)

    def _sync(self, node: Node) -> None:
        if node.syncing or not node.waiting or not node.up:
            return
        node.syncing = True
        group, node.waiting = node.waiting[:GROUP_MAX], node.waiting[GROUP_MAX:]
        own = [entry for entry in group if entry.leader == node.number]
        if own:
            self.sign(node, lambda: self._ship(own))
        self.after(SYNC_S, lambda: self._synced(node, group))

    def _ship(self, own: list[Entry]) -> None:
        for keeper, lot in _by(own, lambda entry: entry.keepers).items():
            size = len(lot) * ENTRY_BYTES + len({entry.log for entry in lot}) * LOG_BYTES
            self.send(keeper, size, len(lot), 2, lambda keeper=keeper, lot=lot: self.write(self.nodes[keeper], lot))  # type: ignore[misc]

    def _synced(self, node: Node, group: list[Entry]) -> None:
        node.syncing = False
        if not node.up:
            return
        node.syncs += 1
        self._hold([entry for entry in group if entry.leader == node.number])
        foreign = _by([entry for entry in group if entry.leader != node.number], lambda entry: (entry.leader,))
        if foreign:
            self.sign(node, lambda: self._cosign(foreign))
        self._sync(node)

    def _cosign(self, foreign: dict[int, list[Entry]]) -> None:
        for leader, lot in foreign.items():
            heads = len({entry.log for entry in lot})
            self.seen["heads"] += heads
            self.send(leader, heads * LOG_BYTES, heads, 2, lambda lot=lot: self._hold(lot))  # type: ignore[misc]

    def _hold(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.copies += 1
            if entry.copies == entry.needs:
                entry.kept()

    # ---- tasks

    def start(self) -> None:
        for node in self.nodes:
            for _ in range(self.live):
                task = self._new(node.number)
                task.entries = ENTRIES_PER_TASK - 1
                self._runs(task, self.rng.random() * self.live / self.rate)
            self.after(self.rng.expovariate(self.rate), lambda node=node: self._arrives(node))  # type: ignore[misc]

    def _new(self, manager: int) -> Task:
        number = len(self.tasks)
        keepers = self.guards[manager] if self.design == "author" else self._drawn(f"task {number}", manager)
        task = self.tasks[number] = Task(number, manager, keepers, self.rng.randrange(len(self.nodes)))
        return task

    def _arrives(self, node: Node) -> None:
        if self.quiet:
            return
        self.after(self.rng.expovariate(self.rate), lambda: self._arrives(node))
        task, began_s = self._new(node.number), self.now_s
        self.submitted += 1

        def acknowledged() -> None:
            self.kept_s.append(self.now_s - began_s)
            self.append(task, awarded)

        def awarded() -> None:
            self.after(2 * HOP_S, lambda: self.append(task, lambda: None))
            self._runs(task, self.live / self.rate)

        self.append(task, acknowledged)

    def _runs(self, task: Task, service_s: float) -> None:
        self.after(service_s, lambda: self.append(task, lambda: setattr(task, "done", True)))

    def append(self, task: Task, kept: Then) -> None:
        if not self.quiet:
            task.entries += 1
            log = task.manager if self.design == "author" else ("task", task.number)
            self.write(self.nodes[task.manager], [Entry(log, task.manager, task.keepers, kept)])

    # ---- a death

    def fail(self, history_s: float, folded_before: bool) -> dict[str, Any]:
        """Node 0 dies now and everybody suspects it. Answers what it takes until each of its tasks has a manager again."""
        self.quiet = True
        self.run(self.now_s + 1.0)
        self.nodes[0].up = False
        began_s, self._last_s = self.now_s, self.now_s
        orphans = [task for task in self.tasks.values() if task.manager == 0 and not task.done]
        short, bad_pairs = self._short_of_a_keeper(), self._bad_pairs()
        self.seen.clear()
        self.votes = self.folded = 0
        self._homeless = len(orphans)
        for (candidate, other), lot in _by(orphans, lambda task: (task.keepers,)).items():
            logs = 1 if self.design == "author" else len(lot)
            entries = sum(task.entries for task in lot)
            if self.design == "author":
                entries = 0 if folded_before else entries + int(history_s * self.rate * ENTRIES_PER_TASK)
            self._elect(self.nodes[candidate], self.nodes[other], lot, logs, entries)
        while self._homeless:
            self.run(self.now_s + 0.001)
        return {
            "orphans": len(orphans),
            "votes": self.votes,
            "folded": self.folded,
            "messages": self.seen["messages"],
            "signs": self.seen["signatures"],
            "taken ms": 1000 * (self._last_s - began_s),
            "logs short": short,
            "bad pairs %": bad_pairs,
            "load": self._load(),
        }

    def _short_of_a_keeper(self) -> int:
        """Logs in which the dead must be replaced."""
        if self.design == "author":
            return 1 + sum(0 in guards for guards in self.guards)
        return sum(not task.done and (0 in task.keepers or task.manager == 0) for task in self.tasks.values())

    def _bad_pairs(self) -> float:
        """Of all pairs of nodes: the share whose loss leaves some log without a majority."""
        groups = [(task.manager, *task.keepers) for task in self.tasks.values() if not task.done]
        pairs = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
        return 100 * len(pairs) / (len(self.nodes) * (len(self.nodes) - 1) / 2)

    def _load(self) -> float:
        """Tasks of the most loaded survivor over the mean."""
        managed = Counter(task.manager for task in self.tasks.values() if not task.done)
        living = [managed[node.number] for node in self.nodes if node.up]
        return max(living) / statistics.mean(living)

    def _elect(self, candidate: Node, other: Node, lot: list[Task], logs: int, entries: int) -> None:
        """Would you vote? Yes. Votes on both disks. Fold, write who adopts, have it kept, tell the contractors."""
        left = [2]

        def voted() -> None:
            left[0] -= 1
            if not left[0]:
                self.folded += entries
                self.work(candidate, entries * ITEM_S, lambda: self._adopt(candidate, other, lot))

        def vote_on(node: Node, then: Then) -> None:
            self.votes += logs
            last = Entry(None, node.number, (), then, needs=1)
            self.write(node, [Entry(None, node.number, (), lambda: None, needs=1) for _ in range(logs - 1)] + [last])

        def asked() -> None:
            vote_on(other, lambda: self.sign(other, lambda: self.send(candidate.number, logs * LOG_BYTES, logs, 2, voted)))

        def ask() -> None:
            self.send(other.number, logs * LOG_BYTES, logs, 1, asked)
            vote_on(candidate, voted)

        def willing() -> None:
            self.sign(other, lambda: self.send(candidate.number, logs * LOG_BYTES, logs, 1, lambda: self.sign(candidate, ask)))

        self.sign(candidate, lambda: self.send(other.number, logs * LOG_BYTES, logs, 1, willing))

    def _adopt(self, candidate: Node, other: Node, lot: list[Task]) -> None:
        keepers = (other.number,)
        batch: list[Task] = []

        def kept(task: Task) -> None:
            task.manager, task.keepers = candidate.number, keepers
            if not batch:
                self.work(candidate, SIGN_S, tell)
            batch.append(task)

        def tell() -> None:
            told = batch[:]
            batch.clear()
            self.seen["signatures"] += 1
            for contractor, tasks in _by(told, lambda task: (task.contractor,)).items():
                if contractor == 0:
                    self._homes(len(tasks))
                else:
                    self.send(contractor, len(tasks) * LOG_BYTES, len(tasks), 2, lambda tasks=tasks: self._homes(len(tasks)))  # type: ignore[misc]

        logs: list[Any] = ["dead"] * len(lot) if self.design == "author" else [("task", task.number) for task in lot]
        entries = [
            Entry(log, candidate.number, keepers, lambda task=task: kept(task))  # type: ignore[misc]
            for log, task in zip(logs, lot)
        ]
        self.write(candidate, entries)

    def _homes(self, count: int) -> None:
        self._homeless -= count
        self._last_s = self.now_s

    def hand_over(self) -> dict[str, Any]:
        """The successor gives its new tasks on in ten lots: `handed` kept in the old log, then `taken` kept in the new one."""
        successor = self.guards[0][0]
        began_s, left = self.now_s, [LOTS]
        orphans = [task for task in self.tasks.values() if task.manager == successor and task.keepers != self.guards[successor]]
        size = -(-len(orphans) // (LOTS + 1))
        managed = Counter(task.manager for task in self.tasks.values() if not task.done)

        def hand(lot: list[Task]) -> None:
            to = min((node.number for node in self.nodes if node.up and node.number != successor), key=lambda one: (managed[one], one))
            managed[to] += len(lot)

            def taken() -> None:
                left[0] -= 1
                for task in lot:
                    task.manager, task.keepers = to, self.guards[to]

            def arrived() -> None:
                entries = [Entry(to, to, self.guards[to], lambda: None) for _ in lot[1:]] + [Entry(to, to, self.guards[to], taken)]
                self.write(self.nodes[to], entries)

            def handed() -> None:
                size = len(lot) * ENTRIES_PER_TASK
                self.sign(self.nodes[successor], lambda: self.send(to, size * ENTRY_BYTES, size, 2, arrived))

            self.write(self.nodes[successor], [Entry("dead", successor, (self.guards[0][1],), handed)])

        for lot in [orphans[at : at + size] for at in range(0, size * LOTS, size)]:
            if lot:
                hand(lot)
            else:
                left[0] -= 1
        while left[0]:
            self.run(self.now_s + 0.001)
        return {"lots ms": 1000 * (self.now_s - began_s), "load after": self._load()}


def _by(items: list[Any], keys: Callable[[Any], tuple[Any, ...]]) -> dict[Any, list[Any]]:
    """Items under each of their keys, in order."""
    found: dict[Any, list[Any]] = {}
    for item in items:
        for key in keys(item):
            found.setdefault(key, []).append(item)
    return found


def compare(design: str, nodes: int, asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """`asked.seconds` of ordinary work, then a death: a row of each."""
    model = Model(design.split(",")[0], nodes, asked.rate, asked.live, asked.seed)
    model.start()
    model.run(1.0)
    model.seen.clear()
    model.kept_s.clear()
    submitted, syncs = model.submitted, sum(node.syncs for node in model.nodes)
    model.run(1.0 + asked.seconds)
    count = model.submitted - submitted
    seen = Counter(model.seen)
    name = {"nodes": nodes, "keepers per": design}
    work = name | {
        "messages/task": seen["messages"] / count,
        "bytes/task": round(seen["bytes"] / count),
        "signatures": seen["signatures"] / count,
        "checks": seen["checks"] / count,
        "crypto us/task": round(1e6 * (seen["signatures"] * SIGN_S + seen["checks"] * CHECK_S) / count),
        "heads": seen["heads"] / count,
        "fsyncs/s/node": (sum(node.syncs for node in model.nodes) - syncs) / asked.seconds / nodes,
        "kept p50 ms": 1000 * statistics.median(model.kept_s),
        "p99": 1000 * percentile(model.kept_s, 0.99),
    }
    death = name | model.fail(asked.history, folded_before=design != "author, cold")
    if design.startswith("author"):
        death |= model.hand_over()
    return work, death


DESIGNS = ("author, cold", "author", "record")
"""Cold: a successor folds the dead journal when it takes over; else keepers fold what they keep as it comes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--rate", type=float, default=20.0, help="tasks per second and node")
    parser.add_argument("--live", type=int, default=100, help="unfinished tasks per node")
    parser.add_argument("--history", type=float, default=600.0, help="seconds of work in the dead journal since its last snapshot")
    parser.add_argument("--seconds", type=float, default=3.0, help="virtual, of ordinary work")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [compare(design, nodes, asked) for nodes in asked.nodes for design in DESIGNS]
    for table in zip(*rows):
        show(list(table), asked.json)


if __name__ == "__main__":
    main()
