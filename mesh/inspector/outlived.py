"""Ends that count for nobody: a manager wrote one, died before a keeper had it, and whoever took over gave the work away anew.

The dead one's journal keeps it, signed, and a story shows it. What tells how a task went has to pass it over, whatever the clocks say.
"""

from __future__ import annotations

from typing import Any

from mesh.ids import term_of


def standing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same without ends under a term before that of a later award of the same task."""
    terms: dict[str, int] = {}
    for entry in entries:
        if entry["kind"] == "Decided":
            terms[entry["task"]] = max(terms.get(entry["task"], 0), term_of(entry["fence"]))
    return [
        entry for entry in entries if not (entry["kind"] == "Finished" and 0 < term_of(entry.get("fence", 0)) < terms.get(entry["task"], 0))
    ]
