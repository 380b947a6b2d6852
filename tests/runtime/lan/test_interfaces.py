"""The choice among addresses, from values alone; what the kernel says of a real machine is in tests/hosts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mesh.errors import UsageError
from mesh.runtime.lan.interfaces import LOOPBACK, Choice, Interface, choose, default_of, interfaces

LOCAL = Interface("lo", "127.0.0.1", 8)
ETHERNET = Interface("eth0", "192.168.1.20", 24)
RADIO = Interface("wlan0", "10.0.0.7", 24)
CONTAINERS = Interface("docker0", "172.17.0.1", 16)
TUNNEL = Interface("tun0", "10.8.0.2", 24)
PUBLIC = Interface("eth1", "8.8.4.4", 24)
NOBODY_GAVE = Interface("eth2", "169.254.10.1", 16)
SIX = Interface("eth0", "2a00:1450:4001::5", 64)


def refusal(*found: Interface, default: str = "", bind: str = "") -> UsageError:
    with pytest.raises(UsageError) as raised:
        choose(found, default, bind)
    assert raised.value.exit_code == 2 and "--bind" in raised.value.fix
    return raised.value


@pytest.mark.parametrize(
    ("found", "default", "wanted", "why"),
    [
        ([LOCAL, ETHERNET], "eth0", ETHERNET, "the only network address of this machine"),
        ([LOCAL, CONTAINERS, ETHERNET], "", ETHERNET, "a real network"),
        ([LOCAL, TUNNEL, ETHERNET], "tun0", ETHERNET, "a real network"),
        ([LOCAL, CONTAINERS], "", CONTAINERS, "the only network address of this machine"),
        ([NOBODY_GAVE, ETHERNET], "eth2", ETHERNET, "an address that somebody gave"),
        ([PUBLIC, ETHERNET], "eth1", ETHERNET, "a private network"),
        ([ETHERNET, RADIO], "wlan0", RADIO, "on the default route"),
        ([ETHERNET, RADIO], RADIO.address, RADIO, "on the default route"),
        ([PUBLIC], "", PUBLIC, "the only network address of this machine"),
        ([Interface("br0", "192.168.1.5", 24), CONTAINERS], "", Interface("br0", "192.168.1.5", 24), "a real network"),
        ([ETHERNET, SIX], "", ETHERNET, "the only network address of this machine"),
    ],
)
def test_what_is_chosen(found: list[Interface], default: str, wanted: Interface, why: str) -> None:
    choice = choose(found, default)
    assert (choice.interface, choice.why) == (wanted, why)
    assert set(choice.others) == {each for each in found if each not in (wanted, LOCAL, SIX)}


def test_two_addresses_on_one_network_or_one_interface_are_no_dilemma() -> None:
    twin = Interface("wlan0", "192.168.1.21", 24)
    assert choose([ETHERNET, twin]) == Choice(ETHERNET, (twin,), "the first of its equals")
    second = Interface("eth0", "10.1.1.1", 24)
    assert choose([ETHERNET, second]).interface == ETHERNET


def test_two_networks_are_a_dilemma_that_a_person_decides() -> None:
    error = refusal(ETHERNET, RADIO)
    assert error.code == "ambiguous_address" and "192.168.1.20 (eth0), 10.0.0.7 (wlan0)" in error.message
    assert choose([ETHERNET, RADIO], bind="10.0.0.7") == Choice(RADIO, (ETHERNET,), "as asked")


def test_nothing_to_choose_from_says_what_is_missing() -> None:
    assert refusal(LOCAL).code == "no_address"
    assert refusal(LOCAL, SIX).code == "ipv6_only" and "IPv4" in refusal(SIX).message
    down = Interface("eth0", "192.168.1.20", 24, up=False)
    assert "down" in refusal(LOCAL, down).message and str(down) in refusal(down).message


@pytest.mark.parametrize("bind", ["eth0", "192.168.1", "::1", "0.0.0.0", "192.168.1.99", "2a00:1450:4001::5"])
def test_a_wrong_bind_names_what_would_do(bind: str) -> None:
    error = refusal(LOCAL, ETHERNET, SIX, bind=bind)
    assert bind in error.message and error.fix == f"--bind {ETHERNET.address}"


def test_loopback_may_be_asked_for_by_any_of_its_addresses() -> None:
    assert choose([ETHERNET], bind="127.0.0.1").interface == LOOPBACK
    assert choose([], bind="127.0.0.9") == Choice(Interface("lo", "127.0.0.9", 8), (), "as asked")


def test_the_network_of_an_address() -> None:
    assert str(RADIO.network) == "10.0.0.0/24" and str(RADIO) == "10.0.0.7 (wlan0)"
    with pytest.raises(ValueError):
        _ = SIX.network


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
down0\t00000000\t0101A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


def test_the_default_route_with_the_lowest_metric_counts() -> None:
    assert default_of(ROUTES) == "eth0", "half of all addresses by way of tun0 is no default route"
    assert default_of(ROUTES.splitlines()[0]) == ""


def test_this_machine_has_a_loopback() -> None:
    assert LOOPBACK in interfaces() or sys.platform == "darwin"


def test_ifaddr_is_imported_only_when_asked() -> None:
    code = "import sys, mesh.runtime.lan.interfaces; sys.exit('ifaddr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
