"""The forgery matrix: what an attack is, what a cell is, and how a cell is judged.

    subject (a message kind, a signed object)  x  attack  x  variant   ->   a cell: one forged thing, and the reasons it may be refused for

Invariant of every cell: it is refused, for exactly such a reason, and nothing has changed: no window, no key, no member, no statement, no
session; and honest traffic still opens afterwards. Rows come from `KINDS` and `SIGNED`, so a new one is attacked from the day it is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from attacks.world import World
from mesh.wire.packing import Refusal

ACCEPTED = "ACCEPTED"
KNOWN = "known"
"""The outcome of saying again what is believed already, where that is not refused: the same object, and nothing has changed."""


@dataclass
class Shot:
    """One thing that somebody sends. `at`: the receiver. `moves`: the window may move, since an honest envelope carries it. `opener`: of
    signed objects, who gets it, if not who opens its kind."""

    what: Any
    at: World
    carrier: str = ""
    moves: bool = False
    opener: str = ""


@dataclass
class Stage:
    """A world with something honest in it, to be attacked. `at` names the class or tag; `honest` is what travels."""

    world: World
    at: Any
    honest: Any
    more: dict[str, Any] = field(default_factory=dict)


Strike = Callable[[Stage, Any], Any]
Variants = Callable[[Any, random.Random], Iterable[Any]]


def once(at: Any, chance: random.Random) -> Iterable[Any]:
    return (None,)


@dataclass(frozen=True)
class Attack:
    """`reasons(stage, variant)`: what it may be refused for. `alone`: it changes the world first, so it gets one of its own."""

    name: str
    strike: Strike
    reasons: Callable[[Any, Any], frozenset[str]]
    variants: Variants = once
    alone: bool = False
    only: frozenset[Any] | None = None
    """Subjects on which it makes sense; None: all."""

    def fits(self, at: Any) -> bool:
        return self.only is None or at in self.only


@dataclass(frozen=True)
class Cell:
    subject: str
    attack: Attack
    variant: Any

    def __str__(self) -> str:
        return f"{self.subject} x {self.attack.name}" + ("" if self.variant is None else f" ({self.variant!r:.80})")


class Family:
    """Subjects of one sort, and the attacks on them."""

    name = ""
    attacks: Sequence[Attack] = ()

    def subjects(self) -> list[Any]:
        raise NotImplementedError

    def label(self, at: Any) -> str:
        raise NotImplementedError

    def stage(self, world: World, at: Any) -> Stage:
        raise NotImplementedError

    def open(self, stage: Stage, shot: Shot) -> str:
        """What became of the shot: a reason, KNOWN or ACCEPTED."""
        raise NotImplementedError

    def still_works(self, stage: Stage) -> bool:
        """Whether honest traffic of somebody else opens."""
        raise NotImplementedError

    # ---- cells

    def cells(self, seed: int = 0) -> Iterator[tuple[Any, Cell]]:
        for at in self.subjects():
            for attack in self.attacks:
                if attack.fits(at):
                    for variant in attack.variants(at, chance(seed, self.label(at), attack.name)):
                        yield at, Cell(self.label(at), attack, variant)

    def sample(self, seed: int, each: int = 1) -> Iterator[tuple[Any, Cell]]:
        """A few cells of every subject and attack."""
        for at in self.subjects():
            for attack in self.attacks:
                if attack.fits(at):
                    source = chance(seed, self.label(at), attack.name)
                    variants = list(attack.variants(at, source))
                    for variant in source.sample(variants, min(each, len(variants))):
                        yield at, Cell(self.label(at), attack, variant)


def chance(seed: int, *names: str) -> random.Random:
    return random.Random(f"{seed} {' '.join(names)}")


class Range:
    """Runs cells, on one world as long as they leave it alone."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._stages: dict[Any, Stage] = {}
        self._world = World()

    def judge(self, at: Any, cell: Cell) -> tuple[str, str]:
        """(outcome, what is wrong with it). The latter is empty where all is well."""
        family = self._family
        if cell.attack.alone:
            stage = family.stage(World(), at)
        else:
            if at not in self._stages:
                self._stages = {at: family.stage(self._world, at)}
            stage = self._stages[at]
            self._world.forget_sessions()
        shot = cell.attack.strike(stage, cell.variant)
        if not isinstance(shot, Shot):
            shot = Shot(shot, stage.world)
        before = shot.at.state(windows=not shot.moves)
        try:
            outcome = family.open(stage, shot)
        except Refusal as refusal:
            outcome = refusal.reason
        allowed = cell.attack.reasons(stage, cell.variant)
        if outcome not in allowed:
            return outcome, f"{cell}: {outcome}, not {' or '.join(sorted(allowed))}"
        if before != shot.at.state(windows=not shot.moves):
            return outcome, f"{cell}: {outcome}, but something has changed"
        if not family.still_works(stage):
            return outcome, f"{cell}: {outcome}, but honest traffic is refused afterwards"
        return outcome, ""


def because(*reasons: str) -> Callable[[Any, Any], frozenset[str]]:
    fixed = frozenset(reasons)
    return lambda stage, variant: fixed
