"""Attacks on real processes: what they cost honest peers and the victim, how soon they are cut, and what was counted.

Each attack has a mesh of its own, and is measured in one run: calls between honest agents before and during it, the victim's memory and
processor, the time until the attacker is cut off, and what the victim's own counters say.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from benchmarks.common import show

from attacks.arena import FEW_FILES, Outcome, arena
from attacks.floods import FLOODS
from attacks.insiders import INSIDERS
from attacks.strangers import STRANGERS


def row_of(outcome: Outcome) -> dict[str, Any]:
    most = sorted(outcome.counted.items(), key=lambda each: -each[1])[:4]
    return {
        "attack": outcome.attack,
        "honest": outcome.ratio,
        "p99": outcome.p99_ratio,
        "cores": outcome.attack_cpu,
        "MiB": outcome.growth_mib,
        "cut s": outcome.cut_s,
        "answers": "yes" if outcome.answers else "NO",
        "counted": ", ".join(f"{reason} {count}" for reason, count in most),
        "said": json.dumps(outcome.said),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", default=[*STRANGERS, *INSIDERS, *FLOODS], metavar="ATTACK")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--per-s", type=float, default=300.0, help="honest calls a second; 0: as many as there can be")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    outcomes = []
    for name in asked.attacks:
        with arena(FEW_FILES if name == "descriptors" else ()) as made:
            outcomes.append(made.attack(name, seconds=asked.seconds, per_s=asked.per_s))
        if not asked.json:
            show([row_of(outcomes[-1])], False)
    if asked.json:
        print(json.dumps([asdict(each) for each in outcomes]))


if __name__ == "__main__":
    main()
