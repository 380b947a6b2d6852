"""Planted secrets are found nowhere but where the docs say so; and the search finds them where they are planted on purpose."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from zmq.utils import z85

ROOT = Path(__file__).parents[2]


@pytest.mark.hosts
def test_no_canary_is_found(spaces: None) -> None:
    words = [sys.executable, "-m", "attacks.canaries", "--each", "1", "--json"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(words, capture_output=True, text=True, env=environ, timeout=600, check=False)
    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["found"] == [] and done.returncode == 0
    assert set(outcome["can_find"].values()) == {True} and len(outcome["can_find"]) == 4
    assert outcome["canaries"] > 25 and outcome["captured_mib"] > 0.1


def test_every_encoding_is_found_wherever_it_begins() -> None:
    from attacks.canaries import Planted

    planted = Planted(1)
    text = planted.make("argument", 0)
    planted.add("key", os.urandom(32))
    for canary in planted.canaries:
        for lead in (b"", b"x", b"xy", b"xyz"):
            data = lead + canary.data
            written = {
                "plain": data,
                "hexadecimal": data.hex().encode(),
                "base64": base64.b64encode(data),
                "z85": z85.encode(data + bytes(-len(data) % 4)),
                "UTF-16": data.decode("latin-1").encode("utf-16-le"),
            }
            for how, data in written.items():
                hits = planted.search("here", b"before" + data + b"after")
                assert [hit.how for hit in hits if hit.kind == canary.kind] == [how], (how, lead)
    assert planted.search("here", text[:-1].encode()) == [] == planted.search("here", os.urandom(10_000))
