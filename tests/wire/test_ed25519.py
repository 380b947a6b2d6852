"""Keys that must never be believed, computed from the curve; malleable and foreign signatures; both libraries where both are here."""

from __future__ import annotations

import hashlib
import importlib
import sys
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mesh.wire import ed25519
from mesh.wire.packing import Refusal

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def times(number: int, point: Point) -> Point:
    total = (0, 1)
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def lift(y: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def torsion() -> set[Point]:
    """All eight points whose order divides eight: L times any point is one; some point gives one of order eight."""
    for y in range(2, 100):
        point = lift(y)
        if point:
            generator = times(L, point)
            if times(4, generator) != (0, 1):
                return {times(number, generator) for number in range(8)}
    raise AssertionError("no point of order eight")


def encodings(point: Point) -> set[bytes]:
    """Every 32 bytes that some library may read as this point: both signs, reduced and, where it fits, not reduced."""
    ys = {point[1]} | ({point[1] + P} if point[1] + P < 2**255 else set())
    return {(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)}


TORSION = torsion()


def test_the_list_of_small_orders_is_that_of_the_curve() -> None:
    assert len(TORSION) == 8
    assert {y for _, y in TORSION} == ed25519._SMALL_ORDER_Y


@pytest.mark.parametrize(
    "key", sorted({key for point in TORSION for key in encodings(point)}), ids=lambda key: key.hex()[:8] + key.hex()[-2:]
)
def test_small_order_keys_are_refused(key: bytes) -> None:
    with pytest.raises(Refusal, match="bad_key"):
        ed25519.verifier_of(key)


@pytest.mark.parametrize("excess", range(19))
@pytest.mark.parametrize("sign", (0, 1))
def test_keys_that_are_not_reduced_are_refused(excess: int, sign: int) -> None:
    with pytest.raises(Refusal, match="bad_key"):
        ed25519.verifier_of((P + excess | sign << 255).to_bytes(32, "little"))


@pytest.mark.parametrize("size", (0, 1, 31, 33, 64))
def test_keys_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(Refusal, match="bad_key"):
        ed25519.verifier_of(b"\x07" * size)
    with pytest.raises(ValueError, match="32 bytes"):
        ed25519.signer_of(b"\x07" * (size or 5))


def test_the_library_in_use_has_its_name() -> None:
    assert ("cryptography" if importlib.util.find_spec("nacl") is None else "pynacl") == ed25519.BACKEND


def test_signatures_hold_only_as_made() -> None:
    public, sign = ed25519.signer_of(b"\x05" * 32)
    verify = ed25519.verifier_of(public)
    signature = sign(b"data")
    assert len(signature) == 64 and signature == sign(b"data") and verify(signature, b"data")
    assert (
        not verify(signature, b"dat")
        and not verify(signature[:63], b"data")
        and not verify(signature + b"\0", b"data")
        and not verify(b"", b"")
    )
    for bit in range(512):
        assert not verify((int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little"), b"data")
    malleable = signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")
    assert not verify(malleable, b"data")


def test_small_order_r_is_refused() -> None:
    """A signer may choose R of order one on purpose: the equation holds, one library would accept it, the other not. Here neither does."""
    seed = b"\x05" * 32
    public, _ = ed25519.signer_of(seed)
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    secret = int.from_bytes(digest, "little")
    r = (1).to_bytes(32, "little")
    k = int.from_bytes(hashlib.sha512(r + public + b"data").digest(), "little")
    forged = r + (k * secret % L).to_bytes(32, "little")
    if ed25519.BACKEND == "cryptography":
        Ed25519PublicKey.from_public_bytes(public).verify(forged, b"data")
    assert not ed25519.verifier_of(public)(forged, b"data")


def _with_other_backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if ed25519.BACKEND == "pynacl":
        monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    else:
        pytest.importorskip("nacl.bindings", reason="only one of the two libraries is installed")
    spec = importlib.util.find_spec("mesh.wire.ed25519")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_libraries_make_the_same_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    other = _with_other_backend(monkeypatch)
    assert other.BACKEND != ed25519.BACKEND
    public, sign = ed25519.signer_of(b"\x06" * 32)
    other_public, other_sign = other.signer_of(b"\x06" * 32)
    assert public == other_public and sign(b"data") == other_sign(b"data")
    assert other.verifier_of(public)(sign(b"data"), b"data") and not other.verifier_of(public)(sign(b"data"), b"else")
