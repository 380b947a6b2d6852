"""Revocation in the simulator: how fast it reaches a hundred nodes, what becomes of the work, and what its checker reads in a history."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.inputs import Enquire, Submit
from mesh.messages.records import Audited, Lost
from mesh.sim.checkers.tasks import Shown
from mesh.sim.checkers.trust import STOPS_WITHIN_S, TrustChecker
from mesh.sim.faults import Fault
from mesh.sim.history import Appended, HandlerBegan, HandlerOver, History, NodeDown, NodeUp, Phase, Upheld, Viewed
from mesh.sim.labour import Sink, Skill, Worker
from mesh.sim.scenario import Plan, Scenario, names_of
from mesh.sim.story import read_story
from mesh.sim.world import World

# ---- how fast


def linked(nodes: int, seed: int) -> World:
    """Everybody is up and linked with everybody."""
    world = World(names_of(nodes), seed, history=History(keep=True))
    world.start_all()
    while any(not row.linked for host in world.hosts.values() if host.up for row in host.directory.rows()) or world.now_s < 3.0:
        world.run(world.now_s + 0.5)
        assert world.now_s < 20.0, "everybody is linked with everybody by then"
    return world


def spread(world: World, victim: str, others: list[str]) -> list[float]:
    """Virtual seconds from the revocation of `victim` until each of the others upheld it, in order."""
    world.run(world.now_s + 1.0)
    began_s = world.now_s

    def reached() -> list[float]:
        told = (record for record in world.history.records if type(record) is Upheld and record.target == victim)
        return sorted(record.at_s - began_s for record in told if record.node in others)

    world.revoke(victim, at=world.names[0])
    while world.now_s < began_s + 10.0 and len(reached()) < len(others):
        world.run(world.now_s + 0.25)
    return reached()


def test_a_revocation_reaches_99_of_100_nodes_within_3_s_and_all_within_10() -> None:
    """In good weather, then another one with 20 % resent and 20 % lost: one world, for it takes long until a hundred are linked."""
    nodes = 100
    world = linked(nodes, 7)
    others = list(world.names)
    for loss, drop, victim in ((0.0, 0.0, world.names[nodes // 2]), (0.2, 0.2, world.names[nodes // 3])):
        world.network.weather.loss, world.network.weather.drop = loss, drop
        others.remove(victim)
        times = spread(world, victim, others)
        assert len(times) == len(others)
        most, last = times[int(0.99 * len(others)) - 1], times[-1]
        print(f"revocation, {nodes} nodes, loss {loss}, drop {drop}: 99 % after {most * 1000:.1f} ms, all after {last * 1000:.1f} ms")
        assert most < 3.0 and last < 10.0


# ---- what becomes of the work


def workshop(*skills: Skill, names: tuple[str, ...] = ("n1", "n2", "n3")) -> World:
    """A small mesh in which every node but the first has a worker."""
    world = World(names, 3, history=History(keep=True))
    world.start_all()
    sink = Sink()
    for number, name in enumerate(names[1:], 1):
        world.at(0.5, lambda name=name, number=number: Worker(world, world.hosts[name], sink, number, skills, 1, 1.0).attach())  # type: ignore[misc]
    world.run(3.0)
    return world


def lost_of(world: World, node: str) -> list[tuple[str, str]]:
    return [
        (r.entry.node, r.entry.reason) for r in world.history.records if type(r) is Appended and r.node == node and type(r.entry) is Lost
    ]


@pytest.mark.parametrize(("idempotent", "least_s", "most_s"), [(True, 0.0, 0.1), (False, 2.0, 4.0)], ids=["at once", "after its lease"])
def test_work_of_a_revoked_node_is_awarded_again(idempotent: bool, least_s: float, most_s: float) -> None:
    world = workshop(Skill("slow", 6.0, spread=0.0, idempotent=idempotent))
    answers: list[dict[str, Any]] = []
    world.ask("n1", lambda number: Submit(number, "slow", b'{"x": "1"}'), lambda ok, body: answers.append(body))
    world.run(4.0)
    first = next(r.node for r in world.history.records if type(r) is HandlerBegan)
    world.revoke(first, at="n1")
    world.run(30.0)
    began = [r for r in world.history.records if type(r) is HandlerBegan]
    assert [r.node for r in began] == [first, "n3" if first == "n2" else "n2"]
    assert least_s <= began[1].at_s - 4.0 <= most_s and began[1].fence > began[0].fence
    assert lost_of(world, "n1") == [(first, "node_revoked")]
    shown: list[dict[str, Any]] = []
    world.ask("n1", lambda number: Enquire(number, "task", answers[0]["task"]), lambda ok, body: shown.append(body))
    world.run(31.0)
    assert shown[0]["state"] == "done" and shown[0]["owner_id"] == began[1].node


def test_work_for_a_revoked_manager_stops_at_once_and_questions_to_it_end() -> None:
    world = workshop(Skill("slow", 20.0, spread=0.0))
    answers: list[dict[str, Any]] = []
    world.ask("n1", lambda number: Submit(number, "slow", b'{"x": "1"}'), lambda ok, body: answers.append(body))
    world.run(4.0)
    waiting: list[tuple[bool, dict[str, Any]]] = []
    world.ask("n2", lambda number: Enquire(number, "result", answers[0]["task"]), lambda ok, body: waiting.append((ok, body)))
    world.run(5.0)
    assert not waiting
    world.revoke("n1", at="n3")
    world.run(5.2)
    over = [r for r in world.history.records if type(r) is HandlerOver]
    assert [(r.outcome, r.at_s < 5.1) for r in over] == [("cancelled", True)]
    assert [(ok, body["code"]) for ok, body in waiting] == [(False, "node_revoked")]


def test_every_node_has_it_on_record_once_and_a_restart_adds_nothing() -> None:
    world = workshop()
    world.revoke("n3", at="n1")
    world.run(6.0)
    world.crash("n2")
    world.start("n2")
    world.run(12.0)
    entries = [(r.node, r.entry.about, r.entry.by) for r in world.history.records if type(r) is Appended and type(r.entry) is Audited]
    assert sorted(entry for entry in entries if entry[0] in ("n1", "n2")) == [("n1", "n3", "root"), ("n2", "n3", "root")]
    row = world.hosts["n2"].directory.get("n3")
    assert row.revoked and row.state == "dead" and not row.linked


def test_the_audit_of_all_nodes_is_asked_for_anywhere() -> None:
    world = workshop()
    world.revoke("n3", at="n1")
    world.run(6.0)
    answers: list[dict[str, Any]] = []
    for args in ({}, {"all": True}, {"all": True, "limit": 1}):
        world.ask("n2", lambda number, args=args: Enquire(number, "audit", "n3", args), lambda ok, body: answers.append(body))  # type: ignore[misc]
    world.run(8.0)
    here, everywhere, newest = answers
    assert [author for author, _ in here["pages"]] == ["n2"] and not here["missing"]
    assert [author for author, _ in everywhere["pages"]] == ["n1", "n2"] and not everywhere["missing"], "nobody misses the revoked"
    assert len(newest["pages"]) == 2
    for author, page in everywhere["pages"]:
        [item] = read_story((host.disk for host in world.hosts.values()), page).items
        assert item.verified and item.author == author and item.entry.what == "revoked" and item.entry.about == "n3"


def test_it_survives_everything_at_once() -> None:
    """Revoked while the herald is about to crash, one node is down and another cut off."""
    faults = (
        Fault(4.0, "crash", ("n2",), 8.0, 0.9),
        Fault(4.0, "partition", ("n3",), 9.0, 0.0),
        Fault(6.0, "revoke", ("n5", "n1"), 0.0, 0.0),
        Fault(6.01, "crash_lose_tail", ("n1",), 5.0, 0.1),
    )
    outcome = Scenario(Plan(5, 11, (), 25.0, rate=6.0, schedule=faults)).run()
    assert outcome.verdicts == ()


# ---- what the checker reads


def judged(*records: Any) -> list[tuple[str, str]]:
    history = History([TrustChecker()])
    for record in records:
        history.add(record)
    return [(verdict.invariant, verdict.text) for verdict in history.verdicts]


UP = (NodeUp(0.0, "a", 1, 0, bytes(32)), NodeUp(0.0, "r", 1, 0, bytes(32)))
REVOKED = Upheld(1.0, "a", "r")


def test_a_view_that_shows_the_revoked_as_alive_is_caught() -> None:
    assert judged(*UP, REVOKED, Viewed(2.0, "a", (("r", "dead", 1, 1, ()),)), Phase(3.0, "settled")) == []
    found = judged(*UP, REVOKED, Viewed(2.0, "a", (("r", "alive", 1, 1, ()),)), Phase(3.0, "settled"))
    assert found == [("R3", "a shows r as alive, though it was revoked")]


def test_a_life_that_has_not_heard_is_caught() -> None:
    again = (NodeDown(2.0, "a"), NodeUp(2.5, "a", 2, 0, bytes(32)))
    assert judged(*UP, REVOKED, *again, Phase(3.0, "settled")) == [("R3", "a has not heard that r was revoked")]
    assert judged(*UP, REVOKED, *again, Upheld(2.6, "a", "r"), Phase(3.0, "settled")) == []


def test_a_handler_that_outstays_its_manager_is_caught() -> None:
    began = HandlerBegan(0.5, "a", 1, "r.1.1", 1, False)
    assert judged(*UP, began, REVOKED, HandlerOver(2.0, "a", 1, "r.1.1", 1, "cancelled"), Phase(90.0, "settled")) == []
    [(invariant, text)] = judged(*UP, began, REVOKED, Phase(2.0 + STOPS_WITHIN_S, "settled"))
    assert invariant == "R1" and text == "a ran r.1.1 on for 16.0 s after its manager was revoked"


def test_a_task_left_with_the_revoked_is_caught() -> None:
    shown = Shown(5.0, "a", "a.1.1", {"state": "held", "owner_id": "r"}, None, None)
    assert judged(*UP, REVOKED, shown) == [("R2", "a shows a.1.1 as held at r, which is revoked")]
