"""Random chains of delegation, signed and read for real: whatever is read grants no more than any link above, whatever is refused did.

Exit 1 if one chain widens unseen, or one honest one is refused.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

from attacks.world import MESH, deed_of, sealed, signer_of
from mesh.messages.trust import HOME, ISSUER, NODE, Certificate
from mesh.wire import ed25519
from mesh.wire.authorization import ROLES
from mesh.wire.chain import Chains, join_chain
from mesh.wire.packing import Refusal
from mesh.wire.patterns import covers

NAMES = ["".join(letters) for size in range(4) for letters in product("ab*", repeat=size)]
WORDS = [*NAMES[:13], "a*", "ab*", "b*", "*", "*", "**"]
LIVES = (0, 1, 500, 1000, 1001, 5000)
ROOT, ISSUER_KEY = signer_of(1), signer_of(10)
HOMES = [signer_of(100 + n) for n in range(8)]
NODES = [signer_of(2 + n) for n in range(8)]
DEEDS = {(node.node, home.node): deed_of(node, home.node) for node in NODES for home in HOMES}
PER_ISSUER, PER_HOME = 6, 6
"""Homes under one issuer's certificate, and nodes under one home's: what is signed once is used as often as in a real mesh."""


@dataclass
class Tally:
    chains: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def some(chance: random.Random, above: tuple[str, ...], words: list[str]) -> tuple[str, ...]:
    """Mostly from what is above, narrowed a little; now and then anything."""
    found = [each for each in above if chance.random() < 0.8]
    found = [each[:-1] + chance.choice(("", "a", "a*", "*")) if each.endswith("*") and chance.random() < 0.3 else each for each in found]
    if chance.random() < 0.25:
        found.append(chance.choice(words))
    return tuple(found)


def grants(chance: random.Random, above: Certificate | None) -> dict[str, Any]:
    if above is None:
        roles = tuple(chance.sample([*ROLES], k=chance.randint(1, 4)))
        words = chance.sample(WORDS, k=3), chance.sample(WORDS, k=3)
        return {"roles": roles, "offers": tuple(words[0]), "requests": tuple(words[1]), "ttl_ms": chance.choice((0, 0, 1000))}
    roles = some(chance, above.roles, [*ROLES, "root"])
    begins, life = chance.choice((0, 7)), chance.choice(LIVES)
    lives = {"not_before_ms": begins, "not_after_ms": begins + life if life else 0}
    return {"roles": roles, "offers": some(chance, above.offers, WORDS), "requests": some(chance, above.requests, WORDS)} | lives


def certificate(level: str, signer: Any, chance: random.Random, above: Certificate | None) -> Certificate:
    fields = {"mesh": MESH, "level": level, "subject": signer.node, "key": signer.public_key, "name": "x"}
    return Certificate(**(fields | {"serial": chance.getrandbits(32), "not_before_ms": 0} | grants(chance, above)))


# ---- the model: all names, one by one


@lru_cache(100_000)
def allowed(patterns: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in NAMES if any(name == each or (each[-1:] == "*" and name.startswith(each[:-1])) for each in patterns))


def is_wider(child: Certificate, parent: Certificate) -> bool:
    """Whether the child may do something that the parent may not."""
    if not set(child.roles) <= set(parent.roles):
        return True
    if not (allowed(child.offers) <= allowed(parent.offers) and allowed(child.requests) <= allowed(parent.requests)):
        return True
    life_ms = child.not_after_ms - child.not_before_ms
    return bool(parent.level == ISSUER and parent.ttl_ms and not 0 < life_ms <= parent.ttl_ms)


def is_within(child: Certificate, parent: Certificate) -> bool:
    """Whether each of the child's patterns is within one of the parent's: then the chain must be read."""
    pairs = ((child.offers, parent.offers), (child.requests, parent.requests))
    return not is_wider(child, parent) and all(
        any(allowed((one,)) <= allowed((other,)) for other in wider) for patterns, wider in pairs for one in patterns
    )


def judge(reader: Chains, raw: bytes, links: tuple[Certificate, ...], tally: Tally) -> None:
    tally.chains += 1
    steps = list(zip(links[1:], links, strict=False))
    try:
        chain = reader.read(raw)
    except Refusal as refusal:
        tally.outcomes[refusal.reason] += 1
        if refusal.reason != "widened" or all(is_within(child, parent) for child, parent in steps):
            tally.wrong.append(f"{refusal.reason}: {links}")
        return
    tally.outcomes["read"] += 1
    last = chain.last
    granted = {name for name in NAMES if covers(last.offers, name)}
    widened = any(is_wider(child, parent) for child, parent in steps) or not all(granted <= allowed(above.offers) for above in links)
    if widened or chain.certificates != links:
        tally.wrong.append(f"widened: {links}")


def run(count: int, seed: int) -> Tally:
    """Judge at least `count` chains: every node certificate also under another certificate of its home, which may be narrower."""
    chance, tally = random.Random(seed), Tally()
    reader = Chains(MESH, {ROOT.node: ed25519.verifier_of(ROOT.public_key)}.get)
    started = time.perf_counter()
    while tally.chains < count:
        issuer = certificate(ISSUER, ISSUER_KEY, chance, None)
        issuer_raw = sealed(ROOT, issuer).raw
        for home in chance.sample(HOMES, PER_ISSUER):
            own = [certificate(HOME, home, chance, issuer) for _ in range(2)]
            raws = [sealed(ISSUER_KEY, each).raw for each in own]
            for node in chance.sample(NODES, PER_HOME):
                last = certificate(NODE, node, chance, own[0])
                last.deed = DEEDS[node.node, home.node]
                raw = sealed(home, last).raw
                for middle, middle_raw in zip(own, raws, strict=True):
                    judge(reader, join_chain((issuer_raw, middle_raw, raw)), (issuer, middle, last), tally)
    tally.seconds = time.perf_counter() - started
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/attack delegations", description=__doc__)
    parser.add_argument("--chains", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tally = run(arguments.chains, arguments.seed)
    print(f"{tally.chains:,} chains in {tally.seconds:.0f} s: {dict(tally.outcomes)}; {len(tally.wrong)} wrong")
    for why in tally.wrong[:20]:
        print(f"  WRONG  {why}")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
