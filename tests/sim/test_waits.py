"""Tasks that wait for people, signals and times, under every kind of fault: what was said to them is never lost, and each ends."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.work.waiting import Waiting
from mesh.effects import Need, Send
from mesh.messages.work import Answer, Ask
from mesh.sim.run import main

COMMON = ["--nodes", "5", "--faults", "all", "--until", "40", "--hard", "3", "--waits", "1"]


@pytest.mark.parametrize("seed", ["3", "8"])
def test_all_that_waits_ends_rightly(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMON, "--seed", seed]) == 0, capsys.readouterr().out


def test_a_signal_that_is_acknowledged_and_forgotten_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planted bug: every second signal is answered, and nobody is told of it."""
    count = 0
    honest = Waiting._signal

    def forgetful(self: Waiting, now_s: float, sender: str, ask: Ask, task: Any) -> Any:
        nonlocal count
        count += 1
        if count % 2:
            return honest(self, now_s, sender, ask, task)
        return iter([Send(sender, Answer(ask.ask, True, b"{}"), need=Need.FREE)])

    monkeypatch.setattr(Waiting, "_signal", forgetful)
    assert main(["--nodes", "3", "--faults", "none", "--until", "15", "--waits", "1", "--seed", "3"]) == 1
    assert "O3" in capsys.readouterr().out
