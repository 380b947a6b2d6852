"""The world around toy nodes: time, links, disks, crashes, clocks."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.inputs import Call, DialFailed, Heard, LinkDown, LinkUp, Replay
from mesh.messages.membership import Ping
from mesh.sim.checkers.durability import DurabilityChecker
from mesh.sim.checkers.journal import JournalChecker
from mesh.sim.history import History
from mesh.sim.trace import Trace
from mesh.sim.world import World


@pytest.fixture
def world(toys: Any) -> World:
    made = World(("a", "b", "c"), 7, history=History([JournalChecker(), DurabilityChecker()], keep=True), build_node=toys, seeds=("a",))
    made.start_all(0.0)
    made.run(0.5)
    return made


def toy(world: World, name: str) -> Any:
    return world.hosts[name].assembly.toy


def say(world: World, name: str, verb: str, answers: list[Any] | None = None) -> None:
    kept = answers if answers is not None else []
    world.ask(name, lambda number: Call(number, verb, b""), lambda ok, body: kept.append(body))


def pings(world: World, name: str) -> list[int]:
    return [item.probe for item in toy(world, name).got(Ping)]


def test_a_dial_ends_as_a_link_at_both_ends(world: World) -> None:
    assert sorted(item.alive.author for item in toy(world, "a").got(LinkUp)) == ["b", "c"]
    assert [item.alive.author for item in toy(world, "b").got(LinkUp)] == ["a"]
    assert world.network.linked("a", "b") and not world.network.linked("b", "c")


def test_messages_of_one_turn_are_one_envelope_with_stamps(world: World) -> None:
    say(world, "b", "send a 1 2 3")
    world.run(1.0)
    assert pings(world, "a") == [1, 2, 3]
    assert len(toy(world, "a").got(Heard)) == 1
    say(world, "a", "send b 9")
    world.run(1.5)
    heard = toy(world, "b").got(Heard)[-1]
    sent_by_b_ms = toy(world, "a").got(Heard)[0].stamp_ms
    assert heard.echo_ms == sent_by_b_ms
    assert abs(heard.stamp_ms - int(world.hosts["a"].clock.read(1.0) * 1000)) < 5


def test_order_holds_through_loss_and_delay(world: World) -> None:
    world.network.weather.loss, world.network.weather.delay_s = 0.3, 0.05
    for number in range(40):
        say(world, "b", f"send a {number}")
        world.run(world.now_s + 0.01)
    world.run(world.now_s + 30)
    assert pings(world, "a") == list(range(40))


def test_a_stall_bursts_in_order(world: World) -> None:
    world.network.hold("b", "a")
    for number in range(5):
        say(world, "b", f"send a {number}")
    world.run(2.0)
    assert pings(world, "a") == []
    world.network.let_go("b", "a")
    world.run(3.0)
    assert pings(world, "a") == [0, 1, 2, 3, 4]
    assert toy(world, "a").got(LinkDown) == []


def test_a_long_cut_breaks_the_link_and_loses_what_was_under_way(world: World) -> None:
    world.network.cut("b", "a")
    say(world, "b", "send a 1")
    world.run(6.0)
    world.network.mend("b", "a")
    world.run(8.0)
    assert pings(world, "a") == []
    assert len(toy(world, "a").got(LinkDown)) == 1 and len(toy(world, "b").got(LinkDown)) == 1


def test_dialling_a_dead_process_is_refused_and_over_a_cut_times_out(world: World) -> None:
    world.crash("a")
    world.run(1.0)
    assert len(toy(world, "b").got(LinkDown)) == 1
    world.network.dial("b", "a")
    world.run(2.0)
    world.network.cut("a", "b")
    world.network.dial("b", "a")
    world.run(6.0)
    assert [item.reason for item in toy(world, "b").got(DialFailed)] == ["refused", "timeout"]


def test_drops_duplicates_and_reordering(world: World) -> None:
    world.network.weather.drop = 1.0
    say(world, "b", "send a 1")
    world.run(1.0)
    world.network.weather.drop, world.network.weather.duplicate = 0.0, 1.0
    say(world, "b", "send a 2")
    world.run(2.0)
    world.network.weather.duplicate, world.network.weather.reorder_s = 0.0, 0.05
    say(world, "b", "send a " + " ".join(map(str, range(10, 30))))
    world.run(3.0)
    got = pings(world, "a")
    assert got[:2] == [2, 2]
    assert sorted(got[2:]) == list(range(10, 30)) and got[2:] != sorted(got[2:])


def test_an_answer_waits_for_the_disk(world: World) -> None:
    answers: list[Any] = []
    world.hosts["a"].disk.sync_s = 0.5
    say(world, "a", "append one", answers)
    world.run(world.now_s + 0.1)
    assert answers == []
    world.run(world.now_s + 2.0)
    assert answers == [{"saved": "one"}]


@pytest.mark.parametrize("kept", [False, True])
def test_a_crash_loses_the_tail_or_keeps_what_was_being_written(world: World, kept: bool) -> None:
    answers: list[Any] = []
    say(world, "a", "append safe", answers)
    world.run(1.0)
    world.hosts["a"].disk.sync_s = 5.0
    say(world, "a", "append tail", answers)
    world.run(1.1)
    world.crash("a", keep_written=kept)
    world.run(1.2)
    world.start("a")
    world.run(9.0)
    replayed = [getattr(item.entry, "task", "opened") for item in toy(world, "a").got(Replay)]
    assert replayed == ["opened", "safe"] + (["tail"] if kept else [])
    assert answers == [{"saved": "safe"}]
    assert toy(world, "a").me.incarnation == 2
    assert world.history.verdicts == []


def test_a_frozen_node_gets_everything_later_and_its_deadlines_too(world: World) -> None:
    say(world, "a", "tick 0.2")
    world.run(0.6)
    world.freeze("a")
    say(world, "b", "send a 5")
    world.run(2.0)
    assert pings(world, "a") == []
    world.thaw("a")
    world.run(2.1)
    assert pings(world, "a") == [5]
    at_s = next(at for at, _, item in toy(world, "a").log if type(item).__name__ == "Tick")
    assert at_s >= world.hosts["a"].clock.read(2.0)


def test_a_clock_that_runs_at_twice_the_rate_wakes_twice_as_soon(world: World) -> None:
    clock = world.hosts["a"].clock
    clock.set_rate(world.now_s, 2.0)
    say(world, "a", "tick 1.0")
    before = world.now_s
    world.run(before + 0.51)
    assert any(type(item).__name__ == "Tick" for _, _, item in toy(world, "a").log)


def test_same_seed_same_hash_and_another_seed_another(toys: Any) -> None:
    def once(seed: int) -> str:
        made = World(("a", "b"), seed, trace=Trace(deep=True), build_node=toys)
        made.start_all()
        for number in range(20):
            say(made, "b", f"send a {number}")
            made.run(made.now_s + 0.05)
        return made.trace.hash()

    assert once(1) == once(1) != once(2)
