"""Who is let in: invitations, requests by code, what may be granted, who becomes an issuer, renewals; and what a crash leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from attacks.world import sealed

from mesh.errors import MeshError, Refused
from mesh.messages.enrol import Admission, Renewal
from mesh.messages.trust import HOME, Revocation
from mesh.runtime.home import Home, HomeError
from mesh.runtime.trust.authority import HOME_LIFE_MS, ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials, Paths
from mesh.runtime.trust.identity import load_identity
from mesh.runtime.trust.invites import OPEN_MAX, Invites
from mesh.runtime.trust.keyfiles import prepare_key, public_of, read_key
from mesh.runtime.trust.registrar import ASK_LIFE_MS, ASK_SILENT_MS, ASKS_MAX
from mesh.runtime.trust.succession import replace_home_key
from mesh.wire.chain import join_chain
from mesh.wire.codec import decode_object
from mesh.wire.enrolment import home_proof_bytes, read_admission
from mesh.wire.objects import Signer, node_id, parts
from mesh.wire.packing import Refusal
from mesh.wire.token import code, read_token


@pytest.fixture
def office(homes: Any) -> Any:
    return homes.Office(homes.founded("one"))


def reason(office: Any, frame: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        office.registrar.answer(frame)
    return caught.value.reason


def chain_of(office: Any, admission: Admission) -> Any:
    return Credentials(office.home).authorities.chains.read(admission.chain)


# ---- by token


def test_a_token_pins_mesh_and_door_and_holds_no_more_than_that(office: Any, homes: Any) -> None:
    token = office.invite()
    assert (token.mesh, token.door_key, token.doors) == (Credentials(office.home).mesh, homes.DOOR_KEY, homes.DOORS)
    assert token.expires_ms == office.now_ms + 900_000
    assert office.audited == [("invited", token.invite.hex(), "roles member")]
    kept = Paths(office.home.mesh_path).invites
    assert kept.stat().st_mode & 0o777 == 0o600


def test_who_knows_the_secret_is_let_in(office: Any, homes: Any) -> None:
    home = homes.home("two")
    admission = homes.admitted(office, home)
    chain = chain_of(office, admission)
    signer, issuer_key = homes.keys(home)
    assert chain.last.subject == signer.node == node_id(signer.public_key) and chain.last.key == signer.public_key
    assert chain.last.roles == ("member", ISSUER_ROLE) and chain.last.name == "two"
    assert Credentials(office.home).authorities.chains.read(join_chain((admission.own_issuer,))).last.key == issuer_key
    assert admission.genesis == Credentials(office.home).genesis.raw and admission.doors == homes.DOORS
    assert admission.discovery_key == Credentials(office.home).discovery_key
    assert [what for what, *_ in office.audited] == ["invited", "joined"]
    assert office.registrar.statistics().admitted == 1


def test_a_used_invitation_admits_nobody_else_and_its_owner_again_with_the_same_answer(office: Any, homes: Any) -> None:
    token, home = office.invite(), homes.home("two")
    first = homes.admitted(office, home, token)
    assert reason(office, homes.asks(homes.home("three"), token)) == "used"
    again = homes.admitted(office, home, token)
    assert (again.chain, again.own_issuer) == (first.chain, first.own_issuer)
    office.now_ms += 1_000_000
    assert homes.admitted(office.anew() and office, home, token).chain == first.chain, "late, and after a restart: its answer was lost"
    assert [what for what, *_ in office.audited] == ["invited", "joined"], "once"
    office.now_ms += 2 * 86_400_000
    assert reason(office, homes.asks(home, token)) == "unknown_invite", "forgotten in the end"


@pytest.mark.parametrize("round_no", range(5))
def test_an_invitation_raced_by_several_homes_admits_one(round_no: int, office: Any, homes: Any) -> None:
    token = office.invite()
    frames = [homes.asks(homes.home(f"racer{round_no}-{n}"), token) for n in range(4)]
    answers: list[bytes] = []
    refusals: list[str] = []
    start = threading.Barrier(len(frames))
    # As in several processes of one home that admit: each has a registrar, and only the files are shared.
    registrars = [office.anew() for _ in frames]

    def ask(n: int) -> None:
        start.wait(10)
        try:
            answers.append(registrars[n].answer(frames[n]))
        except Refusal as refusal:
            refusals.append(refusal.reason)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 1 and refusals == ["used"] * (len(frames) - 1)


@pytest.mark.parametrize(("late_ms", "outcome"), [(0, ""), (900_000, ""), (900_001, "expired")])
def test_an_invitation_ends(late_ms: int, outcome: str, office: Any, homes: Any) -> None:
    token = office.invite()
    frame = homes.asks(homes.home("two"), token)
    office.now_ms += late_ms
    assert (reason(office, frame) == outcome) if outcome else office.registrar.answer(frame)


def test_an_unknown_invitation_a_bad_proof_and_another_mesh(office: Any, homes: Any) -> None:
    home, token, other = homes.home("two"), office.invite(), homes.Office(homes.founded("other"))
    assert reason(office, homes.asks(home, replace(token, invite=b"nobodys1"))) == "unknown_invite"
    assert reason(office, homes.asks(home, replace(token, secret=b"x" * 16))) == "bad_proof"
    assert reason(office, homes.asks(home, replace(token, door_key=bytes(32)))) == "bad_proof", "for another door"
    assert reason(other, homes.asks(home, token)) in ("bad_signature", "other_mesh")
    stolen, thief = homes.asks(home, token), homes.keys(homes.home("thief"))[0]
    turned = sealed(thief, replace(read_request(stolen), home_key=thief.public_key), mesh=token.mesh)
    assert reason(office, turned.raw) == "bad_proof", "a recorded proof lets nobody else in"
    assert office.registrar.answer(stolen), "and the invitation is still good for its owner"
    assert office.registrar.statistics().refusals["bad_proof"] >= 2


def read_request(frame: bytes) -> Any:
    tag, _, body, _ = parts(frame)
    return decode_object(tag, body)


@pytest.mark.parametrize("frame", [b"", b"noise", b"\x94\xa4join\xa1x\xc4\x00\xc4\x00"])
def test_noise_is_refused_in_a_word(frame: bytes, office: Any) -> None:
    assert reason(office, frame) in ("malformed", "bad_signature")


def test_a_home_that_was_revoked_does_not_come_back(office: Any, homes: Any) -> None:
    home = homes.home("two")
    admission = homes.admitted(office, home)
    revoke(office, chain_of(office, admission))
    assert reason(office, homes.asks(home, office.invite())) == "revoked"
    assert office.registrar.answer(homes.asks(homes.home("three"), office.invite()))


def revoke(office: Any, chain: Any) -> None:
    with office.home.lock():
        credentials = Credentials(office.home)
        root = credentials.root_signer()
        assert root is not None
        said = Revocation(credentials.mesh, HOME, chain.last.subject, "two", "sold", 1, chain.raw)
        credentials.authorities.open(sealed(root, said).raw)
        credentials.keep_statements()


def test_what_was_said_since_the_genesis_comes_with_the_admission(office: Any, homes: Any) -> None:
    gone = chain_of(office, homes.admitted(office, homes.home("two")))
    revoke(office, gone)
    home = homes.joined(office, "three")
    assert Credentials(home).authorities.revocation_of(gone.subjects) is not None


# ---- what is granted


def test_an_invitation_grants_no_more_than_it_says(office: Any, homes: Any) -> None:
    token = office.invite(Grant(("worker",), ("ocr.*", "scan"), ()))
    home = homes.joined(office, "two", token)
    last = Credentials(home).chain.last
    assert (last.roles, last.offers, last.requests) == (("worker",), ("ocr.*", "scan"), ())
    rights = load_identity(home.node()).keyring.member(load_identity(home.node()).node).rights  # type: ignore[union-attr]
    assert rights.roles == ("worker",)
    credentials = Credentials(home)
    assert not Authority(credentials).can_admit
    with pytest.raises(Refused, match="cannot admit"):
        Authority(credentials).admit("x", credentials.home_key, "x", Grant())


def test_more_than_an_issuer_has_cannot_be_granted(office: Any) -> None:
    with pytest.raises(Refused) as caught:
        office.registrar.invite(Grant(("emperor",)), 1000, "auto")
    assert caught.value.code == "widened" and not office.audited
    assert Invites(Paths(office.home.mesh_path), lambda: office.now_ms).counts() == (0, 0)


def test_the_second_home_becomes_an_issuer_and_the_third_does_not(office: Any, homes: Any) -> None:
    second, third = homes.joined(office, "two"), homes.joined(office, "three")
    assert Authority(Credentials(second)).can_admit and not Authority(Credentials(third)).can_admit
    assert ISSUER_ROLE in Credentials(second).chain.last.roles and ISSUER_ROLE not in Credentials(third).chain.last.roles


def test_unless_it_is_told_otherwise(office: Any, homes: Any) -> None:
    second = homes.joined(office, "two", office.invite(issuer="no"))
    third = homes.joined(office, "three", office.invite(issuer="auto"))
    fourth = homes.joined(office, "four", office.invite(issuer="yes"))
    assert [Authority(Credentials(home)).can_admit for home in (second, third, fourth)] == [False, True, True]


def test_a_home_that_may_do_less_becomes_no_issuer_by_itself(office: Any, homes: Any) -> None:
    worker = homes.joined(office, "two", office.invite(Grant(("worker",))))
    member = homes.joined(office, "three")
    assert not Authority(Credentials(worker)).can_admit and Authority(Credentials(member)).can_admit


def test_the_second_issuer_admits_but_makes_no_issuers(office: Any, homes: Any) -> None:
    second = homes.Office(homes.joined(office, "two"))
    with pytest.raises(Refused) as caught:
        second.registrar.invite(Grant(), 1000, "yes")
    assert caught.value.code == "no_root"
    third = homes.joined(second, "three")
    assert not Authority(Credentials(third)).can_admit
    one, three = load_identity(office.home.node()), load_identity(third.node())
    assert one.keyring.introduce(three.chain) == three.node, "the first believes whom the second admitted"


def test_an_open_mesh_and_a_home_without_an_issuer_invite_nobody(homes: Any, office: Any) -> None:
    with pytest.raises(Refused) as caught:
        homes.Office(homes.founded("open", "open")).registrar.invite(Grant(), 1000, "auto")
    assert caught.value.code == "open_mesh" and caught.value.fix == "mesh init"
    homes.joined(office, "two")
    third = homes.Office(homes.joined(office, "three"))
    with pytest.raises(Refused) as caught:
        third.registrar.invite(Grant(), 1000, "auto")
    assert caught.value.code == "no_issuer"
    assert reason(third, homes.asks_without(homes.home("four"))) == "no_issuer"


def test_open_invitations_are_bounded(office: Any, homes: Any) -> None:
    for _ in range(OPEN_MAX):
        token = office.invite()
    with pytest.raises(Refused) as caught:
        office.invite()
    assert caught.value.code == "too_many_invites"
    homes.admitted(office, homes.home("two"), token)
    office.invite()


def test_expired_invitations_do_not_count_for_long(office: Any) -> None:
    for _ in range(OPEN_MAX):
        office.invite(life_ms=1000)
    office.now_ms += 1001
    office.invite()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"invites": [5]}', b'{"invites": [{"invite": 1}]}', b"\xff"])
def test_damaged_lists_say_what_to_do(content: bytes, office: Any, homes: Any) -> None:
    paths, home = Paths(office.home.mesh_path), homes.home("two")
    token = office.invite()
    keep = paths.invites.read_bytes()
    paths.invites.write_bytes(content)
    with pytest.raises(HomeError) as caught:
        office.invite()
    assert str(paths.invites) in caught.value.message and f"remove {paths.invites}" in caught.value.fix
    assert reason(office, homes.asks(home, token)) == "home", "the stranger is told a word"
    paths.invites.write_bytes(keep)
    paths.admitted.write_bytes(content)
    paths.admitted.chmod(0o600)
    if content != b'{"invites": [5]}' and b"invites" not in content:
        assert reason(office, homes.asks(home, token)) == "home"


# ---- by code


def test_a_home_without_a_token_waits_until_a_person_has_compared_the_code(office: Any, homes: Any) -> None:
    home = homes.home("two")
    frame = homes.asks_without(home)
    assert reason(office, frame) == "wait" == reason(office, frame)
    [waiting] = office.registrar.waiting()
    assert waiting.code == code(homes.DOOR_KEY, homes.keys(home)[0].public_key, b"n" * 16) and waiting.ask.name == "two"
    with pytest.raises(Refused) as caught:
        office.registrar.confirm("dodod-" * 3 + "dodod", Grant())
    assert caught.value.code == "no_such_code" and reason(office, frame) == "wait"
    office.registrar.confirm(f" {waiting.code.upper()}\n", Grant(("worker",)))
    assert office.registrar.waiting() == [], "nobody needs to be asked about it again"
    first = office.registrar.answer(frame)
    admission = read_admission(first)
    assert admission is not None and chain_of(office, admission).last.roles == ("worker",)
    assert office.registrar.answer(frame) == first, "its answer was lost"
    assert [what for what, *_ in office.audited] == ["joined"]


def test_another_request_of_the_same_home_has_another_code_and_begins_anew(office: Any, homes: Any) -> None:
    home = homes.home("two")
    reason(office, homes.asks_without(home))
    [before] = office.registrar.waiting()
    office.registrar.confirm(before.code, Grant())
    assert reason(office, homes.asks_without(home, b"o" * 16)) == "wait"
    [after] = office.registrar.waiting()
    assert after.code != before.code and after.grant is None


def test_who_asks_no_more_is_shown_no_more(office: Any, homes: Any) -> None:
    frames = [homes.asks_without(homes.home(name)) for name in ("two", "three")]
    for frame in frames:
        reason(office, frame)
    for _ in range(3):
        office.now_ms += ASK_SILENT_MS // 2
        assert reason(office, frames[0]) == "wait"
    assert [one.ask.name for one in office.registrar.waiting()] == ["two"]


def test_a_request_ends_after_a_while(office: Any, homes: Any) -> None:
    home = homes.home("two")
    reason(office, homes.asks_without(home))
    [waiting] = office.registrar.waiting()
    office.now_ms += ASK_LIFE_MS + 1
    assert office.registrar.waiting() == []
    with pytest.raises(Refused):
        office.registrar.confirm(waiting.code, Grant())


def test_those_who_wait_are_bounded_and_the_last_is_turned_away(office: Any, homes: Any) -> None:
    for n in range(ASKS_MAX):
        assert reason(office, homes.asks_without(homes.home(f"h{n}"))) == "wait"
    assert reason(office, homes.asks_without(homes.home("late"))) == "busy"
    assert reason(office, homes.asks_without(homes.home("h0"))) == "wait", "who waits goes on waiting"
    assert reason(office, homes.asks_without(homes.home("h0"), b"o" * 16)) == "wait", "and may begin anew"
    assert len(office.registrar.waiting()) == ASKS_MAX


def test_a_revoked_home_is_not_let_in_by_code_either(office: Any, homes: Any) -> None:
    home = homes.home("two")
    revoke(office, chain_of(office, homes.admitted(office, home)))
    reason(office, homes.asks_without(home))
    office.registrar.confirm(office.registrar.waiting()[0].code, Grant())
    assert reason(office, homes.asks_without(home)) == "revoked"


# ---- renewal


def renewal(home: Home, **changes: Any) -> tuple[bytes, str, bytes]:
    """What this home asks for, its id and its chain of today."""
    credentials = Credentials(home)
    signer = credentials.home_signer()
    body = Renewal(credentials.mesh, credentials.home_id, credentials.home_key, b"", b"", 1)
    for name, value in changes.items():
        setattr(body, name, value)
    return sealed(signer, body).raw, credentials.home_id, load_identity(home.node()).chain


def test_a_member_gets_new_certificates_and_no_wider_ones(office: Any, homes: Any) -> None:
    homes.joined(office, "two")
    home = homes.joined(office, "three", office.invite(Grant(("worker",), ("ocr.*",), ("scan",))))
    chain, issuer = office.registrar.renew(*renewal(home))
    fresh = Credentials(office.home).authorities.chains.read(chain).last
    today = Credentials(home).chain.last
    assert (fresh.subject, fresh.key) == (today.subject, today.key)
    assert (fresh.roles, fresh.offers, fresh.requests) == (("worker",), ("ocr.*",), ("scan",))
    assert fresh.serial >= today.serial and issuer == b""
    assert fresh.not_after_ms - fresh.not_before_ms == pytest.approx(HOME_LIFE_MS["token"], rel=0.01)
    Credentials(home).keep_chain(chain)


def test_a_home_may_take_its_next_key_with_it(office: Any, homes: Any) -> None:
    home = homes.joined(office, "two")
    seed = prepare_key(Paths(home.mesh_path).home_key)
    following = Signer("", seed, "")
    credentials = Credentials(home)
    body = Renewal(credentials.mesh, credentials.home_id, following.public_key, homes.keys(home)[1], b"", 5)
    body.home_proof = following.sign(home_proof_bytes(body))
    raw = sealed(credentials.home_signer(), body).raw
    chain, issuer = office.registrar.renew(raw, credentials.home_id, load_identity(home.node()).chain)
    fresh = Credentials(office.home).authorities.chains.read(chain).last
    assert (fresh.subject, fresh.key) == (credentials.home_id, following.public_key)
    assert issuer, "an issuer's certificate is renewed with it"


def test_renewals_that_are_refused(office: Any, homes: Any) -> None:
    home, other = homes.joined(office, "two"), homes.joined(office, "three")
    mine, theirs = renewal(home), renewal(other)
    for args, why in (
        ((mine[0], theirs[1], theirs[2]), "not_own"),
        ((theirs[0], mine[1], mine[2]), "not_own"),
        ((mine[0], mine[1], theirs[2]), "bad_signature"),
        ((b"noise", *mine[1:]), "malformed"),
        ((renewal(home, home_key=public_of(b"x" * 32))[0], *mine[1:]), "bad_signature"),
    ):
        with pytest.raises(Refusal) as caught:
            office.registrar.renew(*args)
        assert caught.value.reason == why
    revoke(office, Credentials(home).chain)
    with pytest.raises(Refusal, match="revoked"):
        office.registrar.renew(*mine)
    with pytest.raises(Refused):
        homes.Office(other).registrar.renew(*renewal(other))


def test_a_key_that_was_replaced_renews_nothing_any_more(office: Any, homes: Any) -> None:
    home = homes.joined(office, "two")
    before, *_ = renewal(home)
    replace_home_key(home)
    _, home_id, chain = renewal(home)
    with pytest.raises(Refusal, match="bad_signature"):
        office.registrar.renew(before, home_id, chain)


# ---- granting


def test_a_member_can_be_made_an_issuer_later(office: Any, homes: Any) -> None:
    homes.joined(office, "two")
    home = homes.joined(office, "three")
    credentials = Credentials(home)
    chain, issuer = office.registrar.grant_issuer(credentials.home_id, load_identity(home.node()).chain)
    fresh = credentials.authorities.chains.read(chain).last
    assert fresh.roles == ("member", ISSUER_ROLE) and fresh.subject == credentials.home_id
    assert credentials.authorities.chains.read(join_chain((issuer,))).last.key == homes.keys(home)[1]
    kept = json.loads(Paths(office.home.mesh_path).admitted.read_bytes())["homes"]
    assert kept[credentials.home_id]["issuer"] is True


def test_who_was_admitted_elsewhere_cannot_be_made_one_here(office: Any, homes: Any) -> None:
    second = homes.Office(homes.joined(office, "two"))
    third = homes.joined(second, "three")
    with pytest.raises(Refused, match="admitted elsewhere"):
        office.registrar.grant_issuer(Credentials(third).home_id, load_identity(third.node()).chain)
    with pytest.raises(MeshError):
        second.registrar.grant_issuer(Credentials(third).home_id, load_identity(third.node()).chain)


# ---- crashes


def test_a_crash_while_a_home_is_admitted_lets_it_ask_again(homes: Any, crashing: Callable[..., int]) -> None:
    def prepare(n: int) -> tuple[Any, Home, Any]:
        office = homes.Office(homes.founded(f"office{n}"))
        return office, homes.home(f"h{n}").make(), office.invite()

    def act(prepared: tuple[Any, Home, Any]) -> None:
        office, home, token = prepared
        with suppress(Refusal):
            office.registrar.answer(homes.asks(home, token))

    def look(prepared: tuple[Any, Home, Any]) -> None:
        office, home, token = prepared
        office.anew()
        admission = homes.admitted(office, home, token)
        assert admission.own_issuer, "it is still the second home, so it becomes an issuer"
        assert homes.admitted(office, home, token).chain == admission.chain
        assert reason(office, homes.asks(homes.home(f"{home.path.name}-late"), token)) == "used"
        assert read_key(Paths(home.mesh_path).home_key) is not None

    assert crashing(prepare, act, look) >= 2


def test_a_crash_while_inviting_leaves_no_half_invitation(homes: Any, crashing: Callable[..., int]) -> None:
    def look(office: Any) -> None:
        assert read_token(office.registrar.invite(Grant(), 1000, "auto")[0])

    assert crashing(lambda n: homes.Office(homes.founded(f"o{n}")), lambda office: office.invite(), look) >= 1
