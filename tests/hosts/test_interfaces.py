"""Which address is chosen on a machine that has several, as the kernel tells of them."""

from __future__ import annotations

import json
import sys
from typing import Any

CHOOSE = """
import json, sys
from mesh.errors import UsageError
from mesh.runtime.lan.interfaces import find
try:
    choice = find(*sys.argv[1:])
    said = {"address": choice.address, "name": choice.interface.name, "others": [each.address for each in choice.others], "why": choice.why}
except UsageError as error:
    said = error.body()
print(json.dumps(said))
"""


def chosen(machine: Any, *bind: str) -> dict[str, Any]:
    done = machine.run(sys.executable, "-c", CHOOSE, *bind)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_machine_with_one_network_and_one_with_none(lan: Any) -> None:
    otter, heron, _ = lan.machines
    assert chosen(otter) == {"address": "10.77.0.1", "name": "eth0", "others": [], "why": "the only network address of this machine"}
    assert chosen(otter, "127.0.0.1")["name"] == "lo"
    heron.ip("link set eth0 down")
    assert chosen(heron)["code"] == "no_address" and "10.77.0.2 (eth0)" in chosen(heron)["message"]
    heron.ip("addr flush dev eth0")
    assert chosen(heron)["code"] == "no_address"
    heron.ip("addr add 2001:db8::7/64 dev eth0", "link set eth0 up")
    assert chosen(heron)["code"] == "no_address", "the range is for documentation, as good as none"


def test_bridges_of_containers_do_not_count_where_there_is_a_real_network(lan: Any) -> None:
    otter = lan.machines[0]
    otter.ip(
        "link add docker0 type bridge",
        "addr add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
        "link add veth1 type veth peer name inside",
        "link set veth1 master docker0 up",
        "link set inside up",
    )
    assert chosen(otter) == {"address": "10.77.0.1", "name": "eth0", "others": ["172.17.0.1"], "why": "a real network"}


def test_of_two_networks_that_of_the_default_route_else_a_person_decides(lan: Any) -> None:
    otter = lan.machines[0]
    otter.ip("link add wlan0 type veth peer name air", "addr add 10.88.0.5/24 dev wlan0", "link set wlan0 up", "link set air up")
    refused = chosen(otter)
    assert refused["code"] == "ambiguous_address" and refused["fix"] == "name one: --bind 10.77.0.1"
    assert "10.77.0.1 (eth0), 10.88.0.5 (wlan0)" in refused["message"]
    assert chosen(otter, "10.88.0.5")["name"] == "wlan0"
    otter.ip("route add default dev wlan0")
    assert chosen(otter) == {"address": "10.88.0.5", "name": "wlan0", "others": ["10.77.0.1"], "why": "on the default route"}
    otter.ip("link set air down")
    assert chosen(otter)["address"] == "10.77.0.1", "no cable"
