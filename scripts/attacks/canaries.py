"""Planted secrets, searched for wherever they must not be: on the wire, on disk, in logs, in error output, in what a crash leaves behind.

    plant     arguments, results, errors, notes, names, files, secrets, tokens, keys: each a text that occurs nowhere else
    use       two homes in a network of their own: joined, called, failed, killed with -9, aborted; every verb made to fail
    search    every place, in five encodings: as it is, hexadecimal, base64, z85, UTF-16

What may be found where, and why, is in ALLOWED. That the search can find is shown each time: in a mesh without encryption, and in a
journal without a seal. Needs root, for a network in which nothing else is captured. Exit 1 if something was found that should not be.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zmq.utils import z85

from attacks.spaces import why_not

KINDS = ("argument", "result", "error", "progress", "capability", "agent", "upload", "made", "content", "uploaded", "secret", "node")
"""upload, made: names of files; uploaded, content: what is in them."""
INSIDE = "LANMESH_CANARIES_INSIDE"
CONTEXT = 24


@dataclass(frozen=True)
class Canary:
    """`text` for those made up here; `data` for keys and tokens that the mesh has made."""

    kind: str
    number: int
    data: bytes


@dataclass(frozen=True)
class Hit:
    kind: str
    number: int
    how: str
    place: str
    around: str

    def __str__(self) -> str:
        return f"{self.kind} {self.number} as {self.how} in {self.place}: {self.around}"


def writings(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Where a group of an encoding may begin at any byte, each beginning is one more writing."""
    yield "plain", data
    yield "hexadecimal", data.hex().encode()
    yield "hexadecimal", data.hex().upper().encode()
    for shift in range(3):
        whole = data[shift : shift + (len(data) - shift) // 3 * 3]
        yield "base64", base64.b64encode(whole)
        yield "base64", base64.urlsafe_b64encode(whole)
    for shift in range(4):
        yield "z85", z85.encode(data[shift : shift + (len(data) - shift) // 4 * 4])
    text = data.decode("latin-1")
    yield "UTF-16", text.encode("utf-16-le")
    yield "UTF-16", text.encode("utf-16-be")


# ---- what is planted


@dataclass
class Planted:
    """All canaries made up here contain `mark`, so that one search finds any of them; keys are searched one by one."""

    each: int
    mark: str = field(default_factory=lambda: "".join(random.SystemRandom().choices(string.ascii_lowercase, k=12)))
    canaries: list[Canary] = field(default_factory=list)

    def make(self, kind: str, number: int) -> str:
        """A name fit for everything: letters, digits, dashes; 27 characters."""
        text = f"{self.mark}-{kind[:2]}{number:02d}-{os.urandom(4).hex()}"
        self.canaries.append(Canary(kind, number, text.encode()))
        return text

    def plan(self) -> list[dict[str, str]]:
        """For each agent what it is called, offers, and says."""
        return [{kind: self.make(kind, number) for kind in KINDS if kind != "node"} for number in range(self.each)]

    def add(self, kind: str, data: bytes) -> None:
        """A secret that the mesh made."""
        self.canaries.append(Canary(kind, sum(one.kind == kind for one in self.canaries), data))

    def search(self, place: str, data: bytes) -> list[Hit]:
        found = []
        marked = self._marked(data)
        for one in self.canaries:
            is_marked = self.mark.encode() in one.data
            if is_marked and not marked:
                continue
            for how, written in writings(one.data):
                if len(written) >= 8 and (at := data.find(written)) >= 0:
                    around = data[max(0, at - CONTEXT) : at + len(written) + CONTEXT]
                    found.append(Hit(one.kind, one.number, how, place, ascii(around)))
                    break
        return found

    def _marked(self, data: bytes) -> bool:
        return any(written in data for _, written in writings(self.mark.encode()))


# ---- what may be where


@dataclass(frozen=True)
class Allowed:
    """`places`: a pattern of their names."""

    kinds: tuple[str, ...]
    places: str
    why: str


ALLOWED = (
    Allowed(("uploaded", "content"), r"/files/", "files are stored as they are, so that sha256sum checks them"),
    Allowed(("upload",), r"path of /tmp/mesh-files-", "files that a killed worker had open, in a folder only its user enters"),
    Allowed(("key",), r"\.key$", "a key's own file, 0600"),
    Allowed(("key",), r"/mesh/kek\.", "the vault's key, where there is no keyring (kek = file)"),
    Allowed(("invitation",), r"/mesh/invites\.json$", "whoever made the invitation has to know it"),
    Allowed(("node",), r"^(?!wire)", "a node's name is no secret at home: its folder is called like it"),
    Allowed(("capability", "agent", "error", "progress", "upload", "made"), r"^output ", "said to the owner, who asked"),
    Allowed(("capability", "agent", "error"), r"^log worker", "said to whoever runs the agent, on his own terminal"),
)


def allowed(hit: Hit) -> str:
    return next((rule.why for rule in ALLOWED if hit.kind in rule.kinds and re.search(rule.places, hit.place)), "")


def report(hits: list[Hit]) -> tuple[list[Hit], dict[str, int]]:
    """Those that should not be, and how many of the others there are, by reason."""
    bad, good = [], dict[str, int]()
    for hit in hits:
        if why := allowed(hit):
            good[f"{hit.kind}: {why}"] = good.get(f"{hit.kind}: {why}", 0) + 1
        else:
            bad.append(hit)
    return bad, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=16, help="agents, and canaries of each kind (twelve kinds, then keys and tokens)")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"NOTICE: {why}, so nothing can be captured")
    if INSIDE not in os.environ:
        enter()
    from attacks.canary_story import run

    outcome = run(asked.each, keep=asked.keep)
    print(json.dumps(outcome) if asked.json else shown(outcome))
    sys.exit(bool(outcome["found"]) or not all(outcome["can_find"].values()))


def enter() -> None:
    """Begin again in a network of our own, in which loopback carries multicast."""
    script = 'ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo && exec "$@"'
    words = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-m", "attacks.canaries", *sys.argv[1:]]
    sys.exit(subprocess.run(words, env={**os.environ, INSIDE: "1"}, check=False).returncode)


def shown(outcome: dict[str, Any]) -> str:
    lines = [f"{outcome['canaries']} canaries, {outcome['searched_mib']:.1f} MiB in {outcome['places']} places"]
    lines += [f"could be found on purpose, {how}: {'yes' if done else 'NO'}" for how, done in outcome["can_find"].items()]
    lines += [f"allowed  {count:4d}  {why}" for why, count in sorted(outcome["allowed"].items())]
    lines += [f"FOUND  {hit}" for hit in outcome["found"]] or ["found where they must not be: 0"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
