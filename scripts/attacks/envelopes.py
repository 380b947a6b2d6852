"""Attacks on envelopes: one row for every message kind."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import msgpack

from attacks.keys import SMALL_ORDER
from attacks.matrix import ACCEPTED, Attack, Family, Shot, Stage, Strike, Variants, because, once
from attacks.verdict import verdict
from attacks.world import LIMITED_SESSION, MESH, NARROW, NOW_MS, OTHER_SESSION, SESSION, World, line_of, sealed, signer_of
from mesh.core.records import merkle
from mesh.messages import KINDS
from mesh.messages.membership import Left, Ping
from mesh.wire.envelope import Batch, Header, Session, frame_message, seal_flush
from mesh.wire.keyring import OLD_KEY_MS
from mesh.wire.objects import Signer, signed_bytes

FIELDS = list(Header.__slots__)
FLIPS = 40
"""Of each frame, for each kind."""
ATTACKS: list[Attack] = []


def attack(*reasons: str, over: Variants = once, alone: bool = False, only: Iterable[type] | None = None) -> Callable[[Strike], Strike]:
    def add(strike: Strike) -> Strike:
        ATTACKS.append(Attack(strike.__name__, strike, because(*reasons), over, alone, only if only is None else frozenset(only)))
        return strike

    return add


def judged(over: Variants) -> Callable[[Strike], Strike]:
    """An attack whose one reason is that of the second opinion in `verdict.py`. The strike gives frames, and whether they are signed."""

    def add(strike: Callable[[Stage, Any], tuple[list[bytes], bool]]) -> Any:
        def reasons(stage: Stage, variant: Any) -> frozenset[str]:
            frames, signed = strike(stage, variant)
            return frozenset((verdict(stage.world, frames, signed=signed) or ACCEPTED,))

        def fire(stage: Stage, variant: Any) -> list[bytes]:
            return strike(stage, variant)[0]

        ATTACKS.append(Attack(strike.__name__, fire, reasons, over))
        return strike

    return add


class Envelopes(Family):
    """`honest` of a stage: the frames of one envelope of two messages, from a to b."""

    name = "envelopes"
    attacks = ATTACKS

    def subjects(self) -> list[Any]:
        return list(KINDS.values())

    def label(self, at: Any) -> str:
        return f"message {at.__name__}"

    def stage(self, world: World, at: Any) -> Stage:
        messages = [world.sample(at), Ping(7)]
        return Stage(
            world,
            at,
            world.seal(messages),
            {"messages": messages, "later": world.seal(messages, world.c, session=OTHER_SESSION, first_seq=9000)},
        )

    def open(self, stage: Stage, shot: Shot) -> str:
        opened = shot.at.open(shot.what, shot.carrier)
        if opened.messages or not opened.refused:
            return ACCEPTED
        reasons = {reason for _, reason in opened.refused}
        return reasons.pop() if len(reasons) == 1 else ACCEPTED

    def still_works(self, stage: Stage) -> bool:
        """What c says still arrives, though the attack was on a."""
        opened = stage.world.open(stage.more["later"])
        return bool(opened.messages)


# ---- means


def with_header(frames: list[bytes], **changes: Any) -> list[bytes]:
    """The header changed and packed again, as whoever cannot sign could."""
    row = dict(zip(FIELDS, msgpack.unpackb(frames[0]), strict=True)) | changes
    return [msgpack.packb(list(row.values())), *frames[1:]]


def resigned(frames: list[bytes], signer: Signer, mesh: str = MESH, tag: str = "envelope") -> list[bytes]:
    """The proof made anew over the header as it is: what a member can do with his own key."""
    root = merkle.root([merkle.leaf(frames[0])])
    return [frames[0], frames[1], signer.sign(signed_bytes(tag, mesh, b"\0\1" + root)) + b"\0\0\0\1"]


def with_payload(frames: list[bytes], payload: bytes, **changes: Any) -> list[bytes]:
    return with_header([frames[0], payload, frames[2]], payload_hash=hashlib.sha256(payload).digest(), **changes)


def people(world: World) -> dict[str, Signer]:
    """Everybody with a key, but for a."""
    a = world.lines["a"]
    found = {"stranger": world.stranger, "its root": a.root, "its issuer": a.issuer, "its home": a.home}
    found["other issuer"] = world.lines["e"].issuer
    return found | {name: line.node for name, line in world.lines.items() if name != "a"}


PEOPLE = tuple(people(World()))


def over_people(at: Any, chance: random.Random) -> Iterable[Any]:
    return PEOPLE


# ---- forged


@attack("bad_signature", over=over_people)
def signed_by_somebody_else(stage: Stage, who: str) -> Any:
    return resigned(stage.honest, people(stage.world)[who])


NOT_MEMBERS = ("stranger", "its root", "its issuer", "its home", "other issuer", "e")


@attack("unknown_sender", over=lambda at, chance: NOT_MEMBERS)
def under_the_name_of_no_member(stage: Stage, who: str) -> Any:
    return stage.world.seal(stage.more["messages"], people(stage.world)[who])


@attack("wrong_sender", over=lambda at, chance: [each for each in PEOPLE if each not in NOT_MEMBERS])
def by_another_member_in_its_own_name(stage: Stage, who: str) -> Any:
    return stage.world.seal(stage.more["messages"], people(stage.world)[who])


@attack("wrong_sender", over=lambda at, chance: (OTHER_SESSION, LIMITED_SESSION, *NARROW.values()))
def in_anothers_session(stage: Stage, session: bytes) -> Any:
    return stage.world.seal(stage.more["messages"], session=session)


@attack("wrong_link", over=over_people)
def over_anothers_connection(stage: Stage, who: str) -> Any:
    """The binding proved another node at the other end."""
    return Shot(stage.honest, stage.world, carrier=people(stage.world)[who].node)


@attack("bad_signature", over=lambda at, chance: ("nothing", "ones", "of another", "of a statement", "of another tag", "of a leaf"))
def with_a_signature_of_something_else(stage: Stage, what: str) -> Any:
    world, (header, payload, proof) = stage.world, stage.honest
    leaf = merkle.leaf(header)
    found = {
        "nothing": bytes(64),
        "ones": b"\xff" * 64,
        "of another": world.seal(stage.more["messages"], first_seq=9)[2][:64],
        "of a statement": sealed(world.a, Left(world.a.node, 1)).raw[-64:],
        "of another tag": resigned(stage.honest, world.a, tag="commit")[2][:64],
        "of a leaf": world.a.sign(leaf),
    }
    return [header, payload, found[what] + proof[64:]]


@attack("bad_signature", over=lambda at, chance: SMALL_ORDER)
def with_a_point_of_small_order(stage: Stage, point: bytes) -> Any:
    return [*stage.honest[:2], point + bytes(32) + stage.honest[2][64:]]


@attack("unknown_sender", over=lambda at, chance: SMALL_ORDER)
def by_a_member_whose_key_everybody_has(stage: Stage, key: bytes) -> Any:
    """Its home certified a key of small order; nobody lets that in, so nobody hears it."""
    line = line_of(50)
    chain = line.chain(node={"key": key})
    shot = with_header(stage.honest, sender=line.node.node)
    with_no_luck(stage.world, line.row(chain=chain).raw, "bad_key")
    return [*shot[:2], key + bytes(32) + shot[2][64:]]


def with_no_luck(world: World, raw: bytes, reason: str) -> None:
    from mesh.wire.packing import Refusal

    try:
        world.keyring.open(raw)
    except Refusal as refusal:
        assert refusal.reason == reason, refusal.reason
    else:
        raise AssertionError("it was let in")


# ---- tampered


def changed(value: Any) -> Any:
    if isinstance(value, bytes):
        return bytes(byte ^ 1 for byte in value)
    return value + 1 if isinstance(value, int) else value[:-1] + ("a" if value[-1] != "a" else "b")


ODD: list[Any] = [None, True, [], [1], {}, 0.5, 1.0, 0, -1, 2**53, 2**53 + 1, 2**62 + 1, 2**64 - 1]
ODD += [letter * size for letter in ("x", b"x") for size in (0, 1, 15, 16, 17, 32, 33, 64, 65)] + ["1", b"1"]
"""Also what a lenient reader would take for something else."""


@cache
def values() -> list[tuple[str, Any]]:
    """What is put into each field of a header."""
    world = World()
    others: dict[str, list[Any]] = {"sender": [world.c.node, world.stranger.node], "recipient": [world.c.node, world.a.node]}
    others |= {"session": [OTHER_SESSION, b"session-of-past-"], "count": [1, 3, 32, 33], "first_seq": [2, 2**62], "v": [0, 2, 255]}
    others |= {"cert_serial": [2**63 - 1, 2**63], "mesh": ["other-mesh"]}
    return [(name, value) for name in FIELDS for value in ["changed", *others.get(name, []), *ODD]]


@cache
def bad_values() -> list[tuple[str, Any]]:
    """Those of them that nobody may honestly say. What must fit the payload has attacks of its own."""
    world = World()
    stage = Stage(world, Ping, world.seal([Ping(1), Ping(2)]))
    rest = [each for each in values() if each[0] not in ("count", "payload_hash")]
    return [each for each in rest if verdict(world, _tampered(stage, *each), signed=True)]


def _tampered(stage: Stage, name: str, value: Any) -> list[bytes]:
    now = msgpack.unpackb(stage.honest[0])[FIELDS.index(name)]
    value = changed(now) if value == "changed" else value
    return with_header(stage.honest, **{name: value})


@judged(lambda at, chance: values())
def header_field_changed(stage: Stage, what: tuple[str, Any]) -> tuple[list[bytes], bool]:
    frames = _tampered(stage, *what)
    return frames, frames == stage.honest


@judged(lambda at, chance: bad_values())
def header_field_changed_and_signed(stage: Stage, what: tuple[str, Any]) -> tuple[list[bytes], bool]:
    """A member who signs nonsense is refused as well."""
    frames = _tampered(stage, *what)
    return resigned(frames, stage.world.a), True


def flips(at: Any, chance: random.Random) -> list[tuple[int, float]]:
    return [(frame, chance.random()) for frame in range(3) for _ in range(FLIPS)]


@judged(flips)
def bit_flipped(stage: Stage, where: tuple[int, float]) -> tuple[list[bytes], bool]:
    frames = list(stage.honest)
    damaged = bytearray(frames[where[0]])
    bit = int(where[1] * len(damaged) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    frames[where[0]] = bytes(damaged)
    return frames, False


@judged(lambda at, chance: [(frame, chance.random()) for frame in range(3) for _ in range(4)])
def frame_cut(stage: Stage, where: tuple[int, float]) -> tuple[list[bytes], bool]:
    frames = list(stage.honest)
    frames[where[0]] = frames[where[0]][: int(where[1] * len(frames[where[0]]))]
    return frames, False


@attack("frames", over=lambda at, chance: (0, 1, 2, 4))
def frames_too_few_or_too_many(stage: Stage, count: int) -> Any:
    return [*stage.honest, b""][:count]


@attack("payload_changed", over=lambda at, chance: ("other", "reordered", "doubled", "longer", "shifted"))
def payload_exchanged(stage: Stage, how: str) -> Any:
    world, messages, (header, payload, proof) = stage.world, stage.more["messages"], stage.honest
    size = int.from_bytes(payload[:4], "big")
    found = {
        "other": world.seal([*messages, Ping(9)])[1],
        "reordered": world.seal(messages[::-1])[1],
        "doubled": payload * 2,
        "longer": payload + b"\0",
        "shifted": (size + 1).to_bytes(4, "big") + payload[4:],
    }
    return [header, found[how], proof]


@attack("bad_signature", over=lambda at, chance: ("other", "dropped"))
def payload_exchanged_with_its_hash(stage: Stage, how: str) -> Any:
    messages = [Ping(9)] if how == "other" else stage.more["messages"][:-1]
    return with_payload(stage.honest, stage.world.seal(messages)[1], count=1)


@attack("bad_framing", over=lambda at, chance: ("count cut", "count raised", "length beyond the end", "a byte too much", "a head cut"))
def badly_framed_and_signed(stage: Stage, how: str) -> Any:
    frames = stage.honest
    payload = {
        "length beyond the end": (2**32 - 1).to_bytes(4, "big") + frames[1][4:],
        "a byte too much": frames[1] + b"\0",
        "a head cut": frames[1][:20],
    }.get(how, frames[1])
    count = {"count cut": 1, "count raised": 3}.get(how, 2)
    return resigned(with_payload(frames, payload, count=count), stage.world.a)


@attack("too_many_messages", over=lambda at, chance: (33, 64))
def too_many(stage: Stage, count: int) -> Any:
    return stage.world.seal([Ping(1)] * count)


@attack(
    "bad_proof",
    over=lambda at, chance: (b"\0\1\0\2", b"\0\0\0\2", b"\0\0\0\0", b"\0\0\xff\xff", b"\0\1\0\1", b"\0\0\0\1x", b"\0\0\0\1" + bytes(32)),
)
def place_in_the_tree_moved(stage: Stage, place: bytes) -> Any:
    return [*stage.honest[:2], stage.honest[2][:64] + place]


def flushed(stage: Stage) -> list[list[bytes]]:
    """The honest envelope among three others, under one signature."""
    world = stage.world
    part = frame_message(10, b"\x91\x01", 1)
    batches = [Batch(world.b.node, SESSION, 100 + n, 0, [part]) for n in range(4)]
    return seal_flush(world.a, batches, sent_ms=NOW_MS, stamp_ms=1)


@attack("bad_signature", "bad_proof", over=lambda at, chance: [chance.random() for _ in range(8)])
def path_changed(stage: Stage, where: float) -> Any:
    header, payload, proof = flushed(stage)[2]
    damaged = bytearray(proof)
    bit = 512 + int(where * (len(proof) - 64) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    return [header, payload, bytes(damaged)]


@attack("bad_signature")
def path_of_another_envelope(stage: Stage, _: Any) -> Any:
    first, second, *_ = flushed(stage)
    return [*first[:2], first[2][:68] + second[2][68:]]


@attack("malformed")
def a_node_of_the_tree_as_header(stage: Stage, _: Any) -> Any:
    all_four = flushed(stage)
    leaves = [merkle.leaf(each[0]) for each in all_four]
    return [leaves[0] + leaves[1], all_four[0][1], all_four[0][2][:64] + b"\0\0\0\2" + merkle.node(leaves[2], leaves[3])]


# ---- replayed


@attack("replayed", over=lambda at, chance: (1, 2))
def replayed_in_the_same_session(stage: Stage, times: int) -> Any:
    stage.world.open(stage.honest)
    return stage.honest


@attack("bad_signature")
def replayed_under_another_number(stage: Stage, _: Any) -> Any:
    stage.world.open(stage.honest)
    return with_header(stage.honest, first_seq=50)


@attack("replayed", over=lambda at, chance: (2, 1, 3))
def numbers_used_before(stage: Stage, first: int) -> Any:
    """One that overlaps what came, by the same sender."""
    world = stage.world
    world.open(world.seal([Ping(1), Ping(2), Ping(3)]))
    return world.seal(stage.more["messages"], first_seq=first)


@attack("replayed", over=lambda at, chance: (1, 500, 5000 - 1024))
def late_beyond_the_window(stage: Stage, first: int) -> Any:
    world = stage.world
    world.open(world.seal([Ping(1)], first_seq=5000))
    return world.seal(stage.more["messages"], first_seq=first)


@attack("stale_session", over=lambda at, chance: ("as it was", "both are open"))
def replayed_in_a_new_session(stage: Stage, how: str) -> Any:
    world = stage.world
    if how == "as it was":
        world.open(stage.honest)
    del world.sessions[SESSION]
    world.sessions[b"session-A-again-"] = Session(world.a.node, b"session-A-again-")
    return stage.honest


@attack("bad_signature")
def moved_into_a_new_session(stage: Stage, _: Any) -> Any:
    world = stage.world
    world.sessions[b"session-A-again-"] = Session(world.a.node, b"session-A-again-")
    return with_header(stage.honest, session=b"session-A-again-")


@attack("not_for_me", alone=True)
def replayed_at_another_node(stage: Stage, _: Any) -> Any:
    return Shot(stage.honest, World(receiver="c"))


@attack("other_mesh", alone=True)
def replayed_in_another_mesh(stage: Stage, _: Any) -> Any:
    """Where every key is the same."""
    return Shot(stage.honest, World(mesh="other-mesh"))


@attack("stale_session", alone=True, over=lambda at, chance: (True, False))
def replayed_after_the_receiver_restarted(stage: Stage, had_arrived: bool) -> Any:
    if had_arrived:
        stage.world.open(stage.honest)
    again = World()
    for name, session in zip("ABCDEFGHIJ", list(again.sessions.values())):
        del again.sessions[session.id]
        again.sessions[f"session-new-{name}---".encode()] = Session(session.peer, f"session-new-{name}---".encode())
    return Shot(stage.honest, again)


@attack("replayed", alone=True, over=lambda at, chance: ("at once", "in an hour"))
def replayed_after_the_sender_took_a_new_key(stage: Stage, when: str) -> Any:
    world = stage.world
    world.open(stage.honest)
    world.keyring.introduce(world.lines["a"].renewed(60).chain(home={"roles": ("member", "issuer")}))
    world.now_ms += OLD_KEY_MS if when == "in an hour" else 0
    return stage.honest


@attack("bad_signature", alone=True)
def held_back_until_the_key_was_replaced_for_an_hour(stage: Stage, _: Any) -> Any:
    world = stage.world
    world.keyring.introduce(world.lines["a"].renewed(60).chain())
    world.now_ms += OLD_KEY_MS
    return stage.honest


@attack("bad_signature", alone=True, over=lambda at, chance: (60, 61))
def by_a_key_of_tomorrow(stage: Stage, seed: int) -> Any:
    return stage.world.seal(stage.more["messages"], signer_of(seed, node=stage.world.a.node))


# ---- redirected, other mesh


@attack("not_for_me", over=lambda at, chance: [each for each in PEOPLE if each != "b"])
def meant_for_somebody_else(stage: Stage, who: str) -> Any:
    return stage.world.seal(stage.more["messages"], recipient=people(stage.world)[who].node)


@attack("bad_signature", over=lambda at, chance: [each for each in PEOPLE if each != "b"])
def redirected_here(stage: Stage, who: str) -> Any:
    sent = stage.world.seal(stage.more["messages"], recipient=people(stage.world)[who].node)
    return with_header(sent, recipient=stage.world.b.node)


@attack("wrong_sender")
def reflected(stage: Stage, _: Any) -> Any:
    return stage.world.seal(stage.more["messages"], signer=stage.world.b)


@attack("other_mesh", over=lambda at, chance: ("other-mesh", "", "x" * 64)[::2])
def of_another_mesh(stage: Stage, mesh: str) -> Any:
    return stage.world.seal(stage.more["messages"], signer=signer_of(2, mesh))


@attack("bad_signature", over=lambda at, chance: ("other-mesh", ""))
def signed_for_another_mesh(stage: Stage, mesh: str) -> Any:
    return resigned(stage.honest, stage.world.a, mesh=mesh)


@attack("stale_session")
def of_a_session_that_is_over(stage: Stage, _: Any) -> Any:
    return stage.world.seal(stage.more["messages"], session=b"session-of-past-")
