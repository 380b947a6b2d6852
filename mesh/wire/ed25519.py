"""Ed25519, from whichever library is here, behind two functions; and the check of public keys that neither library does alike.

PyNaCl (the extra ``speed``) signs and verifies about twice as fast as `cryptography`; `BACKEND` names the one in use. Both accept the same
signatures here: small-order and non-canonical public keys are refused when a key is read (`cryptography` verifies forged signatures under
them: seen for up to 64 of 64 messages), and signatures whose R is of small order are refused too, as libsodium does. Domain separation is
the caller's (`signing.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.wire.packing import Refusal

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]
"""``(signature, data)``: whether it holds."""

SEED_BYTES = 32
KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    (
        0,  # order 4
        1,  # order 1
        2707385501144840649318225287225658788936804267575313519463743609750303402022,  # order 8
        55188659117513257062467267217118295137698188065244968500265048394206261417927,  # order 8, the negative of the one above
        _P - 1,  # order 2
    )
)
"""The y of every point whose order divides 8, reduced; x and its sign do not matter. A test computes them from the curve."""

try:
    from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
    from nacl.exceptions import BadSignatureError

    BACKEND = "pynacl"
except ImportError:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    BACKEND = "cryptography"


def signer_of(seed: bytes) -> tuple[bytes, Sign]:
    """The public key of a 32-byte private seed, and the function that signs with it. Raises ValueError for another length."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"an Ed25519 private key has {SEED_BYTES} bytes, not {len(seed)}")
    if BACKEND == "pynacl":
        public, secret = crypto_sign_seed_keypair(seed)
        return public, lambda data: crypto_sign(data, secret)[:SIGNATURE_BYTES]
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.public_key().public_bytes_raw(), key.sign


def verifier_of(public_key: bytes) -> Verify:
    """The function that verifies under `public_key`. Raises Refusal ``bad_key``: wrong length, non-canonical, or of small order."""
    check_key(public_key)
    if BACKEND == "pynacl":

        def verify_sodium(signature: bytes, data: bytes) -> bool:
            if len(signature) != SIGNATURE_BYTES or _is_small_order(signature[:32]):
                return False
            try:
                crypto_sign_open(signature + data, public_key)
            except BadSignatureError:
                return False
            return True

        return verify_sodium
    key = Ed25519PublicKey.from_public_bytes(public_key)

    def verify_openssl(signature: bytes, data: bytes) -> bool:
        if len(signature) != SIGNATURE_BYTES or _is_small_order(signature[:32]):
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return verify_openssl


def check_key(public_key: bytes) -> None:
    """Refuses what no honest key generation makes. Raises Refusal ``bad_key``."""
    if len(public_key) != KEY_BYTES or _y_of(public_key) >= _P or _is_small_order(public_key):
        raise Refusal("bad_key")


def _y_of(point: bytes) -> int:
    return int.from_bytes(point, "little") & (2**255 - 1)


def _is_small_order(point: bytes) -> bool:
    return _y_of(point) % _P in _SMALL_ORDER_Y
