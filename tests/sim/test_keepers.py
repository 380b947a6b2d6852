"""The journal of each node is kept by two others: what follows when one is gone, in whole simulated nodes."""

from __future__ import annotations

import json
from typing import Any

from mesh.core.inputs import Enquire, Submit
from mesh.messages.records import Guarded
from mesh.sim.history import Appended, HandlerBegan, History
from mesh.sim.workload import Staff
from mesh.sim.world import World

NAMES = ("n1", "n2", "n3")


class Trio:
    """Three nodes with workers; everything is submitted to n1."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.world = world = World(names, 7, history=History(keep=True))
        self.staff = Staff(world)
        world.start_all(0.0)
        for name in names:
            self.staff.revive(name)
        world.run(6.0)
        self.acknowledged: dict[str, dict[str, Any]] = {}

    def begun(self, task: str) -> int:
        """How often a handler was started for it."""
        return sum(type(record) is HandlerBegan and record.task == task for record in self.world.history.records)

    def submit(self, count: int, capability: str = "long") -> None:
        for number in range(count):
            data = json.dumps({"x": str(number)}).encode()
            self.world.ask("n1", lambda request, data=data: Submit(request, capability, data), self._acknowledged)

    def _acknowledged(self, ok: bool, body: dict[str, Any]) -> None:
        assert ok, body
        self.acknowledged[body["task"]] = body

    def states(self, node: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for task in self.acknowledged:

            def told(ok: bool, body: dict[str, Any], task: str = task) -> None:
                found[task] = body["state"] if ok else body["code"]

            self.world.ask(node, lambda request, task=task: Enquire(request, "task", task), told)
        self.world.run(self.world.now_s + 2.0)
        return found

    def keeping(self, node: str) -> Any:
        return self.world.hosts[node].assembly.keepers.statistics()


def test_running_work_goes_on_under_another_manager_and_is_known_everywhere() -> None:
    trio = Trio()
    assert {len(trio.keeping(name).keepers) for name in NAMES} == {2}
    trio.submit(5)
    trio.world.run(6.4)
    assert {body["survives"] for body in trio.acknowledged.values()} == {"node-loss"} and len(trio.acknowledged) == 5
    away = {task for task, row in trio.world.hosts["n1"].assembly.manager.book.tasks.items() if row.holder not in ("", "n1")}
    assert away, "some of it runs elsewhere"
    trio.world.crash("n1", power=True)
    trio.world.run(20.0)
    assert sum(trio.keeping(name).takeovers for name in ("n2", "n3")) == 1
    assert set(trio.states("n2").values()) == set(trio.states("n3").values()) == {"done"}
    assert {trio.begun(task) for task in away} == {1}, "what ran went on"
    trio.world.start("n1")
    trio.staff.revive("n1")
    trio.world.run(trio.world.now_s + 8.0)
    assert trio.keeping("n1").leads and set(trio.states("n1").values()) == {"done"}
    trio.submit(1, "quick")
    trio.world.run(trio.world.now_s + 2.0)
    assert set(trio.states("n3").values()) == {"done"} and len(trio.acknowledged) == 6


def test_without_a_majority_nothing_is_acknowledged_and_nothing_is_lost() -> None:
    trio = Trio()
    trio.world.crash("n2", power=True)
    trio.world.crash("n3", power=True)
    trio.submit(3, "quick")
    trio.world.run(9.0)
    assert trio.acknowledged == {}
    trio.world.start("n3")
    trio.staff.revive("n3")
    trio.world.run(25.0)
    assert len(trio.acknowledged) == 3 and set(trio.states("n1").values()) == {"done"}


def test_two_nodes_have_no_keepers_and_a_third_makes_them() -> None:
    trio = Trio(("n1", "n2"))
    trio.submit(1, "quick")
    trio.world.run(7.0)
    assert [body["survives"] for body in trio.acknowledged.values()] == ["restart"]
    assert trio.keeping("n1").keepers == ()


def test_who_took_over_says_so_again_after_a_restart() -> None:
    trio = Trio()
    trio.submit(3)
    trio.world.run(6.4)
    trio.world.crash("n1", power=True)
    trio.world.run(12.0)
    taker = next(name for name in ("n2", "n3") if trio.keeping(name).takeovers)
    other = "n3" if taker == "n2" else "n2"
    for name in (taker, other):
        trio.world.crash(name, power=True)
        trio.world.start(name)
        trio.staff.revive(name)
    trio.world.run(30.0)
    heirs = trio.world.hosts[other].directory.heirs
    assert [heir.taker for heir in heirs["n1"]] == [taker]
    assert set(trio.states(other).values()) == {"done"}


def test_a_node_whose_disk_was_put_back_takes_no_work_that_must_survive() -> None:
    """Its new entries would have numbers that its keepers have already: they would seem to be kept, and be lost."""
    trio = Trio()
    world = trio.world
    image = world.hosts["n1"].disk.image()
    trio.submit(3)
    world.run(6.5)
    assert len(trio.acknowledged) == 3
    world.put_back("n1", image)
    world.run(8.0)
    world.start("n1")
    world.run(14.0)
    refused: list[dict[str, Any]] = []
    world.ask("n1", lambda request: Submit(request, "quick", b'{"x": "9"}'), lambda ok, body: refused.append(body))
    world.run(16.0)
    assert [body["code"] for body in refused] == ["rolled_back"]
    assert set(trio.states("n2").values()) == {"done"}, "its keepers drive what it had acknowledged"


def test_a_keeper_whose_disk_was_put_back_counts_again_once_it_was_taken_in_anew() -> None:
    trio = Trio()
    world = trio.world
    image = world.hosts["n2"].disk.image()
    trio.submit(3, "quick")
    world.run(7.5)
    world.put_back("n2", image)
    world.run(7.6)
    world.start("n2")
    world.run(14.0)
    assert set(trio.keeping("n1").keepers) == {"n2", "n3"} and trio.keeping("n2").lapsed == ("n2",)
    members = [record.entry.members for record in world.history.records if type(record) is Appended and type(record.entry) is Guarded]
    assert ("n1", "n3") in members, "and in between it was no member"
    world.crash("n1", power=True)
    world.run(24.0)
    assert set(trio.states("n3").values()) == {"done"}


def test_who_forgot_an_entry_helps_nobody_to_lead_without_it() -> None:
    """It stands on two disks of three; one is away, the other was put back; the third has never seen it."""
    trio = Trio()
    world = trio.world
    world.network.cut("n1", "n3")
    world.network.cut("n3", "n1")
    image = world.hosts["n2"].disk.image()
    trio.submit(1)
    world.ask("n2", lambda request: Submit(request, "quick", b'{"x": "9"}'), lambda ok, body: None)
    world.run(6.9)
    assert len(trio.acknowledged) == 1
    world.run(8.5)
    world.crash("n1", power=True)
    world.put_back("n2", image)
    world.run(8.6)
    world.start("n2")
    world.run(20.0)
    assert trio.keeping("n3").takeovers == trio.keeping("n2").takeovers == 0
    world.network.mend("n1", "n3")
    world.network.mend("n3", "n1")
    world.start("n1")
    trio.staff.revive("n1")
    world.run(40.0)
    assert set(trio.states("n1").values()) == {"done"}
