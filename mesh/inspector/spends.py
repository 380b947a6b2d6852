"""What a task has of a budget and spends, for people: where it stands (`mesh task`), and how it came to that (`mesh why`)."""

from __future__ import annotations

from typing import Any

from mesh.ids import short
from mesh.inspector.render import clean, table

Amounts = dict[str, float]


def spent_of(task: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """From its journal: ``{"budget", "used", "open", "keys", "times"}``; {} if it has none and spent nothing."""
    budget: Amounts = {}
    used: Amounts = {}
    opened: dict[str, Amounts] = {}
    keys: dict[str, None] = {}
    times = 0
    for entry in entries:
        if entry.get("task") != task:
            continue
        if entry["kind"] == "Submitted":
            budget = _amounts(entry.get("budget"))
        elif entry["kind"] == "Spent":
            used, times = _amounts(entry["used"]), times + 1
            opened.pop(entry["key"], None)
            if entry["reserved"]:
                opened[entry["key"]] = _amounts(entry["reserved"])
            elif entry["key"] and not entry["key"].startswith("#"):
                keys[entry["key"]] = None
    found = {"budget": budget, "used": used, "open": opened, "keys": list(keys), "times": times}
    return found if budget or times else {}


def _amounts(pairs: Any) -> Amounts:
    return {str(name): int(amount) / 1000 for name, amount in pairs or ()}


def words(amounts: Amounts) -> str:
    """``calls=3 usd=0.31``."""
    return " ".join(f"{clean(name)}={amount:g}" for name, amount in sorted(amounts.items())) or "nothing"


def show_spent(found: dict[str, Any]) -> str:
    """For `mesh why`; "" if there is nothing to tell."""
    if not found:
        return ""
    lines = [f"budget: {words(found['budget'])}"] if found["budget"] else []
    if found["times"]:
        lines.append(f"spent, with its steps: {words(found['used'])} ({found['times']} entries)")
    lines += [f"reserved, not settled: {clean(key)} {words(amounts)}" for key, amounts in found["open"].items()]
    lines += [f"counted once: {', '.join(map(clean, found['keys']))}"] if found["keys"] else []
    return "\n".join(lines)


def show_budget(rows: dict[str, dict[str, Any]], task: str) -> str:
    """For `mesh task`: a table; "" without one."""
    if not rows:
        return ""
    lines = []
    for name, row in rows.items():
        of = "" if row["of"] in ("", task) else short(str(row["of"]))
        figures = [f"{row[key]:g}" if key in row else "-" for key in ("budget", "spent", "reserved", "left")]
        lines.append((name, f"{row['used']:g}", *figures, of or ("its own" if row["of"] else "no budget")))
    return table(("OF", "USED HERE", "BUDGET", "SPENT", "RESERVED", "LEFT", "WHOSE"), lines, empty="")
