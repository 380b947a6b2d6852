"""Chains of certificates: read from an honest root down, and refused for every other reason under its name."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product
from typing import Any

import msgpack
import pytest
from attacks import delegations
from attacks.keys import NOT_REDUCED, SMALL_ORDER
from attacks.world import MESH, Line, deed_of, line_of, sealed, signer_of

from mesh.messages.membership import Left
from mesh.messages.trust import HOME, ISSUER, NODE, Certificate, Deed
from mesh.wire import chain as chain_module
from mesh.wire import ed25519
from mesh.wire.chain import GRANTS_MAX, LEVELS, PAST_KEYS_MAX, PAST_MESHES_MAX, Chains, join_chain, read_deed, split_chain, widens
from mesh.wire.objects import Signer, node_id, parts
from mesh.wire.packing import Refusal

LINE = line_of(2)
OTHER = line_of(4)
FIELDS = [field.name for field in dataclasses.fields(Certificate)]


def chains(*roots: Signer, mesh: str = MESH) -> Chains:
    known = {root.node: ed25519.verifier_of(root.public_key) for root in roots or (LINE.root,)}
    return Chains(mesh, known.get)


def refused(raw: bytes, reason: str, reader: Chains | None = None) -> None:
    reader = reader or chains()
    for _ in range(2):  # a refusal is not remembered as anything else
        with pytest.raises(Refusal) as caught:
            reader.read(raw)
        assert caught.value.reason == reason


def replaced(line: Line, level: str, raw: bytes) -> bytes:
    links = line.certificates()
    links[LEVELS.index(level)] = raw
    return join_chain(links)


# ---- honest


def test_an_honest_chain_says_who_it_is() -> None:
    raw = LINE.chain(issuer={"not_after_ms": 900, "not_before_ms": 5}, home={"not_after_ms": 700}, node={"not_before_ms": 9})
    chain = chains().read(raw)
    assert chain.raw == raw
    assert chain.subjects == (LINE.issuer.node, LINE.home.node, LINE.node.node) and chain.last.level == NODE
    assert (chain.begins_ms, chain.expires_ms) == (9, 700)
    assert chains().read(LINE.chain()).expires_ms == 0
    assert chains().read(LINE.chain(node={"not_after_ms": 300})).expires_ms == 300


@pytest.mark.parametrize("size", (1, 2, 3))
def test_the_first_links_of_a_chain_are_a_chain(size: int) -> None:
    chain = chains().read(join_chain(LINE.certificates()[:size]))
    assert chain.last.level == LEVELS[size - 1] and len(chain.certificates) == size


def test_what_is_read_is_verified_once() -> None:
    reader = chains()
    for _ in range(3):
        reader.read(LINE.chain())
    assert reader.verified == 3
    sibling = Line(LINE.root, LINE.issuer, LINE.home, signer_of(77))
    reader.read(sibling.chain())
    assert reader.verified == 4, "the links above were known"


def test_the_memory_of_certificates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "READ_MAX", 4)
    reader = chains()
    for serial in range(10):
        reader.read(LINE.chain(node={"serial": serial}))
        assert len(reader._read) <= 4
    verified = reader.verified
    reader.read(LINE.chain(node={"serial": 9}))
    assert reader.verified == verified
    reader.read(LINE.chain(node={"serial": 0}))
    assert reader.verified > verified


def test_split_is_the_inverse_of_join() -> None:
    assert split_chain(LINE.chain()) == tuple(LINE.certificates())
    assert join_chain(split_chain(LINE.chain())) == LINE.chain()


# ---- tampered


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_every_certificate_is_signed(level: str, field: str) -> None:
    tag, author, body, signature = parts(LINE.certificates()[LEVELS.index(level)])
    row = msgpack.unpackb(body)
    row[FIELDS.index(field)] = changed(field, row[FIELDS.index(field)])
    forged = msgpack.packb([tag, author, msgpack.packb(row), signature])
    refused(replaced(LINE, level, forged), {"mesh": "other_mesh"}.get(field, "bad_certificate"))


def changed(field: str, value: Any) -> Any:
    if field == "key":
        return signer_of(9).public_key
    if field == "past_keys":
        return [signer_of(9).public_key]
    if field == "level":
        return LEVELS[LEVELS.index(value) - 1]
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, bytes):
        return value[:-1] + bytes((value[-1] ^ 1,)) if value else deed_of(LINE.node, LINE.home.node)
    return value + 1 if isinstance(value, int) else value + "x"


@pytest.mark.parametrize("level", LEVELS)
def test_every_bit_of_every_certificate_counts(level: str) -> None:
    raw = LINE.certificates()[LEVELS.index(level)]
    reader = chains()
    for bit in range(0, len(raw) * 8, 7):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refusal):
            reader.read(replaced(LINE, level, bytes(damaged)))
    for size in range(len(raw)):
        with pytest.raises(Refusal):
            reader.read(replaced(LINE, level, raw[:size]))


@pytest.mark.parametrize("level", LEVELS)
def test_each_link_is_signed_by_the_one_above_and_by_nobody_else(level: str) -> None:
    at = LEVELS.index(level)
    body = msgpack.unpackb(parts(LINE.certificates()[at])[2])
    certificate = Certificate(*(tuple(each) if isinstance(each, list) else each for each in body))
    above = (LINE.root, LINE.issuer, LINE.home)[at]
    everybody = {LINE.root, LINE.issuer, LINE.home, LINE.node, OTHER.home, OTHER.node, signer_of(5), signer_of(11)}
    for signer in everybody - {above}:
        for author in (above.node, signer.node):
            refused(replaced(LINE, level, sealed(signer, certificate, author).raw), "bad_certificate")
    assert chains().read(replaced(LINE, level, sealed(above, certificate).raw))


# ---- another mesh, another order


def test_a_chain_of_another_mesh() -> None:
    elsewhere = line_of(2, "other-mesh")
    refused(elsewhere.chain(), "other_mesh")
    claims = elsewhere.certificates(issuer={"mesh": MESH}, home={"mesh": MESH}, node={"mesh": MESH})
    refused(join_chain(claims), "bad_certificate")
    for level in LEVELS:
        refused(replaced(LINE, level, elsewhere.certificates(**{level: {"mesh": MESH}})[LEVELS.index(level)]), "bad_certificate")


def test_an_unknown_root() -> None:
    refused(line_of(2, root=9).chain(), "bad_certificate")
    refused(LINE.chain(), "bad_certificate", chains(signer_of(9)))
    assert chains(signer_of(9), LINE.root).read(LINE.chain())


@pytest.mark.parametrize("levels", list(product(LEVELS, repeat=3)), ids="-".join)
def test_every_order_of_levels_but_one_is_refused(levels: tuple[str, str, str]) -> None:
    raw = LINE.chain(issuer={"level": levels[0]}, home={"level": levels[1]}, node={"level": levels[2]})
    if levels == LEVELS:
        assert chains().read(raw)
    else:
        refused(raw, "bad_certificate")


def test_links_in_another_order_or_of_another_line() -> None:
    links = LINE.certificates()
    for order in permutations(links):
        if list(order) != links:
            refused(join_chain(order), "bad_certificate")
    for pick in product((0, 1), repeat=3):
        if len(set(pick[1:])) > 1:  # the issuer is the same
            mixed = [(links, OTHER.certificates())[which][at] for at, which in enumerate(pick)]
            refused(join_chain(mixed), "bad_certificate")


@pytest.mark.parametrize("links", [[], [b"x"] * 4, ["text"], [[1]], [None], [7]], ids=repr)
def test_what_is_no_row_of_one_to_three_links(links: list[Any]) -> None:
    refused(msgpack.packb(links), "bad_certificate")


def test_a_chain_has_one_encoding() -> None:
    raw = LINE.chain()
    refused(b"\xdc\x00\x03" + raw[1:], "bad_certificate")
    refused(raw + b"\0", "malformed")
    refused(b"", "malformed")
    refused(LINE.certificates()[0], "bad_certificate")
    refused(join_chain([*LINE.certificates(), LINE.certificates()[2]]), "bad_certificate")


def test_under_which_root_a_chain_begins() -> None:
    assert chains().root_of(LINE.chain()) == LINE.root.node


def test_other_signed_objects_are_no_links() -> None:
    for level, signer in zip(LEVELS, (LINE.root, LINE.issuer, LINE.home), strict=True):
        refused(replaced(LINE, level, sealed(signer, Left(LINE.node.node, 1)).raw), "bad_certificate")
        refused(replaced(LINE, level, deed_of(signer, LINE.home.node)), "bad_certificate")


# ---- keys


def test_the_issuers_key_does_not_do_as_a_homes() -> None:
    """Its certificate says issuer, and it signs homes; what it signs as if it were a home has no home above it."""
    issuer, _, node = LINE.certificates()
    refused(join_chain((issuer, issuer, node)), "bad_certificate")
    straight = Line(LINE.root, LINE.issuer, LINE.issuer, LINE.node).certificates()[2]
    refused(join_chain((issuer, straight)), "bad_certificate")
    refused(join_chain((issuer, LINE.certificates()[1], straight)), "bad_certificate")


@pytest.mark.parametrize("key", [*SMALL_ORDER, *NOT_REDUCED], ids=lambda key: key.hex()[:6] + key.hex()[-4:])
@pytest.mark.parametrize("level", LEVELS)
def test_keys_that_nobody_has_are_refused_at_each_level(level: str, key: bytes) -> None:
    refused(LINE.chain(**{level: {"key": key, "subject": node_id(key)}}), "bad_key")
    refused(LINE.chain(**{level: {"past_keys": (key,)}}), "bad_key")


def test_earlier_keys_are_bounded() -> None:
    key = signer_of(9).public_key
    assert chains().read(LINE.chain(node={"past_keys": (key,) * PAST_KEYS_MAX}))
    refused(LINE.chain(node={"past_keys": (key,) * (PAST_KEYS_MAX + 1)}), "bad_certificate")
    assert chains().read(LINE.chain(node={"past_meshes": ("m",) * PAST_MESHES_MAX}))
    refused(LINE.chain(node={"past_meshes": ("m",) * (PAST_MESHES_MAX + 1)}), "bad_certificate")


@pytest.mark.parametrize("grant", ("roles", "offers", "requests"))
@pytest.mark.parametrize("level", LEVELS)
def test_grants_are_bounded(level: str, grant: str) -> None:
    """A row of four thousand offers against as many patterns would take a receiver three seconds."""
    one = "member" if grant == "roles" else "*"
    assert chains().read(LINE.chain(**{level: {grant: (one,) * GRANTS_MAX}}))
    refused(LINE.chain(**{level: {grant: (one,) * (GRANTS_MAX + 1)}}), "bad_certificate")


# ---- whose id it is


def test_an_issuers_id_is_that_of_its_key() -> None:
    refused(LINE.chain(issuer={"subject": "x" * 32}), "bad_certificate")
    renamed = dataclasses.replace(LINE, issuer=signer_of(10, node=signer_of(11).node))
    refused(renamed.chain(), "bad_certificate")
    refused(renamed.chain(issuer={"deed": deed_of(signer_of(11), LINE.root.node)}), "bad_certificate")


def test_a_homes_id_is_what_its_issuer_says() -> None:
    """So a home may take a new key and keep its id."""
    moved = dataclasses.replace(LINE, home=signer_of(99, node=LINE.home.node))
    assert chains().read(moved.chain()).subjects[1] == LINE.home.node


def test_a_node_keeps_its_id_with_a_new_key() -> None:
    renewed = LINE.renewed(60)
    chain = chains().read(renewed.chain())
    assert chain.last.subject == LINE.node.node and chain.last.key == renewed.node.public_key
    assert chain.last.past_keys == (LINE.node.public_key,)


def hijacked(deed: bytes, key: int = 61) -> bytes:
    """Another home's certificate for the node of `LINE`, by default with a key of the thief's."""
    thief = Line(LINE.root, LINE.issuer, OTHER.home, signer_of(key, node=LINE.node.node), LINE.node)
    return thief.chain(node={"deed": deed})


def test_no_home_takes_over_anothers_node() -> None:
    own, other = LINE.node, OTHER.home.node
    mine = Deed(own.node, other, own.public_key)
    for deed in (
        b"",
        deed_of(own, LINE.home.node),
        sealed(signer_of(61), mine, own.node, mesh="").raw,
        sealed(signer_of(61), dataclasses.replace(mine, first_key=signer_of(61).public_key), own.node, mesh="").raw,
        sealed(signer_of(61), dataclasses.replace(mine, first_key=signer_of(61).public_key), mesh="").raw,
        sealed(OTHER.home, mine, own.node, mesh="").raw,
        sealed(own, mine).raw,
        deed_of(signer_of(61), other),
        sealed(own, Left(own.node, 1)).raw,
        LINE.certificates()[2],
    ):
        refused(hijacked(deed), "bad_certificate")
        refused(hijacked(deed, key=2), "bad_certificate")  # nor by leaving it its own key
    assert chains().read(hijacked(deed_of(own, other))), "it is the deed that decides"


def test_a_deed_is_verified_under_the_key_it_names() -> None:
    own = LINE.node
    deed = Deed(own.node, LINE.home.node, own.public_key)
    assert read_deed(sealed(own, deed, mesh="").raw).body == deed
    weak = SMALL_ORDER[0]
    for raw, reason in (
        (sealed(own, dataclasses.replace(deed, node="x" * 32), mesh="").raw, "bad_certificate"),
        (sealed(own, deed, "x" * 32, mesh="").raw, "bad_certificate"),
        (sealed(own, dataclasses.replace(deed, node="x" * 32), "x" * 32, mesh="").raw, "bad_certificate"),
        (sealed(signer_of(9), deed, own.node, mesh="").raw, "bad_certificate"),
        (sealed(own, deed).raw, "bad_certificate"),
        (sealed(own, Left(own.node, 1), mesh="").raw, "bad_certificate"),
        (sealed(own, Deed(node_id(weak), "h", weak), node_id(weak), mesh="").raw, "bad_key"),
        (b"\xc0", "malformed"),
        (b"", "malformed"),
    ):
        with pytest.raises(Refusal) as caught:
            read_deed(raw)
        assert caught.value.reason == reason


# ---- never wider

GRANTS = ("roles", "offers", "requests")


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize("level", (HOME, NODE))
def test_no_link_grants_more_than_the_one_above(level: str, grant: str) -> None:
    above = LEVELS[LEVELS.index(level) - 1]
    narrow = {"roles": ("worker",), "offers": ("ocr.*",), "requests": ("ocr.*",)}[grant]
    wide = {"roles": ("worker", "member"), "offers": ("ocr.*", "pay"), "requests": ("ocr*",)}[grant]
    below: dict[str, dict[str, Any]] = {each: {grant: narrow} for each in LEVELS[LEVELS.index(level) :]}
    assert chains().read(LINE.chain(**{above: {grant: narrow}} | ({ISSUER: {grant: narrow}} if above == HOME else {}) | below))
    below[level] = {grant: wide}
    refused(LINE.chain(**{ISSUER: {grant: narrow}, HOME: {grant: narrow}} | below), "widened")


def test_a_wide_link_is_no_better_for_having_been_read_under_a_wider_one() -> None:
    """A home that was narrowed cannot go on with what it gave its node before: not even where that was seen."""
    reader = chains()
    wide, narrow = LINE.chain(), LINE.chain(home={"roles": ("observer",), "serial": 2})
    reader.read(wide)
    refused(narrow, "widened", reader)
    bound = LINE.chain(issuer={"ttl_ms": 1000})
    refused(bound, "widened", reader)


def test_how_a_link_may_widen() -> None:
    issuer = LINE.certificates()[0]
    parent = chains().read(join_chain((issuer,))).last
    child = dataclasses.replace(parent, level=HOME)
    assert widens(child, parent) == ""
    for field, value in (("roles", ("root",)), ("offers", ("*", "x*")), ("requests", ("**",))):
        wider = dataclasses.replace(child, **{field: value})
        expected = "" if field != "roles" else "roles"
        assert widens(wider, parent) == expected
    assert widens(dataclasses.replace(child, not_after_ms=2000), dataclasses.replace(parent, ttl_ms=1000)) == "life"
    for field in GRANTS:
        nothing = dataclasses.replace(parent, **{field: ()})
        assert widens(child, nothing) == field and widens(dataclasses.replace(child, **{field: ()}), nothing) == ""


@pytest.mark.parametrize(
    ("begins", "ends", "holds"), [(0, 1000, True), (0, 1001, False), (500, 1500, True), (500, 500, False), (500, 400, False), (0, 0, False)]
)
def test_no_home_lives_longer_than_its_issuer_may_give(begins: int, ends: int, holds: bool) -> None:
    raw = LINE.chain(issuer={"ttl_ms": 1000}, home={"not_before_ms": begins, "not_after_ms": ends})
    if holds:
        assert chains().read(raw)
    else:
        refused(raw, "widened")


def test_the_limit_of_life_is_the_issuers_alone() -> None:
    assert chains().read(LINE.chain(home={"ttl_ms": 5})), "a home's nodes end with the home"
    assert chains().read(LINE.chain(home={"not_after_ms": 10**15})), "no limit, no bound"


def test_random_delegations_never_widen() -> None:
    """Signed and read for real, judged name by name; `scripts/attack delegations` makes a million."""
    tally = delegations.run(700, 3)
    assert tally.wrong == [] and tally.chains >= 700
    assert set(tally.outcomes) == {"read", "widened"} and min(tally.outcomes.values()) > 50
