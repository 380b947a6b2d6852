"""Mutation testing of the wire: every small wrong in what signs, verifies, remembers and authorizes must make a test fail.

    run the tests once, noting which test runs which line  ->  for each mutant: fork, put the wrong code in, run the tests of its line
                                                               (its module's own first, then the fastest) until one fails
Mutants of what runs at import (tables, limits) are run in a new interpreter, which loads the changed module from the beginning.
Survivors must be explained in `tests/wire/mutants.toml`; explained ones meet their module's own tests alone. Exit 1 if one is not
explained, or if an explained one is killed after all.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.abc
import importlib.machinery
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from attacks.mutator import Mutant, mutants, mutated

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "tests" / "wire" / "mutants.toml"
MODULES = ("replay", "patterns", "objects", "authorization", "authorities", "chain", "keyring", "envelope", "ed25519")
HEADERS = ("header_field_changed", "header_field_changed_and_signed")
AT_IMPORT_TESTS = {
    "authorization": ["test_authorization.py", "test_limits.py"],
    "envelope": [
        "test_limits.py",
        "test_envelope.py",
        *(f"test_forgery.py::test_every_row_under_every_attack[envelopes-{name}]" for name in HEADERS),
    ],
    "ed25519": ["test_ed25519.py", "test_limits.py"],
    "patterns": ["test_patterns.py"],
    "keyring": ["test_limits.py", "test_keyring.py"],
    "chain": ["test_limits.py", "test_chain.py"],
    "authorities": ["test_limits.py", "test_authorities.py"],
}
TOO_LONG_S = 30.0
"""Beyond what its tests took before, times four: an endless loop, which counts as noticed."""


def path_of(module: str) -> Path:
    return ROOT / "mesh" / "wire" / f"{module}.py"


@dataclass
class Ledger:
    """Survivors with a reason why nobody could tell them from the original. Keyed by module, line and change: line numbers move."""

    explained: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def why(self, mutant: Mutant) -> str:
        return self.explained.get((mutant.module, mutant.source, mutant.change), "")


def read_ledger() -> Ledger:
    found = tomllib.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    return Ledger(
        {(each["module"], each["line"], change): each["why"] for each in found.get("equivalent", ()) for change in each["changes"]}
    )


# ---- putting a wrong in


def put_in(mutant: Mutant) -> None:
    """Into the running interpreter: the function's code is exchanged, wherever the function was handed to already."""
    source = path_of(mutant.module).read_text()
    code = compile(mutated(source, mutant.number), str(path_of(mutant.module)), "exec")
    module = importlib.import_module(f"mesh.wire.{mutant.module}")
    target: Any = module
    for name in mutant.function.split("."):
        code = next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name)
        target = target.__dict__[name]
    target = getattr(target, "fget", target)
    if hasattr(target, "cache_clear"):
        target.cache_clear()
    getattr(target, "__wrapped__", target).__code__ = code
    for each in vars(module).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()
    _load_as(module, mutant)


def _load_as(module: ModuleType, mutant: Mutant) -> None:
    """Who loads the module a second time (as the tests of both libraries do) gets the wrong one as well."""
    loader = module.__spec__.loader if module.__spec__ else None
    wrong = compile(mutated(path_of(mutant.module).read_text(), mutant.number), str(path_of(mutant.module)), "exec")
    loader.get_code = lambda name: wrong  # type: ignore[union-attr]


class Finder(importlib.abc.MetaPathFinder):
    """For mutants at import: the changed module is the only one there is."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != f"mesh.wire.{self._mutant.module}":
            return None
        where = path_of(self._mutant.module)
        loader = importlib.machinery.SourceFileLoader(name, str(where))
        wrong = compile(mutated(where.read_text(), self._mutant.number), str(where), "exec")
        loader.get_code = lambda _: wrong  # type: ignore[method-assign,assignment]
        return importlib.machinery.ModuleSpec(name, loader, origin=str(where))


# ---- running tests


@dataclass
class Known:
    """Of one test, from the first run."""

    lines: dict[str, set[int]]
    seconds: float
    passed: bool


def run_item(item: pytest.Item) -> bool:
    return all(report.passed or report.skipped for report in runtestprotocol(item, log=False, nextitem=None))


def observe(items: Sequence[pytest.Item]) -> list[Known]:
    """Run each once, noting the lines."""
    paths = {str(path_of(module)): module for module in MODULES}
    found = []
    for item in items:
        lines: dict[str, set[int]] = {}

        def local(frame: Any, event: str, argument: Any, lines: dict[str, set[int]] = lines) -> Any:
            lines.setdefault(paths[frame.f_code.co_filename], set()).add(frame.f_lineno)
            return local

        def enter(frame: Any, event: str, argument: Any, local: Any = local) -> Any:
            return local(frame, event, argument) if frame.f_code.co_filename in paths else None

        started = time.perf_counter()
        sys.settrace(enter)
        try:
            passed = run_item(item)
        finally:
            sys.settrace(None)
        found.append(Known(lines, time.perf_counter() - started, passed))
    return found


def in_child(work: Any) -> tuple[int, int]:
    """Fork and do it there; (pid, where its pickled answer comes)."""
    answer, say = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(say)
        return pid, answer
    os.close(answer)
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        data = pickle.dumps(work())
        while data:
            data = data[os.write(say, data) :]
        code = 0
    finally:
        os._exit(code)


@dataclass
class Job:
    mutant: Mutant
    pid: int
    answer: int
    ends: float
    process: subprocess.Popen[bytes] | None = None


class Runner:
    """A pytest plugin that takes over once the tests are collected. `killed`: what noticed each mutant."""

    def __init__(self, wanted: list[Mutant], jobs: int, verbose: bool) -> None:
        self._wanted, self._jobs, self._verbose = wanted, jobs, verbose
        self._ledger = read_ledger()
        self.killed: dict[Mutant, str] = {}
        self.survived: list[Mutant] = []
        self.uncovered: list[Mutant] = []
        self.started = time.perf_counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        pid, answer = in_child(lambda: observe(session.items))
        self._known: list[Known] = pickle.loads(_read_all(answer) or b"\x80\x04N.")
        os.waitpid(pid, 0)
        failing = [item.nodeid for item, known in zip(session.items, self._known or [], strict=False) if not known.passed]
        if not self._known or failing:
            sys.exit(f"these tests fail before anything is changed: {failing}")
        took = time.perf_counter() - self.started
        print(
            f"\n{len(session.items)} tests, {sum(known.seconds for known in self._known):.0f} s traced, ready after {took:.0f} s",
            flush=True,
        )
        running: list[Job] = []
        queue = iter(self._wanted)
        while True:
            while len(running) < self._jobs and (mutant := next(queue, None)) is not None:
                if (job := self._start(session, mutant)) is not None:
                    running.append(job)
            if not running:
                return True
            ready = select.select([job.answer for job in running], [], [], 1.0)[0]
            running = [job for job in running if not self._is_over(job, ready)]

    def _start(self, session: pytest.Session, mutant: Mutant) -> Job | None:
        now = time.monotonic()
        if not mutant.function:
            tests = [str(ROOT / "tests" / "wire" / name) for name in AT_IMPORT_TESTS.get(mutant.module, ["test_limits.py"])]
            words = [sys.executable, "-m", "attacks.mutants", "--one", f"{mutant.module}:{mutant.number}", *tests]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
            assert process.stdout is not None
            return Job(mutant, process.pid, process.stdout.fileno(), now + 4 * TOO_LONG_S, process)
        lines = set(range(mutant.line, mutant.last_line + 1))
        chosen = [(known.seconds, at) for at, known in enumerate(self._known) if lines & known.lines.get(mutant.module, set())]
        if not chosen:
            self.uncovered.append(mutant)
            return None
        own = f"test_{mutant.module}.py"
        chosen.sort(key=lambda each: (session.items[each[1]].path.name != own, each[0]))
        if self._ledger.why(mutant):
            chosen = [each for each in chosen if session.items[each[1]].path.name == own]
        items = [session.items[at] for _, at in chosen]
        pid, answer = in_child(lambda: _first_to_fail(mutant, items))
        return Job(mutant, pid, answer, now + TOO_LONG_S + 4 * sum(seconds for seconds, _ in chosen))

    def _is_over(self, job: Job, ready: list[int]) -> bool:
        if job.answer not in ready and time.monotonic() < job.ends:
            return False
        if job.answer in ready:
            data = _read_all(job.answer) if job.process is None else job.process.stdout.read()  # type: ignore[union-attr]
            noticed = (pickle.loads(data) if data else "it crashed") if job.process is None else ("tests" if data != b"survived\n" else "")
        else:
            os.kill(job.pid, signal.SIGKILL)
            noticed = "it took too long"
        if job.process is None:
            os.waitpid(job.pid, 0)
            if job.answer not in ready:
                os.close(job.answer)
        else:
            job.process.wait()
            job.process.stdout.close()  # type: ignore[union-attr]
        self._note(job.mutant, noticed)
        return True

    def _note(self, mutant: Mutant, noticed: str) -> None:
        if noticed:
            self.killed[mutant] = noticed
        else:
            self.survived.append(mutant)
        if self._verbose or not noticed:
            print(f"{'killed  ' if noticed else 'SURVIVED'}  {mutant}    {noticed}", flush=True)


def _first_to_fail(mutant: Mutant, items: Sequence[pytest.Item]) -> str:
    """The name of the test that noticed; empty if none did."""
    put_in(mutant)
    return next((item.nodeid for item in items if not run_item(item)), "")


def _read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def run_one(words: list[str]) -> int:
    """In an interpreter of its own, from the beginning: one mutant at import."""
    module, number = words[0].split(":")
    found = next(each for each in mutants(module, path_of(module).read_text()) if each.number == int(number))
    sys.meta_path.insert(0, Finder(found))
    devnull = open(os.devnull, "w")  # noqa: SIM115
    stdout, sys.stdout = sys.stdout, devnull
    try:
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *words[1:]])
    except BaseException:  # noqa: BLE001  whatever it is, the mutant was noticed
        code = 1
    sys.stdout = stdout
    print("survived" if code == 0 else "noticed", flush=True)
    return 0


# ---- the whole


def wanted(modules: Sequence[str], lines: Sequence[int]) -> Iterator[Mutant]:
    for module in modules:
        for mutant in mutants(module, path_of(module).read_text()):
            if not lines or mutant.line in lines:
                yield mutant


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        return run_one(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="scripts/attack mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--line", type=int, action="append", default=[], help="only mutants of this line")
    parser.add_argument("--tests", nargs="+", default=[""], metavar="NAME", help="only these files of tests/wire: faster, and kills less")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="also say what was killed, and by which test")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    chosen = list(wanted(arguments.modules or MODULES, arguments.line))
    # Both kinds of mutant share the cores; those at import are slow, so they start first.
    chosen.sort(key=lambda mutant: bool(mutant.function))
    runner = Runner(chosen, arguments.jobs, arguments.verbose)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    tests = [str(ROOT / "tests" / "wire" / name) for name in arguments.tests]
    pytest.main(["-q", "-p", "no:cacheprovider", "--capture=no", *tests], plugins=[runner])
    return report(runner, chosen, complete=not arguments.line and not arguments.modules and arguments.tests == [""])


def report(runner: Runner, chosen: list[Mutant], complete: bool) -> int:
    ledger = read_ledger()
    skipped = [mutant for mutant in (*runner.survived, *runner.uncovered) if _is_other_library(mutant)]
    left = [mutant for mutant in (*runner.survived, *runner.uncovered) if mutant not in skipped]
    unexplained = [mutant for mutant in left if not ledger.why(mutant)]
    for mutant in unexplained:
        print(f"UNEXPLAINED  {mutant}" + ("    (no test runs it)" if mutant in runner.uncovered else ""))
    for mutant in skipped:
        print(f"not run      {mutant}    needs PyNaCl: pip install 'lanmesh[speed]'")
    killed = {(mutant.module, mutant.source, mutant.change) for mutant in runner.killed}
    stale = [key for key in ledger.explained if key in killed and key not in {(each.module, each.source, each.change) for each in left}]
    for key in stale:
        print(f"STALE        {key}: it is killed; take it out of {LEDGER.name}")
    seconds = time.perf_counter() - runner.started
    print(
        f"{len(chosen):,} mutants in {seconds:.0f} s: {len(runner.killed):,} killed, {len(left) - len(unexplained)} explained,"
        f" {len(unexplained)} unexplained, {len(skipped)} not run"
    )
    return 1 if unexplained or (complete and stale) else 0


def _is_other_library(mutant: Mutant) -> bool:
    from mesh.wire import ed25519

    return mutant.module == "ed25519" and ed25519.BACKEND == "cryptography" and mutant.line in _lines_of_pynacl()


def _lines_of_pynacl() -> set[int]:
    """Of `ed25519.py`: what runs only where PyNaCl is installed."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(path_of("ed25519").read_text())):
        body = node.body if isinstance(node, ast.If | ast.Try) else []
        asks = isinstance(node, ast.If) and "pynacl" in ast.unparse(node.test)
        if asks or (isinstance(node, ast.Try) and "nacl" in ast.unparse(body[0])):
            found |= set(range(node.lineno, (body[-1].end_lineno or 0) + 1))
    return found


if __name__ == "__main__":
    sys.exit(main())
