"""One rehearsal of a recorded load: the same tasks, asked for at the same times, on full nodes in virtual time.

    roots   asked for when they were, whatever has become of those before (open loop), at the node that they were given to
    steps   asked for by their parent: after those steps that had ended when they were asked for, and so much later

Invariant: the same model, load and seed give the same outcome. A task takes what it took; on a crew of another speed as much more or less.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from mesh.core.inputs import Call, Submit
from mesh.effects import Execute
from mesh.flows.spec import FLOW
from mesh.messages.work import Placement
from mesh.rehearsal.crew import Asked, Deed
from mesh.rehearsal.ledger import Ledger
from mesh.rehearsal.load import Job, Load
from mesh.rehearsal.model import Capability, Crew, Fault, Model
from mesh.rehearsal.outcome import Outcome, since
from mesh.rehearsal.stage import QUIET_S, SETTLE_S, Stage, limits_of
from mesh.sim.history import History
from mesh.sim.world import World

WAIT = "mesh.wait"
SETTLED_EVERY_S = 0.5
SLACK_MS = 2.0
"""Who was asked for within so long of another's end, was waiting for it."""


class LoadDeeds:
    """What becomes of each task of a load. Its input says which it is."""

    def __init__(self, load: Load, model: Model, ledger: Ledger) -> None:
        self._model, self._ledger = model, ledger
        self.jobs = load.jobs
        self._children: dict[str, list[int]] = {}
        for number, job in enumerate(load.jobs):
            if job.parent:
                self._children.setdefault(job.parent, []).append(number)
        recorded = [(node, crew) for node in load.model.nodes for crew in node.crews]
        self._speeds = {(node.name, one.name): crew.speed for node, crew in recorded for one in load.model.offered(crew)}
        self.names: dict[int, str] = {}
        """Of each job, the task that it became."""

    def began(self, execute: Execute, node: str) -> None:
        self._ledger.began(execute, node)
        self.names[_number(execute.input)] = execute.task

    def ended(self, execute: Execute, node: str, outcome: str) -> None:
        self._ledger.ended(execute, node, outcome)

    def deed(self, execute: Execute, crew: Crew) -> Deed:
        job = self.jobs[_number(execute.input)]
        outcome = "ok" if job.state == "done" else "error"
        if job.task in self._children:
            asks, rest_s = _script(job, [(number, self.jobs[number]) for number in self._children[job.task]])
            return Deed(rest_s, outcome, asks=asks)
        return Deed(job.service_ms / 1000 * self._speed_then(job) / crew.speed, outcome)

    def _speed_then(self, job: Job) -> float:
        """Of the crew that ran it when it was recorded."""
        return self._speeds.get((job.node, job.capability), 1.0)


def _number(data: bytes) -> int:
    return int(json.loads(data)["job"])


def _script(parent: Job, children: list[tuple[int, Job]]) -> tuple[tuple[Asked, ...], float]:
    """When a parent asks for its steps, and how long it goes on after the last one. Each waits for those that had ended, and of these only
    for the last ones: as far as a record can say, that is what it was waiting for."""
    ordered = sorted(children, key=lambda one: one[1].at_ms)
    ends = [job.at_ms + max(job.took_ms, job.service_ms) for _, job in ordered]
    asks: list[Asked] = []
    began_ms = parent.at_ms + max(0.0, max(parent.took_ms, parent.service_ms) - parent.service_ms)
    for at, (number, job) in enumerate(ordered):
        before = [other for other in range(at) if ends[other] <= job.at_ms + SLACK_MS]
        last_ms = max((ends[other] for other in before), default=began_ms)
        after = tuple(before)
        gap_s = max(0.0, job.at_ms - last_ms) / 1000
        pause_s = max(job.took_ms, job.service_ms, 1.0) / 1000 if job.capability == WAIT else 0.0
        asks.append(Asked(f"{at}.{job.step}"[:200], job.capability, json.dumps({"job": number}).encode(), after, gap_s, pause_s))
    end_ms = parent.at_ms + max(parent.took_ms, parent.service_ms)
    return tuple(asks), max(0.0, end_ms - max(ends)) / 1000


def rehearse_load(load: Load, model: Model, seed: int) -> Outcome:
    """Until all of it has ended, or never will. Raises UsageError."""
    model = _completed(load, model).checked()
    world = World(tuple(node.name for node in model.nodes), seed, limits=limits_of(model), clock_spread_s=0.0)
    ledger = Ledger(lambda: world.now_s)
    world.history = History([ledger])
    deeds = LoadDeeds(load, model, ledger)
    stage = Stage(world, model, deeds)
    world.start_all(0.0)
    world.run(1.0)
    stage.attach()
    while not stage.all_known():
        world.run(world.now_s + 0.05)
    stage.begin_costs()
    world.run(world.now_s + SETTLE_S)
    began_s = world.now_s
    asking = _Asking(world, load, began_s)
    ledger.over = asking.finished
    for fault in model.faults:
        world.at(began_s + fault.at_s, _strike(world, stage, fault))
    last_at_s = began_s + max(job.at_ms for job in load.jobs) / 1000
    while asking.open:
        world.run(world.now_s + SETTLED_EVERY_S)
        if world.now_s > last_at_s and not ledger.running and world.now_s > ledger.last_s + QUIET_S:
            break
    return _outcome(seed, asking, load, ledger, deeds, model, began_s)


def _completed(load: Load, model: Model) -> Model:
    """With a service for what the load alone knows: each of its tasks says itself what it takes."""
    missing = {job.capability for job in load.jobs if job.capability != WAIT} - {one.name for one in model.capabilities}
    model = replace(model, capabilities=(*model.capabilities, *(Capability(name) for name in sorted(missing))))
    if FLOW in {job.capability for job in load.jobs}:
        nodes = [replace(node, crews=(*node.crews, Crew("flows", 256, offers=(FLOW,)))) for node in model.nodes]
        model = replace(model, nodes=tuple(nodes))
    return model


def _strike(world: World, stage: Stage, fault: Fault) -> Callable[[], None]:
    def strike() -> None:
        world.crash(fault.node, power=True)
        if fault.back_s:
            world.after(fault.back_s, back)

    def back() -> None:
        world.start(fault.node)
        stage.attach(fault.node)
        world.hosts[fault.node].input_cost_s = stage.model.overheads.turn_s

    return strike


class _Asking:
    """The clients: each root at its time, at its manager or, where that is gone, at the next node. `ends`: when each had its answer."""

    def __init__(self, world: World, load: Load, began_s: float) -> None:
        self._world, self._load = world, load
        self.open = 0
        self.tasks: dict[str, int] = {}
        self._early: dict[str, str] = {}
        """Ended before the answer to its submission was here."""
        self.ends: dict[int, tuple[float, str]] = {}
        for number, job in enumerate(load.jobs):
            if not job.parent:
                self.open += 1
                world.at(began_s + job.at_ms / 1000, self._asking(number, job))

    def _asking(self, number: int, job: Job) -> Callable[[], None]:
        data = json.dumps({"job": number}).encode()
        placement = Placement(where=job.where)
        rank = (job.priority, job.share)

        def ask() -> None:
            names = self._world.names
            known = names.index(job.manager) if job.manager in names else number % len(names)
            for at in range(len(names)):
                name = names[(known + at) % len(names)]
                if self._world.hosts[name].up:
                    break
            if job.durable:
                self._world.ask(
                    name,
                    lambda request: Submit(request, job.capability, data, retries=0, placement=placement, rank=rank),
                    lambda ok, body: self._taken(number, name, ok, body),
                )
            else:
                self._world.ask(
                    name,
                    lambda request: Call(request, job.capability, data, placement=placement, rank=rank),
                    lambda ok, body: self._over(number, str(body.get("state") or "failed") if ok else "failed"),
                )

        return ask

    def events(self) -> int:
        return self._world.trace.events

    def _taken(self, number: int, node: str, ok: bool, body: dict[str, object]) -> None:
        if not ok:
            self._over(number, "failed")
            return
        task = str(body["task"])
        self.tasks[task] = number
        if task in self._early:
            self._over(number, self._early.pop(task))

    def finished(self, task: str, state: str) -> None:
        """On record."""
        if task in self.tasks:
            self._over(self.tasks[task], state)
        else:
            self._early[task] = state

    def _over(self, number: int, state: str) -> None:
        if number not in self.ends:
            self.open -= 1
            self.ends[number] = (self._world.now_s, state)


def _outcome(seed: int, asking: _Asking, load: Load, ledger: Ledger, deeds: LoadDeeds, model: Model, began_s: float) -> Outcome:
    """Of calls, which nobody writes down, the client knows when they were asked for and when they ended."""
    for number, task in deeds.names.items():
        work, job = ledger.works[task], load.jobs[number]
        work.label = job.step or job.task
        if work.submitted_s < 0:
            work.submitted_s = began_s + job.at_ms / 1000
            work.finished_s, work.state = asking.ends.get(number, (-1.0, ""))
    roots = [number for number, job in enumerate(load.jobs) if not job.parent]
    first_s = began_s + min(load.jobs[number].at_ms for number in roots) / 1000
    durable = {number: ledger.works[task].finished_s for task, number in asking.tasks.items() if task in ledger.works}
    last_s = max((durable.get(number, end_s) for number, (end_s, _) in asking.ends.items()), default=first_s)
    state = "stuck" if asking.open else "done"
    failed = sum(how != "done" for _, how in asking.ends.values())
    works = [work for work in ledger.works.values() if work.submitted_s >= began_s]
    for work in works:
        since(work, first_s)
    slots = {node.name: sum(crew.slots for crew in node.crews) for node in model.nodes}
    return Outcome(seed, state, last_s - first_s, works, "", "", slots, asking.events(), failed)
