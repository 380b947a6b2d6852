"""Power cuts under the real store: a small part of what `scripts/disk` does, and the proof that it can find something."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from disks.bugs import BUGS
from disks.cuts import NOT_HERE
from disks.images import Disk, File, left_of
from disks.lives import run
from disks.vfs import Watcher, why_not

from mesh.runtime.home import write_atomic

SCRIPTS = Path(__file__).parents[3] / "scripts"
watched = pytest.mark.skipif(bool(why_not()), reason=f"NOTICE: no power cuts tested: {why_not()}")


@watched
def test_power_cuts_lose_nothing_acknowledged() -> None:
    seed = random.SystemRandom().randrange(10**9)
    found = run(itertools.count(seed), 120)
    assert not found.wrong, f"repeat with: scripts/disk crashes --trials 120 --seed {seed}"
    assert found.trials == 120 and found.syncs > 30 and found.kept_more, "they cut where it matters, and not only what was lost anyway"


@watched
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    assert run(itertools.count(1), 600, BUGS[name], until_wrong=True).wrong


@watched
def test_what_a_small_file_goes_through_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "note"
    with Watcher(tmp_path).watching() as log:
        write_atomic(path, b"one")
    temporary = log[0][1]
    assert log == [
        ("create", temporary),
        ("write", temporary, 0, b"one"),
        ("sync", temporary),
        ("rename", temporary, "note"),
        ("folder",),
    ]
    assert path.read_bytes() == b"one"


def test_a_file_system_that_shuts_down_under_a_node_loses_nothing_that_was_answered() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    command = [sys.executable, "-m", "disks.cuts", "--cuts", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def outcomes(disk: Disk) -> set[Any]:
    return {tuple(sorted(disk.crash(random.Random(seed)).items())) for seed in range(300)}


def test_a_name_is_there_when_its_folder_was_synced() -> None:
    disk = Disk({})
    for op in (("create", "a"), ("write", "a", 0, b"x"), ("sync", "a")):
        disk.follow(op)
    assert outcomes(disk) == {(), (("a", b"x"),)}
    disk.follow(("folder",))
    assert outcomes(disk) == {(("a", b"x"),)}
    disk.follow(("rename", "a", "b"))
    assert outcomes(disk) == {(("a", b"x"),), (("b", b"x"),)}


def test_what_is_not_synced_is_lost_reordered_or_torn_and_what_is_synced_stays() -> None:
    file = File(bytearray(b"-" * 1024))
    file.pending = [(0, b"1" * 1024), (0, b"2" * 512)]
    left = {left_of(file, random.Random(seed)) for seed in range(300)}
    old, one, two = b"-" * 512, b"1" * 512, b"2" * 512
    assert left == {old + old, one + one, two + one, two + old, old + one, one + old}
    file.sync()
    assert {left_of(file, random.Random(seed)) for seed in range(50)} == {two + one}


def test_what_was_cut_off_may_come_back() -> None:
    file = File(bytearray(b"abc"))
    file.pending = [(1, None)]
    assert {left_of(file, random.Random(seed)) for seed in range(50)} == {b"abc", b"a"}
