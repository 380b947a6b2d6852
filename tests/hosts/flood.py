"""A liar on the LAN: announces services that are not there, as fast as told.  ADDRESS TAG PER_S SECONDS [spoof]

All carry TAG, which anybody on the LAN can read off honest records. With `spoof` each comes from another address of the network, and names
that one. Prints how many were sent.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
NAME_BYTES = 16
HOSTS = 250


def record(kind: int, name: bytes, data: bytes, life_s: int) -> bytes:
    unique = 0 if kind == 12 else 0x8000
    return name + struct.pack("!HHIH", kind, unique | 1, life_s, len(data)) + data


def label(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def packet(name: bytes, tag: str, address: bytes, port: int) -> bytes:
    service = label(b"_lanmesh") + label(b"_tcp") + label(b"local") + b"\0"
    instance, host = label(name) + service, label(b"lanmesh-" + name) + label(b"local") + b"\0"
    text = label(b"v=2") + label(b"tag=" + tag.encode())
    records = (
        record(12, service, instance, 4500),
        record(33, instance, struct.pack("!HHH", 0, 0, port) + host, 120),
        record(16, instance, text, 4500),
        record(1, host, address, 120),
    )
    return struct.pack("!HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def spoofed(source: bytes, payload: bytes) -> bytes:
    udp = struct.pack("!HHHH", 5353, 5353, 8 + len(payload), 0)
    target = socket.inet_aton(GROUP[0])
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 255, 17, 0, source, target) + udp + payload


def main(address: str, tag: str, per_s: str, seconds: str, how: str = "") -> None:
    own = socket.inet_aton(address)
    kind = (socket.SOCK_RAW, socket.IPPROTO_RAW) if how == "spoof" else (socket.SOCK_DGRAM, 0)
    with socket.socket(socket.AF_INET, *kind) as mouth:
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if not how:
            mouth.bind((address, 5353))
        start, sent, total = time.monotonic(), 0, int(float(per_s) * float(seconds))
        while sent < total:
            due = min(total, int((time.monotonic() - start) * float(per_s)))
            for number in range(sent, due):
                source = own[:3] + bytes([1 + number % HOSTS]) if how else own
                payload = packet(os.urandom(NAME_BYTES // 2).hex().encode(), tag, source, 1024 + number % 60000)
                mouth.sendto(spoofed(source, payload) if how else payload, GROUP)
            sent = due
            time.sleep(0.001)
    print(sent, round(time.monotonic() - start, 2), flush=True)


main(*sys.argv[1:])
