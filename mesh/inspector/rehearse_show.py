"""What `mesh sim` says to people."""

from __future__ import annotations

from typing import Any

from mesh.inspector.render import clean, seconds, table
from mesh.inspector.watch import REASONS

Document = dict[str, Any]
USUAL = ("declined:busy", "released:pulled")
"""Of awards: work that finds a better place moves there, which is nobody's loss."""
NODES_SHOWN, PATH_SHOWN, PARKED_SHOWN = 12, 14, 8


def show(found: Document) -> str:
    span = found["makespan_ms"]
    many = len(found["seeds"]) > 1
    head = f"{clean(found['name'])}: {seconds(span['median'])}" if found["state"] != "stuck" else f"{clean(found['name'])}: would never end"
    head += f" ({seconds(span['least'])} to {seconds(span['most'])} over {len(found['seeds'])} seeds)" if many else ""
    head += ", at least" if found["unknown"] else ""
    slots = sum(node["slots"] for node in found["nodes"])
    lines = [head, f"{found['tasks']} tasks on {len(found['nodes'])} nodes with {slots} slots, as {clean(found['model'])} has it", ""]
    if found["state"] == "failed":
        lines.insert(1, f"it would fail: {clean(found['error'])}")
    lines += [_capabilities(found), "", _nodes(found)]
    if found["critical"]:
        lines += ["", "what it waits for, from first to last:", _path(found["critical"])]
    for row in found["parked"][:PARKED_SHOWN]:
        lines.append(f"parked: {clean(row['capability'])}, {row['times']} times: {clean(REASONS.get(row['reason'], row['reason']))}")
    unusual = [row for row in found["lost"] if row["reason"] not in USUAL]
    for row in unusual[:PARKED_SHOWN]:
        lines.append(f"lost: {clean(row['capability'])}, {row['times']} times: {clean(row['reason'])}")
    if found["unknown"]:
        lines.append(f"nobody knows how long these take, so they count as nothing: {clean(', '.join(found['unknown']))}")
    lines += [f"note: {clean(note)}" for note in found["notes"]]
    if (compared := found["compared"]) is not None:
        off = "" if compared["error_pct"] is None else f": {compared['error_pct']:+.1f} %"
        lines.append(f"{clean(compared['with'])} took {seconds(compared['real_ms'])}{off}")
    return "\n".join(lines)


def _capabilities(found: Document) -> str:
    rows = [
        (
            one["capability"],
            one["tasks"],
            one["slots"] or "-",
            f"{100 * one['busy']:.0f} %" if one["slots"] else "-",
            seconds(one["wait_ms"]["mean"]),
            seconds(one["wait_ms"]["p95"]),
            seconds(one["run_ms"]["mean"]),
        )
        for one in found["capabilities"]
    ]
    return table(("CAPABILITY", "TASKS", "SLOTS", "BUSY", "WAITS", "P95", "TAKES"), rows, empty="nothing ran")


def _nodes(found: Document) -> str:
    nodes = sorted(found["nodes"], key=lambda one: -one["busy"])
    rows = [(one["node"], one["slots"], one["runs"], f"{100 * one['busy']:.0f} %") for one in nodes]
    shown = rows if len(rows) <= NODES_SHOWN else [*rows[: NODES_SHOWN // 2], *rows[-NODES_SHOWN // 2 :]]
    text = table(("NODE", "SLOTS", "RUNS", "BUSY"), shown, empty="no nodes")
    return text + (f"\nand {len(rows) - len(shown)} between these" if len(rows) > len(shown) else "")


def _path(path: list[Document]) -> str:
    shown = path if len(path) <= PATH_SHOWN else path[:PATH_SHOWN]
    rows = [
        (one["step"], one["capability"], one["node"] or "-", seconds(one["at_ms"]), seconds(one["waited_ms"]), seconds(one["ran_ms"]))
        for one in shown
    ]
    text = table(("STEP", "CAPABILITY", "ON", "AT", "WAITED", "RAN"), rows, empty="nothing")
    return text + (f"\nand {len(path) - len(shown)} more" if len(path) > len(shown) else "")
