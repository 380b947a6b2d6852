"""The LAN these tests stand on: machines reach each other until they are cut off, what passes is captured, and nothing stays behind."""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path
from typing import Any

from zmq.utils import z85

SET_UP_S_MAX = 1.0
ECHO = """
import socket
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(('', 7000))
print('listening', flush=True)
while True:
    data, sender = ear.recvfrom(1500)
    print(data.decode(), flush=True)
    ear.sendto(data, sender)
"""
ASK = """
import socket, sys
mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mouth.settimeout(float(sys.argv[3]))
mouth.sendto(sys.argv[2].encode(), (sys.argv[1], 7000))
print(mouth.recv(1500).decode())
"""
TAKE = """
import socket
with socket.create_server(('', 7001)) as server:
    print('listening', flush=True)
    stream = server.accept()[0]
    stream.sendall(b'.')
    while stream.recv(999): stream.sendall(b'.')
"""
GIVE = """
import socket, sys
stream = socket.create_connection((sys.argv[1], 7001))
for piece in sys.argv[2:]:
    stream.recv(1)
    stream.sendall(piece.encode())
"""
LEAVE_RUNNING = "sleep 600 & echo $!"


def asks(machine: Any, other: Any, what: str, limit_s: float = 10.0) -> str:
    """What comes back; empty if nothing does."""
    return str(machine.run(sys.executable, "-c", ASK, other.address, what, str(limit_s)).stdout).strip()


def test_machines_have_names_homes_and_a_network_of_their_own(make_lan: Any) -> None:
    before_s = time.monotonic()
    lan = make_lan(3)
    assert time.monotonic() - before_s < SET_UP_S_MAX
    otter, heron, _ = lan.machines
    assert otter.run("sh", "-c", "hostname; echo $HOME; pwd; cat", says="said").stdout.split() == ["otter", *2 * [str(otter.home)], "said"]
    assert heron.run("hostname").stdout == "heron\n"
    assert "10.77.0.1" in otter.run("ip", "addr").stdout and "10.77.0.1" not in heron.run("ip", "addr").stdout
    assert otter.run("sh", "-c", "exit 7").returncode == 7


def test_who_is_cut_off_hears_nothing_until_healed(lan: Any) -> None:
    otter, heron, lynx = lan.machines
    for machine in (heron, lynx):
        machine.spawn(sys.executable, "-c", ECHO).wait_line("listening")
    assert asks(otter, heron, "one") == "one"
    lan.cut(heron)
    assert asks(otter, heron, "two", limit_s=0.2) == ""
    assert asks(otter, lynx, "three") == "three", "only that one is cut off"
    assert "LOWER_UP" in heron.run("ip", "link", "show", "eth0").stdout, "its link stays"
    lan.heal(heron)
    assert asks(otter, heron, "four") == "four"
    said = [heron.processes[0].wait_line() for _ in range(2)]
    assert said == ["one", "four"]


def test_what_passes_is_captured_and_found_however_it_is_written(lan: Any) -> None:
    otter, heron, _ = lan.machines
    heron.spawn(sys.executable, "-c", TAKE).wait_line("listening")
    secrets = {name: f"canary-{name}-{os.urandom(8).hex()}" for name in ("plain", "hex", "base64", "z85", "cut", "kept")}
    with lan.capture() as packets:
        pieces = [
            "x" + secrets["plain"],
            secrets["hex"].encode().hex(),
            base64.b64encode(b"xy" + secrets["base64"].encode()).decode(),
            z85.encode(("x" + secrets["z85"] + "xxx")[:24].encode()).decode(),
            secrets["cut"][:9],
            secrets["cut"][9:],
        ]
        done = otter.run(sys.executable, "-c", GIVE, heron.address, *pieces)
        assert done.returncode == 0, done.stderr
    shown = packets.showing(secrets | {"z85": secrets["z85"][:23]})
    assert sorted(shown) == ["base64 as base64", "cut as plain", "hex as hex", "plain as plain", "z85 as z85"]
    assert (lan.folder / "1.pcap").read_bytes()[:4] == b"\xd4\xc3\xb2\xa1"


def test_nothing_stays_when_it_is_closed(make_lan: Any) -> None:
    lan = make_lan(1)
    (otter,) = lan.machines
    left = int(otter.run("sh", "-c", LEAVE_RUNNING.replace("&", ">/dev/null 2>&1 &")).stdout)
    os.kill(left, 0)
    holder = otter.namespace.pid
    lan.close()
    assert not Path(f"/proc/{holder}").exists()
    try:
        state = Path(f"/proc/{left}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return
    assert state == "Z", f"process {left} still runs"
