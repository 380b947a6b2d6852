"""A random flow, and what its work will do: which fails, how long each takes, how many turns loops need. One seed, one flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from mesh.flows.spec import Action, Flow, Input, Loop, Step

STEPS_MAX = 9


@dataclass
class Case:
    seed: int
    flow: Flow
    conditions: dict[str, bool]
    fails: set[str]
    turns: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long the work of a step takes, or of what stands in its place."""


def case(seed: int) -> Case:
    random = Random(seed)
    width = random.randint(1, STEPS_MAX)
    found = Case(seed, Flow("random", ()), {}, set(), {})
    steps: list[Step] = []
    for i in range(width):
        needs = tuple(sorted(random.sample([step.id for step in steps], min(len(steps), random.choice((0, 1, 1, 2, 2, 3))))))
        steps.append(_step(f"s{i}", needs, random, found))
    inputs = {f"go_{name}": Input("boolean") for name in found.conditions}
    found.flow = Flow("random", tuple(steps), inputs)
    return found


def _step(name: str, needs: tuple[str, ...], random: Random, found: Case) -> Step:
    kind = random.choice(("once", "once", "once", "map", "loop"))
    items = [random.randint(0, 99) for _ in range(random.randint(0, 4))] if kind == "map" else None
    join = random.choice(("all", "all", "all", "settled", "any", f"quorum({random.randint(1, len(needs))})")) if needs else "all"
    when = ""
    if random.random() < 0.15:
        found.conditions[name] = random.random() < 0.5
        when = f"$input.go_{name}"
    fallback = random.choice((None, None, None, Action("instead"), Action(value=0)))
    names = [name]
    if items is not None:
        names = [f"{name}[{i}]" for i in range(len(items))]
    elif kind == "loop":
        found.turns[name] = random.choice((1, 2, 3, 4))
        names = [f"{name}#{turn + 1}" for turn in range(3)]
        fallback = None  # a fallback's result would have to end the loop
    for one in names:
        found.seconds[one] = random.choice((0.0, 0.05, 0.3, 1.0, 3.0))
        for each in (one, f"{one}/fallback"):
            if random.random() < 0.08:
                found.fails.add(each)
    return Step(
        id=name,
        uses="work",
        needs=needs,
        arguments={"case": found.seed, "step": name, "index": "$index" if kind != "once" else None, "takes": _takes(needs, join)},
        when=when,
        map=items,
        max_parallel=random.choice((0, 1, 2)) if items else 0,
        join=join,
        loop=Loop("$item.turn >= item.until", 3) if kind == "loop" else None,
        compensate=Action("undo") if random.random() < 0.4 else None,
        fallback=fallback,
    )


def _takes(needs: tuple[str, ...], join: str) -> dict[str, str]:
    """What it is given of those before it; not all of them are there where its join waits for fewer."""
    return {need: f"$steps.{need}" if join == "all" else f"$has(steps.{need}) ? 1 : 0" for need in needs}
