"""What a flow comes to, on one page: the rules of joins, conditions, maps, loops, fallbacks and compensations, without time or mesh.

Shares nothing with the interpreter but the spec. `fails` are the names of the work that fails, `turns` how many a loop needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.flows.spec import Flow, Step


@dataclass
class Expected:
    fates: dict[str, str] = field(default_factory=dict)
    """done, skipped, failed, unreached: what a step comes to if it is waited for."""
    works: dict[str, list[str]] = field(default_factory=dict)
    """The work that each step begins, by name."""
    undone: set[str] = field(default_factory=set)
    """What is compensated, if the flow fails."""
    waited: set[str] = field(default_factory=set)
    """Steps that a flow which succeeds waits for; others may be left when it ends."""
    fails: bool = False


def model(flow: Flow, conditions: dict[str, bool], fails: set[str], turns: dict[str, int]) -> Expected:
    """`conditions`: what each step's `when` comes to."""
    found, fates = Expected(), {}
    needed_by = {need for step in flow.steps for need in step.needs}
    for step in flow.steps:  # the generator writes them in an order that works
        fate = _joined([fates[need] for need in step.needs], step)
        if fate == "goes" and not conditions.get(step.id, True):
            fate = "skipped"
        if fate == "goes":
            names = _names(step, turns.get(step.id, 1), fails)
            bad = [name for name in names if name in fails]
            lost = [name for name in bad if not _saved(step, name, fails)]
            exhausted = step.loop is not None and not bad and turns[step.id] > step.loop.max
            fate = "failed" if lost or exhausted else "done"
            found.works[step.id] = names + [f"{name}/fallback" for name in bad if step.fallback and step.fallback.uses]
            found.undone |= {name for name in names if name not in bad and step.compensate}
        found.fates[step.id] = fates[step.id] = fate
    found.fails = any(fates[step.id] in ("failed", "unreached") for step in flow.steps if step.id not in needed_by)
    for step in reversed(flow.steps):
        if step.id not in needed_by or step.id in found.waited:
            met = step.quorum and sum(fates[need] == "done" for need in step.needs) >= step.quorum
            found.waited |= {step.id} | (set() if met else set(step.needs))
    return found


def _joined(needs: list[str], step: Step) -> str:
    lost = any(fate in ("failed", "unreached") for fate in needs)
    done = sum(fate == "done" for fate in needs)
    if step.join == "settled" or not needs or (step.quorum and done >= step.quorum) or (step.join == "all" and done == len(needs)):
        return "goes"
    return "unreached" if lost else "skipped"


def _names(step: Step, turns: int, fails: set[str]) -> list[str]:
    if step.map is not None:
        return [f"{step.id}[{i}]" for i in range(len(step.map))]
    if step.loop is None:
        return [step.id]
    names = [f"{step.id}#{turn + 1}" for turn in range(min(turns, step.loop.max))]
    bad = next((i for i, name in enumerate(names) if name in fails and not _saved(step, name, fails)), len(names))
    return names[: bad + 1]


def _saved(step: Step, name: str, fails: set[str]) -> bool:
    """Its fallback does it."""
    return step.fallback is not None and (not step.fallback.uses or f"{name}/fallback" not in fails)
