"""Blocks of somebody's log as they come from another node: does a block hold what its head, a signed commit, says?

    Ship --> chains: keys of those who signed, and may be gone --> Block: head (verified) + entries + bodies
                                                                   entries hash to the root that the author signed

Invariant: who keeps a block keeps exactly the entries that its author committed. Bodies travel beside the chain: one that is not named by
an entry is never found, and a missing one is missing. Whether a block follows the one before is for the machine that holds the log.
"""

from __future__ import annotations

from collections.abc import Container

from mesh.core.records import merkle
from mesh.ids import NodeId
from mesh.messages.keeping import Block, Ship, Yield
from mesh.messages.records import Commit
from mesh.messages.signed import Signed
from mesh.wire.codec import decode
from mesh.wire.keyring import Keyring
from mesh.wire.objects import parts
from mesh.wire.packing import Refusal

CHAINS_BYTES_MAX = 256 * 1024
"""Of one SHIP: with the largest block it still fits one frame. A chain has about a kilobyte."""


def add_chains(ship: Ship, keyring: Keyring, known: Container[NodeId]) -> None:
    """Show the receiver by whom its blocks are signed; but for those whom it knows: itself and the sender."""
    authors = dict.fromkeys(block.head.author for block in ship.blocks if block.head.author not in known)
    chains: list[bytes] = []
    room = CHAINS_BYTES_MAX
    for author in authors:
        chain = keyring.chain_of(author)
        room -= len(chain)
        if chain and room >= 0:
            chains.append(chain)
    ship.chains = tuple(chains)


def decode_ship(kind: int, body: bytes, keyring: Keyring) -> Ship:
    """The SHIP with its heads verified, as history. Raises Refusal: as `decode`, `Keyring.open_kept` and `check_block`."""
    ship: Ship = decode(kind, body, _unopened)
    authors = {parts(block.head.raw)[1] for block in ship.blocks}
    for chain in ship.chains:
        keyring.learn_author(chain, authors)
    for block in ship.blocks:
        block.head = keyring.open_kept(block.head.raw)
    for block in ship.blocks:
        check_block(block, ship.author)
    return ship


def _unopened(raw: bytes) -> Signed:
    return Signed("", None, raw)


def check_block(block: Block, author: NodeId) -> None:
    """Raises Refusal: ``not_a_block`` (the head is no commit, or no `Yield` of that term), ``not_of_this_log``, ``entries_changed``."""
    body = block.head.body
    if isinstance(body, Yield):
        if body.term != block.term or block.entries or block.bodies or block.members:
            raise Refusal("not_a_block")
    elif not isinstance(body, Commit):
        raise Refusal("not_a_block")
    if body.author != author:
        raise Refusal("not_of_this_log")
    if isinstance(body, Commit) and not _holds(body, block.entries):
        raise Refusal("entries_changed")


def _holds(commit: Commit, entries: tuple[bytes, ...]) -> bool:
    return 0 < commit.count == len(entries) and merkle.root([merkle.leaf(entry) for entry in entries]) == commit.merkle_root
