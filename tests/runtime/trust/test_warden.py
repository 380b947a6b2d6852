"""Renewal in time, by the own issuer or another's; which granted certificates count; statements enforced and kept; expiry by trust mode."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attacks.world import sealed

from mesh.core.inputs import Audit, Outlawed, Proclaim, RowChanged
from mesh.effects import Uphold
from mesh.messages.membership import Alive
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, NODE, Granted, RenewAsk, Revocation
from mesh.runtime.home import Home
from mesh.runtime.trust.authority import HOME_LIFE_MS, ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials, Paths
from mesh.runtime.trust.founding import enter
from mesh.runtime.trust.identity import Identity, load_identity
from mesh.runtime.trust.keyfiles import prepare_key, public_of
from mesh.runtime.trust.registrar import Registrar
from mesh.runtime.trust.succession import amend_root, finish_root, replace_home_key
from mesh.runtime.trust.warden import Warden
from mesh.wire.authorities import Authorities
from mesh.wire.keyring import Keyring
from mesh.wire.packing import Refusal

pytestmark = pytest.mark.anyio
DAY_MS = 86_400_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Wire:
    """Links between the wardens of one test: what is said arrives at once, and nothing else is carried."""

    def __init__(self, identity: Identity, all_wires: dict[str, Wire]) -> None:
        self.me, self._all = identity.node, all_wires
        all_wires[self.me] = self
        self.handlers: dict[type, Callable[[str, Any], None]] = {}
        self.noted: Callable[[str, str], None] = lambda reason, who: None
        self.said: list[tuple[str, Any]] = []
        self.expelled: list[str] = []
        self.up = True

    def is_up(self, node: str) -> bool:
        return node in self._all and node != self.me and self._all[node].up

    def say(self, node: str, message: Any) -> None:
        self.said.append((node, message))
        self._all[node].handlers[type(message)](self.me, message)

    def expel(self, node: str) -> None:
        self.expelled.append(node)


class Guarded:
    """A home's node as far as its warden is concerned."""

    def __init__(self, home: Home, wires: dict[str, Wire], clock: Clock) -> None:
        self.home, self.identity = home, load_identity(home.node())
        self.links = Wire(self.identity, wires)
        self.told: list[Any] = []
        self.restarts = 0
        registrar = Registrar(lambda: Credentials(home), lambda: self.identity.signer.public_key, lambda: (), clock.now, lambda *_: None)
        self.warden = Warden(
            home.node(),
            self.identity,
            self.links,
            registrar,
            lambda _, body: self.told.append(body),
            self._restart,
            clock.now,  # type: ignore[arg-type]
        )

    def _restart(self) -> None:
        self.restarts += 1

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.home)

    def of(self, kind: type) -> list[Any]:
        return [body for body in self.told if type(body) is kind]

    def knows(self, *others: Guarded) -> None:
        for other in others:
            self.identity.keyring.introduce(other.identity.chain, recalled=True)


class Clock:
    def __init__(self) -> None:
        self.ms = time.time_ns() // 1_000_000 + 60_000

    def now(self) -> int:
        return self.ms


@asynccontextmanager
async def watched(*guarded: Guarded) -> AsyncIterator[None]:
    """Their wardens run. Each has looked once when this begins."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for one in guarded:
                await tasks.start(one.warden.run)
            yield
            tasks.cancel_scope.cancel()


async def until(seen: Callable[[], object]) -> None:
    while not seen():  # noqa: ASYNC110  threads and files send no events
        await anyio.sleep(0.005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def town(homes: Any, clock: Clock) -> tuple[Guarded, Guarded, Guarded]:
    """The root's home, a second issuer, a member. All know each other and are linked."""
    office = homes.Office(homes.founded("one"))
    wires: dict[str, Wire] = {}
    made = [Guarded(office.home, wires, clock), *(Guarded(homes.joined(office, name), wires, clock) for name in ("two", "three"))]
    for one in made:
        one.knows(*made)
    return made[0], made[1], made[2]


def life_of(one: Guarded) -> int:
    chain = one.credentials.chain
    return chain.expires_ms - chain.begins_ms


# ---- in time


async def test_nothing_is_renewed_before_half_of_its_life_is_over(town: Any, clock: Clock) -> None:
    before = [one.credentials.chain.raw for one in town]
    clock.ms += HOME_LIFE_MS["token"] // 2 - DAY_MS
    async with watched(*town):
        for one in town:
            await one.warden.look()
    assert [one.credentials.chain.raw for one in town] == before and not any(one.links.said for one in town)


async def test_who_may_issue_renews_itself(town: Any, clock: Clock) -> None:
    for one in town[:2]:
        before = one.credentials.chain
        clock.ms = before.begins_ms + HOME_LIFE_MS["token"] // 2 + DAY_MS
        async with watched(one):
            await until(lambda one=one: one.of(RowChanged))
        after = one.credentials.chain
        assert after.last.serial > before.last.serial and after.expires_ms > before.expires_ms
        assert (after.last.roles, after.last.subject, after.last.key) == (before.last.roles, before.last.subject, before.last.key)
        assert one.identity.chain == one.of(RowChanged)[0].certificate and one.identity.serial > before.last.serial
        assert not one.links.said and one.warden.renewal == ""


async def test_others_are_renewed_by_an_issuer_that_is_linked(town: Any, clock: Clock) -> None:
    root, second, member = town
    root.links.up = False
    before = member.credentials.chain
    clock.ms += HOME_LIFE_MS["token"] // 2 + DAY_MS
    async with watched(second, member):
        await until(lambda: member.of(RowChanged))
    after = member.credentials.chain
    assert [(to, type(message)) for to, message in member.links.said] == [(second.identity.node, RenewAsk)]
    assert after.last.serial > before.last.serial and after.certificates[0].subject != before.certificates[0].subject
    assert after.last.roles == before.last.roles and member.warden.renewal == ""
    assert [audit.what for audit in member.of(Audit)] == ["renewed"] and [audit.what for audit in second.of(Audit)] == ["role_used"]
    assert root.identity.keyring.introduce(load_identity(member.home.node()).chain, recalled=True) == member.identity.node


async def test_where_nobody_can_renew_it_says_so_and_tries_again(town: Any, clock: Clock) -> None:
    root, second, member = town
    root.links.up = second.links.up = False
    clock.ms += HOME_LIFE_MS["token"] // 2 + DAY_MS
    async with watched(second, member):
        await until(lambda: "no member that may renew" in member.warden.renewal)
        second.links.up = True
        await member.warden.look()
        await until(lambda: member.of(RowChanged))
    assert member.warden.renewal == ""


async def test_an_issuer_that_is_asked_and_does_not_answer_is_on_the_record(town: Any, clock: Clock) -> None:
    _, second, member = town
    second.links.handlers[RenewAsk] = lambda sender, ask: None
    town[0].links.up = False
    clock.ms += HOME_LIFE_MS["token"] // 2 + DAY_MS
    async with watched(member):
        await until(lambda: "has not answered" in member.warden.renewal)


async def test_an_issuers_certificate_is_renewed_where_the_root_is(town: Any, clock: Clock) -> None:
    """The second issuer renews its home itself; its own right to admit comes from the root."""
    root, second, _ = town
    issuer = second.credentials.issuer_chain()
    assert issuer is not None
    clock.ms = (issuer.begins_ms + issuer.expires_ms) // 2 + DAY_MS
    async with watched(root, second):
        await until(lambda: second.credentials.issuer_chain() != issuer)
    after = second.credentials.issuer_chain()
    assert after is not None and after.expires_ms > issuer.expires_ms and Authority(second.credentials).can_admit


async def test_the_roots_answer_counts_though_a_later_one_of_another_issuer_came_first(town: Any, clock: Clock) -> None:
    root, second, _ = town
    issuer = second.credentials.issuer_chain()
    assert issuer is not None
    clock.ms += 1000
    early = granted(root, second)
    early.issuer = Authority(root.credentials, clock.now).certify_issuer(issuer.last.key, "two")
    clock.ms += 1000
    late = granted(root, second)
    async with watched(second):
        second.links.handlers[Granted](root.identity.node, late)
        await until(lambda: second.of(RowChanged))
        second.links.handlers[Granted](root.identity.node, early)
        await until(lambda: second.credentials.issuer_chain() != issuer)
        second.links.handlers[Granted](root.identity.node, early)
        await until(lambda: second.warden.refusals["granted_old"])
    assert second.credentials.chain.raw == late.chain, "the home's own stays the later one"


async def test_another_node_of_the_home_has_renewed(town: Any) -> None:
    _, second, _ = town
    replace_home_key(second.home)
    async with watched(second):
        await until(lambda: second.of(RowChanged))
    assert second.identity.credentials.home_key == second.credentials.home_key and not second.links.said


async def test_a_home_that_has_moved_to_another_mesh_begins_anew(town: Any, homes: Any) -> None:
    _, _, member = town
    other = homes.Office(homes.founded("other"))
    admission = homes.admitted(other, member.home)
    with member.home.lock():
        enter(member.home, admission)
    async with watched(member):
        await until(lambda: member.restarts)
    assert not member.of(RowChanged)


async def test_credentials_that_cannot_be_read_end_nothing(town: Any) -> None:
    _, _, member = town
    paths = Paths(member.home.mesh_path)
    kept = paths.membership.read_bytes()
    paths.membership.write_bytes(b"noise")
    async with watched(member):
        await until(lambda: "does not hold" in member.warden.renewal)
        paths.membership.write_bytes(kept)
        await member.warden.look()
    assert not member.of(RowChanged)


# ---- what is granted


def granted(by: Guarded, to: Guarded, *, key: bytes = b"", **changes: Any) -> Granted:
    today = to.credentials.chain.last
    fields = {"home": today.subject, "name": today.name, "grant": Grant(today.roles)} | changes
    chain = Authority(by.credentials, by.warden._wall_ms).admit(fields["home"], key or today.key, fields["name"], fields["grant"])
    return Granted(chain)


async def test_certificates_that_are_older_or_for_another_change_nothing(town: Any, clock: Clock) -> None:
    root, _, member = town
    before = member.credentials.chain.raw
    clock.ms -= 60_000
    old = granted(root, member)
    clock.ms += 120_000
    foreign_key = granted(root, member, key=public_of(b"x" * 32))
    foreign_home = granted(root, member, home="s" * 32)
    async with watched(member):
        for number, (message, why) in enumerate(
            (
                (old, "old"),
                (foreign_key, "not_own"),
                (foreign_home, "not_own"),
                (Granted(b"noise"), "malformed"),
                (Granted(b"\x90"), "bad_certificate"),
            )
        ):
            member.links.handlers[Granted](root.identity.node, message)
            await until(lambda number=number: sum(member.warden.refusals.values()) == number + 1)
            assert member.warden.refusals[f"granted_{why}"], why
    assert member.credentials.chain.raw == before and not member.of(RowChanged)


async def test_a_certificate_for_the_prepared_key_of_another_home_is_not_taken(town: Any) -> None:
    root, _, member = town
    key = public_of(prepare_key(Paths(member.home.mesh_path).home_key))
    home_key = member.credentials.home_key
    async with watched(member):
        member.links.handlers[Granted](root.identity.node, granted(root, member, key=key, home="s" * 32))
        await until(lambda: member.warden.refusals["granted_not_own"])
        assert member.credentials.home_key == home_key
        member.links.handlers[Granted](root.identity.node, granted(root, member, key=key))
        await until(lambda: member.of(RowChanged))
    assert member.credentials.home_key == key


async def test_an_issuers_certificate_for_another_key_is_not_kept(town: Any) -> None:
    root, _, member = town
    message = granted(root, member)
    message.issuer = Authority(root.credentials).certify_issuer(public_of(b"x" * 32), "x")
    async with watched(member):
        member.links.handlers[Granted](root.identity.node, message)
        await until(lambda: member.warden.refusals["granted_not_own"])
    assert not Authority(member.credentials).can_admit


async def test_who_asks_for_somebody_else_gets_nothing(town: Any) -> None:
    root, second, member = town
    raw = second.warden._renewal(b"", b"")
    async with watched(root):
        root.links.handlers[RenewAsk](member.identity.node, RenewAsk(raw))
        root.links.handlers[RenewAsk](member.identity.node, RenewAsk(b"noise"))
        root.links.handlers[RenewAsk]("stranger", RenewAsk(raw))
        await until(lambda: root.warden.refusals["renewal_malformed"])
    assert root.warden.refusals == {"renewal_not_own": 1, "renewal_malformed": 1} and not root.links.said


async def test_who_may_not_issue_says_nothing(town: Any) -> None:
    _, second, member = town
    async with watched(member):
        member.links.handlers[RenewAsk](second.identity.node, RenewAsk(second.warden._renewal(b"", b"")))
        await until(lambda: member.warden.refusals)
    assert member.warden.refusals == {"renewal_no_issuer": 1} and not member.links.said


# ---- roots


def moved(one: Guarded) -> bool:
    authorities = one.credentials.authorities
    return len(authorities.roots) > 1 and authorities.chains.root_of(one.credentials.chain.raw) == authorities.root_ids[-1]


async def test_everybody_moves_under_the_new_root_and_then_the_old_one_goes(town: Any) -> None:
    root, second, member = town
    signed = amend_root(root.home)
    newest = signed.body.roots[-1]
    async with watched(*town):
        for one in town:
            one.warden.effects[Uphold](Uphold(signed))
        for one in town:
            while not moved(one):  # the second issuer may answer the third before it has moved itself: then it asks again
                await one.warden.look()
                await anyio.sleep(0.005)
            await until(lambda one=one: one.of(RowChanged))
            assert one.credentials.authorities.roots[-1] == newest
        finished = finish_root(root.home)
        assert finished is not None
        for one in town:
            one.warden.effects[Uphold](Uphold(finished))
            await until(lambda one=one: len(one.credentials.authorities.roots) == 1)
        assert second.credentials.chain.raw and member.credentials.chain.raw
    for one in town:
        assert load_identity(one.home.node()).node == one.identity.node


# ---- statements


def revocation(root: Guarded, of: Guarded, level: str = NODE) -> Signed:
    raw = of.identity.chain if level == NODE else of.credentials.chain.raw
    chain = root.credentials.authorities.chains.read(raw)
    signer = root.credentials.root_signer()
    assert signer is not None
    return sealed(signer, Revocation(root.credentials.mesh, level, chain.last.subject, "gone", "sold", 1, chain.raw))


@pytest.mark.parametrize("level", [NODE, HOME])
async def test_who_is_revoked_is_cut_off_told_and_remembered(level: str, town: Any) -> None:
    root, second, member = town
    said = revocation(root, second, level)
    async with watched(member):
        member.warden.effects[Uphold](Uphold(said))
        assert member.links.expelled == [second.identity.node], "at once"
        assert [(one.node, one.reason) for one in member.of(Outlawed)] == [(second.identity.node, "sold")]
        assert member.identity.keyring.member(second.identity.node) is None
        await until(lambda: member.credentials.authorities.statements())
    again = load_identity(member.home.node())
    with pytest.raises(Refusal, match="revoked"):
        again.keyring.introduce(second.identity.chain)
    kept = Warden(
        member.home.node(),
        again,
        Wire(again, {}),
        None,
        lambda _, body: member.told.append(body),
        lambda: None,  # type: ignore[arg-type]
    )
    kept.proclaim_kept()
    assert [one.signed.raw for one in member.of(Proclaim)] == [said.raw], "the next life tells the others"


async def test_a_statement_that_does_not_hold_changes_nothing(town: Any) -> None:
    root, second, member = town
    honest = revocation(root, second)
    forged = sealed(member.identity.signer, honest.body, honest.author)
    async with watched(member):
        member.warden.effects[Uphold](Uphold(forged))
    assert not member.links.expelled and not member.told and sum(member.warden.refusals.values()) == 1


async def test_a_node_that_was_revoked_itself_goes_on_and_asks_nobody(town: Any, clock: Clock) -> None:
    root, _, member = town
    clock.ms += HOME_LIFE_MS["token"] // 2 + DAY_MS
    said = revocation(root, member, HOME)
    async with watched(root):
        pass
    with member.home.lock():
        credentials = member.credentials
        credentials.authorities.open(said.raw)
        credentials.keep_statements()
    async with watched(member):
        await member.warden.look()
    assert not member.links.said and not member.of(RowChanged)
    assert load_identity(member.home.node()).node == member.identity.node, "and it starts again"


# ---- expiry


@pytest.mark.parametrize(("mode", "stays"), [("token", True), ("ca", False)])
async def test_who_has_expired_stays_known_only_where_that_is_the_rule(mode: str, stays: bool, homes: Any, clock: Clock) -> None:
    office = homes.Office(homes.founded("one", mode))
    other = load_identity(homes.joined(office, "two").node())
    credentials = Credentials(office.home)
    keyring = Keyring(credentials.mesh, (credentials.genesis.root_public_key,), mode, clock.now)
    row = other.signer.seal(Signed(other.node, Alive(other.node, 1, 1, "n", "d", "r", (), other.chain)))
    keyring.open(row)
    clock.ms += HOME_LIFE_MS[mode] + DAY_MS
    assert (keyring.member(other.node) is not None) == stays
    later = other.signer.seal(Signed(other.node, Alive(other.node, 2, 1, "n", "d", "r", (), other.chain)))
    if stays:
        assert keyring.open(later).author == other.node
    else:
        with pytest.raises(Refusal, match="expired"):
            keyring.open(later)
    stranger = Keyring(credentials.mesh, (credentials.genesis.root_public_key,), mode, clock.now)
    with pytest.raises(Refusal, match="expired"):
        stranger.open(row)
    assert stranger.introduce(other.chain, recalled=True) == other.node, "of an earlier life it is remembered"
    assert isinstance(stranger.authorities, Authorities) and ISSUER_ROLE in credentials.chain.last.roles
