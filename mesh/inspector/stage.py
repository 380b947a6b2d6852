"""The first thing that `mesh launch` runs on another machine: this text goes to its Python by stdin, before anything of ours is there.

It sees to it that our wheel is there, whole, and goes on in `landing.py` out of that. The standard library only, and nothing of ours.
"""

import hashlib
import json
import os
import sys
from typing import Any

MARK = "mesh-launch "
"""Begins each line that is meant for the other end: what a login script or a banner prints is none of them."""
FOLDER = ".local/share/lanmesh/launch"
"""Below the account's home folder, whatever the platform: a home of ours may lie around it, and never uses this name."""
INPUT = 3
"""The descriptor that the shell script moved the connection to: our stdin is this text."""


def main(text: str) -> None:
    """Carry out the plan in `text`, JSON."""
    plan = json.loads(text)
    os.dup2(INPUT, 0)
    os.close(INPUT)
    os.umask(0o077)
    folder = os.path.join(os.path.expanduser("~"), FOLDER)
    if plan["down"] and not plan["purge"] and not os.path.isdir(folder):
        _tell({"end": {"state": "unchanged", "changed": [], "node": "", "message": "nothing to undo", "fix": ""}})
        return
    wheel = os.path.join(folder, "wheels", plan["wheel"]["sha256"][:16], plan["wheel"]["name"])
    if _sha256(wheel) != plan["wheel"]["sha256"]:
        _fetch(wheel)
    if _sha256(wheel) != plan["wheel"]["sha256"]:
        raise SystemExit("mesh: the wheel did not arrive whole")
    sys.path.insert(0, wheel)
    from pathlib import Path

    from mesh.inspector.landing import main as land

    land(plan, Path(folder), Path(wheel))


def _tell(line: dict[str, Any]) -> None:
    print(MARK + json.dumps(line), flush=True)


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _fetch(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _tell({"need": "wheel", "name": ""})
    size = int(sys.__stdin__.buffer.readline() or 0)  # type: ignore[union-attr]
    with open(path + ".new", "wb") as file:
        file.write(sys.__stdin__.buffer.read(size))  # type: ignore[union-attr]
    os.replace(path + ".new", path)
