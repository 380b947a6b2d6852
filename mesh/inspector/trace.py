"""Where the time of a task went: the task and its steps, one line each, waiting and running on one scale.

    report              ......=======x..================   done     4.2 s  n1, then n2
      read: rows          ..=====                          done     1.1 s  n3

Works on story entries alone (see `Mesh.story`). Times are the wall clocks of those who wrote the entries down: where that was more than
one, as after a take-over, they are only as good as these clocks agree, which the document says (`clocks`).
"""

from __future__ import annotations

from typing import Any

from mesh.ids import award_number, short
from mesh.inspector.outlived import standing
from mesh.inspector.render import clean, fit, seconds, width

Document = dict[str, Any]
WAITS, RUNS, LOST = ".", "=", "x"
LEGEND = f"{WAITS} waiting   {RUNS} with a node   {LOST} that attempt was lost"
BARS_MIN, NAMES_MAX = 24, 34


def document(task: str, entries: list[Document], now_ms: int) -> Document:
    """The ``trace`` document: a row per task, steps behind their parents. What has not ended reaches to `now_ms`, as unix time."""
    told: dict[str, list[Document]] = {}
    for entry in standing(entries):
        if "task" in entry:
            told.setdefault(entry["task"], []).append(entry)
    last_ms = max([now_ms, *(entry["wall_ms"] for entry in entries)])
    rows = {name: _row(name, mine, last_ms) for name, mine in told.items() if any(entry["kind"] == "Submitted" for entry in mine)}
    ordered = _in_order(rows, task)
    ends = [row["end_ms"] for row in ordered]
    begin_ms = min((row["submitted_ms"] for row in ordered), default=0)
    return {
        "schema": "mesh.trace/1",
        "task": task,
        "begin_ms": begin_ms,
        "took_ms": max(ends, default=begin_ms) - begin_ms,
        "rows": ordered,
        "clocks": sorted({entry["author"] for row in ordered for entry in told[row["task"]]}),
        "verified": bool(entries) and all(entry["verified"] for entry in entries),
    }


def _row(task: str, entries: list[Document], last_ms: int) -> Document:
    submitted = next(entry for entry in entries if entry["kind"] == "Submitted")
    finished = next((entry for entry in entries if entry["kind"] == "Finished"), None)
    end_ms = finished["wall_ms"] if finished is not None else last_ms
    attempts = _attempts(entries, end_ms)
    state = finished["state"] if finished is not None else "running" if attempts and not attempts[-1]["lost"] else "waiting"
    return {
        "task": task,
        "parent": submitted["parent"],
        "step": submitted["step"],
        "capability": submitted["capability"],
        "state": state,
        "submitted_ms": submitted["wall_ms"],
        "end_ms": max(end_ms, submitted["wall_ms"]),
        "attempts": attempts,
    }


def _attempts(entries: list[Document], end_ms: int) -> list[Document]:
    """One for each award, from its decision to its end. `lost`: why it was none that counted."""
    found: dict[int, Document] = {}
    for entry in entries:
        fence = entry.get("fence", 0)
        if entry["kind"] == "Decided" and fence not in found:
            name = next((c["name"] for c in entry["candidates"] if c["node"] == entry["winner"]), entry["winner"])
            awarded = {"fence": fence, "award": award_number(fence), "node": name, "node_id": entry["winner"]}
            found[fence] = awarded | {"begin_ms": entry["wall_ms"], "end_ms": end_ms, "lost": ""}
        elif entry["kind"] == "Lost" and fence in found:
            found[fence] |= {"end_ms": entry["wall_ms"], "lost": entry["reason"]}
    return list(found.values())


def _in_order(rows: dict[str, Document], root: str) -> list[Document]:
    """`root`, and behind each task its steps by when they were submitted. `depth`: how far below the root."""
    ordered: list[Document] = []
    waiting = [(root, 0)]
    while waiting:
        name, depth = waiting.pop()
        if name not in rows:
            continue
        row = rows.pop(name)
        ordered.append(row | {"depth": depth})
        steps = sorted((one for one in rows.values() if one["parent"] == name), key=lambda one: one["submitted_ms"])
        waiting += [(one["task"], depth + 1) for one in reversed(steps)]
    return ordered


def show(document: Document, columns: int = 100) -> str:
    """For people, in so many columns."""
    rows = document["rows"]
    if not rows:
        return f"{clean(short(document['task']))}: what is in reach of its record does not tell how it began"
    names = [_name(row) for row in rows]
    name_columns = min(NAMES_MAX, max(map(width, names)))
    ends = [_end(row) for row in rows]
    bars = max(BARS_MIN, columns - name_columns - 4 - max(map(width, ends)))
    head = f"{clean(short(document['task']))}  {clean(rows[0]['capability'])}"
    lines = [f"{head}: {clean(rows[0]['state'])}, {seconds(document['took_ms'])} in all", ""]
    for row, name, end in zip(rows, names, ends, strict=True):
        lines.append(f"{fit(name, name_columns)}  {_bar(row, document, bars)}  {end}".rstrip())
    lines += ["", LEGEND]
    if len(document["clocks"]) > 1:
        lines.append(f"written down by {len(document['clocks'])} nodes: times are as good as their clocks agree")
    lines.append("record: " + ("every entry's signature and inclusion proof verified" if document["verified"] else "NOT VERIFIED"))
    return "\n".join(lines)


def _name(row: Document) -> str:
    what = f"{row['step']}: {row['capability']}" if row["step"] else row["capability"]
    return f"{'  ' * row['depth']}{clean(what)}"


def _end(row: Document) -> str:
    """State, time and where: ``done  1.2 s  n1, then n2``."""
    nodes = [one["node"] for one in row["attempts"]]
    moves = [node for at, node in enumerate(nodes) if not at or nodes[at - 1] != node]
    tries = f" ({len(nodes)} attempts)" if len(nodes) > 1 else ""
    took = seconds(row["end_ms"] - row["submitted_ms"])
    return f"{fit(clean(row['state']), 9)}  {fit(took, 7)}  {clean(', then '.join(moves))}{tries}".rstrip()


def _bar(row: Document, whole: Document, columns: int) -> str:
    """Its waiting and running, `columns` wide for the whole time."""
    scale = columns / max(1, whole["took_ms"])

    def place(at_ms: int) -> int:
        return min(columns - 1, max(0, int((at_ms - whole["begin_ms"]) * scale)))

    cells = [" "] * columns
    _fill(cells, place(row["submitted_ms"]), place(row["end_ms"]), WAITS)
    for attempt in row["attempts"]:
        _fill(cells, place(attempt["begin_ms"]), place(attempt["end_ms"]), RUNS)
        if attempt["lost"]:
            cells[place(attempt["end_ms"])] = LOST
    return "".join(cells)


def _fill(cells: list[str], begin: int, end: int, mark: str) -> None:
    cells[begin : end + 1] = mark * (end + 1 - begin)
