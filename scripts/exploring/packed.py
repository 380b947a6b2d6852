"""Messages and blocks as plain tuples, which can be compared, hashed and sorted; and back.

The author's entries are known by their journal numbers alone: he never writes another under a number he has used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from mesh.core.keeping.log import Log
from mesh.core.keeping.replica import end_of, leader_of
from mesh.messages.keeping import Block, Position, Ship, Shipped, Vote, VoteAsk, Yield
from mesh.messages.records import Commit
from mesh.messages.signed import Signed

AUTHOR = "A"


class Piece(NamedTuple):
    """A block: entries `first` to `last` of the author, or with `first` 0 a `Yield` of all up to `last`."""

    term: int
    leader: str
    first: int
    last: int
    members: tuple[str, ...] = ()

    @property
    def at(self) -> Position:
        return (self.term, self.last)


class Mail(NamedTuple):
    """A message on its way. `body` has the fields of the message of that kind, blocks as pieces."""

    to: str
    sender: str
    kind: str
    body: tuple[Any, ...]


Pieces = tuple[Piece, ...]


def pack_block(block: Block) -> Piece:
    body = block.head.body
    first = 0 if isinstance(body, Yield) else body.first
    return Piece(block.term, leader_of(block), first, end_of(block)[1], tuple(block.members))


@cache
def block_of(piece: Piece) -> Block:
    if piece.first:
        body: Any = Commit(AUTHOR, 1, 0, piece.first, piece.last - piece.first + 1, b"", b"", 0)
    else:
        body = Yield(AUTHOR, piece.term, piece.last, piece.leader)
    return Block(piece.term, Signed(piece.leader, body), members=piece.members)


def pack(sender: str, to: str, message: Any) -> Mail:
    if isinstance(message, Ship):
        m = message
        blocks = tuple(pack_block(block) for block in m.blocks)
        return Mail(to, sender, "ship", (m.term, m.prev_term, m.prev_seq, m.kept_term, m.kept_seq, blocks, m.lapse))
    if isinstance(message, Shipped):
        return Mail(to, sender, "shipped", (message.term, message.ok, message.at_term, message.at_seq, message.lapse))
    if isinstance(message, VoteAsk):
        return Mail(to, sender, "vote_ask", (message.term, message.last_term, message.last_seq, message.pre))
    assert isinstance(message, Vote), message
    return Mail(to, sender, "vote", (message.term, message.granted, message.pre))


@cache
def message_of(mail: Mail) -> Any:
    if mail.kind == "ship":
        *fields, blocks, lapse = mail.body
        return Ship(AUTHOR, *fields, tuple(block_of(piece) for piece in blocks), lapse=lapse)
    if mail.kind == "shipped":
        return Shipped(AUTHOR, *mail.body[:4], lapse=mail.body[4])
    kinds: dict[str, Any] = {"vote_ask": VoteAsk, "vote": Vote}
    return kinds[mail.kind](AUTHOR, *mail.body)


def log_of(pieces: Pieces) -> Log:
    """What a node reads back from its disk."""
    log = Log(AUTHOR)
    for piece in pieces:
        log.append(piece.term, piece.leader, piece.last, piece.members)
    return log


def upto(pieces: Pieces, at: Position) -> Pieces | None:
    """The pieces that end with that position; None if it is not there."""
    if at == (0, 0):
        return ()
    return next((pieces[: number + 1] for number, piece in enumerate(pieces) if piece.at == at), None)
