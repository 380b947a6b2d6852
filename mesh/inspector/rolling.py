"""What `mesh policy show` says of flags and rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mesh.inspector.render import clean, seconds, table

Document = dict[str, Any]


def steering_lines(document: Document, rollouts: list[Document]) -> Iterator[str]:
    """`rollouts`: how far those have come that are in force; none of an earlier version's."""
    if flags := document.get("flag"):
        rows = [(flag["name"], _value(flag), matches(flag.get("match", {}))) for flag in flags]
        yield table(("FLAG", "VALUE", "ABOUT"), rows, empty="")
    if not rollouts and (planned := document.get("rollout")):
        plans = [(row["capability"], row["from"], row["to"], _stages(row)) for row in planned]
        yield table(("ROLLOUT", "FROM", "TO", "STAGES"), plans, empty="")
    if rollouts:
        seen = [(row["capability"], row["from"], row["to"], _share(row), _seen(row, 0), _seen(row, 1)) for row in rollouts]
        yield table(("ROLLOUT", "FROM", "TO", "SHARE", "OLD", "NEW"), seen, empty="")
    for row in rollouts:
        if row["stopped"]:
            yield f"the rollout of {clean(row['capability'])} was stopped by {clean(row['by'])}: {clean(row['stopped'])}"


def side_lines(rollouts: list[Document]) -> Iterator[str]:
    """Of what is to be explained: which versions new work of it goes to."""
    for row in rollouts:
        rest = "all of it" if row["stopped"] else f"{row['share']} % of it to version {clean(row['to'])}, the rest"
        yield f"a rollout sends {rest} to version {clean(row['from'])}" + (" (stopped)" if row["stopped"] else "")


def _value(flag: Document) -> str:
    default, share = bool(flag.get("default", False)), int(flag.get("share", 0))
    whose = "by share key" if flag.get("by") == "share" else "of work"
    return json.dumps(default) + (f", {json.dumps(not default)} for {share} % {whose}" if share else "")


def _stages(row: Document) -> str:
    return ", ".join(f"{share} %" for share in row.get("stages") or [row.get("share", 0)])


def _share(row: Document) -> str:
    of = f", stage {row['stage'] + 1} of {len(row['stages'])}" if len(row["stages"]) > 1 else ""
    return "stopped" if row["stopped"] else f"{row['share']} %{of}"


def _seen(row: Document, side: int) -> str:
    runs, failed, took_ms = (row[key][side] for key in ("runs", "failed", "took_ms"))
    return f"{runs} ran, {failed} failed" + (f", {seconds(took_ms)} each" if runs > failed else "") if runs else "-"


def matches(match: Document) -> str:
    """What a rule or a flag is about, in one line."""
    capability = match.get("capability", "*")
    words = [capability if isinstance(capability, str) else " ".join(capability)]
    words += [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in match.items() if key != "capability"]
    return " ".join(words)
