"""Discovery between machines: who is found, how soon, what a stranger on the LAN can read, and what a liar can do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.limits import DiscoveryLimits
from mesh.runtime.clock import wall_ms
from mesh.runtime.lan.blinding import Blinding, day_of

HERE = Path(__file__).parent
KEY, OTHER_KEY = "11" * 32, "22" * 32
OTTER, HERON, LYNX = "otter" + 27 * "a", "heron" + 27 * "b", "lynxy" + 27 * "c"
CAPABILITIES = ("canary.invoices.approve", "canary.payroll")
ROUNDS = 7
SEEN_S_MAX, EACH_OTHER_S_MAX = 0.05, 0.3
FLOOD_PER_S, FLOOD_S = (int(each) for each in os.environ.get("MDNS_FLOOD", "5000 3").split())
"""`scripts/attack mdns` makes it long."""
FLOOD_MIB_MAX = 8
"""zeroconf alone takes 12 MiB for this flood, and 3 MiB more each second; 32 MiB are allowed for a long one."""
NEWCOMER_S_MAX = 2.0
LATE_MS_MAX = 25
MDNS_PORT = 5353

Until = Callable[..., None]


class Finder:
    """`finder.py` in a machine."""

    def __init__(self, machine: Any, key: str = KEY, *how: str) -> None:
        self.machine = machine
        self._process = machine.spawn(sys.executable, str(HERE / "finder.py"), key, *how)

    def say(self, *words: object) -> None:
        self._process.say(" ".join(map(str, words)))

    def next(self, event: str, **where: Any) -> dict[str, Any]:
        """The next such event; others in between are passed over."""
        while True:
            found: dict[str, Any] = json.loads(self._process.wait_line(f'"event": "{event}"'))
            if where.items() <= found.items():
                return found

    def start(self, node: str, port: int, *capabilities: str) -> dict[str, Any]:
        self.say("start", node, port, *capabilities)
        return self.next("started")

    def stop(self) -> None:
        self.say("stop")
        assert self.next("stopped")["blocked"] == ""

    def tell(self) -> dict[str, Any]:
        self.say("tell")
        return self.next("told")

    def look(self, seconds: float = 1.0) -> list[dict[str, Any]]:
        self.say("look", seconds)
        seen: list[dict[str, Any]] = self.next("seen")["seen"]
        return seen


def today() -> str:
    return Blinding(bytes.fromhex(KEY)).mesh(day_of(wall_ms()))


def flood(machine: Any, per_s: int, seconds: float, *how: str) -> Any:
    return machine.spawn(sys.executable, str(HERE / "flood.py"), machine.address, today(), str(per_s), str(seconds), *how)


def test_nodes_on_different_machines_find_each_other_at_once(lan: Any) -> None:
    otter, heron = Finder(lan.machines[0]), Finder(lan.machines[1])
    there = otter.start(OTTER, 7710)["address"]
    assert there == "10.77.0.1:7710"
    seen_s, each_other_s = [], []
    for turn in range(ROUNDS):
        started = heron.start(HERON, 7720 + turn)
        by_otter = otter.next("found", address=started["address"])
        by_heron = heron.next("found", address=there)
        seen_s.append(by_otter["at_s"] - started["at_s"])
        each_other_s.append(max(by_otter["at_s"], by_heron["at_s"]) - started["at_s"])
        heron.stop()
    seen, each_other = sorted(seen_s)[ROUNDS // 2], sorted(each_other_s)[ROUNDS // 2]
    print(f"a new node is seen after {seen * 1000:.1f} ms, both know each other after {each_other * 1000:.1f} ms (p50 of {ROUNDS})")
    assert seen <= SEEN_S_MAX and each_other <= EACH_OTHER_S_MAX


def test_three_nodes_find_each_other_and_another_mesh_is_not_told(make_lan: Any) -> None:
    lan = make_lan(4)
    ours = [Finder(machine) for machine in lan.machines[:3]]
    stranger = Finder(lan.machines[3], OTHER_KEY)
    theirs = stranger.start("stranger" + 24 * "d", 7710)["address"]
    doors = [finder.start(node, 7710)["address"] for finder, node in zip(ours, (OTTER, HERON, LYNX), strict=True)]
    for finder, own in zip(ours, doors, strict=True):
        assert {finder.next("found")["address"] for _ in range(2)} == {*doors} - {own}
    # The stranger's record is there for all to see, and says nothing to those who lack its key.
    assert {seen["address"] for seen in stranger.look()} == {*doors, theirs}
    for finder in ours:
        told = finder.tell()
        assert told["found"] == 2 and told["refusals"] == {"other_mesh": told["refusals"]["other_mesh"]}
    assert stranger.tell()["found"] == 0


@pytest.mark.parametrize("how", ["blinded", "public"])
def test_what_a_stranger_can_read(lan: Any, how: str) -> None:
    names = {"node": OTTER[:16], "other node": HERON[:16], "host": "otter", "first": CAPABILITIES[0], "second": CAPABILITIES[1]}
    with lan.capture() as packets:
        otter, heron = (Finder(machine, KEY, how) for machine in lan.machines[:2])
        otter.start(OTTER, 7710, *CAPABILITIES)
        heron.start(HERON, 7710, *CAPABILITIES)
        otter.next("found")
        heron.next("found")
        seen = Finder(lan.machines[2], OTHER_KEY).look()
        otter.stop()
        heron.stop()
    tag = today()
    assert [(each["address"], each["tag"]) for each in seen] == [("10.77.0.1:7710", tag), ("10.77.0.2:7710", tag)]
    if how == "public":
        assert {name.removesuffix(" as plain") for name in packets.showing(names)} == set(names)
        assert [each["node"] for each in seen] == [OTTER[:16], HERON[:16]]
    else:
        assert packets.showing(names) == []
        assert not any(each["node"] or each["public"] for each in seen)
        both = "".join(sorted(Blinding(bytes.fromhex(KEY)).capability(name, day_of(wall_ms())) for name in CAPABILITIES))
        assert packets.showing({"tag": tag, "capabilities": both}) == ["tag as plain", "capabilities as plain"]


def test_looking_announces_nothing(lan: Any) -> None:
    finder = Finder(lan.machines[0])
    with lan.capture() as packets:
        assert finder.look(0.3) == []
    sent = [data for sender, data in packets.datagrams(MDNS_PORT) if sender == "10.77.0.1"]
    assert sent and not any(data[2] & 0x80 for data in sent), "questions, and no answer"


def test_the_record_changes_with_the_day(lan: Any, eventually: Until) -> None:
    otter, heron = Finder(lan.machines[0]), Finder(lan.machines[1])
    otter.start(OTTER, 7710)
    tags = Blinding(bytes.fromhex(KEY))
    day = day_of(wall_ms())
    with lan.capture() as packets:
        heron.say("late", HERON, 7720, 0.5)
        otter.next("found", address="10.77.0.2:7720")

        def carried() -> list[int]:
            """The days whose tag each of heron's packets carries, in the order in which they came."""
            said = [data for sender, data in packets.datagrams(MDNS_PORT) if sender == "10.77.0.2"]
            return [each for data in said for each in (day, day + 1) if tags.mesh(each).encode() in data]

        eventually(lambda: day + 1 in carried(), "the next day's tag")
        assert carried()[0] == day
    told = otter.tell()
    assert (told["candidates"], told["found"], told["refusals"]) == (1, 1, {}), "it is still the same node of the same mesh"
    lynx = Finder(lan.machines[2])
    lynx.start(LYNX, 7730)
    lynx.next("found", address="10.77.0.2:7720")


def test_who_starts_behind_a_failed_switch_is_found_when_it_works_again(lan: Any) -> None:
    otter, heron = Finder(lan.machines[0]), Finder(lan.machines[1])
    lan.cut(lan.machines[1])
    otter.say("again", 0.5)
    otter.start(OTTER, 7710)
    heron.start(HERON, 7720)
    otter.say("look", 1.0)  # long enough for all that heron says at its start to be lost
    assert [each["address"] for each in otter.next("seen")["seen"]] == ["10.77.0.1:7710"]
    lan.heal(lan.machines[1])
    otter.next("found", address="10.77.0.2:7720")


def test_a_flood_of_forged_records_disturbs_nobody(lan: Any) -> None:
    otter, heron = Finder(lan.machines[0]), Finder(lan.machines[1])
    otter.start(OTTER, 7710)
    heron.start(HERON, 7720)
    otter.next("found", address="10.77.0.2:7720")
    before = otter.tell()
    liar = flood(lan.machines[2], FLOOD_PER_S, FLOOD_S)
    otter.next("found")  # a lie: the flood has begun
    started = Finder(lan.machines[1]).start(LYNX, 7730)
    newcomer = otter.next("found", address="10.77.0.2:7730")
    liar.wait_line(limit_s=60 + FLOOD_S)
    after = otter.tell()
    print(f"newcomer seen after {(newcomer['at_s'] - started['at_s']) * 1000:.0f} ms; {before['memory_mib']} MiB before; {after}")
    assert newcomer["at_s"] - started["at_s"] < NEWCOMER_S_MAX
    assert after["flooded"] and after["refusals"]["too_fast"] > FLOOD_PER_S
    assert after["memory_mib"] - before["memory_mib"] < FLOOD_MIB_MAX
    assert after["late_p50_ms"] < LATE_MS_MAX
    limits = DiscoveryLimits()
    assert after["found"] - before["found"] <= 1 + limits.names_burst + (FLOOD_S + 2) * limits.names_per_s


def test_a_flood_from_forged_addresses_is_bounded(lan: Any) -> None:
    otter = Finder(lan.machines[0])
    otter.start(OTTER, 7710)
    before = otter.tell()
    flood(lan.machines[2], FLOOD_PER_S, FLOOD_S, "spoof").wait_line(limit_s=60 + FLOOD_S)
    after = otter.tell()
    print(f"{before['memory_mib']} MiB before; {after}")
    limits = DiscoveryLimits()
    assert after["flooded"] and after["candidates"] == limits.candidates_max
    assert after["found"] <= limits.candidates_max + (FLOOD_S + 2) * limits.found_per_s
    assert after["memory_mib"] - before["memory_mib"] < FLOOD_MIB_MAX
    assert after["late_p50_ms"] < LATE_MS_MAX
    started = Finder(lan.machines[1]).start(HERON, 7720)
    newcomer = otter.next("found", address=started["address"])
    assert newcomer["at_s"] - started["at_s"] < NEWCOMER_S_MAX, "found at once when it is over"
