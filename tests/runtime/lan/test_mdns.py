"""What passes the gate before zeroconf, and which records are of use: with real packets, real zeroconf classes, and no network."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from zeroconf import DNSCache, DNSIncoming, DNSOutgoing, DNSQuestion  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceInfo

from mesh.limits import DiscoveryLimits
from mesh.runtime.lan.interfaces import Interface
from mesh.runtime.lan.mdns import SERVICE_TYPE, VERSION, BadRecord, Gate, Seen, is_on, read

HERE = Interface("eth0", "10.77.0.1", 24)
TEXT = {"v": VERSION, "tag": "0123456789abcdef"}
RESPONSE, QUERY = 0x8400, 0
PTR, IN = 12, 1


class Cache:
    """As much of zeroconf as the gate asks."""

    def __init__(self) -> None:
        self.cache = DNSCache()

    def learn(self, packet: bytes) -> None:
        self.cache.async_add_records(DNSIncoming(packet).answers())


def service(name: str = "a", address: str = "10.77.0.2", port: int = 7710, **text: str) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{name}.{SERVICE_TYPE}",
        addresses=[ipaddress.ip_address(address).packed],
        port=port,
        properties=TEXT | text,
        server=f"lanmesh-{name}.local.",
    )


def answer(*services: AsyncServiceInfo) -> bytes:
    out = DNSOutgoing(RESPONSE)
    for each in services:
        for record in (each.dns_pointer(), each.dns_service(), each.dns_text(), *each.dns_addresses()):
            out.add_answer_at_time(record, 0)
    (packet,) = out.packets()
    return packet


def question(name: str = SERVICE_TYPE) -> bytes:
    out = DNSOutgoing(QUERY)
    out.add_question(DNSQuestion(name, PTR, IN))
    (packet,) = out.packets()
    return packet


class Tried:
    """A gate and what it said."""

    def __init__(self, **limits: Any) -> None:
        self.gate = Gate(HERE, replace(DiscoveryLimits(), **limits), Counter())
        self.cache: Any = Cache()

    def admits(self, packet: bytes, source: str = "10.77.0.2") -> bool:
        return self.gate.admits(packet, source, self.cache)

    @property
    def refusals(self) -> dict[str, int]:
        return dict(self.gate.refusals)


def test_questions_and_honest_answers_pass() -> None:
    tried = Tried()
    assert tried.admits(question()) and tried.admits(answer(service())) and tried.admits(answer(service(caps="a,b", node="a")))
    assert tried.refusals == {} and not tried.gate.flooded


def test_what_does_not_speak_of_us_is_neither_parsed_nor_wrong() -> None:
    tried = Tried(packets_burst=1, packets_per_s=0)
    for _ in range(5):
        assert not tried.admits(question("_ipp._tcp.local.")) and not tried.admits(b"")
    assert tried.refusals == {} and tried.admits(question())


def test_another_network_is_not_heard() -> None:
    tried = Tried()
    for source in ("10.78.0.2", "192.168.1.1", "127.0.0.1", "8.8.8.8"):
        assert not tried.admits(question(), source)
    assert tried.refusals == {"off_link": 4}


def test_nobody_can_name_another_address_than_his_own() -> None:
    tried = Tried()
    assert not tried.admits(answer(service(address="10.77.0.3")))
    both = service()
    both.addresses = [ipaddress.ip_address(each).packed for each in ("10.77.0.2", "10.77.0.3")]
    assert not tried.admits(answer(both))
    assert not tried.admits(answer(service(address="fe80::1")))
    assert tried.refusals == {"not_its_address": 3}


def test_an_answer_about_many_services_is_none_of_ours() -> None:
    tried = Tried()
    assert not tried.admits(answer(service("a"), service("b")))
    assert not tried.admits(answer(service("a"), service("b"), service("c")))
    assert tried.refusals == {"malformed": 1, "too_many_records": 1}


@pytest.mark.parametrize("cut", [3, 11, 13, 40, -1])
def test_a_damaged_answer_does_not_pass(cut: int) -> None:
    tried = Tried()
    packet = answer(service())[:cut]
    assert not tried.admits(packet if b"lanmesh" in packet else packet + b"lanmesh")
    assert tried.refusals in ({"malformed": 1}, {"too_many_records": 1})


def test_one_address_cannot_take_more_than_its_share() -> None:
    tried = Tried(packets_per_s=0, packets_burst=3)
    assert [tried.admits(question()) for _ in range(5)] == [True, True, True, False, False]
    assert tried.gate.flooded and tried.refusals == {"too_fast": 2}
    assert tried.admits(question(), "10.77.0.3"), "others are heard"


def test_all_addresses_together_are_bounded_too() -> None:
    tried = Tried(all_packets_per_s=0, all_packets_burst=4)
    assert sum(tried.admits(question(), f"10.77.0.{host}") for host in range(1, 200)) == 4
    assert tried.gate.flooded


def test_new_names_have_a_rate_of_their_own_and_known_ones_do_not() -> None:
    tried = Tried(names_per_s=0, names_burst=2, all_names_per_s=0, all_names_burst=3)
    first = answer(service("a"))
    assert tried.admits(first)
    tried.cache.learn(first)
    assert tried.admits(first) and tried.admits(answer(service("a", port=7712))), "known"
    assert tried.admits(answer(service("b"))) and not tried.admits(answer(service("c"))), "his share is used up"
    other = "10.77.0.9"
    assert tried.admits(answer(service("d", address=other)), other) and not tried.admits(answer(service("e", address=other)), other)
    assert tried.refusals == {"too_many_names": 2} and tried.gate.flooded
    assert tried.admits(first) and tried.admits(question())


# ---- records


def test_a_record_is_read() -> None:
    assert read(service(), HERE) == Seen("10.77.0.2:7710", "0123456789abcdef", "", False)
    assert read(service(node="abcdefgh"), HERE) == Seen("10.77.0.2:7710", "0123456789abcdef", "abcdefgh", True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"v": "1"}, "version"),
        ({"v": ""}, "version"),
        ({"tag": "0123"}, "malformed"),
        ({"tag": "0123456789ABCDEF"}, "malformed"),
        ({"tag": "\x00\x1b[31m01234567"}, "malformed"),
        ({"node": ""}, "malformed"),
        ({"node": "\x1b[31m"}, "malformed"),
        ({"node": "a" * 17}, "malformed"),
    ],
)
def test_a_record_of_no_use_says_why(text: dict[str, str], reason: str) -> None:
    with pytest.raises(BadRecord) as bad:
        read(service(**text), HERE)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "10.77.0.0", "10.77.0.255", "10.78.0.2", "224.0.0.251", "255.255.255.255", "127.0.0.1", "::1"]
)
def test_an_address_beyond_the_own_network_is_never_dialled(address: str) -> None:
    with pytest.raises(BadRecord) as bad:
        read(service(address=address), HERE)
    assert bad.value.reason == "bad_address"
    with pytest.raises(BadRecord):
        read(service(port=0), HERE)


def test_small_networks_have_no_address_to_spare() -> None:
    pair = Interface("ppp0", "10.0.0.2", 31)
    assert is_on(pair, ipaddress.ip_address("10.0.0.3")) and not is_on(pair, ipaddress.ip_address("10.0.0.4"))
