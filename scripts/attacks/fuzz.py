"""Fuzzing of every way in (`targets.py`), guided by coverage (atheris), from honest bytes and the corpus in tests/corpus/.

What breaks an invariant is written to crash-* and ends the run with its exception; put such an input into tests/corpus/TARGET/ with the
fix, and the tests try it again for ever. --plain: without atheris, from a printed seed, several times as many inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus"
SIZE_MAX = 4096
KEEP_MAX = 60
"""Files of one target that --keep leaves in tests/corpus/: the smallest that together reach what all of them reach."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/attack fuzz", description=__doc__)
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="default: all, one after the other")
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="no coverage: the structure-aware mutator alone")
    parser.add_argument("--keep", action="store_true", help="put what reached something new into tests/corpus/, minimised")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--itself", help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.inside:
        return inside(arguments.inside, [arguments.itself, *rest])
    from attacks.targets import TARGETS

    if unknown := set(arguments.target) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    total = 0
    started = time.perf_counter()
    for name in arguments.target or TARGETS:
        if arguments.plain:
            plain(name, arguments.inputs, arguments.seed)
        elif code := guided(name, arguments.inputs, arguments.seed, arguments.keep):
            return code
        total += arguments.inputs
    print(f"{total:,} inputs in {time.perf_counter() - started:.0f} s, nothing broke")
    return 0


def starts(name: str) -> list[bytes]:
    """Where mutation begins: honest bytes, and what was found before."""
    from attacks.targets import TARGETS

    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


# ---- plain


def plain(name: str, inputs: int, seed: int) -> None:
    """Raises what broke, after writing the input down."""
    from attacks.shuffle import shuffled
    from attacks.targets import TARGETS

    target, pool, chance = TARGETS[name], starts(name), random.Random(f"{seed} {name}")
    believed, started = 0, time.perf_counter()
    for _ in range(inputs):
        data = shuffled(chance.choice(pool), SIZE_MAX, chance)
        try:
            believed += target.run(data)
        except BaseException:
            Path(f"crash-{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise
    seconds = time.perf_counter() - started
    print(
        f"{name:<12}{inputs:>12,} inputs in {seconds:>6.0f} s, {inputs / seconds:>8,.0f}/s, {believed:,} were read; {target.about}",
        flush=True,
    )


# ---- guided


def guided(name: str, inputs: int, seed: int, keep: bool) -> int:
    """libFuzzer in a process of its own, which it ends as it likes; returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as folder:
        pool, found = Path(folder) / "pool", Path(folder) / "found"
        pool.mkdir()
        found.mkdir()
        for data in starts(name):
            (pool / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        itself = _script(Path(folder) / "fuzz", name, seed)
        code = _libfuzzer(itself, name, seed, f"-runs={inputs}", f"-artifact_prefix=crash-{name}-", str(found), str(pool))
        if code == 0 and keep:
            _keep(itself, name, seed, pool, found, Path(folder) / "least")
    return code


def _script(path: Path, name: str, seed: int) -> Path:
    """libFuzzer starts itself again to merge, so it must be one thing to start."""
    path.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -m attacks.fuzz --inside {name} --seed {seed} --itself "$0" "$@"\n')
    path.chmod(0o700)
    return path


def _libfuzzer(itself: Path, name: str, seed: int, *more: str) -> int:
    flags = [f"-seed={seed}", f"-max_len={SIZE_MAX}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"]
    done = subprocess.run([itself, *flags, *more], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stderr[-8000:], file=sys.stderr)
    elif "-merge=1" not in more:
        facts = [line.removeprefix("stat::") for line in done.stderr.splitlines() if line.startswith("stat::")]
        print(f"{name:<12}{', '.join(' '.join(fact.split()) for fact in facts)}", flush=True)
    return done.returncode


def _keep(itself: Path, name: str, seed: int, pool: Path, found: Path, least: Path) -> None:
    """The smallest inputs that reach all that was reached, but for those that are seeds anyway."""
    from attacks.targets import TARGETS

    least.mkdir()
    _libfuzzer(itself, name, seed, "-merge=1", str(least), str(pool), str(found))
    seeds = set(TARGETS[name].seeds())
    there = sorted((path for path in least.glob("*") if path.read_bytes() not in seeds), key=lambda path: path.stat().st_size)
    shutil.rmtree(CORPUS / name, ignore_errors=True)
    (CORPUS / name).mkdir(parents=True)
    for path in there[:KEEP_MAX]:
        data = path.read_bytes()
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def inside(name: str, words: list[str]) -> int:
    """The fuzzing process itself. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["mesh.wire", "mesh.messages", "mesh.runtime.links.sessions", "mesh.runtime.links.door"]):
        from attacks.targets import TARGETS

    from attacks.shuffle import shuffled

    target = TARGETS[name]

    def mutate(data: bytes, size_max: int, number: int) -> bytes:
        if number % 4 == 0:
            return bytes(atheris.Mutate(data, size_max))
        return shuffled(data, size_max, random.Random(number))

    atheris.Setup(words, lambda data: target.run(data) and None, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
