"""Whether a worker of an earlier life may be left: never no where one is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.runtime import hands
from mesh.runtime.hands import UNSEEN, Hands, began


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_who_runs_is_left_and_who_has_ended_is_not(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "workers.json"
    assert Hands(path).any_left(), "nothing is known: there may be somebody from before there was a file"
    Hands(path).add(child.pid)
    assert Hands(path).any_left()
    child.kill()
    child.wait()
    assert not Hands(path).any_left()


def test_a_process_that_has_not_been_waited_for_yet_has_ended(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "workers.json"
    Hands(path).add(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert began(child.pid) == "" and not Hands(path).any_left()


def test_another_process_of_that_number_is_another(tmp_path: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "workers.json"
    Hands(path).add(child.pid)
    monkeypatch.setattr(hands, "began", lambda pid: "later")
    assert not Hands(path).any_left()


def test_whoever_is_left_stays_known_when_others_come(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "workers.json"
    Hands(path).add(child.pid)
    second = Hands(path)
    second.add(os.getpid())
    assert list(Hands(path)._known) == [child.pid, os.getpid()]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"space":"","began":{}}', b'{"space":"x","began":{"1":"1"}}', b'{"began":3}'])
def test_what_cannot_be_told_counts_as_left(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "workers.json"
    path.write_bytes(damage)
    path.chmod(0o600)
    assert Hands(path).any_left()


def test_a_process_that_is_not_seen_from_here_counts_as_left(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    Hands(path).add(UNSEEN)
    assert Hands(path).any_left()
