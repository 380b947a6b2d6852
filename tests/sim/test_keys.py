"""One key, one task, over the mesh: whole simulated nodes that join, die, are cut off and forget."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mesh.core.inputs import Enquire, Submit
from mesh.core.keeping import keys as keys_module
from mesh.core.keeping.claims import Attempt
from mesh.core.keeping.keys import Keys
from mesh.limits import Limits, WorkLimits
from mesh.sim.checkers import all_checkers
from mesh.sim.history import Asked, HandlerBegan, History
from mesh.sim.scenario import Plan, Scenario
from mesh.sim.workload import Staff, Wish
from mesh.sim.world import World

FIVE = ("n1", "n2", "n3", "n4", "n5")


class Crowd:
    """Nodes with workers, judged by all checkers; and what clients were told of each key."""

    def __init__(self, names: tuple[str, ...] = FIVE, seed: int = 7, limits: Limits | None = None, late: tuple[str, ...] = ()) -> None:
        limits = limits or Limits()
        self.world = World((*names, *late), seed, history=History(all_checkers(limits), keep=True), limits=limits)
        self.staff = Staff(self.world)
        self.told: dict[str, list[tuple[bool, dict[str, Any]]]] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        self.world.start(name)
        self.staff.revive(name)

    def submit(self, node: str, key: str, argument: str = "", capability: str = "quick") -> None:
        answers = self.told.setdefault(key, [])
        data = json.dumps({"x": argument or key}).encode()
        command = lambda number: Submit(number, capability, data, key=key)  # noqa: E731
        request = self.world.ask(node, command, lambda ok, body: answers.append((ok, body)))
        if request:
            self.world.history.add(Asked(self.world.now_s, node, request, Wish(node, capability, argument, True, None, key)))

    def on(self, s: float) -> None:
        self.world.run(self.world.now_s + s)

    def until(self, holds: Callable[[], Any], within_s: float) -> None:
        end_s = self.world.now_s + within_s
        while not holds() and self.world.now_s < end_s:
            self.on(0.0005)
        assert holds(), f"not within {within_s} s"

    def tasks(self, key: str) -> set[str]:
        return {body["task"] for ok, body in self.told[key] if ok}

    def ran(self) -> set[str]:
        return {record.task for record in self.world.history.records if type(record) is HandlerBegan}

    def roster(self, node: str) -> Any:
        return self.world.hosts[node].assembly.keys._roster

    def state(self, node: str, task: str) -> str:
        found: list[str] = []
        self.world.ask(node, lambda number: Enquire(number, "task", task), lambda ok, body: found.append(body["state" if ok else "code"]))
        self.on(2.0)
        return found[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_at_once_through_five_nodes_run_once(seed: int) -> None:
    """Under loss, a partition, the death of a node that claims, and while a sixth joins."""
    crowd = Crowd(seed=seed, late=("n6",))
    world, weather = crowd.world, crowd.world.network.weather
    crowd.on(6.0)
    weather.drop, weather.loss, weather.reorder_s = 0.05, 0.1, 0.003
    for number in range(100):
        world.after(0.004 * number, lambda number=number: crowd.submit(FIVE[number % 5], "k"))  # type: ignore[misc]
    world.after(0.1, lambda: crowd.start("n6"))
    world.after(0.15, lambda: crowd.submit("n6", "k"))
    cut, dead = FIVE[seed % 5], FIVE[(seed + 2) % 5]
    pairs = [pair for other in FIVE if other != cut for pair in ((cut, other), (other, cut))]
    for pair in pairs:
        world.after(0.12, lambda pair=pair: world.network.cut(*pair))  # type: ignore[misc]
        world.after(4.0, lambda pair=pair: world.network.mend(*pair))  # type: ignore[misc]
    world.after(0.02 + 0.03 * seed, lambda: world.crash(dead, power=True))
    crowd.on(5.0)
    weather.drop = weather.loss = weather.reorder_s = 0.0
    crowd.start(dead)
    crowd.on(20.0)
    for node in (*FIVE, "n6"):
        crowd.submit(node, "k")
    crowd.on(3.0)
    [task] = crowd.tasks("k")
    assert len(crowd.told["k"]) >= 80 and len([ok for ok, _ in crowd.told["k"][-6:] if ok]) == 6
    assert crowd.ran() == {task} and crowd.state("n6", task) == "done"
    assert world.history.verdicts == []


def test_a_claimant_that_dies_after_claiming_is_followed_by_one_who_claims_again() -> None:
    crowd = Crowd()
    crowd.on(6.0)
    crowd.submit("n1", "first")
    crowd.on(2.0)
    crowd.submit("n4", "k")
    cells = [crowd.world.hosts[node].assembly.keys._cells for node in crowd.roster("n1").members]
    crowd.until(lambda: sum("k" in each and each["k"].accepted > (0, 0, "") for each in cells) > 1, 1.0)
    assert not crowd.told["k"], "accepted, and n4 does not know it yet"
    crowd.world.crash("n4", power=True)
    crowd.on(10.0)
    crowd.submit("n5", "k")
    crowd.on(2.0)
    assert crowd.tasks("k") == {"n4.1.1"} and crowd.state("n5", "n4.1.1") == "done"
    assert crowd.world.history.verdicts == []


def test_other_work_under_the_same_key_is_an_error_on_every_node() -> None:
    crowd = Crowd()
    crowd.on(6.0)
    crowd.submit("n1", "k", "one")
    crowd.on(2.0)
    [task] = crowd.tasks("k")
    for node in FIVE:
        crowd.submit(node, "k", "two")
        crowd.submit(node, "k", "one", capability="count")
    crowd.on(2.0)
    assert [(ok, body["code"]) for ok, body in crowd.told["k"][1:]] == [(False, "key_taken")] * 10
    assert crowd.ran() == {task}


def test_keepers_of_the_keys_are_replaced_one_after_the_other_and_forget_nothing() -> None:
    crowd = Crowd((*FIVE, "n6"))
    crowd.on(6.0)
    for number in range(20):
        crowd.submit("n1", f"k{number}")
    crowd.on(3.0)
    before = crowd.roster("n1")
    claimed = {key: crowd.tasks(key) for key in list(crowd.told)}
    for gone in before.members:
        crowd.world.crash(gone, power=True, for_good=True)
        crowd.on(25.0)  # dead, and then replaced
    living = [host.name for host in crowd.world.living()]
    after = crowd.roster(living[0])
    assert after.number > 2 and not set(after.members) & set(before.members)
    for number in range(20):
        crowd.submit(living[number % len(living)], f"k{number}")
    crowd.on(5.0)
    assert {key: crowd.tasks(key) for key in claimed} == claimed
    assert [verdict for verdict in crowd.world.history.verdicts if verdict.invariant in ("K1", "K2", "K3")] == []


def test_one_node_decides_alone_and_two_realms_become_one() -> None:
    crowd = Crowd()
    apart = [pair for one in ("n1", "n2") for other in ("n3", "n4", "n5") for pair in ((one, other), (other, one))]
    for pair in apart:
        crowd.world.network.cut(*pair)
    crowd.on(4.0)
    crowd.submit("n2", "left")
    crowd.submit("n4", "right")
    crowd.on(6.0)
    assert crowd.roster("n2").realm != crowd.roster("n4").realm
    for pair in apart:
        crowd.world.network.mend(*pair)
    crowd.on(20.0)
    assert len({crowd.roster(node).realm for node in FIVE}) == 1
    for node in FIVE:
        for key in ("left", "right", "new"):
            crowd.submit(node, key)
    crowd.on(3.0)
    assert [len(crowd.told[key]) for key in ("left", "right", "new")] == [6, 6, 5]
    assert [len(crowd.tasks(key)) for key in ("left", "right", "new")] == [1, 1, 1] and len(crowd.ran()) == 3


def test_without_a_majority_of_its_keepers_a_client_is_told_and_hears_the_same_later() -> None:
    crowd = Crowd()
    crowd.on(6.0)
    crowd.submit("n1", "first")
    crowd.on(2.0)
    keepers = crowd.roster("n1").members
    node = next(name for name in FIVE if name not in keepers)
    for keeper in keepers[:2]:
        for other in FIVE:
            if other not in keepers[:2]:
                crowd.world.network.cut(keeper, other)
                crowd.world.network.cut(other, keeper)
    crowd.on(1.0)
    crowd.submit(node, "k")
    crowd.on(Limits().work.claim_wait_s + 1.0)
    [(ok, body)] = crowd.told["k"]
    assert not ok and body["code"] == "key_undecided" and all(keeper in body["message"] for keeper in keepers[:2])
    for keeper in keepers[:2]:
        for other in FIVE:
            if other not in keepers[:2]:
                crowd.world.network.mend(keeper, other)
                crowd.world.network.mend(other, keeper)
    crowd.on(20.0)
    crowd.submit(keepers[0], "k")
    crowd.on(2.0)
    [task] = crowd.tasks("k")
    assert task.startswith(f"{node}.") and task in crowd.ran()


def test_a_key_is_free_again_when_its_tasks_record_is_gone() -> None:
    crowd = Crowd(FIVE[:3], limits=Limits(work=WorkLimits(ended_remembered=2)))
    crowd.on(6.0)
    for number in range(4):
        crowd.submit("n1", f"k{number}")
        crowd.on(2.0)
    crowd.submit("n2", "k0")
    crowd.submit("n2", "k3")
    crowd.on(2.0)
    assert len(crowd.tasks("k0")) == 2 and len(crowd.tasks("k3")) == 1
    held = [set(host.assembly.keys._cells) for host in crowd.world.living()]
    assert held == [{"k0", "k2", "k3"}] * 3


def test_where_no_key_is_asked_for_nothing_is_said_about_keys() -> None:
    crowd = Crowd()
    crowd.on(6.0)
    crowd.submit("n1", "")
    crowd.on(3.0)
    assert [crowd.roster(node) for node in FIVE] == [None] * 5 and len(crowd.ran()) == 1


# ---- planted bugs


def caught() -> set[str]:
    plan = Plan(5, 1, ("delay", "reorder", "loss", "one_way"), 7.0, rate=0.2, capabilities=("quick",), keys=4.0, farewell=False)
    return {verdict.invariant for verdict in Scenario(plan).run().verdicts}


def one_keeper_is_enough(patch: pytest.MonkeyPatch) -> None:
    rule = Attempt.on_answer
    patch.setattr(Attempt, "on_answer", lambda self, keeper, answer, members: rule(self, keeper, answer, (keeper,)))


def every_node_decides_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keys_module.Custody, "founders", lambda self, now_s, unknowing: (self._me,))
    patch.setattr(Keys, "_meet", lambda self, now_s, sender, theirs: iter(()))


@pytest.mark.parametrize("plant", [one_keeper_is_enough, every_node_decides_alone])
def test_a_key_that_stands_for_two_tasks_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught() & {"K1", "K2"}


def test_without_a_bug_no_key_stands_for_two() -> None:
    assert caught() == set()
