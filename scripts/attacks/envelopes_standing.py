"""Attacks on envelopes by who sends them: members that have expired, were revoked, or may not say this."""

from __future__ import annotations

import random
from typing import Any

from attacks.envelopes import attack, flushed, with_no_luck
from attacks.matrix import Shot, Stage
from attacks.world import E_SESSION, LIMITED_SESSION, NARROW, NOW_MS, OTHER_SESSION, World, sealed
from mesh.messages.membership import Ping
from mesh.messages.trust import HOME, ISSUER, NODE, Revocation
from mesh.messages.work import Ask, Award, Cfp, StepAsk
from mesh.wire.authorization import NEEDS, QUESTIONS, ROLES
from mesh.wire.chain import LEVELS, join_chain

# ---- expired, revoked


@attack("unknown_sender", alone=True, over=lambda at, chance: LEVELS)
def by_a_member_that_has_expired(stage: Stage, level: str) -> Any:
    """Where a ca rules: elsewhere members who know each other go on."""
    world = World("ca")
    world.keyring.introduce(world.lines["a"].chain(**({NODE: {"serial": 5}} | {level: {"not_after_ms": NOW_MS + 1, "serial": 5}})))
    world.now_ms += 2
    return Shot(stage.honest, world)


@attack("unknown_sender", alone=True, over=lambda at, chance: LEVELS)
def by_somebody_who_came_too_late(stage: Stage, level: str) -> Any:
    world, line = stage.world, stage.world.lines["e"]
    with_no_luck(world, line.row(chain=line.chain(**{level: {"not_after_ms": NOW_MS - 1}})).raw, "expired")
    return world.seal(stage.more["messages"], line.node, session=E_SESSION)


WHO_REVOKES = [(NODE, "root"), (NODE, "issuer"), (NODE, "home"), (NODE, "node"), (HOME, "root"), (HOME, "issuer"), (HOME, "home")]
WHO_REVOKES += [(ISSUER, "root"), (ISSUER, "issuer")]


def revoke(world: World, level: str, by: str) -> None:
    line = world.lines["a"]
    size = LEVELS.index(level) + 1
    subject = (line.issuer, line.home, line.node)[size - 1].node
    chain = join_chain(line.certificates()[:size])
    world.keyring.open(sealed(getattr(line, by), Revocation(world.mesh, level, subject, "x", "stolen", NOW_MS, chain)).raw)


@attack("unknown_sender", alone=True, over=lambda at, chance: [(*each, swept) for each in WHO_REVOKES for swept in (False, True)])
def by_a_member_that_was_revoked(stage: Stage, how: tuple[str, str, bool]) -> Any:
    """Even in the middle of a flush whose signature has held already."""
    world = stage.world
    first, second, *_ = flushed(stage)
    world.open(first)
    revoke(world, *how[:2])
    if how[2]:
        world.keyring.forget_revoked()
    world.keyring.open(world.rows["e"].raw)
    stage.more["later"] = world.seal([Ping(1)], world.lines["e"].node, session=E_SESSION)
    return second if how[2] else stage.honest


# ---- wrong role


def roles_without(at: Any, chance: random.Random) -> list[str]:
    return [role for role in ("member", *NARROW) if NEEDS[at] not in ROLES[role]]


@attack("not_allowed", over=roles_without)
def by_a_role_that_may_not(stage: Stage, role: str) -> Any:
    world = stage.world
    if role == "member":
        return Shot(world.seal(stage.more["messages"][:1], world.c, session=OTHER_SESSION), world, moves=True)
    return Shot(world.seal(stage.more["messages"][:1], world.lines[role].node, session=NARROW[role]), world, moves=True)


@attack("not_granted", only=(Cfp, Award, StepAsk))
def about_a_capability_that_was_not_granted(stage: Stage, _: Any) -> Any:
    message = stage.world.sample(stage.at)
    for each in getattr(message, "items", (message,)):
        each.capability = "pay"
    return Shot(stage.world.seal([message], stage.world.lines["limited"].node, session=LIMITED_SESSION), stage.world, moves=True)


def questions_beyond(at: Any, chance: random.Random) -> list[tuple[str, str]]:
    asks = [role for role in NARROW if NEEDS[Ask] in ROLES[role]]
    known = [(role, question) for role in asks for question, right in QUESTIONS.items() if right not in ROLES[role]]
    return known + [(role, question) for role in asks for question in ("", "everything", "Task")]


@attack("not_granted", over=questions_beyond, only=(Ask,))
def a_question_beyond_the_role(stage: Stage, what: tuple[str, str]) -> Any:
    role, question = what
    signer = stage.world.lines[role].node
    return Shot(stage.world.seal([Ask(1, question, "k")], signer, session=NARROW[role]), stage.world, moves=True)


@attack("unknown_kind", over=lambda at, chance: (0, 2, 9, 9999, 65535))
def of_a_kind_that_is_none(stage: Stage, kind: int) -> Any:
    part = stage.world.seal(stage.more["messages"][:1])[1]
    part = part[:4] + kind.to_bytes(2, "big") + part[6:]
    return Shot(stage.world.seal([], parts=[part]), stage.world, moves=True)
