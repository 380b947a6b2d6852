"""The envelope: a batch of 1..32 messages from one node to another, under the one signature of the flush it left in.

    frame 1  header    msgpack [v, mesh, sender, recipient, session, first_seq, count, sent_ms, stamp_ms, echo_ms, cert_serial,
                                journal_head, payload_hash]
    frame 2  payload   count times: length u32, kind u16, msg_id u64, cause_id u64, ttl_ms u32, body            (big-endian)
    frame 3  proof     signature, index u16, count u16, Merkle path of this header among all headers of the flush

Invariant: what `open_envelope` gives was sent by that sender, to this node, in this session, once, and as a whole; cheap checks come first,
the replay window moves only after the signature held. Bad messages inside a good envelope are refused one by one. There is no unsigned
mode. Does not retry, order or queue. The bytes received are verified, never a re-encoding. Sources: RFC 6962 (tree); docs/protocol.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, NamedTuple

from pydantic_core import SchemaValidator, ValidationError, core_schema

from mesh.core.records import merkle
from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages import KINDS
from mesh.messages.keeping import Ship
from mesh.wire import ed25519
from mesh.wire.authorization import Rights, overreaches, rights_of
from mesh.wire.blocks import decode_ship
from mesh.wire.codec import decode
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer, signed_bytes
from mesh.wire.packing import Refusal, is_canonical, pack, unpack_row
from mesh.wire.replay import ReplayWindow

VERSION = 1
SESSION_BYTES = 16
HEADER_BYTES_MAX = 512
FLUSH_ENVELOPES_MAX = 4096
"""Envelopes under one signature; a proof then has at most 12 siblings."""

_FRAME = Struct(">IHQQI")
_PLACE = Struct(">HH")
_PROOF_MIN = ed25519.SIGNATURE_BYTES + _PLACE.size
_PROOF_MAX = _PROOF_MIN + 32 * 12

_NO_RIGHTS: Rights = rights_of(())

FRAME_OVERHEAD_BYTES = _FRAME.size
"""What one message costs in a payload beside its body."""


@dataclass(slots=True)
class Header:
    """What a sender says about one envelope. `sent_ms` is Unix time; `stamp_ms` is on his protocol clock, `echo_ms` on the receiver's."""

    v: int
    mesh: str
    sender: NodeId
    recipient: NodeId
    session: bytes
    first_seq: int
    count: int
    sent_ms: int
    stamp_ms: int
    echo_ms: int
    cert_serial: int
    journal_head: bytes
    payload_hash: bytes


@dataclass(slots=True)
class Batch:
    """What goes to one peer in one flush: at most 32 parts, together at most 64 KiB unless there is only one. Parts: `frame_message`."""

    recipient: NodeId
    session: bytes
    first_seq: int
    echo_ms: int
    parts: list[bytes]


class Received(NamedTuple):
    """One good message of an envelope."""

    msg_id: int
    cause_id: int
    ttl_ms: int
    message: Any


@dataclass(slots=True)
class Session:
    """The receiving half of a link: who sends under it, and what has come. `proven` is the last root and signature that held."""

    peer: NodeId
    id: bytes
    window: ReplayWindow = field(default_factory=ReplayWindow)
    proven: bytes = b""


@dataclass(slots=True)
class Expectations:
    """What a receiver holds envelopes against. `sessions` is the link layer's own table, by session id; `wall_ms` gives Unix time."""

    me: NodeId
    sessions: Mapping[bytes, Session]
    wall_ms: Callable[[], int]
    limits: LinkLimits = field(default_factory=LinkLimits)


class Opened(NamedTuple):
    """A verified envelope. `refused`: ``(msg_id, reason)`` of its bad messages.

    `skewed`: the sender's wall clock is off by more than the limit. Worth a warning and no more: sessions and numbers protect, not clocks.
    """

    header: Header
    messages: list[Received]
    refused: list[tuple[int, str]]
    skewed: bool


# ---- sending


def frame_message(kind: int, body: bytes, msg_id: int, cause_id: int = 0, ttl_ms: int = 0) -> bytes:
    """One part of a payload. Ids are the sender's, 64 bits; a message that is sent again keeps its id. Raises struct.error out of range."""
    return _FRAME.pack(len(body), kind, msg_id, cause_id, ttl_ms) + body


def seal_flush(
    signer: Signer, batches: Sequence[Batch], *, sent_ms: int, stamp_ms: int, cert_serial: int = 0, journal_head: bytes = b""
) -> list[list[bytes]]:
    """The frames of each batch, in order, all under one signature. Raises ValueError for more than 4096 batches."""
    if not batches:
        return []
    if len(batches) > FLUSH_ENVELOPES_MAX:
        raise ValueError(f"{len(batches)} envelopes in one flush; at most {FLUSH_ENVELOPES_MAX}")
    sealed = []
    for batch in batches:
        payload = batch.parts[0] if len(batch.parts) == 1 else b"".join(batch.parts)
        header = pack(
            (
                VERSION,
                signer.mesh,
                signer.node,
                batch.recipient,
                batch.session,
                batch.first_seq,
                len(batch.parts),
                sent_ms,
                stamp_ms,
                batch.echo_ms,
                cert_serial,
                journal_head,
                hashlib.sha256(payload).digest(),
            )
        )
        sealed.append([header, payload])
    leaves = [merkle.leaf(frames[0]) for frames in sealed]
    signature = signer.sign(_flush_bytes(signer.mesh, len(leaves), merkle.root(leaves)))
    paths = merkle.paths(leaves, range(len(leaves))) if len(leaves) > 1 else [[]]
    for index, frames in enumerate(sealed):
        frames.append(b"".join((signature, _PLACE.pack(index, len(leaves)), *paths[index])))
    return sealed


def _flush_bytes(mesh: str, count: int, root: bytes) -> bytes:
    return signed_bytes("envelope", mesh, count.to_bytes(2, "big") + root)


# ---- receiving

_stamp = core_schema.int_schema(strict=True, ge=0, le=2**53)
_node = core_schema.str_schema(strict=True, min_length=1, max_length=64)
_header = SchemaValidator(
    core_schema.tuple_schema(
        [
            core_schema.int_schema(strict=True),
            _node,
            _node,
            _node,
            core_schema.bytes_schema(strict=True, min_length=SESSION_BYTES, max_length=SESSION_BYTES),
            core_schema.int_schema(strict=True, ge=1, le=2**62),
            core_schema.int_schema(strict=True, ge=1),
            _stamp,
            _stamp,
            _stamp,
            core_schema.int_schema(strict=True, ge=0, le=2**63 - 1),
            core_schema.bytes_schema(strict=True),  # 32 or none: see below
            core_schema.bytes_schema(strict=True, min_length=32, max_length=32),
        ]
    )
).validate_python


def open_envelope(keyring: Keyring, frames: Sequence[bytes], expect: Expectations, carrier: NodeId = "") -> Opened:
    """Check everything, cheapest first; then move the session's window and decode. Raises Refusal for the envelope as a whole.

    `carrier`: the node that the connection proved to be at its other end; a sender must use his own. Empty: not known.

    Reasons, in the order of the checks: ``frames``, ``too_big``, ``malformed``, ``version``, ``other_mesh``, ``not_for_me``,
    ``too_many_messages``, ``wrong_link``, ``unknown_sender``, ``stale_session`` (answer with `Stale`), ``wrong_sender``, ``replayed``,
    ``payload_changed``, ``bad_framing``, ``bad_proof``, ``bad_signature``. After a refusal nothing has changed.
    """
    header = _read_header(frames, expect.limits)
    session = _check_header(keyring, header, len(frames[1]), expect, carrier)
    if hashlib.sha256(frames[1]).digest() != header.payload_hash:
        raise Refusal("payload_changed", header.sender)
    parts = _split(frames[1], header)
    _check_proof(keyring, session, header, frames)
    session.window.accept(header.first_seq, header.count)
    skewed = abs(header.sent_ms - expect.wall_ms()) > expect.limits.clock_skew_ms
    return _decode_parts(keyring, header, parts, skewed)


def _read_header(frames: Sequence[bytes], limits: LinkLimits) -> Header:
    if len(frames) != 3:
        raise Refusal("frames")
    header, payload, proof = frames
    if len(header) > HEADER_BYTES_MAX or len(payload) > limits.frame_bytes_max or not _PROOF_MIN <= len(proof) <= _PROOF_MAX:
        raise Refusal("too_big" if len(proof) >= _PROOF_MIN else "frames")
    row = unpack_row(header)
    if row and type(row[0]) is int and row[0] != VERSION:
        raise Refusal("version")
    try:
        fields = _header(row)
    except ValidationError:
        raise Refusal("malformed") from None
    if not is_canonical(row, header) or len(fields[11]) not in (0, 32):
        raise Refusal("malformed")
    return Header(*fields)


def _check_header(keyring: Keyring, header: Header, payload_bytes: int, expect: Expectations, carrier: NodeId) -> Session:
    sender, limits = header.sender, expect.limits
    if header.mesh != keyring.mesh:
        raise Refusal("other_mesh", sender)
    if header.recipient != expect.me:
        raise Refusal("not_for_me", sender)
    if header.count > limits.batch_messages_max or (header.count > 1 and payload_bytes > limits.batch_bytes_max):
        raise Refusal("too_many_messages", sender)
    if carrier and sender != carrier:
        raise Refusal("wrong_link", carrier)
    if keyring.member(sender) is None:
        raise Refusal("unknown_sender", sender)
    session = expect.sessions.get(header.session)
    if session is None:
        raise Refusal("stale_session", sender)
    if session.peer != sender:
        raise Refusal("wrong_sender", sender)
    if not session.window.peek(header.first_seq, header.count):
        raise Refusal("replayed", sender)
    return session


def _check_proof(keyring: Keyring, session: Session, header: Header, frames: Sequence[bytes]) -> None:
    proof = frames[2]
    signature = proof[: ed25519.SIGNATURE_BYTES]
    index, count = _PLACE.unpack_from(proof, ed25519.SIGNATURE_BYTES)
    if count > FLUSH_ENVELOPES_MAX:
        raise Refusal("bad_proof", header.sender)
    path = [proof[at : at + 32] for at in range(_PROOF_MIN, len(proof), 32)]
    root = merkle.root_from_path(merkle.leaf(frames[0]), index, count, path)
    if root is None:
        raise Refusal("bad_proof", header.sender)
    proven = signature + count.to_bytes(2, "big") + root
    if proven == session.proven:  # another envelope of the flush whose signature has just held
        return
    if not keyring.verify(header.sender, _flush_bytes(keyring.mesh, count, root), signature):
        raise Refusal("bad_signature", header.sender)
    session.proven = proven


def _split(payload: bytes, header: Header) -> list[tuple[int, int, int, int, bytes]]:
    """``(kind, msg_id, cause_id, ttl_ms, body)`` of each message; the payload must be used up exactly."""
    at, parts = 0, []
    for _ in range(header.count):
        start = at + _FRAME.size
        if start > len(payload):
            raise Refusal("bad_framing", header.sender)
        size, kind, msg_id, cause_id, ttl_ms = _FRAME.unpack_from(payload, at)
        at = start + size
        parts.append((kind, msg_id, cause_id, ttl_ms, payload[start:at]))
    if at != len(payload):
        raise Refusal("bad_framing", header.sender)
    return parts


def _decode_parts(keyring: Keyring, header: Header, parts: list[tuple[int, int, int, int, bytes]], skewed: bool) -> Opened:
    member = keyring.member(header.sender)
    rights = member.rights if member else _NO_RIGHTS
    messages: list[Received] = []
    refused: list[tuple[int, str]] = []
    for kind, msg_id, cause_id, ttl_ms, body in parts:
        if kind not in rights.kinds:
            refused.append((msg_id, "not_allowed" if kind in KINDS else "unknown_kind"))
            continue
        try:
            message = decode_ship(kind, body, keyring) if KINDS[kind] is Ship else decode(kind, body, keyring.open)
        except Refusal as refusal:
            refused.append((msg_id, refusal.reason))
            continue
        if overreaches(rights, message):
            refused.append((msg_id, "not_granted"))
            continue
        messages.append(Received(msg_id, cause_id, ttl_ms, message))
    return Opened(header, messages, refused, skewed)
