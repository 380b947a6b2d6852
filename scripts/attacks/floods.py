"""What a member can flood with: each gives the frames that are sent as fast as the victim takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, cycle, repeat
from typing import TYPE_CHECKING, Any

from mesh.messages import membership, records, session, work
from mesh.messages.signed import Signed

if TYPE_CHECKING:
    from attacks.member import Member

AHEAD = 2000
"""Envelopes made before the first one is sent."""
Frames = Iterator[list[bytes]]
HASH = "0" * 64


def _endless(member: Member, make: Callable[[int], Any], per_envelope: int, *, per_signature: int = 4096) -> Frames:
    """Valid envelopes of `make(0)`, `make(1)`, ..., the first AHEAD of them at once."""
    numbers = count()

    def some(envelopes: int) -> list[list[bytes]]:
        messages = [make(next(numbers)) for _ in range(envelopes * per_envelope)]
        return member.envelopes(messages, per_envelope=per_envelope, per_signature=per_signature)

    ready = some(AHEAD)

    def run() -> Frames:
        yield from ready
        while True:
            yield from some(64)

    return run()


# ---- no envelopes


def noise(member: Member) -> Frames:
    return cycle([os.urandom(200), os.urandom(400), os.urandom(80)] for _ in range(64))


def one_frame(member: Member) -> Frames:
    return repeat([b"x"])


def many_frames(member: Member) -> Frames:
    return repeat([b"x"] * 2000)


def oversize(member: Member) -> Frames:
    return repeat([bytes(1024 * 1024 + 1)])


# ---- envelopes that do not hold


def replays(member: Member) -> Frames:
    return repeat(next(_endless(member, membership.Ping, 1)))


def false_signatures(member: Member) -> Frames:
    honest = _endless(member, membership.Ping, 1, per_signature=1)
    return ([header, payload, os.urandom(64) + proof[64:]] for header, payload, proof in honest)


def false_payloads(member: Member) -> Frames:
    """Of the largest size, so that the victim hashes a megabyte to find out."""
    other = bytes(1024 * 1024 - 4096)
    return ([header, other, proof] for header, _, proof in _endless(member, membership.Ping, 1))


def stale_sessions(member: Member) -> Frames:
    member.link.session = os.urandom(16)
    return _endless(member, membership.Ping, 32)


# ---- valid envelopes of what is of no use


def pings(member: Member) -> Frames:
    return _endless(member, membership.Ping, 32)


def single_pings(member: Member) -> Frames:
    """Each under a signature of its own, which costs the victim most."""
    return _endless(member, membership.Ping, 1, per_signature=1)


def loads(member: Member) -> Frames:
    rows = tuple(membership.LoadRow(f"work.{n}", 8, 0, 0, 8, 1) for n in range(8))
    return _endless(member, lambda n: membership.Load(n, rows), 32)


def unknown_kinds(member: Member) -> Frames:
    return _endless(member, lambda n: (40_000 + n % 100, b"x" * 40), 32)


def stales(member: Member) -> Frames:
    return _endless(member, lambda n: session.Stale(n.to_bytes(16, "big")), 32)


def rumours(member: Member) -> Frames:
    """Its own row, which is known, again and again."""
    return _endless(member, lambda n: membership.Rumours((member.row,)), 16)


def fresh_rows(member: Member) -> Frames:
    """Its own row, always a newer one: the victim checks each, and tells the others."""

    def row(number: int) -> membership.Rumours:
        body = replace(member.row.body, version=2 + number)
        return membership.Rumours((Signed(member.identity.node, body),))

    return _endless(member, row, 16)


def slanders(member: Member) -> Frames:
    """That the victim's other peers are dead, again and again, each time of a newer version."""
    others = [node for node in member.told["others"] if node != member.identity.node]

    def suspicion(number: int) -> membership.Rumours:
        body = membership.Suspect(others[number % len(others)], 1 + number % 3, 1 + number // 3, number % 2 == 0)
        return membership.Rumours((Signed(member.identity.node, body),))

    return _endless(member, suspicion, 16)


def digests(member: Member) -> Frames:
    """Each asks for the whole table."""
    return _endless(member, lambda n: membership.Digest((), True), 16)


def heads(member: Member) -> Frames:
    return _endless(member, lambda n: records.Heads(()), 32)


def bids(member: Member) -> Frames:
    return _endless(member, lambda n: work.Bid(n, (work.BidItem(f"{member.victim}.1.{n}", 0, 0, 0.1, "x"),), 1000), 32)


def results(member: Member) -> Frames:
    return _endless(member, lambda n: work.Result(f"{member.victim}.1.{n}", 1 << 32 | 1, HASH, b"x" * 1000), 32)


def file_parts(member: Member) -> Frames:
    return _endless(member, lambda n: work.FilePart(HASH, n, b"x" * 48_000, 10**9), 1)


# ---- questions that are answered


def asks(member: Member) -> Frames:
    return _endless(member, lambda n: work.Ask(n, "tasks", "", b""), 32)


def file_asks(member: Member) -> Frames:
    return _endless(member, lambda n: work.FileAsk(HASH, 0, 48_000), 32)


def cfps(member: Member) -> Frames:
    def cfp(number: int) -> work.Cfp:
        return work.Cfp(number, (work.CfpItem(f"{member.identity.node}.1.{number}", "noop", HASH, b"", 10),))

    return _endless(member, cfp, 32)


_ALL = (
    *(noise, one_frame, many_frames, oversize, replays, false_signatures, false_payloads, stale_sessions),
    *(pings, single_pings, loads, unknown_kinds, stales, rumours, fresh_rows, slanders, digests, heads, bids, results, file_parts),
    *(asks, file_asks, cfps),
)
FLOODS: dict[str, Callable[[Any], Frames]] = {each.__name__: each for each in _ALL}
