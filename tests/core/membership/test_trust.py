"""The trust machine by literal effects: new statements, what is known, the set and its digest, telling in measure, limits, restarts."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import pytest

from mesh.core.directory import Directory
from mesh.core.inputs import MemberLinked, Proclaim, Replay
from mesh.core.membership.trust import Trust
from mesh.core.policy.inputs import Stated
from mesh.effects import Append, Need, Refused, Send, Tell, Uphold
from mesh.limits import Limits, TrustLimits
from mesh.messages.membership import Ack, Digest, Ping
from mesh.messages.records import Audited, Opened
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Amendment, Revocation
from mesh.messages.trust import Trust as TrustMessage

FREE = Need.FREE


def revoke(target: str, author: str = "root", reason: str = "lost", chain: bytes = b"") -> Signed:
    return Signed(author, Revocation("mesh", NODE, target, target, reason, 5, chain), raw=f"{author}/{target}/{reason}".encode())


def amend(seq: int, *roots: bytes) -> Signed:
    return Signed("root", Amendment("mesh", seq, roots or (b"k",), "token", "root", 5), raw=b"%d" % seq)


class Bench:
    """A trust machine of node `me`, linked to b and c, not to d."""

    def __init__(self, **limits: Any) -> None:
        self.directory = Directory("me")
        for node in ("b", "c", "d"):
            self.directory.ensure(node).linked = node != "d"
        self.trust = Trust(self.directory, Limits(trust=TrustLimits(**limits)))

    def give(self, item: Any, sender: str = "me", now_s: float = 2.0) -> list[Any]:
        return list(self.trust.inputs[type(item)](now_s, sender, item) or ())

    def hold(self, *statements: Signed) -> Bench:
        for signed in statements:
            self.give(Proclaim(signed))
        return self

    def told(self, effects: list[Any]) -> list[tuple[str, list[str]]]:
        return [(e.to, [s.body.target for s in e.message.statements]) for e in effects if type(e) is Send]


def test_a_new_statement_is_upheld_put_on_record_and_told_to_all_but_its_sender() -> None:
    bench, one = Bench(), revoke("r")
    written = Append(Audited("revoked", "r", "root", "node r: lost", 2000))
    to_c = Send("c", TrustMessage((one,)), need=FREE)
    assert bench.give(TrustMessage((one,)), "b") == [Uphold(one, need=FREE), Tell(Stated(one)), written, to_c]


def test_one_made_here_goes_to_everybody() -> None:
    bench, one = Bench(), amend(1)
    effects = bench.give(Proclaim(one))
    assert effects[:3] == [
        Uphold(one, need=FREE),
        Tell(Stated(one)),
        Append(Audited("amended", "mesh", "root", "number 1, mode token, roots 6b", 2000)),
    ]
    assert effects[3:] == [Send(peer, TrustMessage((one,)), need=FREE) for peer in ("b", "c")]


def test_what_is_known_changes_nothing_and_is_not_told_on() -> None:
    bench = Bench().hold(revoke("r"))
    assert bench.give(TrustMessage((revoke("r"),)), "b") == []
    assert bench.give(TrustMessage((revoke("r", reason="another reason"),)), "b") == [], "one is enough"


def test_the_same_target_revoked_by_somebody_else_is_another_statement() -> None:
    bench = Bench().hold(revoke("r"))
    assert bench.told(bench.give(TrustMessage((revoke("r", "issuer"),)), "b")) == [("c", ["r"])]


def test_two_amendments_of_one_number_are_both_kept() -> None:
    bench = Bench().hold(amend(1, b"k"))
    assert [type(effect) for effect in bench.give(Proclaim(amend(1, b"other")))] == [Uphold, Tell, Append, Send, Send]


def test_the_digest_is_that_of_the_set_in_whatever_order() -> None:
    statements = [revoke("r"), revoke("s"), amend(1), revoke("r", "issuer")]
    digests = {Bench().hold(*order).directory.trust for order in permutations(statements)}
    assert len(digests) == 1 and digests != {0}
    assert 0 <= digests.pop() < 1 << 63
    assert Bench().directory.trust == 0
    assert len({Bench().hold(*statements[:count]).directory.trust for count in range(5)}) == 5


def test_another_reason_is_the_same_set_so_that_two_nodes_agree() -> None:
    assert Bench().hold(revoke("r")).directory.trust == Bench().hold(revoke("r", reason="x")).directory.trust


@pytest.mark.parametrize("beat", [Ping(1, 7), Ack(1, 7), Digest((), True, 7)])
def test_a_beat_with_another_digest_is_answered_with_all_that_is_held(beat: Any) -> None:
    bench = Bench().hold(revoke("r"), revoke("s"))
    assert bench.give(beat, "b") == [Send("b", TrustMessage((revoke("r"), revoke("s"))), need=FREE)]


def test_a_beat_with_the_same_digest_costs_nothing() -> None:
    bench = Bench().hold(revoke("r"))
    assert bench.give(Ping(1, bench.directory.trust), "b") == []
    assert Bench().give(Ping(1, 0), "b") == []


def test_who_holds_nothing_says_nothing() -> None:
    assert Bench().give(Ping(1, 7), "b") == []


def test_peers_that_cannot_agree_talk_ever_more_seldom() -> None:
    bench = Bench().hold(revoke("r"))
    told = [at_s for at_s in range(600) if bench.give(Ping(1, 7), "b", now_s=float(at_s))]
    assert told[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert [later - earlier for earlier, later in pairwise(told[6:])] == [60] * (len(told) - 7)


def test_a_peer_that_agreed_in_between_or_linked_again_is_told_at_once() -> None:
    bench = Bench().hold(revoke("r"))
    for at_s in (0.0, 1.0, 3.0):
        assert bench.give(Ping(1, 7), "b", now_s=at_s)
    assert bench.give(Ping(1, 7), "b", now_s=3.5) == []
    bench.give(Ping(1, bench.directory.trust), "b", now_s=4.0)
    assert bench.give(Ping(1, 7), "b", now_s=4.1)
    bench.give(MemberLinked("b"), now_s=4.2)
    assert bench.give(Ping(1, 7), "b", now_s=4.3)
    assert bench.give(Ping(1, 7), "c", now_s=4.3), "each peer has a gap of its own"


def test_a_large_set_travels_in_lots() -> None:
    bench = Bench(message_statements_max=2).hold(*(revoke(f"r{number}") for number in range(5)))
    assert [len(effect.message.statements) for effect in bench.give(Ping(1, 7), "b")] == [2, 2, 1]
    bench = Bench(message_bytes_max=30).hold(*(revoke(f"r{number}") for number in range(5)))
    assert [len(effect.message.statements) for effect in bench.give(Ping(1, 7), "b")] == [2, 2, 1], "12 to 24 bytes each"


def test_a_message_over_the_limit_is_refused_whole() -> None:
    bench = Bench(message_statements_max=2)
    assert bench.give(TrustMessage(tuple(revoke(f"r{n}") for n in range(3))), "b") == [Refused("too_many_statements", "b")]


def test_what_is_no_statement_is_refused() -> None:
    assert Bench().give(TrustMessage((Signed("b", Opened(1, b"", 0)),)), "b") == [Refused("no_statement", "b")]


def test_members_cannot_use_up_the_room_of_the_roots() -> None:
    bench = Bench(statements_max=4, members_statements_max=2)
    bench.hold(*(revoke(f"r{n}", "home", chain=b"chain") for n in range(3)))
    assert bench.trust.statistics().statements == 2
    assert bench.give(Proclaim(revoke("x", "home", chain=b"chain"))) == [Refused("trust_full", "home")]
    bench.hold(revoke("s"), revoke("t"))
    assert bench.trust.statistics().statements == 4
    assert bench.give(Proclaim(revoke("u"))) == [Refused("trust_full", "root")]


def test_a_restart_upholds_again_and_writes_nothing_twice() -> None:
    first = Bench()
    [entry] = [effect.entry for effect in first.give(Proclaim(revoke("r"))) if type(effect) is Append]
    again = Bench()
    assert again.give(Replay(1, entry)) == []
    assert again.directory.trust == 0, "entries rebuild nothing"
    assert [type(effect) for effect in again.give(Proclaim(revoke("r")))] == [Uphold, Tell, Send, Send]
    assert [type(effect) for effect in again.give(Proclaim(revoke("s")))] == [Uphold, Tell, Append, Send, Send]


def test_a_long_reason_does_not_make_an_entry_that_cannot_be_read_back() -> None:
    [entry] = [effect.entry for effect in Bench().give(Proclaim(revoke("r", reason="x" * 5000))) if type(effect) is Append]
    assert len(entry.note) == 500
