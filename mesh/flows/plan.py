"""What a flow would come to before anything runs: who could do each step, how long that takes, and how long all of it.

    `mesh caps` --> candidates and the time such work has taken --> list scheduling over as many places as there are nodes --> makespan

Invariant: an estimate says what it is made of: a step of which nobody knows a time counts as nothing, and is named; a map whose width is
known only when it runs counts once. Chooses nobody: who runs a step is decided when it is awarded.
"""

from __future__ import annotations

import heapq

from mesh.flows.order import followers_of, ordered
from mesh.flows.spec import Document, Flow, Step
from mesh.versions import chosen

MAP_GUESS = 1
"""Items of a map whose list is not written in the flow."""


def planned(flow: Flow, caps: Document, *, slots: int = 0) -> Document:
    """``{"flow", "steps", "makespan_s", "unknown"}``; of each step ``{"step", "uses", "after", "candidates", "service_s", "begins_s",
    "ends_s", "parked"}``; `unknown` are the steps whose time nobody knows.

    `slots`: how many pieces of work run at once; 0: one on each node that offers something the flow uses.
    """
    offered = {cap["capability"]: cap for cap in caps["caps"]}
    nodes = {node for step in flow.steps for node in (chosen(offered, step.uses) or {}).get("nodes", ())}
    seconds = {step.id: _service_s(step, offered) for step in flow.steps}
    begins, ends = _scheduled(flow, {name: found or 0.0 for name, found in seconds.items()}, slots or max(1, len(nodes)))
    rows = []
    for step in flow.steps:
        cap = chosen(offered, step.uses)
        rows.append(
            {
                "step": step.id,
                "uses": step.uses,
                "after": list(step.needs),
                "candidates": list(cap["offered_by"]) if cap else [],
                "service_s": seconds[step.id],
                "begins_s": round(begins[step.id], 3),
                "ends_s": round(ends[step.id], 3),
                "parked": bool(step.uses) and cap is None,
            }
        )
    unknown = [step.id for step in flow.steps if step.uses and seconds[step.id] is None]
    return {"flow": flow.name, "steps": rows, "makespan_s": round(max(ends.values(), default=0.0), 3), "unknown": unknown}


def _service_s(step: Step, offered: Document) -> float | None:
    """Of one piece of its work; None: nobody has done such work yet, or nobody offers it."""
    cap = chosen(offered, step.uses)
    return cap["service_ms"] / 1000 if cap and cap["service_ms"] else None


def _scheduled(flow: Flow, seconds: dict[str, float], slots: int) -> tuple[dict[str, float], dict[str, float]]:
    """List scheduling: what may begin begins, what has most after it first. When each step begins and ends, in seconds."""
    steps = {step.id: step for step in flow.steps}
    followers = followers_of(flow.steps)
    rank = _ranks(flow, seconds, followers)
    missing = {step.id: len(step.needs) for step in flow.steps}
    ready_s = dict.fromkeys(steps, 0.0)
    line = [(-rank[name], name) for name, count in missing.items() if not count]
    heapq.heapify(line)
    free = [0.0] * slots
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    while line:
        _, name = heapq.heappop(line)
        begins[name], ends[name] = _placed(steps[name], seconds[name], ready_s[name], free)
        for follower in followers[name]:
            ready_s[follower] = max(ready_s[follower], ends[name])
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(line, (-rank[follower], follower))
    return begins, ends


def _placed(step: Step, seconds: float, ready_s: float, free: list[float]) -> tuple[float, float]:
    """Its work on the places that are free first, no more at once than it may have."""
    pieces = len(step.map) if isinstance(step.map, list) else MAP_GUESS
    lanes = [ready_s] * min(step.max_parallel or pieces or 1, len(free))
    begins, ends = float("inf"), ready_s
    for _ in range(pieces):
        at = max(heapq.heappop(lanes), free[0])
        heapq.heapreplace(free, at + seconds)
        heapq.heappush(lanes, at + seconds)
        begins, ends = min(begins, at), max(ends, at + seconds)
    return (begins if pieces else ready_s), ends


def _ranks(flow: Flow, seconds: dict[str, float], followers: dict[str, list[str]]) -> dict[str, float]:
    """The longest way from each step to an end of the flow."""
    found: dict[str, float] = {}
    for step in reversed(ordered(flow.steps)):
        found[step.id] = seconds[step.id] + max((found[one] for one in followers[step.id]), default=0.0)
    return found
