"""What the fuzzer found worth keeping, tried again: any bytes are read or refused, quickly, and only honest ones are believed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from attacks import targets
from attacks.fuzz import CORPUS, SIZE_MAX, plain, starts
from attacks.shuffle import shuffled
from attacks.targets import TARGETS, Target

from mesh.wire.packing import Refusal
from mesh.wire.token import read_token


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_corpus(name: str) -> None:
    for data in starts(name):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_honest_bytes_are_believed(name: str) -> None:
    """All of them where the target has one way in; a fuzzer that starts from refused bytes gets nowhere."""
    believed = sum(TARGETS[name].run(data) for data in TARGETS[name].seeds())
    assert believed >= len(TARGETS[name].seeds()) // 2 > 0


@pytest.mark.parametrize("name", TARGETS)
def test_some_inputs_more(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain(name, 150, seed=7)
    assert "150 inputs" in capsys.readouterr().out


def test_every_folder_of_the_corpus_is_a_targets_and_small() -> None:
    folders = {path.name: list(path.iterdir()) for path in CORPUS.iterdir()}
    assert set(folders) == set(TARGETS)
    assert all(path.stat().st_size <= SIZE_MAX for files in folders.values() for path in files)
    assert sum(path.stat().st_size for files in folders.values() for path in files) < 1024 * 1024


def test_a_broken_invariant_is_told_and_the_input_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def believing(data: bytes) -> bool:
        assert not data.startswith(b"\x94"), "it opened, and nobody signed it"
        raise Refusal("malformed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TARGETS, "statement", Target("statement", "", TARGETS["statement"].seeds, believing))
    with pytest.raises(AssertionError, match="nobody signed it"):
        plain("statement", 100, seed=1)
    (found,) = tmp_path.glob("crash-statement-*")
    assert found.read_bytes().startswith(b"\x94")


def test_slowness_and_unknown_exceptions_are_broken_invariants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "SLOW_S", -1.0)
    with pytest.raises(AssertionError, match="took"):
        TARGETS["token"].run(b"")
    monkeypatch.setattr(targets, "read_token", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TARGETS["token"].run(b"")


def test_the_mutator_changes_things_and_keeps_their_structure() -> None:
    chance = random.Random(1)
    for name in ("chain", "statement", "token"):
        seed = TARGETS[name].seeds()[0]
        made = [shuffled(seed, SIZE_MAX, chance) for _ in range(200)]
        assert len(set(made)) > 100 and all(len(data) <= SIZE_MAX for data in made)
    read = 0
    for data in (shuffled(TARGETS["token"].seeds()[0], SIZE_MAX, chance) for _ in range(200)):
        try:
            read += bool(read_token(data.decode()))
        except Refusal:
            continue
    assert read > 20, "the checksum is made anew"
