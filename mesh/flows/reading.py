"""A file or a text to a `Flow`: TOML as people write it, or the canonical JSON.

    bytes --text--> TOML or JSON --parsing--> Flow --checks--> fit to run; else FlowError: file, line, reason, what to write

Invariant: whatever the bytes are, what comes out is a Flow or a FlowError; no byte of it is run, and nothing else is read.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from mesh.flows.lines import Lines
from mesh.flows.parsing import flow_of, too_many_steps
from mesh.flows.problems import Bad, FlowError, Place, Problem
from mesh.flows.spec import Flow
from mesh.limits import FlowLimits

LIMITS = FlowLimits()
BYTES_MAX = LIMITS.file_bytes_max
_AT_LINE = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")


class Text:
    """A flow's text, and where its places are. `name` is what errors call it."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.text = text
        self.is_json = text.lstrip()[:1] == "{"
        self.lines = None if self.is_json else Lines(text)

    def line_of(self, place: Place) -> int:
        """0 where that is not known: a JSON text is one line as a rule."""
        return self.lines.of(place) if self.lines else 0

    def error(self, *problems: Problem, ids: tuple[str, ...] = ()) -> FlowError:
        return FlowError(problems, file=self.name, line_of=self.line_of, ids=ids)


def read_file(path: str | os.PathLike[str]) -> tuple[Flow, Text]:
    """Raises FlowError, also for what is no readable file."""
    name = str(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _no_file(name, "it is not a regular file")
        size = os.stat(path).st_size
        if size > BYTES_MAX:
            raise _no_file(name, f"it has {size} bytes, and a flow at most {BYTES_MAX}")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise _no_file(name, getattr(error, "strerror", None) or str(error)) from error
    return read_bytes(data, name)


def read_bytes(data: bytes, name: str = "flow") -> tuple[Flow, Text]:
    """`name` is what errors call it. Raises FlowError."""
    if len(data) > BYTES_MAX:
        raise _no_file(name, f"it has {len(data)} bytes, and a flow at most {BYTES_MAX}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _no_file(name, "it is UTF-16", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = Problem((), "it is no UTF-8 text", "save it as UTF-8")
        raise FlowError([problem], file=name, line_of=lambda _: line) from error
    if "\0" in text:
        raise _no_file(name, "it is binary", "name a TOML file")
    if not text.strip():
        raise _no_file(name, "it is empty", 'begin with flow = "name" and [[step]]')
    return read_text(text, name)


def read_text(text: str, name: str = "flow") -> tuple[Flow, Text]:
    """Raises FlowError."""
    source = Text(text, name)
    try:
        if source.lines and source.lines.steps > LIMITS.steps_max:
            raise too_many_steps(source.lines.steps)  # before a parser takes seconds over them
        found = _document(source)
    except Bad as bad:
        raise source.error(bad.problem) from None
    try:
        return flow_of(found), source
    except Bad as bad:
        raise source.error(bad.problem, ids=_ids(found)) from None


def flow_from(document: Any) -> Flow:
    """A flow from its document, as it travels. Raises FlowError."""
    try:
        return flow_of(document)
    except Bad as bad:
        raise FlowError([bad.problem], ids=_ids(document)) from None


def _document(source: Text) -> Any:
    try:
        if source.is_json:
            return json.loads(source.text, object_pairs_hook=_once)
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        at = _AT_LINE.search(reason)
        line = int(at[1]) if at else source.text.count("\n") + 1
        reason = _AT_LINE.sub("", reason).strip().rstrip(".")
        problem = Problem((), f"it is no TOML: {reason}", _toml_fix(source))
        raise FlowError([problem], file=source.name, line_of=lambda _: line) from None
    except json.JSONDecodeError as error:
        line = error.lineno
        raise FlowError(
            [Problem((), f"it is no JSON: {error.msg}", "write TOML, or correct it")], file=source.name, line_of=lambda _: line
        ) from None
    except (RecursionError, ValueError) as error:
        reason = "tables and lists are nested too deep" if isinstance(error, RecursionError) else str(error)
        raise source.error(Problem((), reason, "write each key once, and hand deep data in as input")) from None


def _toml_fix(source: Text) -> str:
    looks_yaml = source.name.endswith((".yaml", ".yml")) or re.search(r"^(?:---|[A-Za-z_]+:(?: |$)|- )", source.text, re.MULTILINE)
    return 'flows are TOML, not YAML: flow = "name", then [[step]] tables' if looks_yaml else "correct that line"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _ids(document: Any) -> tuple[str, ...]:
    steps = document.get("step") if isinstance(document, dict) else None
    return tuple(str(one.get("id") or "") if isinstance(one, dict) else "" for one in steps) if isinstance(steps, list) else ()


def _no_file(name: str, reason: str, fix: str = "name a TOML file that holds a flow") -> FlowError:
    return FlowError([Problem((), reason, fix)], file=name)
