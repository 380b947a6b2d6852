"""The mesh's policy in a rehearsal: the same rules, read and enforced by the same nodes, without what only a real run has.

deny, require, route, fallback, limit, rate, at_most   as they are; flags too
approve                                                taken as given, at once: nobody is asked in a rehearsal
output, effects, secrets, admit, rollouts              left out: they are about results, deeds, keepers and versions that are not here
"""

from __future__ import annotations

from typing import Any

from mesh.core.inputs import Proclaim
from mesh.core.policy.document import canonical
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.sim.world import World

Document = dict[str, Any]
KEPT = ("deny", "require", "route", "fallback", "limit", "rate", "at_most")
ABOUT = ("id", "match", "down")


def rehearsed_rules(policy: Document | None) -> tuple[Document | None, tuple[str, ...]]:
    """What of a policy is in force in a rehearsal, and what is not, in words."""
    if policy is None:
        return None, ()
    rules: list[Document] = []
    notes: list[str] = []
    for row in policy.get("rule") or ():
        kept = {key: value for key, value in row.items() if key in (*KEPT, *ABOUT)}
        if "approve" in row:
            notes.append(f"rule {row.get('id')} asks people first: taken as approved at once")
        if any(key in KEPT for key in kept):
            rules.append(kept)
            if "input" in (row.get("match") or {}):
                notes.append(f"rule {row.get('id')} looks at arguments: only those that are known before it runs are there")
    rollouts = policy.get("rollout") or ()
    notes += [f"the rollout of {row.get('capability')} is left out: versions are not told apart here" for row in rollouts]
    flags = list(policy.get("flag") or ())
    found = {"policy": policy.get("policy", "rules"), "rule": rules} | ({"flag": flags} if flags else {})
    return (found if rules or flags else None), tuple(notes)


def govern(world: World, policy: Document) -> None:
    """It is in force from now on, at every node: each is told itself."""
    signed = Signed("root", Policy("", 1, canonical(policy), "", "", 0))
    for host in world.living():
        world.push(world.now_s, host.name, host.name, Proclaim(signed))
