"""The forgery matrix at full size, and a million honest messages. Exit 1 if one forged thing is believed or one honest thing refused."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from attacks import envelopes_standing, honest, objects_standing  # noqa: F401  the two bring their attacks into the families
from attacks.envelopes import Envelopes
from attacks.matrix import Family, Range
from attacks.objects import TRUST, Objects

FAMILIES: tuple[Family, ...] = (Envelopes(), Objects())

SORTS: dict[str, tuple[str, ...]] = {
    "forged by a stranger": ("signed_by_somebody_else",),
    "forged by another member": ("signed_by_somebody_else",),
    "tampered": ("header_field_changed", "field_changed"),
    "bits flipped": ("bit_flipped",),
    "replayed, same session": ("replayed_in_the_same_session", "said_again"),
    "replayed, new session": ("replayed_in_a_new_session", "said_again"),
    "replayed, other node": ("replayed_at_another_node", "said_to_another_node"),
    "replayed, other mesh": ("replayed_in_another_mesh", "of_another_mesh", "of_another_mesh_that_shows", "of_another_mesh_by_its_name"),
    "replayed, after a restart": ("replayed_after_the_receiver_restarted", "said_again_after_the_receiver_restarted"),
    "replayed, after key rotation": (
        "replayed_after_the_sender_took_a_new_key",
        "said_again_after_the_key_was_replaced_for_an_hour",
        "said_again_after_its_node_took_a_new_key",
    ),
    "redirected": ("redirected_here", "said_in_ones_own_name", "said_by_no_member", "certified_by_somebody_else"),
    "other mesh": ("of_another_mesh", "signed_for_another_mesh"),
    "expired": ("by_a_member_that_has_expired",),
    "revoked": ("by_a_member_that_was_revoked",),
    "wrong role": (
        "by_a_role_that_may_not",
        "offering_what_was_not_granted",
        "granting_more_than_it_has",
        "revoking_what_is_not_ones_own",
        "said_by_no_member",
    ),
    "small-order key": ("by_a_member_whose_key_everybody_has", "with_a_key_that_everybody_has", "with_a_point_of_small_order"),
    "wrong binding": ("over_anothers_connection", "with_a_binding_that_is_not_ones_own", "binding_anothers_node"),
}
"""What every kind and every signed object must withstand, and the attacks that are of that sort."""

_NO_CHAIN = "says nothing about time: the chains it is shown with do"
_DOOR = "is judged by the door that holds the invitation, and by the office that keeps the roll"
_FOR_ALL = "is signed in no mesh, on purpose: it holds in every one"
_UNBOUND = "has no connection of its own: whoever tells it on, it is its author's"
EXEMPT: dict[tuple[str, str], str] = {
    **{(f"signed {tag}", sort): _NO_CHAIN for tag in ("certificate", "deed", *TRUST) for sort in ("expired", "revoked")},
    **{(f"signed {tag}", sort): _DOOR for tag in ("join", "ask", "renewal") for sort in ("expired", "revoked", "wrong role")},
    **{(f"signed {tag}", "replayed, other mesh"): _FOR_ALL for tag in ("deed", "ask")},
    **{
        (f"signed {tag}", "wrong role"): "is for every member to say, whatever its role"
        for tag in ("left", "commit", "yield", "binding", "hello", "welcome")
    },
    ("signed deed", "wrong role"): "is for every key to say, about itself",
    **{
        (f"signed {tag}", "wrong binding"): _UNBOUND
        for tag in (
            "alive",
            "suspect",
            "left",
            "commit",
            "witness",
            "yield",
            "ballot",
            "verdict",
            "certificate",
            "deed",
            "revocation",
            "amendment",
            "policy",
            "join",
            "ask",
            "renewal",
        )
    },
}
"""Where a sort of attack makes no sense, and why."""


def missing() -> list[tuple[str, str]]:
    """Kinds and objects on which a sort of attack is neither made nor exempt."""
    found = []
    for family in FAMILIES:
        for at in family.subjects():
            made = {attack.name for attack in family.attacks if attack.fits(at)}
            found += [(family.label(at), sort) for sort, names in SORTS.items() if not made & set(names)]
    return [each for each in found if each not in EXEMPT]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/attack forgery", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--honest", type=int, default=1_000_000, metavar="N", help="honest messages to send as well (default: %(default)s)")
    arguments = parser.parse_args()
    started = time.perf_counter()
    wrong = sum(attack(family, arguments.seed) for family in FAMILIES)
    print(f"{time.perf_counter() - started:.0f} s\n")
    tally = honest.run(arguments.honest, arguments.seed)
    print(f"honest messages: {tally.sent:,} of {len(tally.kinds)} kinds in {tally.seconds:.0f} s, {tally.refused.total()} refused")
    for reason, count in tally.refused.most_common():
        print(f"  REFUSED  {reason}: {count:,}")
    return 1 if wrong or tally.refused else 0


def attack(family: Family, seed: int) -> int:
    """All cells of a family; prints them by attack and by reason. Returns how many went wrong."""
    by_attack: Counter[str] = Counter()
    by_reason: Counter[str] = Counter()
    wrong: list[str] = []
    scene = Range(family)
    for at, cell in family.cells(seed):
        outcome, why = scene.judge(at, cell)
        by_attack[cell.attack.name] += 1
        by_reason[outcome] += 1
        if why:
            wrong.append(why)
    print(f"{family.name}: {by_attack.total():,} cells, {len(family.subjects())} rows, {len(by_attack)} attacks, {len(wrong)} wrong")
    for title, counted in (("attack", by_attack), ("outcome", by_reason)):
        print(f"  {title:<58}cells")
        for name, count in counted.most_common():
            print(f"  {name.replace('_', ' '):<58}{count:>6,}")
    for why in wrong[:50]:
        print(f"  WRONG  {why}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
