"""Attacks on signed objects by who signs them: those that have expired, were revoked, have no such right, or bind what is another's."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgpack

from attacks.envelopes_standing import WHO_REVOKES, revoke
from attacks.matrix import Shot, Stage
from attacks.objects import GREETINGS, NODES, again, attack, people
from attacks.samples import opened
from attacks.world import E_SESSION, MESH, NOW_MS, Line, World, deed_of, line_of, sealed
from mesh.messages.membership import Offer, Ping
from mesh.messages.trust import NODE, Revocation
from mesh.wire.chain import LEVELS, join_chain
from mesh.wire.objects import parts
from mesh.wire.packing import pack

# ---- expired, revoked


@attack("expired", alone=True, over=lambda at, chance: LEVELS, only=NODES)
def by_a_member_that_has_expired(stage: Stage, level: str) -> Any:
    world = World("ca")
    line = world.lines["a"]
    chain = line.chain(**({NODE: {"serial": 5}} | {level: {"not_after_ms": NOW_MS + 1, "serial": 5}}))
    world.keyring.introduce(chain)
    world.now_ms += 2
    body = dataclasses.replace(stage.more["body"])
    if stage.at == "alive":
        body.certificate = chain
    return Shot(again(stage, body), world)


@attack("expired", alone=True, over=lambda at, chance: LEVELS, only=("alive", *GREETINGS))
def by_somebody_who_came_too_late(stage: Stage, level: str) -> Any:
    line = stage.world.lines["e"]
    row = line.row(chain=line.chain(**{level: {"not_after_ms": NOW_MS - 1}}))
    if stage.at == "alive":
        return row.raw
    return sealed(line.node, dataclasses.replace(stage.more["body"], alive=row, binding=line.binding())).raw


@attack("revoked", alone=True, over=lambda at, chance: WHO_REVOKES, only=NODES)
def by_a_member_that_was_revoked(stage: Stage, how: tuple[str, str]) -> Any:
    """Also if it was opened, and remembered, before."""
    opened(stage.at, stage.world, stage.honest)
    revoke(stage.world, *how)
    stage.more["later"] = _from_e(stage.world)
    return stage.honest


@attack("revoked", alone=True, over=lambda at, chance: WHO_REVOKES, only=("alive", *GREETINGS))
def by_a_member_that_was_revoked_and_comes_again(stage: Stage, how: tuple[str, str]) -> Any:
    world, line = stage.world, stage.world.lines["a"]
    revoke(world, *how)
    world.keyring.forget_revoked()
    stage.more["later"] = _from_e(world)
    row = line.row(chain=line.chain(node={"serial": 9}), version=9)
    return row.raw if stage.at == "alive" else again(stage, dataclasses.replace(stage.more["body"], alive=row))


def _from_e(world: World) -> list[bytes]:
    """Somebody under another issuer, whom no revocation of a's concerns."""
    world.keyring.open(world.rows["e"].raw)
    return world.seal([Ping(1)], world.lines["e"].node, session=E_SESSION)


# ---- wrong role, wrong binding


@attack("not_granted", over=lambda at, chance: ("requester", "observer", "issuer", "limited"), only=("alive",))
def offering_what_was_not_granted(stage: Stage, who: str) -> Any:
    return stage.world.lines[who].row(chain=b"", offers=(Offer("pay", "g"),), version=9).raw


WIDER = [(level, grant) for level in LEVELS[1:] for grant in ("roles", "offers", "requests")] + [("home", "life")]


@attack("widened", over=lambda at, chance: WIDER, only=("certificate",))
def granting_more_than_it_has(stage: Stage, how: tuple[str, str]) -> Any:
    level, grant = how
    above = LEVELS[LEVELS.index(level) - 1]
    few = {"roles": ("worker",)} if grant == "roles" else {"ttl_ms": 1000} if grant == "life" else {grant: ("ocr.*",)}
    changes = dict.fromkeys(LEVELS[: LEVELS.index(above) + 1], few)
    return Shot(line_of(50).chain(**changes), stage.world, opener="chain")


def _claims(at: str, chance: random.Random) -> list[tuple[str, str]]:
    return [
        (level, who)
        for level, who in (("node", "another home"), ("node", "another issuer"), ("home", "its node"), ("home", "another home"))
    ] + [(level, who) for level in LEVELS for who in ("stranger", "another member", "the receiver")]


@attack("not_own", over=_claims, only=("revocation",))
def revoking_what_is_not_ones_own(stage: Stage, how: tuple[str, str]) -> Any:
    level, who = how
    line, size = stage.world.lines["a"], LEVELS.index(level) + 1
    subject = (line.issuer, line.home, line.node)[size - 1].node
    body = Revocation(MESH, level, subject, "x", "stolen", NOW_MS, join_chain(line.certificates()[:size]))
    return sealed(people(stage.world)[who], body).raw


@attack("bad_certificate", over=lambda at, chance: ("a node", "an issuer", "a home", "the root"), only=("revocation",))
def revoking_what_was_certified_for_that(stage: Stage, whom: str) -> Any:
    """Another home says that it is its own node."""
    line, thief = stage.world.lines["a"], stage.world.lines["b"]
    victim = {"a node": line.node, "an issuer": line.issuer, "a home": line.home, "the root": line.root}[whom]
    claim = Line(line.root, line.issuer, thief.home, victim)
    chain = claim.chain(node={"deed": deed_of(thief.node, thief.home.node)})
    return sealed(thief.home, Revocation(MESH, NODE, victim.node, "x", "stolen", NOW_MS, chain)).raw


@attack("not_own", over=lambda at, chance: ("another's", "a row", "about another", "of another, in its name"), only=GREETINGS)
def with_a_binding_that_is_not_ones_own(stage: Stage, which: str) -> Any:
    a, c = stage.world.lines["a"], stage.world.lines["c"]
    binding = {
        "another's": c.binding(),
        "a row": a.row(),
        "about another": c.binding(curve_key=bytes(32)),
        "of another, in its name": c.binding(seq=9),
    }[which]
    return again(stage, dataclasses.replace(stage.more["body"], binding=binding))


@attack("not_own", only=("binding",), over=lambda at, chance: ("c", "b", "e"))
def binding_anothers_node(stage: Stage, who: str) -> Any:
    return stage.world.lines["a"].binding(node=stage.world.lines[who].node.node).raw


@attack("not_own", only=GREETINGS)
def with_anothers_row(stage: Stage, _: Any) -> Any:
    return again(stage, dataclasses.replace(stage.more["body"], alive=stage.world.rows["c"]))


@attack("unknown_object", alone=True, only=GREETINGS, over=lambda at, chance: (1, 2, 500))
def nested(stage: Stage, depth: int) -> Any:
    raw = stage.honest
    for _ in range(depth):
        tag, author, body, signature = parts(raw)
        row = list(msgpack.unpackb(body))
        row[2] = raw
        raw = pack((tag, author, pack(row), signature))
        if len(raw) > 200_000:
            break
    return raw
