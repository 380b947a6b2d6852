"""Steps of simulated handlers that nobody runs: what they ask for, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

from mesh.messages.waits import WAIT, signal_step

GATE, SIGNAL, PAUSE = "gate", "signal", "pause"
PAUSE_MS = 1500


def wait_step(step: str, argument: str) -> tuple[str, str, bytes, int] | None:
    """Name, capability, arguments and milliseconds of a step of `ASKING`; None: it is no wait."""
    if step == GATE:
        return "gate/go on~1", WAIT, json.dumps({"wait": GATE, "name": "go on", "question": "go on?", "subject": argument}).encode(), 0
    if step == SIGNAL:
        return signal_step("news", 0), WAIT, json.dumps({"wait": SIGNAL, "name": "news", "n": 0}).encode(), 0
    if step == PAUSE:
        return "sleep/a while", WAIT, json.dumps({"wait": "sleep", "name": "a while"}).encode(), PAUSE_MS
    return None


def wait_output(step: str, argument: str, output: Any) -> Any:
    """What a handler makes of the end of a wait: `expected`, if it was the right one."""
    if step == GATE:
        right = output["approved"] and not output["edited"]
    else:
        right = output == (argument if step == SIGNAL else None)
    return f"{step}({argument})" if right else f"{step} gave {output}"
