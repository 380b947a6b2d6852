"""A picture of a flow: as text for a terminal, as DOT, as Mermaid. Draws what is written, and the states of a run if they are given."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.flows.order import followers_of, ordered
from mesh.flows.spec import Flow, Step

FORMS = ("text", "dot", "mermaid")


def drawn(flow: Flow, form: str = "text", states: Mapping[str, str] | None = None) -> str:
    """`form`: one of FORMS. `states`: what is known of each step, by id, such as ``done``."""
    return {"text": as_text, "dot": as_dot, "mermaid": as_mermaid}[form](flow, states or {})


def as_text(flow: Flow, states: Mapping[str, str]) -> str:
    """A line for each step, in an order that works; those one after another stand deeper::

    log              vcs.log
    parts            text.split      after log
    drafts           llm.draft       after parts    map over $steps.parts.parts, 20 at once
    """
    level: dict[str, int] = {}
    rows = []
    for step in ordered(flow.steps):
        level[step.id] = 1 + max((level[need] for need in step.needs), default=-1)
        after = f"after {_needs(step)}" if step.needs else ""
        rows.append((states.get(step.id, ""), "  " * min(level[step.id], 12) + step.id, step.uses or "gate", after, _more(step)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0]) if width or cell).rstrip() for row in rows]
    return "\n".join([f"{flow.name}, {len(rows)} steps", *lines])


def as_dot(flow: Flow, states: Mapping[str, str]) -> str:
    """For Graphviz."""
    lines = [f"digraph {_quoted(flow.name)} {{", "  rankdir=LR; node [shape=box];"]
    for step in flow.steps:
        shape = ", shape=diamond" if not step.uses else ", peripheries=2" if step.map is not None else ""
        lines.append(f"  {_quoted(step.id)} [label={_quoted(_label(step, states))}{shape}];")
    for need, followers in followers_of(flow.steps).items():
        for follower in followers:
            join = next(step.join for step in flow.steps if step.id == follower)
            style = "" if join == "all" else f" [style=dashed, label={_quoted(join)}]"
            lines.append(f"  {_quoted(need)} -> {_quoted(follower)}{style};")
    return "\n".join([*lines, "}"])


def as_mermaid(flow: Flow, states: Mapping[str, str]) -> str:
    """For Markdown pages."""
    lines = ["flowchart LR"]
    joins = {step.id: step.join for step in flow.steps}
    for step in flow.steps:
        left, right = ("{", "}") if not step.uses else ("[[", "]]") if step.map is not None else ("[", "]")
        label = _label(step, states).replace('"', "#quot;").replace("\n", "<br>")
        lines.append(f'  s_{step.id}{left}"{label}"{right}')
    for need, followers in followers_of(flow.steps).items():
        for follower in followers:
            arrow = "-->" if joins[follower] == "all" else f'-. "{joins[follower]}" .->'
            lines.append(f"  s_{need} {arrow} s_{follower}")
    return "\n".join(lines)


def _label(step: Step, states: Mapping[str, str]) -> str:
    return "\n".join(part for part in (step.id, step.uses or "gate", states.get(step.id, "")) if part)


def _needs(step: Step) -> str:
    names = ", ".join(step.needs[:6]) + (f" and {len(step.needs) - 6} more" if len(step.needs) > 6 else "")
    return names if step.join == "all" else f"{step.join} of {names}"


def _more(step: Step) -> str:
    """What else is special about it, in words."""
    words = []
    if step.when:
        words.append(f"when {step.when}")
    if step.map is not None:
        over = step.map if isinstance(step.map, str) else f"{len(step.map)} items"
        words.append(f"map over {over}" + (f", {step.max_parallel} at once" if step.max_parallel else ""))
    if step.loop:
        words.append(f"until {step.loop.until}, at most {step.loop.max} times")
    if step.gate:
        words.append(f"asks: {step.gate.question}")
    if step.fallback:
        words.append(f"else {step.fallback.uses or 'a value'}")
    if step.compensate:
        words.append(f"undone by {step.compensate.uses}")
    return "; ".join(words)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
