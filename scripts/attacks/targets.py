"""What is fuzzed: one function for each way in. It takes any bytes, and raises only if an invariant is broken.

    every target      no exception but Refusal, no input over 100 ms, nothing believed that was not honestly signed
    adding one        write a function with `@target(seeds)`; give it bytes that are honest, to start from

Inputs of several parts are msgpack arrays of them, so that one mutator (`shuffle.py`) knows the structure of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from attacks.envelopes import resigned, with_payload
from attacks.objects import TRUST
from attacks.samples import honest, sample_of
from attacks.world import MESH, NOW_MS, World, line_of, sealed
from mesh.limits import LinkLimits
from mesh.messages import KINDS, SIGNED
from mesh.messages.enrol import Admission
from mesh.messages.membership import Ping
from mesh.messages.records import ENTRIES
from mesh.messages.session import Hello, Welcome
from mesh.runtime.links.door import _is_knock, _read_knock
from mesh.runtime.links.frames import BadFrame
from mesh.runtime.links.sessions import Sessions, read_turned, turned
from mesh.wire import codec
from mesh.wire.authorities import Authorities
from mesh.wire.chain import join_chain, read_deed, split_chain
from mesh.wire.enrolment import open_renewal, open_request, pack_admission, read_admission
from mesh.wire.objects import signed_bytes
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.token import PREFIX, Token, read_token

SLOW_S = 0.1
NONCE = b"n" * 16


@dataclass(frozen=True)
class Target:
    """`run(data)`: whether the input was believed, or read, rather than refused."""

    name: str
    about: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], bool]


TARGETS: dict[str, Target] = {}


def target(seeds: Callable[[], Iterable[bytes]]) -> Callable[[Callable[[bytes], bool]], Callable[[bytes], bool]]:
    def add(run: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        def timed(data: bytes) -> bool:
            believed, took = _once(run, data)
            if took >= SLOW_S:  # the machine may have been busy: a slow input is slow every time
                took = min(_once(run, data)[1] for _ in range(3))
            assert took < SLOW_S, f"one input took {took * 1000:.0f} ms"
            return believed

        name = run.__name__
        TARGETS[name] = Target(name, (run.__doc__ or "").split("\n")[0], lambda: list(dict.fromkeys(seeds())), timed)
        return run

    return add


def _once(run: Callable[[bytes], bool], data: bytes) -> tuple[bool, float]:
    """(believed, CPU seconds it took)."""
    started = time.thread_time()
    try:
        believed = run(data)
    except Refusal as refusal:
        assert refusal.reason.replace("_", "").isalpha() and refusal.reason.islower(), refusal.reason
        believed = False
    return believed, time.thread_time() - started


@cache
def world() -> World:
    return World()


def row_of(data: bytes, *kinds: type) -> tuple[Any, ...]:
    """The parts of an input. Raises Refusal for other ones."""
    row = unpack_row(data)
    if len(row) != len(kinds) or any(type(value) is not kind for value, kind in zip(row, kinds, strict=True)):
        raise Refusal("malformed")
    return row


# ---- bodies


def bodies() -> Iterable[bytes]:
    for kind, cls in KINDS.items():
        yield pack((kind, codec.encode(sample_of(cls, world()), world().a.seal)))


@target(bodies)
def body(data: bytes) -> bool:
    """A message's body, as a member may send it: what is read is said again alike."""
    kind, raw = row_of(data, int, bytes)
    message = codec.decode(kind, raw, world().keyring.open)
    assert codec.decode(kind, codec.encode(message), world().keyring.open) == message
    return True


@target(lambda: [codec.encode_entry(sample_of(cls, world())) for cls in ENTRIES])
def entry(data: bytes) -> bool:
    """A journal's entry: what is read is written again as the same bytes, but for fields of later versions."""
    found = codec.decode_entry(data)
    again = codec.encode_entry(found)
    assert codec.decode_entry(again) == found
    return True


# ---- envelopes


def envelopes() -> Iterable[bytes]:
    for cls in KINDS.values():
        yield pack(tuple(world().seal([sample_of(cls, world()), Ping(7)])))
    yield pack(tuple(world().seal([Ping(n) for n in range(32)])))


@cache
def honest_envelopes() -> frozenset[bytes]:
    return frozenset(envelopes())


@target(envelopes)
def envelope(data: bytes) -> bool:
    """Three frames, as they come from a connection: what opens was sealed by a member, every byte of it."""
    frames = [bytes(each) for each in unpack_row(data) if type(each) is bytes]
    world().forget_sessions()
    before = world().state()
    try:
        world().open(frames)
    except Refusal:
        assert before == world().state(), "it was refused, and something has changed"
        raise
    assert pack(tuple(frames)) in honest_envelopes(), "it opened, and nobody sealed it"
    return True


@target(lambda: [pack((unpack_row(raw)[1], 2)) for raw in envelopes()])
def payload(data: bytes) -> bool:
    """A payload signed by a member who may be malicious: each message in it is read or refused alone."""
    raw, count = row_of(data, bytes, int)
    place = world()
    if not 1 <= count <= 64 or len(raw) > 1024 * 1024:
        raise Refusal("malformed")
    place.forget_sessions()
    header = unpack_row(place.seal([Ping(1)])[0])
    frames = with_payload([pack(header), raw, bytes(68)], raw, count=count)
    opened = place.open(resigned(frames, place.a))
    return bool(opened.messages)


# ---- signed objects


def objects() -> Iterable[bytes]:
    for tag in SIGNED:
        yield honest(tag, world()).raw
    yield line_of(50).row().raw
    yield line_of(2).renewed(60).row(version=3).raw


@cache
def honest_objects() -> frozenset[bytes]:
    return frozenset(objects()) | frozenset(row.raw for row in world().rows.values())


@target(objects)
def statement(data: bytes) -> bool:
    """A signed object, as it is told on: what opens is, byte for byte, what its author signed."""
    world().keyring.open(data)
    assert data in honest_objects(), "it opened, and nobody signed it"
    return True


@target(lambda: [raw for raw in objects() if unpack_row(raw)[0] in ("binding", "hello", "welcome", "alive")])
def binding(data: bytes) -> bool:
    """A greeting with its row and binding: both are its author's own."""
    signed = world().keyring.open(data)
    assert data in honest_objects(), "it opened, and nobody signed it"
    if isinstance(signed.body, Hello | Welcome):
        assert signed.author == signed.body.alive.author == signed.body.binding.author == signed.body.binding.body.node
    return True


def said() -> Iterable[bytes]:
    for raw in objects():
        tag, _, data, _ = unpack_row(raw)
        yield pack((tag, data))


@target(said)
def own_word(data: bytes) -> bool:
    """Any body under any tag, honestly signed by a member who may be malicious: it speaks for nobody else."""
    tag, raw = row_of(data, str, bytes)
    place = World() if tag in TRUST else world()
    signer = place.a
    if len(tag) > 64:
        raise Refusal("malformed")
    signed = place.keyring.open(pack((tag, signer.node, raw, signer.sign(signed_bytes(tag, MESH, raw)))))
    assert signed.author == signer.node
    owner = getattr(signed.body, "node", signer.node) if tag in ("alive", "left", "binding") else signer.node
    assert owner == signer.node, "it spoke for another"
    return True


# ---- certificates


def chains() -> Iterable[bytes]:
    for line in (line_of(2), line_of(2).renewed(60), line_of(6, issuer=11)):
        for size in (1, 2, 3):
            yield join_chain(line.certificates()[:size])


@cache
def honest_links() -> frozenset[tuple[bytes, ...]]:
    return frozenset(split_chain(raw) for raw in chains())


@target(chains)
def chain(data: bytes) -> bool:
    """A chain of certificates: what is read begins at a root, and each link was signed under that very link above it."""
    links = split_chain(data)
    found = world().keyring.authorities.chains.read(data)
    assert links in honest_links(), "it was read, and nobody signed it so"
    assert len(found.certificates) == len(links)
    return True


def statements() -> Iterable[bytes]:
    yield honest("revocation", world()).raw
    yield honest("amendment", world()).raw
    yield honest("policy", world()).raw


@target(statements)
def authority(data: bytes) -> bool:
    """A revocation, an amendment or a policy: what counts was said by a root."""
    known = Authorities(MESH, (world().root.public_key,), "token")
    known.open(data)
    assert data in honest_objects(), "it counts, and nobody said it"
    return True


@target(lambda: [honest("deed", world()).raw, honest("join", world()).raw, honest("ask", world()).raw, honest("renewal", world()).raw])
def enrolment(data: bytes) -> bool:
    """What a home that is no member says: signed by the key it names."""
    home = world().lines["a"].home
    believed = False
    for read in (
        lambda: open_request(data, MESH),
        lambda: open_renewal(data, MESH, home.node, home.public_key),
        lambda: read_deed(data),
    ):
        try:
            read()
        except Refusal:
            continue
        assert data in honest_objects(), "it was believed, and nobody signed it"
        believed = True
    return believed


# ---- tokens


def tokens() -> Iterable[bytes]:
    for doors in (("10.0.0.1:7710",), ("[fe80::1]:7710", "otter.local:7710"), tuple(f"10.0.0.{n}:7710" for n in range(8))):
        yield Token(MESH, bytes(range(32)), doors, b"invite-1", b"s" * 16, NOW_MS).encode().encode()


@target(tokens)
def token(data: bytes) -> bool:
    """A token as somebody typed it: what is read says again what it says."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Refusal("malformed") from None
    found = read_token(text)
    assert read_token(found.encode()) == found and found.encode().startswith(PREFIX)
    return True


# ---- the door


@cache
def door() -> Sessions:
    place = world()
    line = place.lines["b"]
    numbers = iter(range(2**60))
    return Sessions(
        lambda: place.rows["b"],
        line.binding,
        line.node,
        place.keyring,
        LinkLimits(),
        token=lambda size: next(numbers).to_bytes(size, "big"),
        clock_ms=lambda: 5,
    )


def door_frames() -> Iterable[bytes]:
    place = world()
    a = place.lines["a"]
    for recipient in ("", place.b.node):
        yield sealed(a.node, Hello(1, MESH, place.rows["a"], recipient, NONCE, 5, a.binding(), True)).raw
    yield sealed(a.node, Welcome(1, MESH, place.rows["a"], b"s" * 16, NONCE, 5, a.binding())).raw
    yield pack(("knock", 1, NONCE, bytes(32)))
    yield turned("busy")
    yield pack_admission(
        Admission(b"{}", (honest("revocation", place).raw,), join_chain(a.certificates()[:2]), b"", bytes(32), ("10.0.0.1:1",))
    )
    for tag in ("join", "ask", "renewal"):
        yield honest(tag, place).raw


@cache
def honest_greetings() -> frozenset[bytes]:
    return frozenset(door_frames())


@target(door_frames)
def door_frame(data: bytes) -> bool:
    """The first frame at a door, and the answer to one's own: whoever is greeted said so himself."""
    if len(data) > LinkLimits().door_frame_bytes_max:
        raise Refusal("too_big")
    believed = False
    with suppress(BadFrame):
        believed = _is_knock(data) and bool(_read_knock(data))
    for read, is_signed in (
        (lambda: door().answer(data), True),
        (lambda: door().welcomed(data, NONCE), True),
        (lambda: open_request(data, MESH), True),
        (lambda: read_admission(data), False),
        (lambda: read_turned(data), False),
    ):
        try:
            found = read()
        except Refusal:
            continue
        assert not is_signed or data in honest_greetings(), "it was believed, and nobody said it"
        believed = believed or found is not None
    return believed
