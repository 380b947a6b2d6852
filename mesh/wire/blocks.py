"""Blocks of somebody's log as they come from another node: does a block hold what its head, a signed commit, says?

    Ship --> Block: head (verified when it was opened) + entries + bodies --> entries hash to the root that the author signed

Invariant: who keeps a block keeps exactly the entries that its author committed. Bodies travel beside the chain: one that is not named by
an entry is never found, and a missing one is missing. Whether a block follows the one before is for the machine that holds the log.
"""

from __future__ import annotations

from typing import Any

from mesh.core.records import merkle
from mesh.ids import NodeId
from mesh.messages.keeping import Block, Ship, Yield
from mesh.messages.records import Commit
from mesh.wire.packing import Refusal


def check_message(message: Any) -> None:
    """Raises Refusal for a SHIP with a block that is none of that log."""
    if type(message) is Ship:
        for block in message.blocks:
            check_block(block, message.author)


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
