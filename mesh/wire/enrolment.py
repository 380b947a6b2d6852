"""What is said at a door by a home that is no member yet, and the answer, as bytes.

Invariant: a request that leaves `open_request` was signed by the home key it names; an admission is believed because of the TLS key it
came under, and its certificates because of their chain. Requests without a mesh (`Ask`) are signed for the mesh "".
"""

from __future__ import annotations

from mesh.ids import NodeId
from mesh.messages.enrol import Admission, Ask, Join, Renewal
from mesh.messages.signed import Signed
from mesh.wire import ed25519
from mesh.wire.codec import decode_object
from mesh.wire.objects import node_id, parts, signed_bytes
from mesh.wire.packing import Refusal, is_canonical, pack, unpack_row
from mesh.wire.shapes import shape_of

VERSION = 1
_ADMITTED = "admitted"


def open_request(raw: bytes, mesh: str) -> Signed:
    """The `Join` or `Ask` in `raw`, signed by the home key it names. Raises Refusal: ``malformed``, ``bad_signature``, ``not_own``, ..."""
    tag, author, body, signature = parts(raw)
    if tag not in ("join", "ask"):
        raise Refusal("malformed")
    request: Join | Ask = decode_object(tag, body)
    if author != node_id(request.home_key):
        raise Refusal("not_own", author)
    if request.issuer_key:
        ed25519.check_key(request.issuer_key)
    signed_for = mesh if tag == "join" else ""
    if not ed25519.verifier_of(request.home_key)(signature, signed_bytes(tag, signed_for, body)):
        raise Refusal("bad_signature", author)
    return Signed(author, request, raw)


def open_renewal(raw: bytes, mesh: str, home: NodeId, home_key: bytes) -> Renewal:
    """The `Renewal` in `raw`, if the home signed it with its key of today and its new key, if any, agrees. Raises Refusal as above."""
    tag, author, body, signature = parts(raw)
    if tag != "renewal":
        raise Refusal("malformed")
    renewal: Renewal = decode_object(tag, body)
    if author != home or renewal.home != home or renewal.mesh != mesh:
        raise Refusal("not_own", author)
    if not ed25519.verifier_of(home_key)(signature, signed_bytes(tag, mesh, body)):
        raise Refusal("bad_signature", author)
    if renewal.home_key != home_key and not ed25519.verifier_of(renewal.home_key)(renewal.home_proof, home_proof_bytes(renewal)):
        raise Refusal("bad_signature", author)
    if renewal.issuer_key:
        ed25519.check_key(renewal.issuer_key)
    return renewal


def home_proof_bytes(renewal: Renewal) -> bytes:
    """What a new home key signs to show that somebody has it."""
    return signed_bytes("renewal-proof", renewal.mesh, renewal.home.encode() + renewal.home_key + renewal.made_ms.to_bytes(8, "big"))


def pack_admission(admission: Admission) -> bytes:
    return pack((_ADMITTED, VERSION, *shape_of(Admission).row(admission, None)))


def read_admission(frame: bytes) -> Admission | None:
    """The admission in `frame`; None if it is something else. Raises Refusal ``malformed``."""
    row = unpack_row(frame)
    if len(row) < 2 or row[:2] != (_ADMITTED, VERSION):
        return None
    if not is_canonical(row, frame):
        raise Refusal("malformed")
    admission: Admission = shape_of(Admission).read(row[2:], None)
    return admission
