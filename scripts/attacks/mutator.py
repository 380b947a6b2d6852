"""Small wrongs in a module's source, one at a time: operators, comparisons, constants, conditions, branches, statements taken away.

Annotations, decorators, docstrings and imports are left alone: what they say is checked elsewhere, or by nobody.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Change = tuple[str, Callable[[ast.AST], ast.AST | None]]
"""What is said of it, and the function from a copy of the node to what takes its place; None: a `pass`."""

COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Pow: ast.Mult,
}
CALLS = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """`function`: the outermost function it is in, as ``name`` or ``Class.name``; empty where it runs at import."""

    module: str
    number: int
    line: int
    last_line: int
    source: str
    change: str
    function: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}  {self.change}    {self.source}"


def mutants(module: str, source: str) -> list[Mutant]:
    """All of them, numbered."""
    lines = source.splitlines()
    tree = ast.parse(source)
    return [
        Mutant(module, number, node.lineno, node.end_lineno or node.lineno, lines[node.lineno - 1].strip(), change, function)  # type: ignore[attr-defined]
        for number, (node, function, (change, _)) in enumerate(_points(tree))
    ]


def mutated(source: str, number: int) -> ast.Module:
    """The module with that one wrong in it."""
    tree = ast.parse(source)
    for at, (node, _, (_, make)) in enumerate(_points(tree)):
        if at == number:
            made = make(copy.deepcopy(node))
            _replace(tree, node, ast.copy_location(ast.Pass(), node) if made is None else made)
            return ast.fix_missing_locations(tree)
    raise IndexError(number)


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list):
                for at, each in enumerate(value):
                    if each is old:
                        value[at] = new
                        return
    raise AssertionError("the node is not in the tree")


# ---- where


def _points(tree: ast.Module) -> Iterator[tuple[ast.AST, str, Change]]:
    for node, function in _walk(tree, "", ""):
        for change in _changes(node):
            yield node, function, change


def _walk(node: ast.AST, owner: str, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Every node that may be changed, with the function it runs in. Defaults of parameters are made at import."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_alone(node, name, child):
                continue
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, child.name, function)
            elif isinstance(child, ast.FunctionDef) and not function:
                yield from _walk(child, owner, f"{owner}.{child.name}" if owner else child.name)
            elif isinstance(child, ast.arguments) and isinstance(node, ast.FunctionDef):
                yield from _walk(child, owner, "" if _is_outermost(node, function) else function)
            else:
                yield child, function
                yield from _walk(child, owner, function)


def _is_outermost(node: ast.AST, function: str) -> bool:
    return isinstance(node, ast.FunctionDef) and function.split(".")[-1] == node.name


def _is_left_alone(parent: ast.AST, name: str, child: ast.AST) -> bool:
    if name in ("annotation", "returns", "decorator_list", "ctx", "names", "bases"):
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # a docstring
    if isinstance(parent, ast.Assign) and any(isinstance(each, ast.Name) and each.id == "__slots__" for each in parent.targets):
        return True
    if isinstance(parent, ast.keyword) and parent.arg in ("slots", "frozen", "repr"):
        return True
    if isinstance(parent, ast.JoinedStr) or (isinstance(parent, ast.Assert) and name == "msg"):
        return True  # words for people
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "zip" and name == "keywords":
        return True  # strict: a belt beside the braces
    return isinstance(parent, ast.Subscript) and name == "slice" and _is_type(parent)


def _is_type(node: ast.Subscript) -> bool:
    """``dict[str, int]`` outside an annotation."""
    return isinstance(node.value, ast.Name) and (
        node.value.id in ("dict", "list", "tuple", "set", "frozenset") or node.value.id[0].isupper()
    )


# ---- what


def _changes(node: ast.AST) -> Iterator[Change]:
    for kind, changes in _BY_NODE:
        if isinstance(node, kind):
            yield from changes(node)  # type: ignore[arg-type]


def _compare(node: ast.Compare) -> Iterator[Change]:
    for at, operator in enumerate(node.ops):
        for other in COMPARE[type(operator)]:
            yield f"{_word(operator)} -> {_word(other())}", _set_operator(at, other)


def _set_operator(at: int, other: type[ast.cmpop]) -> Callable[[ast.AST], ast.AST]:
    def make(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Compare)
        node.ops[at] = other()
        return node

    return make


def _word(operator: ast.AST) -> str:
    return type(operator).__name__


def _boolean(node: ast.BoolOp) -> Iterator[Change]:
    other = ast.Or if isinstance(node.op, ast.And) else ast.And
    yield f"{_word(node.op)} -> {other.__name__}", lambda found: _with(found, "op", other())
    for at in range(len(node.values)):
        rest = [each for n, each in enumerate(node.values) if n != at]
        yield f"operand {at + 1} dropped", lambda found, rest=rest: rest[0] if len(rest) == 1 else _with(found, "values", rest)  # type: ignore[misc]


def _with(node: ast.AST, name: str, value: object) -> ast.AST:
    setattr(node, name, value)
    return node


def _unary(node: ast.UnaryOp) -> Iterator[Change]:
    if isinstance(node.op, ast.Not | ast.USub):
        yield f"{_word(node.op)} dropped", lambda found: found.operand  # type: ignore[attr-defined]


def _condition(node: ast.If | ast.IfExp) -> Iterator[Change]:
    for value in (True, False):
        yield f"condition -> {value}", lambda found, value=value: _with(found, "test", ast.Constant(value))  # type: ignore[misc]


def _while(node: ast.While) -> Iterator[Change]:
    yield "condition -> False", lambda found: _with(found, "test", ast.Constant(False))


def _filters(node: ast.AST) -> Iterator[Change]:
    for which, loop in enumerate(node.generators):  # type: ignore[attr-defined]
        for at in range(len(loop.ifs)):
            for value in (True, False):
                yield f"filter -> {value}", _set_filter(which, at, value)


def _set_filter(which: int, at: int, value: bool) -> Callable[[ast.AST], ast.AST]:
    def make(node: ast.AST) -> ast.AST:
        node.generators[which].ifs[at] = ast.Constant(value)  # type: ignore[attr-defined]
        return node

    return make


def _binary(node: ast.BinOp) -> Iterator[Change]:
    if (other := BINARY.get(type(node.op))) is not None:
        yield f"{_word(node.op)} -> {other.__name__}", lambda found: _with(found, "op", other())


def _augmented(node: ast.AugAssign) -> Iterator[Change]:
    if (other := BINARY.get(type(node.op))) is not None:
        yield f"{_word(node.op)} -> {other.__name__}", lambda found: _with(found, "op", other())
    yield "statement dropped", lambda found: None


def _constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    others: tuple[object, ...] = ()
    if isinstance(value, bool):
        others = (not value,)
    elif isinstance(value, int):
        others = (value + 1, value - 1) if value else (1,)
    elif isinstance(value, str):
        others = (value + "~",) if value else ("~",)
    elif isinstance(value, bytes):
        others = (value + b"~",)
    for other in others:
        yield f"{value!r} -> {other!r}", lambda found, other=other: _with(found, "value", other)  # type: ignore[misc]


def _return(node: ast.Return) -> Iterator[Change]:
    if node.value is not None and not (isinstance(node.value, ast.Constant) and not node.value.value):
        yield "returns None", lambda found: _with(found, "value", ast.Constant(None))


def _dropped(node: ast.AST) -> Iterator[Change]:
    yield f"{_word(node).lower()} dropped", lambda found: None


def _assignment(node: ast.Assign) -> Iterator[Change]:
    if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
        yield "statement dropped", lambda found: None


def _slice(node: ast.Slice) -> Iterator[Change]:
    for name in ("lower", "upper"):
        if getattr(node, name) is not None:
            yield f"{name} bound dropped", lambda found, name=name: _with(found, name, None)  # type: ignore[misc]


def _call(node: ast.Call) -> Iterator[Change]:
    if isinstance(node.func, ast.Name) and (other := CALLS.get(node.func.id)):
        yield f"{node.func.id} -> {other}", lambda found: _with(found, "func", ast.Name(other, ast.Load()))


def _jump(node: ast.Continue | ast.Break) -> Iterator[Change]:
    other = ast.Break if isinstance(node, ast.Continue) else ast.Continue
    yield f"{_word(node).lower()} -> {other.__name__.lower()}", lambda found: other()


_BY_NODE: tuple[tuple[type, Callable[..., Iterator[Change]]], ...] = (
    (ast.Compare, _compare),
    (ast.BoolOp, _boolean),
    (ast.UnaryOp, _unary),
    (ast.If, _condition),
    (ast.IfExp, _condition),
    (ast.While, _while),
    (ast.ListComp, _filters),
    (ast.SetComp, _filters),
    (ast.DictComp, _filters),
    (ast.GeneratorExp, _filters),
    (ast.BinOp, _binary),
    (ast.AugAssign, _augmented),
    (ast.Constant, _constant),
    (ast.Return, _return),
    (ast.Raise, _dropped),
    (ast.Delete, _dropped),
    (ast.Expr, _dropped),
    (ast.Assign, _assignment),
    (ast.Slice, _slice),
    (ast.Call, _call),
    (ast.Continue, _jump),
    (ast.Break, _jump),
)
