"""Writes the generated blocks of docs/ from the code. Exit 1 with --check if a page is out of date."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path
from typing import get_type_hints

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _first_line(thing: object) -> str:
    text = (thing.__doc__ or "").strip()
    return "" if text.startswith(f"{getattr(thing, '__name__', '')}(") else text.split("\n")[0]


def _fields(kind: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))


def kinds() -> str:
    from mesh.messages import BULK, CONTROL, KINDS

    lines = ["| kind | message | class | fields | |", "|---|---|---|---|---|"]
    for number, kind in sorted(KINDS.items()):
        lane = "control" if kind in CONTROL else "bulk" if kind in BULK else "work"
        lines.append(f"| {number} | {kind.__name__} | {lane} | {_fields(kind)} | {_first_line(kind)} |")
    return "\n".join(lines)


def signed() -> str:
    from mesh.messages import SIGNED

    return "\n".join(
        ["| tag | fields | |", "|---|---|---|", *(f"| {tag} | {_fields(kind)} | {_first_line(kind)} |" for tag, kind in SIGNED.items())]
    )


def entries() -> str:
    from mesh.messages.records import ENTRIES

    return "\n".join(
        ["| entry | fields | |", "|---|---|---|", *(f"| {kind.__name__} | {_fields(kind)} | {_first_line(kind)} |" for kind in ENTRIES)]
    )


def limits() -> str:
    from mesh.limits import Limits

    lines = ["| group | limit | default |", "|---|---|---|"]
    for group, kind in get_type_hints(Limits).items():
        lines += [f"| {group} | {field.name} | {field.default} |" for field in dataclasses.fields(kind)]
    return "\n".join(lines)


def refusals() -> str:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.glob("mesh/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Refused", "Refusal") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.isidentifier():
                    found.setdefault(first.value, set()).add(path.relative_to(ROOT / "mesh").parts[0])
    return "\n".join(
        [
            "| reason | counted in |",
            "|---|---|",
            *(f"| {reason} | {', '.join(sorted(places))} |" for reason, places in sorted(found.items())),
        ]
    )


def transitions() -> str:
    from mesh.core.work.task import PENDING, TERMINAL, TRANSITIONS

    lines = ["stateDiagram-v2", f"    [*] --> {PENDING}"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in TERMINAL]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def breaker() -> str:
    from mesh.core.work.breaker import CLOSED, TRANSITIONS

    lines = ["stateDiagram-v2", f"    [*] --> {CLOSED}"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def authorization() -> str:
    from mesh.wire.authorization import as_markdown

    return as_markdown().rstrip()


def verbs() -> str:
    from mesh.inspector.verbs import verbs as every

    lines = ["| group | verb | |", "|---|---|---|"]
    lines += [f"| {group} | `{name}` | {help_line} |" for group, name, help_line in every()]
    return "\n".join(lines)


def main() -> int:
    stale = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        fresh = BLOCK.sub(lambda match: f"{match[1]}{globals()[match[2]]()}\n{match[3]}", text)
        if fresh != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(fresh)
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run scripts/docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
