"""Golden frames: the bytes of every kind, fixed for ever. LANMESH_REGENERATE_GOLDEN=1 writes missing ones, and changes none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from attacks.samples import honest, opened

from mesh.messages import KINDS, SIGNED
from mesh.messages.records import ENTRIES
from mesh.wire import codec
from mesh.wire.envelope import Batch, frame_message, open_envelope, seal_flush

GOLDEN = Path(__file__).parent / "golden"
WRITES = bool(os.environ.get("LANMESH_REGENERATE_GOLDEN"))


def golden(name: str, data: bytes) -> bytes:
    """The fixed bytes called `name`; `data` are today's."""
    path = GOLDEN / f"{name}.hex"
    if WRITES and not path.exists():
        path.write_text("\n".join(data.hex()[at : at + 96] for at in range(0, len(data) * 2, 96)) + "\n")
    assert path.exists(), f"{name} has no golden frame: run with LANMESH_REGENERATE_GOLDEN=1 and commit {path}"
    return bytes.fromhex(path.read_text())


@pytest.mark.parametrize("kind", sorted(KINDS), ids=lambda kind: KINDS[kind].__name__)
def test_message(kind: int, world: Any) -> None:
    message = world.sample(KINDS[kind])
    fixed = golden(f"message-{kind:02d}-{KINDS[kind].__name__}", codec.encode(message, world.a.seal))
    assert codec.encode(message, world.a.seal) == fixed
    assert codec.decode(kind, fixed, world.keyring.open) == message


@pytest.mark.parametrize("cls", ENTRIES, ids=lambda cls: cls.__name__)
def test_entry(cls: type, world: Any) -> None:
    entry = world.sample(cls)
    fixed = golden(f"entry-{cls.__name__}", codec.encode_entry(entry))
    assert codec.encode_entry(entry) == fixed
    assert codec.decode_entry(fixed) == entry


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_signed_object(tag: str, world: Any) -> None:
    signed = honest(tag, world)
    fixed = golden(f"signed-{tag}", signed.raw)
    assert signed.raw == fixed
    assert opened(tag, world, fixed) == signed.body


def test_chain(world: Any) -> None:
    """Of a node that has had another key, so that the deed and the earlier key are in it."""
    raw = world.lines["a"].renewed(60).chain()
    fixed = golden("chain", raw)
    assert raw == fixed
    assert world.keyring.introduce(fixed) == world.a.node


def test_flush_of_three_envelopes(world: Any) -> None:
    """Two to b and one to c, under one signature."""
    parts = [frame_message(10, b"\x91\x01", 1), frame_message(11, b"\x91\x02", 2, cause_id=9, ttl_ms=500)]
    batches = [
        Batch(world.b.node, b"session-A-to-B--", 1, 5, parts),
        Batch(world.c.node, b"session-A-to-C--", 7, 0, parts[:1]),
        Batch(world.b.node, b"session-A-to-B--", 3, 5, parts[1:]),
    ]
    flushed = seal_flush(world.a, batches, sent_ms=1_800_000_000_000, stamp_ms=77, cert_serial=1, journal_head=bytes(32))
    for number, frames in enumerate(flushed):
        for name, frame in zip(("header", "payload", "proof"), frames, strict=True):
            assert frame == golden(f"envelope-{number}-{name}", frame)
    for number in (2, 0):
        opened = open_envelope(
            world.keyring, [golden(f"envelope-{number}-{name}", b"") for name in ("header", "payload", "proof")], world.expect
        )
        assert not opened.refused


def test_no_golden_frame_is_left_over() -> None:
    """A kind that is taken away breaks those who still send it: the frame must stay, and so must the kind."""
    expected = {f"message-{kind:02d}-{cls.__name__}" for kind, cls in KINDS.items()} | {f"entry-{cls.__name__}" for cls in ENTRIES}
    expected |= {"chain"} | {f"signed-{tag}" for tag in SIGNED}
    expected |= {f"envelope-{n}-{part}" for n in range(3) for part in ("header", "payload", "proof")}
    assert {path.stem for path in GOLDEN.glob("*.hex")} == expected
