"""What tasks did to the outside world, from their journal: which keys, begun by whom and how often, and what is known of it."""

from __future__ import annotations

from typing import Any

from mesh.ids import FIRST_TERM, award_number, term_of
from mesh.inspector.render import clean, table

KNOWN, UNKNOWN = "known", "unknown"


def effects_of(task: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per key, in the order they were first begun. `outcome` is ``known`` if it is on record that it happened."""
    rows: dict[str, dict[str, Any]] = {}
    names = {c["node"]: c["name"] for entry in entries if entry["kind"] == "Decided" for c in entry["candidates"]}
    for entry in entries:
        if entry.get("task") != task:
            continue
        if entry["kind"] == "Intended":
            row = rows.setdefault(entry["key"], {"key": entry["key"], "outcome": UNKNOWN, "begun": 0})
            row["begun"] += 1
            row |= {"at_most_once": entry["once"], "award": award_number(entry["fence"]), "term": term_of(entry["fence"])}
            row |= {"node": names.get(entry["node"], entry["node"]), "wall_ms": entry["wall_ms"], "error": "", "output": ""}
        elif entry["kind"] == "Effected" and entry["key"] in rows:
            row = rows[entry["key"]]
            row |= {"outcome": UNKNOWN if entry["error"] else KNOWN, "error": entry["error"], "output": entry["output"]}
            row["wall_ms"] = entry["wall_ms"]
    return list(rows.values())


def award_words(award: int, term: int) -> str:
    """``award 2``; after a take-over its numbers begin again: ``award 1 of term 2``."""
    return f"award {award}" + (f" of term {term}" if term > FIRST_TERM else "")


def note(row: dict[str, Any]) -> str:
    """In words, for people. Rows of ``mesh task`` have no count of how often an effect was begun."""
    words = [f"begun {row['begun']} times"] if row.get("begun", 1) > 1 else []
    words += ["at most once"] if row["at_most_once"] else []
    if row["outcome"] == UNKNOWN:
        words.append(f"raised {row['error']}" if row["error"] else "it may have happened or not: ask the outside system")
    return ", ".join(words)


def show_effects(rows: list[dict[str, Any]]) -> str:
    """A table; "" without effects."""
    if not rows:
        return ""
    lines = [(row["key"], row["outcome"], award_words(row["award"], row.get("term", FIRST_TERM)), row["node"], note(row)) for row in rows]
    return table(("EFFECT", "OUTCOME", "BY", "NODE", "NOTE"), lines, empty="")


def mark(row: dict[str, Any]) -> str:
    """Short, for a line of a tree: ``mail``, or ``mail?`` where nobody knows."""
    return clean(row["key"]) + ("" if row["outcome"] == KNOWN else "?")
