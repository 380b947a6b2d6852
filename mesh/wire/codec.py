"""Messages, journal entries and bodies of signed objects to bytes, and back.

    message  <->  (kind number, msgpack [fields])             unknown kinds and bad rows are refusals
    entry    <->  msgpack [class name, fields]                canonical: hashed and kept as these bytes
    object   <->  (tag, msgpack [fields])                     canonical: signed as these bytes

Invariant: decoding is total. Any bytes give an object or a `Refusal`, never another exception, in time proportional to their length.
Encoding is for our own objects: it raises TypeError or ValueError for what never had a place on the wire. Does not sign or verify: a
`Signed` inside goes through the functions given (`Signer.seal`, `Keyring.open`).
"""

from __future__ import annotations

from typing import Any

from mesh.messages import KINDS, SIGNED
from mesh.messages.records import ENTRIES
from mesh.wire.packing import BODY_BYTES_MAX, NODES_MAX, Refusal, is_canonical, pack, unpack_row
from mesh.wire.shapes import OpenSigned, Seal, Shape, shape_of

__all__ = [
    "BODY_BYTES_MAX",
    "OpenSigned",
    "Refusal",
    "Seal",
    "decode",
    "decode_entry",
    "decode_object",
    "encode",
    "encode_entry",
    "encode_object",
    "entry_kind",
    "kind_of",
]

_KIND_OF: dict[type, int] = {cls: kind for kind, cls in KINDS.items()}
_BY_KIND: dict[int, Shape] = {kind: shape_of(cls) for kind, cls in KINDS.items()}
_BY_CLASS: dict[type, Shape] = {cls: shape_of(cls) for cls in KINDS.values()}
_TAG_OF: dict[type, str] = {cls: tag for tag, cls in SIGNED.items()}
_BY_TAG: dict[str, Shape] = {tag: shape_of(cls) for tag, cls in SIGNED.items()}
_ENTRY: dict[type, Shape] = {cls: shape_of(cls, kept=True) for cls in ENTRIES}
_BY_ENTRY: dict[str, Shape] = {cls.__name__: shape for cls, shape in _ENTRY.items()}


def kind_of(message: Any) -> int:
    """The number of `message`'s class. Raises KeyError for what is no message."""
    return _KIND_OF[type(message)]


def encode(message: Any, seal: Seal | None = None) -> bytes:
    """The body of `message`. `seal` signs the statements in it that have not left this node yet.

    Raises ValueError where a statement is unsigned and there is no `seal`; KeyError for what is no message.
    """
    return pack(_BY_CLASS[type(message)].row(message, seal))


def decode(kind: int, body: bytes, open_signed: OpenSigned | None = None) -> Any:
    """The message. `open_signed` verifies the statements in it. Raises Refusal and nothing else.

    Reasons: ``unknown_kind``, ``too_big``, ``too_many_values``, ``malformed``, ``unverifiable`` (statements, and nobody to open them), and
    those of `open_signed`.
    """
    shape = _BY_KIND.get(kind)
    if shape is None:
        raise Refusal("unknown_kind")
    return shape.read(unpack_row(body), open_signed)


def entry_kind(entry: Any) -> str:
    """The kind of a journal entry on disk and on the wire: its class name. Raises KeyError for what is no entry."""
    return _ENTRY[type(entry)].cls.__name__


def encode_entry(entry: Any) -> bytes:
    """The bytes that are kept and hashed. They are read once before they are given: a journal that cannot be read again is worse than none.

    Raises KeyError for what is no entry, ValueError for one that could not be read back (wrong types, over 1 MiB).
    """
    shape = _ENTRY[type(entry)]
    row = shape.row(entry, None)
    data = pack((shape.cls.__name__, *row))
    if len(data) > NODES_MAX or not shape.fits(row):  # small flat rows are judged as they are; the others as they will be read
        try:
            shape.read(unpack_row(data)[1:], None)
        except Refusal as refusal:
            raise ValueError(f"an entry that could not be read back ({refusal.reason}): {shape.cls.__name__}") from None
    return data


def decode_entry(data: bytes) -> Any:
    """The entry. Raises Refusal: ``unknown_entry``, ``not_canonical``, ``malformed``, ``too_big``, ``too_many_values``."""
    row = unpack_row(data)
    if not row or type(row[0]) is not str:
        raise Refusal("malformed")
    shape = _BY_ENTRY.get(row[0])
    if shape is None:
        raise Refusal("unknown_entry")
    if not is_canonical(row, data):
        raise Refusal("not_canonical")
    return shape.read(row[1:], None)


def encode_object(body: Any, seal: Seal | None = None) -> tuple[str, bytes]:
    """Tag and body bytes of what is to be signed. Raises KeyError for what is no signed object, ValueError as `encode` does."""
    return _TAG_OF[type(body)], pack(shape_of(type(body)).row(body, seal))


def decode_object(tag: str, body: bytes, open_signed: OpenSigned | None = None) -> Any:
    """The body of a signed object, not verified here. Raises Refusal: ``unknown_object``, ``not_canonical`` and those of `decode`."""
    shape = _BY_TAG.get(tag)
    if shape is None:
        raise Refusal("unknown_object")
    row = unpack_row(body)
    if not is_canonical(row, body):
        raise Refusal("not_canonical")
    return shape.read(row, open_signed)
