"""One run: a storm, then a mandatory quiet, then one node goes for good.

storm     faults from the seed's schedule; safety is judged after every event
quiet     every fault ends, everybody is up; within a bounded time views agree and all acknowledged work has ended (liveness)
farewell  one node is killed and stays away: the others must agree on that
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log10
from typing import Any

from mesh.core.inputs import Enquire
from mesh.ids import TaskId
from mesh.limits import Limits, RecordsLimits
from mesh.sim.checkers import all_checkers
from mesh.sim.checkers.tasks import ENDED, Shown
from mesh.sim.faults import KINDS, Fault, draw
from mesh.sim.history import History, Raised, Verdict
from mesh.sim.injector import Injector
from mesh.sim.keyed import KeyedClients
from mesh.sim.labour import Skill
from mesh.sim.sharing import Sharers
from mesh.sim.sometimes import Sometimes
from mesh.sim.trace import Lines, Trace
from mesh.sim.waiting import ASKING, People
from mesh.sim.workload import PICKY, SKILLS, Clients, Staff
from mesh.sim.world import Build, World

QUIET_MAX_S = 150.0
LOOK_S = 1.0
RATE = 2.0
LIMITS = Limits(records=RecordsLimits(sum_entries=40, sum_read_max=100, sum_ended_max=3))
"""Journals are short here, and are summed up all the same: what a start leaves out has to be what nobody needs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What fixes a run. `schedule` None: drawn from the seed with `kinds` of faults."""

    nodes: int
    seed: int
    kinds: tuple[str, ...] = ()
    until_s: float = 60.0
    rate: float = RATE
    """Wishes of clients per second."""
    capabilities: tuple[str, ...] = tuple(skill.name for skill in SKILLS)
    schedule: tuple[Fault, ...] | None = None
    farewell: bool = True
    hard: float = 1.0
    """So many times as many faults."""
    keys: float = 0.0
    """Keys per second under which clients submit, many at once."""
    waits: float = 0.0
    states: float = 0.0
    """Readings and writings of shared values per second."""

    @property
    def command(self) -> str:
        """What repeats it."""
        faults = ",".join(self.kinds) or "none"
        if self.kinds == KINDS:
            faults = "all"
        rate = "" if self.rate == RATE else f" --rate {self.rate:g}"
        hard = "" if self.hard == 1.0 else f" --hard {self.hard:g}"
        keys = ("" if not self.keys else f" --keys {self.keys:g}") + ("" if not self.waits else f" --waits {self.waits:g}")
        keys += "" if not self.states else f" --states {self.states:g}"
        return f"scripts/simulate --nodes {self.nodes} --seed {self.seed} --faults {faults} --until {self.until_s:g}{rate}{hard}{keys}"


@dataclass(frozen=True, slots=True)
class Outcome:
    plan: Plan
    trace_hash: str
    events: int
    virtual_s: float
    verdicts: tuple[Verdict, ...]
    faults: dict[str, int] = field(default_factory=dict)
    tasks: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    sometimes: dict[str, int] = field(default_factory=dict)


def names_of(count: int) -> tuple[str, ...]:
    width = len(str(count))
    return tuple(f"n{number:0{width}d}" for number in range(1, count + 1))


class Scenario:
    """Puts a world together and drives it. `prepare` may plant a bug in it before it starts."""

    def __init__(
        self,
        plan: Plan,
        *,
        limits: Limits | None = None,
        build_node: Build | None = None,
        prepare: Callable[[World], None] | None = None,
        lines: Lines | None = None,
        deep: bool = False,
        keep: bool = False,
        skills: tuple[Skill, ...] = SKILLS,
    ) -> None:
        self.plan = plan
        limits = limits or LIMITS
        self.sometimes = Sometimes()
        self.history = History([*all_checkers(limits), self.sometimes], keep=keep)
        self.trace = Trace(lines, deep=deep)
        self.world = World(names_of(plan.nodes), plan.seed, history=self.history, trace=self.trace, limits=limits, build_node=build_node)
        picky = tuple(skill for skill in PICKY if skill.name in plan.capabilities)
        skills = (*skills, *picky, *((ASKING,) if plan.waits else ()))
        self.staff = Staff(self.world, skills)
        self.clients = Clients(self.world, rate=plan.rate, until_s=plan.until_s, capabilities=plan.capabilities, skills=skills)
        self.keyed = KeyedClients(self.world, self.clients, rate=plan.keys, until_s=plan.until_s)
        self.people = People(self.world, self.clients, rate=plan.waits, until_s=plan.until_s)
        self.sharers = Sharers(self.world, rate=plan.states, until_s=plan.until_s)
        schedule = plan.schedule
        if schedule is None:
            schedule = draw(self.world.rng("faults"), self.world.names, plan.kinds, plan.until_s, hard=plan.hard)
        self.schedule = schedule
        self.injector = Injector(self.world, schedule, self.staff.revive)
        if prepare is not None:
            prepare(self.world)

    def run(self) -> Outcome:
        """To the end, or to the first exception out of a core, which is a violation like any other."""
        world = self.world
        try:
            self._storm()
            self._quiet()
            if self.plan.farewell and self.plan.nodes >= 3:
                self._farewell()
        except Exception as error:  # noqa: BLE001 - a core must never raise: whatever it is, it becomes a counted violation
            self.history.add(Raised(world.now_s, "", repr(error)))
            where = "".join(traceback.format_exception(error)[-3:])
            self.history.verdicts.append(Verdict(world.now_s, "RAISED", where))
        refusals: dict[str, int] = {}
        for host in world.hosts.values():
            for reason, count in sorted(host.refusals.items()):
                refusals[reason] = refusals.get(reason, 0) + count
        return Outcome(
            self.plan,
            self.trace.hash(),
            self.trace.events,
            world.now_s,
            tuple(self.history.verdicts),
            self.injector.done,
            len(self.clients.acknowledged),
            refusals,
            self.sometimes.count,
        )

    def _storm(self) -> None:
        world = self.world
        world.phase("storm")
        world.start_all()
        for name in world.names:
            world.after(0.25, lambda name=name: self.staff.revive(name))  # type: ignore[misc]
        look_s = LOOK_S * max(1.0, self.plan.nodes / 10)
        at_s = look_s
        while at_s < self.plan.until_s:
            world.run(at_s)
            world.look()
            at_s += look_s
        world.run(self.plan.until_s)

    def _quiet(self) -> None:
        world = self.world
        world.phase("quiet")
        self.injector.calm()
        for name in world.names:
            world.start(name)
            self.staff.revive(name)
        deadline_s = world.now_s + QUIET_MAX_S
        world.run(world.now_s + 10.0)
        while world.now_s < deadline_s and not self._settled():
            world.run(world.now_s + 5.0)
        world.look()
        self._show()
        self.sharers.last_look()
        world.phase("settled")

    def _settled(self) -> bool:
        """Everybody is seen alive and equal by everybody, no client waits for what still runs, and no acknowledged work is open."""
        sound = [host for host in self.world.living() if host.name not in self.world.revoked]
        if any(host.requests for host in sound) and any(worker.running for host in sound for worker in host.workers.values()):
            return False
        views: dict[tuple[Any, ...], None] = {}
        revoked = self.world.revoked
        for host in self.world.living():
            if host.name not in revoked:
                rows = tuple((r.node, r.state, r.incarnation, r.version) for r in host.directory.rows() if r.node not in revoked)
                views[rows] = None
        if len(views) != 1 or any(row[1] != "alive" for row in next(iter(views))):
            return False
        if len(next(iter(views))) != self.plan.nodes - len(revoked):
            return False
        rows_of_tasks = self._ask_all("task", self._owed())
        return all(row is not None and row.get("state") in ENDED for row in rows_of_tasks.values())

    def _owed(self) -> tuple[TaskId, ...]:
        """What was acknowledged by nodes that still count: the promises of a revoked one, or of an older disk, went with it."""
        acknowledged = self.clients.acknowledged.items()
        return tuple(task for task, wish in acknowledged if wish.node not in self.world.revoked and task not in self.world.old_disks)

    def _ask_all(self, question: str, tasks: tuple[TaskId, ...]) -> dict[TaskId, dict[str, Any] | None]:
        """Ask the node that acknowledged each task; None where it answered with an error or not at all."""
        world = self.world
        answers: dict[TaskId, dict[str, Any] | None] = dict.fromkeys(tasks)
        for task in tasks:
            node = self.clients.acknowledged[task].node

            def answered(ok: bool, body: dict[str, Any], task: TaskId = task) -> None:
                answers[task] = body if ok else None

            world.ask(node, lambda number, task=task: Enquire(number, question, task), answered)  # type: ignore[misc]
        world.run(world.now_s + 2.0)
        return answers

    def _show(self) -> None:
        """Into the history: what the mesh says of every task that it acknowledged."""
        acknowledged = self.clients.acknowledged
        rows = self._ask_all("task", self._owed())
        done = tuple(task for task, row in rows.items() if row is not None and row.get("state") == "done")
        results = self._ask_all("result", done)
        for task, row in rows.items():
            wish, result = acknowledged[task], results.get(task)
            shown = result.get("result") if result else None
            self.history.add(Shown(self.world.now_s, wish.node, task, row, shown, wish.expected))

    def _farewell(self) -> None:
        world = self.world
        world.phase("farewell")
        victim = world.rng("farewell").choice([name for name in world.names if name not in world.revoked])
        world.crash(victim, for_good=True, silent=self.plan.seed % 2 == 0, power=True)
        world.run(world.now_s + 15.0 + 5.0 * log10(self.plan.nodes))
        world.look()
        world.phase("end")


def report(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The JSON of one run. `seconds`: of real time it took."""
    return {
        "schema": "mesh/simulate/1",
        "seed": outcome.plan.seed,
        "nodes": outcome.plan.nodes,
        "trace_hash": outcome.trace_hash,
        "events": outcome.events,
        "events_per_s": round(outcome.events / seconds) if seconds else 0,
        "virtual_s": round(outcome.virtual_s, 3),
        "faults": outcome.faults,
        "tasks": outcome.tasks,
        "refusals": outcome.refusals,
        "sometimes": outcome.sometimes,
        "violations": [{"at_s": round(one.at_s, 6), "invariant": one.invariant, "text": one.text} for one in outcome.verdicts],
        "command": outcome.plan.command,
    }


def as_line(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
