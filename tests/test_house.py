"""The rules of the house that a program can check: sizes, floors, banned calls. See CONTRIBUTING.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("mesh/**/*.py"), *ROOT.glob("agents/**/*.py")])
PURE = ("mesh/core/", "mesh/messages/", "mesh/sim/")
VALUES = ("mesh/ids.py", "mesh/effects.py", "mesh/limits.py")
BANNED_IN_PURE = {"time", "random", "uuid", "os", "logging", "socket", "threading", "asyncio", "anyio", "datetime", "secrets", "subprocess"}
MAY_INJECT = {"random": {"Random"}}
"""The type of an injected source may be named; the module's own functions may not."""

FLOORS = {
    "mesh/ids.py": (),
    "mesh/effects.py": ("mesh.ids",),
    "mesh/limits.py": (),
    "mesh/messages/": ("mesh.ids", "mesh.messages"),
    "mesh/core/": ("mesh.ids", "mesh.effects", "mesh.limits", "mesh.messages", "mesh.core"),
    "mesh/wire/": ("mesh.ids", "mesh.limits", "mesh.messages", "mesh.wire", "mesh.core.records.merkle"),
    "mesh/sim/": ("mesh.ids", "mesh.effects", "mesh.limits", "mesh.messages", "mesh.core", "mesh.sim"),
    "mesh/runtime/": ("mesh.ids", "mesh.effects", "mesh.limits", "mesh.errors", "mesh.messages", "mesh.core", "mesh.wire", "mesh.runtime"),
    # The public API; and, since it starts nodes and must find those that run, their folders, settings and process: nothing else of theirs.
    "mesh/inspector/": (
        "mesh",
        "mesh.client",
        "mesh.errors",
        "mesh.ids",
        "mesh.agent",
        "mesh.worker",
        "mesh.failures",
        "mesh.files",
        "mesh.joining",
        "mesh.launch",
        "mesh.inspector",
        "mesh.runtime.home",
        "mesh.runtime.settings",
        "mesh.runtime.app",
        "mesh.runtime.vault",
        "mesh.runtime.secrets",
    ),
    "agents/": ("mesh", "mesh.errors", "mesh_agents"),
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500, "a file over 500 lines is two concepts"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is over 60 lines: two concepts"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_arrow_runs_up(path: Path) -> None:
    name = _name(path)
    allowed = next((floor for prefix, floor in FLOORS.items() if name.startswith(prefix)), None)
    if allowed is None:
        return
    for module in _imports(ast.parse(path.read_text())):
        top = module.split(".")[0]
        if top not in ("mesh", "mesh_agents"):
            continue
        parent = module.rsplit(".", 1)[0]
        exact = {"mesh"} & {parent}
        fits = any(module == one or (one != "mesh" and module.startswith(one + ".")) for one in allowed)
        assert fits or (exact and "mesh" in allowed), f"{name} imports {module}"


@pytest.mark.parametrize("path", [p for p in SOURCES if not _name(p).startswith("mesh/inspector/")], ids=_name)
def test_nobody_stands_on_the_command_line(path: Path) -> None:
    assert not [module for module in _imports(ast.parse(path.read_text())) if module.startswith("mesh.inspector")]


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p).startswith(PURE) or _name(p) in VALUES], ids=_name)
def test_pure_code_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] not in BANNED_IN_PURE or _runner(path), f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            top = node.module.split(".")[0]
            if top in BANNED_IN_PURE and not _runner(path):
                assert {alias.name for alias in node.names} <= MAY_INJECT.get(top, set()), f"imports from {node.module}"
        elif isinstance(node, ast.For | ast.comprehension):
            assert not isinstance(node.iter, ast.Set | ast.SetComp), "iterates a set: order would depend on the hash seed"
        elif isinstance(node, ast.Global | ast.Nonlocal) and isinstance(node, ast.Global):
            raise AssertionError("a global in pure code")


def _runner(path: Path) -> bool:
    """The simulator's command line reads arguments and uses both cores; nothing else in there may."""
    return _name(path) == "mesh/sim/run.py"


def test_pure_code_imports_the_standard_library_only() -> None:
    third_party = {"zmq", "msgpack", "zeroconf", "cryptography", "pydantic", "pydantic_core", "anyio", "typer", "rich"}
    for path in SOURCES:
        if _name(path).startswith(PURE) or _name(path) in VALUES:
            tops = {module.split(".")[0] for module in _imports(ast.parse(path.read_text()))}
            assert not tops & third_party, f"{_name(path)} imports {tops & third_party}"


def test_budgets() -> None:
    """Ceilings: the plan was 5,000 lines for the core and 15,000 in all. Trust and enrolment raised them; otherwise they only come down."""

    def lines(pattern: str) -> int:
        return sum(path.read_text().count("\n") for path in ROOT.glob(pattern))

    assert lines("mesh/core/**/*.py") <= 9_900
    assert lines("mesh/**/*.py") <= 38_500
    assert (ROOT / "mesh/core/node.py").read_text().count("\n") < 120
