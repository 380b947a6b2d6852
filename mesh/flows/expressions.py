"""Expressions: a text that begins with ``$`` is one, ``$$`` stands for a text that begins with ``$``; anything else is itself.

    "$input.range"  "$steps.shard.parts"  "$ size(steps.check.errors) == 0"   the whole text, never a part of one
    input           what the flow was started with         item, index   of a map: its item, counted from 0
    steps.ID        the result of a step that is needed                  of a loop: what the last turn gave, turns before this one
    flow            name, id and version of this run             flag        the mesh's feature flags: flag.new_model, flag["new-model"]

The language is CEL (https://cel.dev), by the library `common-expression-language`, whose parser and evaluation are bounded; nothing is
ever given to `eval`. A plain path (``$steps.a.rows[0].name``) is followed here, without it.

Invariant: total and deterministic. No clock, no chance, no function of ours; macros (map, filter, all, exists) do not nest, so the work is
bounded by the text's length times that of one list times what it mentions. What comes out is plain JSON with its keys in order, the same at
every replay.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mesh.files import File
from mesh.flows.fields import DEPTH_MAX
from mesh.limits import FlowLimits

CHARACTERS_MAX = FlowLimits().expression_characters_max
ROOTS = ("input", "steps", "item", "index", "flow", "flag")
MACROS = ("map", "filter", "all", "exists", "exists_one")
FUNCTIONS = ("size", "has", "int", "uint", "double", "string", "contains", "startsWith", "endsWith", "type", *MACROS)
_INT_MAX = 2**63 - 1
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>[rRbB]{0,2}(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      | (?P<number>[0-9][0-9a-zA-Z.]*)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_PATH = re.compile(r"(?:input|steps|item|index|flow|flag)(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,9}\])*")
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")


class ExpressionError(Exception):
    """`reason` and `fix` are for people."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(frozen=True, slots=True)
class Expression:
    """One that was read. `steps` and `inputs` are the names it mentions, `roots` the variables."""

    source: str
    steps: tuple[str, ...]
    inputs: tuple[str, ...]
    roots: tuple[str, ...]
    program: Any
    """None: a plain path."""
    flags: tuple[str, ...] = ()


class Flags(dict[str, bool]):
    """The mesh's feature flags, as they were when the flow began; ``new-model`` is ``new_model``, too. One that there was not is off."""

    def __init__(self, flags: Mapping[str, bool]) -> None:
        super().__init__({name.replace("-", "_"): value for name, value in flags.items()} | dict(flags))

    def __missing__(self, name: str) -> bool:
        return False


def is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$") and not value.startswith("$$")


@lru_cache(maxsize=4096)
def read(text: str) -> Expression:
    """What stands behind the ``$``. Raises ExpressionError."""
    source = text[1:].strip()
    if not source:
        raise ExpressionError("the expression is empty", 'write "$input.name", or "$$" for a text that begins with $')
    if len(source) > CHARACTERS_MAX:
        raise ExpressionError(
            f"the expression has {len(source)} characters", f"use at most {CHARACTERS_MAX}, or a capability that computes it"
        )
    tokens = [(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(source) if found.lastgroup != "space"]
    bound = _bound(tokens)
    steps, inputs, roots, flags = _mentioned(tokens, bound)
    program = None if _PATH.fullmatch(source) else _compiled(source, bound)
    return Expression(source, steps, inputs, roots, program, flags)


def _compiled(source: str, bound: tuple[str, ...]) -> Any:
    import cel  # takes 0.3 s: only flows pay for it

    try:
        program = cel.compile(source)
    except ValueError as error:
        what = str(error).partition("ERROR:")[2].partition("\n")[0].strip().removeprefix("<input>:") or str(error)
        raise ExpressionError(f"the expression cannot be read, at {what[:200]}", "write it as in CEL: size(steps.a.rows) > 0") from error
    for name in program.variables():
        if name not in ROOTS and name not in bound:
            near = difflib.get_close_matches(name, ROOTS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(ROOTS)}; a text stands in quotes"
            raise ExpressionError(f"the expression knows no {name!r}", hint)
    for name in program.functions():
        if name[0].isalpha() and name not in FUNCTIONS:
            near = difflib.get_close_matches(name, FUNCTIONS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(FUNCTIONS)}"
            raise ExpressionError(f"there is no function {name!r}", hint)
    return program


def _bound(tokens: list[tuple[str, str]]) -> tuple[str, ...]:
    """The variables of its macros, none of which stands inside another."""
    found, depth, until = [], 0, 0
    for i, (kind, word) in enumerate(tokens):
        if word in "([{" and kind == "mark":
            depth += 1
        elif word in ")]}" and kind == "mark":
            depth -= 1
            until = 0 if depth < until else until
        elif kind == "name" and word in MACROS and i and tokens[i - 1][1] == "." and [each[1] for each in tokens[i + 1 : i + 2]] == ["("]:
            if until:
                raise ExpressionError(f"{word!r} stands inside another of {', '.join(MACROS)}", "let a step compute the inner one")
            until = depth + 1
            name = tokens[i + 2][1] if len(tokens) > i + 2 else ""
            if name in ROOTS:
                raise ExpressionError(f"{name!r} is the name of something else already", f"write {word}(x, ...)")
            found.append(name)
    return tuple(found)


def _mentioned(tokens: list[tuple[str, str]], bound: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Names of steps, inputs, variables and flags."""
    steps: dict[str, None] = {}
    inputs: dict[str, None] = {}
    roots: dict[str, None] = {}
    flags: dict[str, None] = {}
    for i, (kind, word) in enumerate(tokens):
        if kind != "name" or (i and tokens[i - 1][1] == ".") or word in bound:
            continue
        if word in ROOTS:
            roots[word] = None
        if word not in ("steps", "input", "flag"):
            continue
        following = [each[1] for each in tokens[i + 1 : i + 4]]
        if following[:1] == ["."] and len(following) > 1:
            name = following[1]
        elif following[:1] == ["["] and len(following) > 2 and tokens[i + 2][0] == "text" and following[2] == "]":
            name = following[1].strip("\"'")
        elif word == "steps":
            raise ExpressionError("steps stands alone", "name the step: steps.a")
        else:
            continue
        {"steps": steps, "input": inputs, "flag": flags}[word][name] = None
    return tuple(steps), tuple(inputs), tuple(roots), tuple(flags)


def value_of(text: str, scope: Mapping[str, Any]) -> Any:
    """The expression's value in `scope`, the variables by name. Raises ExpressionError."""
    expression = read(text)
    if expression.program is None:
        return _followed(expression.source, scope)
    files: dict[str, File] = {}
    variables = {name: _given(scope[name], files) for name in expression.roots if name in scope and name not in ("steps", "flag")}
    if "flag" in expression.roots and "flag" in scope:
        variables["flag"] = {name: scope["flag"][name] for name in expression.flags}
    if "steps" in expression.roots:
        steps = scope["steps"]
        variables["steps"] = {name: _given(steps[name], files) for name in expression.steps if name in steps}
    try:
        found = expression.program.execute(variables)
    except Exception as error:  # noqa: BLE001  the library raises what fits: KeyError, TypeError, RuntimeError, OverflowError, ...
        raise ExpressionError(f"{expression.source[:80]!r} has no value: {_told(error)}", _hint(error)) from None
    return _taken(found, files, 0)


def filled(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` with every expression in it replaced by what it is in `scope`. Raises ExpressionError."""
    if isinstance(value, str):
        if is_expression(value):
            return value_of(value, scope)
        return value[1:] if value.startswith("$$") else value
    if isinstance(value, list):
        return [filled(each, scope) for each in value]
    if isinstance(value, dict):
        return {key: filled(value[key], scope) for key in sorted(value)}
    return value


def expressions_in(value: Any, where: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], str]]:
    """Each expression in `value`, and where in it it stands."""
    if is_expression(value):
        return [(where, value)]
    if isinstance(value, list):
        return [each for i, one in enumerate(value) for each in expressions_in(one, (*where, i))]
    if isinstance(value, dict):
        return [each for key, one in value.items() for each in expressions_in(one, (*where, key))]
    return []


def _followed(path: str, scope: Mapping[str, Any]) -> Any:
    """A plain path, step by step: what is there stays as it is."""
    here: Any = scope
    gone = ""
    for part in _PART.findall(path):
        try:
            here = here[int(part)] if part.isdigit() and isinstance(here, list) else here[part]
        except (KeyError, IndexError, TypeError):
            raise ExpressionError(f"{path[:80]!r} has no value: {gone or 'there'} has no {part!r}", _hint(KeyError())) from None
        gone = f"{gone}.{part}" if gone else part
    return here


def _told(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}" if error.args else "a key is missing"
    return str(error).partition("\n")[0][:200]


def _hint(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "ask has(...) first where it may be missing"
    return "convert with int(x), double(x) or string(x) where kinds differ" if isinstance(error, TypeError) else "check what it is given"


def _given(value: Any, files: dict[str, File]) -> Any:
    """As the language takes it: files as their references, and no number that it would round."""
    if isinstance(value, File):
        files[value.sha256] = value
        return value.reference()
    if isinstance(value, list):
        return [_given(each, files) for each in value]
    if isinstance(value, dict):
        return {key: _given(each, files) for key, each in value.items()}
    if type(value) is int and not -_INT_MAX <= value <= _INT_MAX:
        raise ExpressionError(f"{value} is too large for an expression", "pass it on as it is, by a plain path, or as text")
    return value


def _taken(value: Any, files: dict[str, File], depth: int) -> Any:
    """Plain JSON again, keys in order: a table of the language has none of its own."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list) and depth < DEPTH_MAX:
        return [_taken(each, files, depth + 1) for each in value]
    if isinstance(value, dict) and depth < DEPTH_MAX:
        reference = value.get("$file")
        if len(value) == 1 and isinstance(reference, dict) and reference.get("sha256") in files:
            return files[reference["sha256"]]
        return {str(key): _taken(value[key], files, depth + 1) for key in sorted(value, key=str)}
    raise ExpressionError(f"the expression gives a {type(value).__name__}, which is no plain value", "give text, numbers, lists or tables")
