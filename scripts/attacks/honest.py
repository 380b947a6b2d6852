"""What nobody may refuse: honest messages of every kind, from several members, in flushes of several envelopes, some of them late."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

from attacks.world import E_SESSION, NOW_MS, OTHER_SESSION, SESSION, World
from mesh.messages import KINDS
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, frame_message, seal_flush
from mesh.wire.objects import Signer

FLUSH = 8
"""Envelopes under one signature, half of them for somebody else."""


@dataclass
class Tally:
    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Sender:
    """One member and its session at b."""

    def __init__(self, signer: Signer, session: bytes, kinds: list[int], world: World) -> None:
        self.signer, self.session, self.next_seq = signer, session, 1
        messages = [world.sample(KINDS[kind]) for kind in kinds]
        self.parts = [(type(each).__name__, kind_of(each), encode(each, signer.seal)) for each in messages]

    def flush(self, world: World, chance: random.Random) -> list[tuple[list[str], list[bytes]]]:
        """(names of the messages, frames) of each envelope for b."""
        batches: list[Batch] = []
        names: list[list[str]] = []
        for number in range(FLUSH):
            picked = chance.choices(self.parts, k=chance.choice((1, 1, 2, 8, 32)))
            parts = [
                frame_message(kind, body, chance.getrandbits(64), chance.getrandbits(64), chance.getrandbits(32))
                for _, kind, body in picked
            ]
            is_for_b = number % 2 == 0
            if sum(map(len, parts)) > 64 * 1024:
                parts, picked = parts[:1], picked[:1]
            batches.append(Batch(world.b.node if is_for_b else world.c.node, self.session, self.next_seq, chance.getrandbits(40), parts))
            names.append([name for name, _, _ in picked] if is_for_b else [])
            self.next_seq += len(parts) if is_for_b else 0
        sealed = seal_flush(self.signer, batches, sent_ms=NOW_MS, stamp_ms=chance.getrandbits(40), cert_serial=1, journal_head=bytes(32))
        return [(said, frames) for said, frames in zip(names, sealed, strict=True) if said]


def run(count: int, seed: int) -> Tally:
    """Send at least `count` messages. The receiver's clock goes on; late envelopes come in another order than they were sent in."""
    world, chance, tally = World(), random.Random(seed), Tally()
    world.keyring.open(world.rows["e"].raw)
    everything = sorted(KINDS)
    senders = [
        Sender(world.a, SESSION, everything, world),
        Sender(world.c, OTHER_SESSION, [kind for kind in everything if KINDS[kind].__name__ != "Granted"], world),
        Sender(world.lines["e"].node, E_SESSION, [kind for kind in everything if KINDS[kind].__name__ != "Granted"], world),
    ]
    started = time.perf_counter()
    while tally.sent < count:
        envelopes = chance.choice(senders).flush(world, chance)
        chance.shuffle(envelopes)
        for names, frames in envelopes:
            _deliver(world, names, frames, tally)
    tally.seconds = time.perf_counter() - started
    return tally


def _deliver(world: World, names: list[str], frames: list[bytes], tally: Tally) -> None:
    from mesh.wire.packing import Refusal

    tally.sent += len(names)
    tally.kinds.update(names)
    try:
        opened = world.open(frames)
    except Refusal as refusal:
        tally.refused[f"envelope: {refusal.reason}"] += len(names)
        return
    tally.refused.update(reason for _, reason in opened.refused)
    if [type(each.message).__name__ for each in opened.messages] != names:
        tally.refused["not what was sent"] += 1
