"""Attacks on signed objects: one row for every tag. What stands alone is judged alone, by whoever opens such objects (`samples.opened`)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, get_type_hints

import msgpack

from attacks.keys import SMALL_ORDER
from attacks.matrix import ACCEPTED, KNOWN, Attack, Family, Shot, Stage, Strike, Variants, because, once
from attacks.samples import honest, opened
from attacks.world import MESH, NOW_MS, OTHER_SESSION, World, line_of, sealed, signer_of
from mesh.messages import SIGNED
from mesh.messages.membership import Ping
from mesh.messages.signed import Signed
from mesh.messages.trust import Amendment
from mesh.wire.codec import encode_object
from mesh.wire.keyring import JOURNALED, OLD_KEY_MS
from mesh.wire.objects import Signer, node_id, parts, signed_bytes
from mesh.wire.packing import pack

FLIPS = 150
TAGS = tuple(SIGNED)
CHAIN = ("certificate", "deed")
TRUST = ("revocation", "amendment", "policy")
HOMES = ("join", "ask", "renewal")
OWN = ("alive", "left", "commit", "yield", "binding", "hello", "welcome")
"""Only for the node that they are about."""
OPEN_TO_ALL = ("suspect", "witness", "ballot", "verdict")
NODES = (*OWN, *OPEN_TO_ALL)
"""What nodes say. Together the five groups are all tags; a test sees to it."""
GREETINGS = ("hello", "welcome")

ATTACKS: list[Attack] = []


def bad(tag: str) -> str:
    """The reason where nothing is wrong but the signature."""
    return "bad_certificate" if tag in CHAIN else "bad_signature"


def attack(*reasons: str, over: Variants = once, alone: bool = False, only: Iterable[str] | None = None) -> Callable[[Strike], Strike]:
    """Without reasons: that of a bad signature."""

    def add(strike: Strike) -> Strike:
        why = because(*reasons) if reasons else lambda stage, variant: frozenset((bad(stage.at),))
        ATTACKS.append(Attack(strike.__name__, strike, why, over, alone, only if only is None else frozenset(only)))
        return strike

    return add


class Objects(Family):
    """`honest` of a stage: the bytes of one object."""

    name = "signed objects"
    attacks = ATTACKS

    def subjects(self) -> list[Any]:
        return list(SIGNED)

    def label(self, at: Any) -> str:
        return f"signed {at}"

    def stage(self, world: World, at: Any) -> Stage:
        signed = honest(at, world)
        return Stage(
            world,
            at,
            signed.raw,
            {"body": signed.body, "author": signed.author, "later": world.seal([Ping(1)], world.c, session=OTHER_SESSION)},
        )

    def open(self, stage: Stage, shot: Shot) -> str:
        if shot.opener == "chain":
            shot.at.keyring.introduce(shot.what)
            return ACCEPTED
        body = opened(shot.opener or stage.at, shot.at, shot.what)
        return KNOWN if shot.what == stage.honest and body == stage.more["body"] else ACCEPTED

    def still_works(self, stage: Stage) -> bool:
        stage.world.forget_sessions()
        return bool(stage.world.open(stage.more["later"]).messages)


# ---- means


def author_of(stage: Stage) -> Signer:
    """Whose signature it must be."""
    line = stage.world.lines["a"]
    if stage.at in ("certificate", *TRUST):
        return line.root
    return line.home if stage.at in HOMES else line.node


def mesh_of(tag: str) -> str:
    """For which mesh it is signed."""
    return "" if tag in ("deed", "ask") else MESH


def people(world: World) -> dict[str, Signer]:
    a, b = world.lines["a"], world.lines["b"]
    return {
        "stranger": world.stranger,
        "another member": world.c,
        "the receiver": world.b,
        "its node": a.node,
        "its home": a.home,
        "another home": b.home,
        "the issuer": a.issuer,
        "another issuer": world.lines["e"].issuer,
        "the root": a.root,
    }


@cache
def names(tag: str, members: bool = True) -> list[str]:
    """Everybody but the one who may say it. `members` False: and but for members."""
    world = World()
    own = author_of(Stage(world, tag, b""))
    found = [name for name, each in people(world).items() if each.node != own.node]
    return found if members else [name for name in found if world.keyring.member(people(world)[name].node) is None]


def over_names(at: Any, chance: random.Random) -> Iterable[Any]:
    return names(at)


def again(stage: Stage, body: Any, signer: Signer | None = None, author: str = "", mesh: str | None = None) -> bytes:
    """That body, signed as the honest one was, or differently."""
    signer = signer or author_of(stage)
    return sealed(signer, body, author, mesh_of(stage.at) if mesh is None else mesh).raw


# ---- forged


@attack(over=over_names)
def signed_by_somebody_else(stage: Stage, who: str) -> Any:
    return again(stage, stage.more["body"], people(stage.world)[who], stage.more["author"])


@attack(
    "not_own",
    over=lambda at, chance: [each for each in names(at) if at == "alive" or at in HOMES or each not in names(at, False)],
    only=(*OWN, *HOMES),
)
def said_in_ones_own_name(stage: Stage, who: str) -> Any:
    return again(stage, stage.more["body"], people(stage.world)[who])


@attack("unknown_author", over=lambda at, chance: names(at, False), only=(*OPEN_TO_ALL, *[each for each in OWN if each != "alive"], *TRUST))
def said_by_no_member(stage: Stage, who: str) -> Any:
    return again(stage, stage.more["body"], people(stage.world)[who])


@attack("bad_certificate", over=over_names, only=CHAIN)
def certified_by_somebody_else(stage: Stage, who: str) -> Any:
    return again(stage, stage.more["body"], people(stage.world)[who])


@attack(over=lambda at, chance: ("nothing", "ones", "its own body's", "another tag's"))
def with_a_signature_of_something_else(stage: Stage, what: str) -> Any:
    tag, author, body, _ = parts(stage.honest)
    signer = author_of(stage)
    found = {"nothing": bytes(64), "ones": b"\xff" * 64, "its own body's": signer.sign(body)}
    found["another tag's"] = signer.sign(signed_bytes("envelope", mesh_of(tag), body))
    return pack((tag, author, body, found[what]))


@attack(over=lambda at, chance: [each for each in TAGS if each != at])
def signed_for_another_purpose(stage: Stage, other: str) -> Any:
    tag, author, body, _ = parts(stage.honest)
    return pack((tag, author, body, author_of(stage).sign(signed_bytes(other, mesh_of(tag), body))))


PASSED_OFF = ("malformed", "bad_signature", "bad_certificate", "not_own", "unknown_author", "other_mesh", "gap", "bad_key")


@attack(*PASSED_OFF, over=lambda at, chance: [each for each in TAGS if each != at])
def passed_off_as_another_kind(stage: Stage, other: str) -> Any:
    """To whoever opens the other kind; the signature covers the tag, if anything gets so far."""
    _, author, body, signature = parts(stage.honest)
    return Shot(pack((other, author, body, signature)), stage.world, opener=other)


@attack("unknown_object", "malformed", "bad_certificate", over=lambda at, chance: ("", "x", "Alive", "certificates", "alive\0"))
def of_a_kind_that_is_none(stage: Stage, tag: str) -> Any:
    return pack((tag, *parts(stage.honest)[1:]))


@attack(over=lambda at, chance: SMALL_ORDER)
def with_a_point_of_small_order(stage: Stage, point: bytes) -> Any:
    return pack((*parts(stage.honest)[:3], point + bytes(32)))


@attack("bad_key", over=lambda at, chance: SMALL_ORDER, only=("alive", "certificate", "deed", "revocation", "amendment", *HOMES))
def with_a_key_that_everybody_has(stage: Stage, key: bytes) -> Any:
    """The signature would hold, under a library that takes such keys."""
    body, tag, world = dataclasses.replace(stage.more["body"]), stage.at, stage.world
    line = dataclasses.replace(line_of(50), node=world.stranger)
    chain = line.chain(node={"key": key})
    match tag:
        case "alive":
            body.node, body.certificate = line.node.node, chain
        case "certificate":
            body.subject, body.key = node_id(key), key
        case "deed":
            body.node, body.first_key = node_id(key), key
        case "revocation":
            body.target, body.certificate = line.node.node, chain
        case "amendment":
            body.roots = (world.root.public_key, key)
        case _:
            body.home_key = key
    author = {"alive": line.node.node, "revocation": line.node.node, "certificate": world.root.node}.get(tag, node_id(key))
    author = stage.more["author"] if tag in ("amendment", "renewal") else author
    _, data = encode_object(body)
    if tag in ("amendment", "renewal", "certificate"):
        return again(stage, body, author=author)
    return pack((tag, author, data, key + bytes(32)))


# ---- tampered


FIELD_REASONS: dict[tuple[str, str], str] = {
    ("alive", "node"): "not_own",
    ("alive", "certificate"): "bad_certificate",
    ("left", "node"): "not_own",
    ("binding", "node"): "not_own",
    ("commit", "author"): "not_own",
    ("yield", "taker"): "not_own",
    ("hello", "alive"): "not_own",
    ("hello", "binding"): "not_own",
    ("welcome", "alive"): "not_own",
    ("welcome", "binding"): "not_own",
    ("certificate", "mesh"): "other_mesh",
    ("revocation", "mesh"): "other_mesh",
    ("amendment", "mesh"): "other_mesh",
    ("policy", "mesh"): "other_mesh",
    ("amendment", "seq"): "gap",
    ("join", "home_key"): "not_own",
    ("ask", "home_key"): "not_own",
    ("renewal", "mesh"): "not_own",
    ("renewal", "home"): "not_own",
}
"""Where something is noticed before the signature is."""


def fields(at: str, chance: random.Random) -> list[str]:
    return [each.name for each in dataclasses.fields(SIGNED[at])]


def changed(stage: Stage, name: str) -> Any:
    value = getattr(stage.more["body"], name)
    c = stage.world.lines["c"]
    if isinstance(value, Signed):
        return c.binding() if name == "binding" else c.row()
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value + value[:1] if value else (stage.world.b.public_key,)
    if isinstance(value, bytes):
        return value[:-1] + bytes((value[-1] ^ 1,)) if value else b"x"
    if isinstance(value, int):
        return value + 1
    return stage.world.c.node if value == stage.more["author"] else value + "x"


def _by_field(strike: Strike) -> Strike:
    def why(stage: Stage, name: Any) -> frozenset[str]:
        return frozenset((FIELD_REASONS.get((stage.at, name), bad(stage.at)),))

    ATTACKS.append(Attack(strike.__name__, strike, why, fields))
    return strike


@_by_field
def field_changed(stage: Stage, name: str) -> Any:
    tag, author, body, signature = parts(stage.honest)
    row = msgpack.unpackb(body, use_list=False)
    _, data = encode_object(dataclasses.replace(stage.more["body"], **{name: changed(stage, name)}))
    assert row != msgpack.unpackb(data, use_list=False)
    return pack((tag, author, data, signature))


NONSENSE = {
    str: (5, b"x", None, ["x"], True, "x" * 70_000),
    int: ("1", -1, 2**63, True, 1.5, None),
    bytes: ("x", None, 7, []),
    bool: (1, None, "true"),
    Signed: ("x", b"", None, []),
    tuple: ("x", None, [None], 3, [["x"]]),
}


def nonsense(at: str, chance: random.Random) -> list[tuple[int, int, Any]]:
    hints = get_type_hints(SIGNED[at])
    kinds = [hints[each.name] if isinstance(hints[each.name], type) else tuple for each in dataclasses.fields(SIGNED[at])]
    return [(place, n, odd) for place, kind in enumerate(kinds) for n, odd in enumerate(NONSENSE.get(kind, ()))]


@attack("malformed", over=nonsense)
def nonsense_signed_by_its_author(stage: Stage, what: tuple[int, int, Any]) -> Any:
    tag, author, body, _ = parts(stage.honest)
    row = list(msgpack.unpackb(body))
    row[what[0]] = what[2]
    data = msgpack.packb(row)
    return pack((tag, author, data, author_of(stage).sign(signed_bytes(tag, mesh_of(tag), data))))


@attack("malformed", over=lambda at, chance: ("nothing", "too short", "a number", "a map", "no msgpack", "nested"))
def a_body_that_is_none(stage: Stage, what: str) -> Any:
    tag, author, body, _ = parts(stage.honest)
    row = list(msgpack.unpackb(body))
    data = {
        "nothing": b"",
        "too short": msgpack.packb(row[:1]),
        "a number": b"\x07",
        "a map": msgpack.packb({1: 2}),
        "no msgpack": b"\xc1",
        "nested": b"\x91" * 2000 + b"\xc0",
    }[what]
    return pack((tag, author, data, author_of(stage).sign(signed_bytes(tag, mesh_of(tag), data))))


@attack("not_canonical")
def another_encoding_signed_by_its_author(stage: Stage, _: Any) -> Any:
    tag, author, body, _ = parts(stage.honest)
    data = b"\xdc\x00" + bytes((body[0] & 15,)) + body[1:]
    return pack((tag, author, data, author_of(stage).sign(signed_bytes(tag, mesh_of(tag), data))))


@attack("not_canonical")
def another_encoding_around_it(stage: Stage, _: Any) -> Any:
    return b"\xdc\x00\x04" + stage.honest[1:]


@attack("malformed", over=lambda at, chance: [chance.random() for _ in range(24)])
def cut(stage: Stage, where: float) -> Any:
    return stage.honest[: int(where * len(stage.honest))]


@attack("malformed", over=lambda at, chance: ("a byte", "a part", "twice"))
def lengthened(stage: Stage, how: str) -> Any:
    row = parts(stage.honest)
    return {"a byte": stage.honest + b"\0", "a part": pack((*row, 1)), "twice": stage.honest * 2}[how]


def _by_place(strike: Strike) -> Strike:
    def why(stage: Stage, where: Any) -> frozenset[str]:
        """By what the bit belongs to: in the signature proper nothing is noticed but that it does not hold."""
        size = len(stage.honest)
        if int(where * size * 8) // 8 >= size - 64:
            return frozenset((bad(stage.at),))
        heads = {"malformed", "not_canonical", "unknown_object", "unknown_author", "not_own", "bad_signature", bad(stage.at)}
        inner = {reason for (tag, _), reason in FIELD_REASONS.items() if tag == stage.at}
        chains = {"bad_certificate", "bad_key", "other_mesh"} if stage.at in ("alive", *GREETINGS, *CHAIN) else set()
        return frozenset(heads | inner | chains | ({"bad_key"} if stage.at in HOMES else set()))

    ATTACKS.append(Attack(strike.__name__, strike, why, lambda at, chance: [chance.random() for _ in range(FLIPS)]))
    return strike


@_by_place
def bit_flipped(stage: Stage, where: float) -> Any:
    damaged = bytearray(stage.honest)
    bit = int(where * len(damaged) * 8)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


# ---- replayed, other mesh


@attack(KNOWN, over=lambda at, chance: (1, 2))
def said_again(stage: Stage, times: int) -> Any:
    """Statements are told on by everybody: the second time they say nothing new."""
    for _ in range(times):
        opened(stage.at, stage.world, stage.honest)
    return stage.honest


@attack(KNOWN, alone=True)
def said_again_after_the_receiver_restarted(stage: Stage, _: Any) -> Any:
    """What was kept is opened first; then it says nothing new."""
    world = World()
    opened(stage.at, world, stage.honest)
    return Shot(stage.honest, world)


@attack(KNOWN, alone=True)
def said_to_another_node(stage: Stage, _: Any) -> Any:
    world = World(receiver="c")
    opened(stage.at, world, stage.honest)
    return Shot(stage.honest, world)


@attack("bad_signature", alone=True, only=[each for each in NODES if each not in JOURNALED])
def said_again_after_the_key_was_replaced_for_an_hour(stage: Stage, _: Any) -> Any:
    world = stage.world
    world.keyring.introduce(world.lines["a"].renewed(60).chain())
    world.now_ms += OLD_KEY_MS
    if stage.at in GREETINGS:
        return again(stage, dataclasses.replace(stage.more["body"], alive=world.lines["a"].renewed(60).row(version=9)))
    return stage.honest


@attack(KNOWN, alone=True, only=(*JOURNALED, *CHAIN, *TRUST, *HOMES))
def said_again_after_its_node_took_a_new_key(stage: Stage, _: Any) -> Any:
    """A journal is for ever; the rest does not depend on that key."""
    world = stage.world
    world.keyring.introduce(world.lines["a"].renewed(60).chain())
    world.now_ms += OLD_KEY_MS
    opened(stage.at, world, stage.honest)
    return stage.honest


@attack("unknown_author", "bad_certificate", alone=True, only=("certificate", *TRUST))
def by_a_root_that_counts_no_more(stage: Stage, _: Any) -> Any:
    """Said for the first time after an amendment took it away."""
    world, new = stage.world, signer_of(71)
    for seq, roots, by in ((1, (world.root, new), world.root), (2, (new,), new)):
        world.keyring.open(sealed(by, Amendment(MESH, seq, tuple(each.public_key for each in roots), "token", "x", NOW_MS)).raw)
    body = dataclasses.replace(
        stage.more["body"], **{"amendment": {"seq": 3}, "policy": {"note": "later"}}.get(stage.at, {"name": "later"})
    )
    return again(stage, body)


OTHER_MESH = {"join": "bad_signature", "renewal": "not_own"} | dict.fromkeys(("certificate", *TRUST), "other_mesh")
OTHER_MESH |= dict.fromkeys(NODES, "bad_signature") | dict.fromkeys(("alive", *GREETINGS), "other_mesh")


@attack("other_mesh", only=[tag for tag, reason in OTHER_MESH.items() if reason == "other_mesh"])
def of_another_mesh_that_shows(stage: Stage, _: Any) -> Any:
    return _elsewhere(stage)


@attack("bad_signature", only=[tag for tag, reason in OTHER_MESH.items() if reason == "bad_signature"])
def of_another_mesh(stage: Stage, _: Any) -> Any:
    return _elsewhere(stage)


@attack("not_own", only=[tag for tag, reason in OTHER_MESH.items() if reason == "not_own"])
def of_another_mesh_by_its_name(stage: Stage, _: Any) -> Any:
    return _elsewhere(stage)


def _elsewhere(stage: Stage) -> bytes:
    """The honest object of a mesh where every key is the same."""
    return honest(stage.at, World(mesh="other-mesh")).raw


@attack(over=lambda at, chance: [each for each in ("other-mesh", "", MESH) if each != mesh_of(at)])
def signed_for_another_mesh(stage: Stage, mesh: str) -> Any:
    return again(stage, stage.more["body"], mesh=mesh)
