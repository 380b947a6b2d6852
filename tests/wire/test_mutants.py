"""The mutator makes the wrongs it says it makes; and what is explained in mutants.toml is still there to be explained."""

from __future__ import annotations

import ast
import tomllib

import pytest
from attacks.mutants import LEDGER, MODULES, path_of
from attacks.mutator import mutants, mutated


def made_of(source: str) -> dict[str, set[str]]:
    """All mutants of a few lines: what is said of each, and the lines it makes."""
    found: dict[str, set[str]] = {}
    for mutant in mutants("m", source):
        found.setdefault(mutant.change, set()).add(ast.unparse(mutated(source, mutant.number)))
    return found


@pytest.mark.parametrize(
    ("source", "change", "result"),
    [
        ("def f(a, b):\n    return a == b", "Eq -> NotEq", "return a != b"),
        ("def f(a, b):\n    return a < b <= 3", "Lt -> LtE", "return a <= b <= 3"),
        ("def f(a, b):\n    return a < b <= 3", "LtE -> Gt", "return a < b > 3"),
        ("def f(a, b):\n    return a and b", "And -> Or", "return a or b"),
        ("def f(a, b):\n    return a or b or c", "operand 2 dropped", "return a or c"),
        ("def f(a):\n    return not a", "Not dropped", "return a"),
        ("def f(a):\n    if a:\n        raise E\n    g(a)", "condition -> False", "if False:"),
        ("def f(a):\n    if a:\n        raise E\n    g(a)", "raise dropped", "if a:\n        pass"),
        ("def f(a):\n    if a:\n        raise E\n    g(a)", "expr dropped", "raise E\n    pass"),
        ("def f(a):\n    return 1 if a else 2", "condition -> True", "return 1 if True else 2"),
        ("def f(a):\n    return a + 1", "1 -> 2", "return a + 2"),
        ("def f(a):\n    return a + 1", "Add -> Sub", "return a - 1"),
        ("def f(a):\n    return a", "returns None", "return None"),
        ("def f(a):\n    a.x = 1\n    del a.y", "statement dropped", "pass\n    del a.y"),
        ("def f(a):\n    a.x = 1\n    del a.y", "delete dropped", "a.x = 1\n    pass"),
        ("def f(a):\n    return [x for x in a if x]", "filter -> True", "for x in a if True"),
        ("def f(a):\n    return any(a)", "any -> all", "return all(a)"),
        ("def f(a):\n    return a[1:]", "lower bound dropped", "return a[:]"),
        ("def f(a):\n    for x in a:\n        continue", "continue -> break", "break"),
        ("def f(a, b='x'):\n    return a", "'x' -> 'x~'", "b='x~'"),
        ("LIMIT = 4", "4 -> 3", "LIMIT = 3"),
        ("def f():\n    while a:\n        b += 2", "Add -> Sub", "b -= 2"),
    ],
)
def test_a_wrong(source: str, change: str, result: str) -> None:
    made = made_of(source)
    assert any(result in text for text in made[change]), made
    assert all(text != ast.unparse(ast.parse(source)) for texts in made.values() for text in texts)


def test_what_is_left_alone() -> None:
    source = """
@dataclass(slots=True)
class C:
    'Words.'
    __slots__ = ("a",)
    x: dict[str, "y"]

    def f(self, a: "int") -> "b":
        'Words.'
"""
    assert made_of(source) == {}
    assert made_of("from a import b\nX = dict[str, 'y']\nfor a in zip(b, c, strict=True):\n    d = f'{a} words'") == {}


def test_each_knows_where_it_runs() -> None:
    source = "A = 1\nclass C:\n    B = 2\n    def f(self, x=3):\n        def g(y=4):\n            return 5\n        return lambda z=6: 7\n"
    assert {mutant.change[0]: mutant.function for mutant in mutants("m", source) if mutant.change[0].isdigit()} == {
        "1": "",
        "2": "",
        "3": "",
        "4": "C.f",
        "5": "C.f",
        "6": "C.f",
        "7": "C.f",
    }


def test_every_module_that_signs_or_verifies_is_mutated() -> None:
    assert set(MODULES) >= {"envelope", "replay", "authorization", "keyring", "chain", "authorities", "objects", "ed25519", "patterns"}
    assert sum(len(mutants(module, path_of(module).read_text())) for module in MODULES) > 1000


def test_what_is_explained_is_still_there() -> None:
    made = {(mutant.module, mutant.source, mutant.change) for module in MODULES for mutant in mutants(module, path_of(module).read_text())}
    entries = tomllib.loads(LEDGER.read_text())["equivalent"]
    for entry in entries:
        assert len(entry["why"]) > 20
        for change in entry["changes"]:
            assert (entry["module"], entry["line"], change) in made, f"{entry['module']}: {entry['line']}: {change}"
