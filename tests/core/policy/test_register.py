"""Which policy is in force: the newest that can be read of those whose authors are believed."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from mesh.core.directory import Directory
from mesh.core.inputs import Proclaim
from mesh.core.membership.trust import Trust
from mesh.core.policy.document import canonical
from mesh.core.policy.inputs import PolicyChanged, Stated
from mesh.core.policy.register import Policies
from mesh.effects import Refused, Tell
from mesh.limits import Limits, TrustLimits
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.trust import ISSUER, Revocation


def policy(seq: int, author: str = "root", **document: Any) -> Signed:
    document = document or {"rule": [{"id": f"r{seq}", "deny": "x"}]}
    return Signed(author, Policy("mesh", seq, canonical(document), "ann", "", 5), raw=f"{author}/{seq}".encode())


def revoke(author: str) -> Signed:
    return Signed("root", Revocation("mesh", ISSUER, author, author, "sold", 5), raw=author.encode())


class Bench:
    def __init__(self) -> None:
        self.directory = Directory("me")
        self.policies = Policies(self.directory, TrustLimits())

    def state(self, *statements: Signed) -> list[Any]:
        return [effect for signed in statements for effect in self.policies.inputs[Stated](0.0, "me", Stated(signed)) or ()]


def test_the_newest_counts_in_whatever_order_they_come() -> None:
    for some in permutations([policy(1), policy(2, "b"), policy(2, "a"), policy(3, "gone"), revoke("gone")]):
        bench = Bench()
        bench.state(*some)
        assert bench.directory.rulebook.version == 2 and len(bench.policies.held()) == 4
        assert bench.policies.held()[1].author == "b", "of two with one number that of the greater author"


def test_a_change_is_told_once() -> None:
    bench = Bench()
    assert bench.state(policy(1)) == [Tell(PolicyChanged(1))]
    assert bench.state(policy(1)) == []
    assert bench.state(policy(3)) == [Tell(PolicyChanged(3))]
    assert bench.state(policy(2)) == [], "an older one that comes late changes nothing"


def test_an_issuer_who_is_revoked_takes_his_policies_with_him() -> None:
    bench = Bench()
    bench.state(policy(1), policy(2, "issuer"))
    assert bench.state(revoke("issuer")) == [Tell(PolicyChanged(1))]
    bench = Bench()
    bench.state(policy(2, "issuer"), revoke("issuer"))
    assert bench.directory.rulebook.version == 0 and not bench.directory.rulebook.rules


def test_what_a_later_version_of_this_software_says_leaves_the_one_before_in_force() -> None:
    bench = Bench()
    assert bench.state(policy(1), policy(2, rule=[{"id": "a", "forbid": "x"}])) == [
        Tell(PolicyChanged(1)),
        Refused("policy_not_understood", "root"),
    ]
    assert bench.policies.statistics().unread == 2 and bench.directory.rulebook.version == 1
    bench.state(policy(3))
    assert bench.policies.statistics().unread == 0


def test_of_all_policies_the_newest_are_held_and_the_digest_is_that_of_those() -> None:
    some = [policy(seq) for seq in range(1, 21)]
    digests = []
    for order in (some, some[::-1]):
        directory = Directory("me")
        trust = Trust(directory, Limits())
        for signed in order:
            list(trust.inputs[Proclaim](0.0, "me", Proclaim(signed)))
        assert {signed.body.seq for signed in trust.statements()} == set(range(5, 21))
        digests.append(directory.trust)
    assert digests[0] == digests[1]


def test_an_issuer_who_was_revoked_has_not_pushed_out_what_others_say_from_then_on() -> None:
    """With as many policies as are held, of the greatest numbers there are."""
    most = TrustLimits().policies_max
    his = [policy((1 << 63) - 1 - number, "issuer") for number in range(most)]
    bench = Bench()
    bench.state(*his, revoke("issuer"))
    assert (bench.directory.rulebook.version, bench.policies.next_version()) == (0, 1)
    bench.state(policy(1))
    assert (bench.directory.rulebook.version, bench.policies.next_version()) == (1, 2)
    directory = Directory("me")
    trust = Trust(directory, Limits())
    for signed in (*his, revoke("issuer"), policy(1)):
        list(trust.inputs[Proclaim](0.0, "me", Proclaim(signed)))
    assert any(identity[:3] == ("policy", "mesh", "1") for identity in trust._held)
