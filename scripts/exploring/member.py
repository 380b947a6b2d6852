"""One node between two inputs, as a value; and one step of it: the smallest caller of a `Replica` that does what a caller has to do.

    input -> Replica -> Keep, Say, Keep, Say ...  -> queue --the disk is done--> disk, and only then the messages

Invariant: what a restart finds is `disk`, `kept_term`, `voted_for` and the author's `journal`; everything else is gone. With a quick disk
the queue is empty after each step; with a slow one nothing is written, and nothing said, before a step `sync`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from exploring.packed import AUTHOR, Mail, Piece, Pieces, block_of, log_of, message_of, pack, pack_block, upto
from mesh.core.keeping.replica import FOLLOWER, LEADER, Keep, Peer, Replica, Say
from mesh.messages.keeping import Block, Position


class Broken(Exception):
    """A promise does not hold."""


class Node(NamedTuple):
    me: str
    # ---- durable
    kept_term: int = 0
    voted_for: str = ""
    disk: Pieces = ()
    journal: tuple[int, ...] = ()
    """The author's: the last entry of each of his commits."""
    lapses: int = 0
    """How often this life and those before it have begun without knowing all that was promised. (Such a life knows that it does.)"""
    # ---- lost at a crash
    queue: tuple[Any, ...] = ()
    term: int = 0
    voted: str = ""
    role: str = FOLLOWER
    kept: Position = (0, 0)
    stored: Position = (0, 0)
    asked: int = 0
    votes: tuple[str, ...] = ()
    peers: tuple[tuple[str, Position, Position, bool, int, int], ...] = ()
    lapse: int = 0

    @property
    def view(self) -> Pieces:
        """The log as it will be on disk once all that waits is written."""
        return written(self.disk, self.queue)

    @property
    def length(self) -> int:
        return self.journal[-1] if self.journal else 0


Event = tuple[Any, ...]
Stepped = tuple[Node, tuple[Mail, ...]]


def written(disk: Pieces, queue: Iterable[Any]) -> Pieces:
    for item in queue:
        if item[0] == "keep":
            disk = _apply(disk, item[3], item[4])
    return disk


def _apply(disk: Pieces, cut: Position | None, pieces: Pieces) -> Pieces:
    if cut is not None:
        left = upto(disk, cut)
        if left is None:
            raise Broken(f"told to forget all after {cut}, which is not on disk")
        disk = left
    return disk + pieces


class Caller:
    """Does one step.

    `batch`: how many blocks travel at once. `slow`: nothing is written before `sync`. `loose`: a node may do more than
    the code would. Where a leader stands with each peer (`Peer.next`, `Peer.probing`) is forgotten, and he may ship from any place in it;
    a candidate need not ask first. What the code does is some of that, in far fewer states.
    """

    def __init__(self, *, batch: int = 8, slow: bool = False, loose: bool = False) -> None:
        self.batch = batch
        self.slow = slow
        self.loose = loose

    def step(self, node: Node, event: Event) -> Stepped:
        """`event`: a name, and what the method `_do_` of that name needs."""
        try:
            return getattr(self, "_do_" + event[0])(node, *event[1:])
        except AssertionError as error:
            raise Broken(f"{node.me} fails at {event}: {error}") from error

    # ---- inputs

    def _do_deliver(self, node: Node, mail: Mail) -> Stepped:
        return self._run(node, "on_" + mail.kind, mail.sender, message_of(mail), **({"willing": True} if mail.kind == "vote_ask" else {}))

    def _do_campaign(self, node: Node) -> Stepped:
        return self._run(node, "campaign")

    def _do_stand(self, node: Node) -> Stepped:
        """Without asking first whether anybody would follow: asking only hinders."""
        return self._run(node, "_stand")

    def _do_ship_all(self, node: Node) -> Stepped:
        return self._run(node, "ship_all")

    def _do_retry(self, node: Node, to: str) -> Stepped:
        return self._run(node, "retry", to)

    def _do_ship_from(self, node: Node, to: str, at: Position, probing: bool) -> Stepped:
        """Only a loose one does this."""
        view = node.view
        replica = thawed(node, log_of(view), lambda at: self._blocks(view, at))
        peer = replica.peers[to]
        peer.next, peer.probing = at, probing
        return node, (self._pack(node.me, replica._ship(to)),)

    def _do_teach(self, node: Node, learner: str) -> Stepped:
        return self._run(node, "teach", learner)

    def _do_take_over(self, node: Node) -> Stepped:
        return self._run(node, "take_over")

    def _do_commit(self, node: Node, count: int, members: tuple[str, ...] = ()) -> Stepped:
        """The author's journal grows; if he leads, so does his log."""
        node, sent = self._do_sync(node)
        node = node._replace(journal=(*node.journal, node.length + count))
        node, more = self._wrote(node, members)
        return node, (*sent, *more)

    def _do_commit_and_crash(self, node: Node, count: int) -> Stepped:
        """It is in the journal, and nobody was told."""
        node, sent = self._do_sync(node)
        return restarted(node._replace(journal=(*node.journal, node.length + count))), sent

    def _do_catch_up(self, node: Node) -> Stepped:
        """He leads again: what he wrote meanwhile becomes part of the log."""
        node, sent = self._do_sync(node)
        node, more = self._wrote(node, ())
        return node, (*sent, *more)

    def _wrote(self, node: Node, members: tuple[str, ...]) -> Stepped:
        if node.role != LEADER or not node.journal:
            return self._run(node, "wrote", node.length, members)
        log = log_of(node.disk)
        new = [piece for piece in _commits(node.journal, node.term) if piece.last > log.seq]
        if members:
            new[-1] = new[-1]._replace(members=members)
        return self._run(node._replace(disk=node.disk + tuple(new)), "wrote", node.length, members, log=log)

    def _do_sync(self, node: Node, count: int | None = None) -> Stepped:
        """The disk is done with what waited for it (or the first `count` of it)."""
        now, later = (node.queue, ()) if count is None else (node.queue[:count], node.queue[count:])
        if not now:
            return node, ()
        sent = []
        mine = []
        for item in now:
            if item[0] == "say":
                sent.append(item[1])
                continue
            _, term, voted, cut, pieces = item
            node = node._replace(kept_term=term, voted_for=voted, disk=_apply(node.disk, cut, pieces))
            mine += [piece.at for piece in pieces if piece.leader == node.me != AUTHOR]
        node = node._replace(queue=later)
        for at in mine:
            node, none = self._run(node, "on_stored", at)
            assert not none
        return node, tuple(sent)

    def _do_crash(self, node: Node) -> Stepped:
        return restarted(node), ()

    def _do_old_disk(self, node: Node, pieces: int) -> Stepped:
        """It starts again, with its disk as it was when so many pieces were on it, before any vote. It is told so."""
        disk = node.disk[:pieces]
        return restarted(node._replace(disk=disk, kept_term=disk[-1].term, voted_for="", lapses=node.lapses or 1)), ()

    # ---- the replica

    def _run(self, node: Node, method: str, *arguments: Any, log: Any = None, **words: Any) -> Stepped:
        view = [node.view]
        replica = thawed(node, log_of(view[0]) if log is None else log, lambda at: self._blocks(view[0], at))
        queue = list(node.queue)
        for out in getattr(replica, method)(*arguments, **words) or ():
            if isinstance(out, Keep):
                item = ("keep", out.term, out.voted, out.cut, tuple(pack_block(block) for block in out.blocks))
                view[0] = _apply(view[0], out.cut, item[4])
            else:
                item = ("say", self._pack(node.me, out))
            if not _idle(item, queue):
                queue.append(item)
        if replica.betrayed:
            raise Broken(f"{arguments[0]} leads without what {node.me} knows to be kept")
        frozen = _frozen(node, replica, tuple(queue))
        if self.loose:
            frozen = self.plain(frozen)
        again = log_of(view[0])
        if (again.runs, again.rosters, again.seq) != (replica.log.runs, replica.log.rosters, replica.log.seq):
            raise Broken(f"the log of {node.me} is not what it has written: {replica.log.runs} up to {replica.log.seq}, {view[0]}")
        if not self.slow and method != "on_stored":
            return self._do_sync(frozen)
        return frozen, ()

    @staticmethod
    def plain(node: Node) -> Node:
        return node._replace(peers=tuple((name, match, match, True, *lapse) for name, match, _, _, *lapse in node.peers))

    def _pack(self, sender: str, say: Say) -> Mail:
        mail = pack(sender, say.to, say.message)
        if self.loose and mail.kind == "shipped" and not mail.body[1]:
            return mail._replace(body=(*mail.body[:2], 0, 0, mail.body[4]))
        return mail

    def _blocks(self, view: Pieces, at: Position) -> tuple[Block, ...]:
        had = upto(view, at)
        if had is None:
            raise Broken(f"asked for what follows {at}, which is not in the log")
        return tuple(block_of(piece) for piece in view[len(had) : len(had) + self.batch])


def _idle(item: Any, queue: list[Any]) -> bool:
    """It changes nothing after what waits already: left out, or a duplicate that is delivered for ever would make a queue without end."""
    if item[0] == "say":
        return item in queue
    return not item[4] and item[3] is None and item == next((other for other in reversed(queue) if other[0] == "keep"), None)


def _commits(journal: tuple[int, ...], term: int) -> list[Piece]:
    return [Piece(term, AUTHOR, first + 1, last) for first, last in zip((0, *journal), journal)]


def length_at_restart(node: Node) -> int:
    """Up to which number the author's log goes when he comes back."""
    own = node.disk and node.disk[-1].leader == AUTHOR
    return node.length if own else log_of(node.disk).seq


def restarted(node: Node) -> Node:
    disk = node.disk
    if node.me == AUTHOR and disk:
        seq = log_of(disk).seq
        disk += tuple(piece for piece in _commits(node.journal, disk[-1].term) if seq < piece.last <= length_at_restart(node))
    lapses = node.lapses + bool(node.lapses)
    return Node(
        node.me, node.kept_term, node.voted_for, disk, node.journal, lapses, term=node.kept_term, voted=node.voted_for, lapse=lapses
    )


def thawed(node: Node, log: Any, blocks: Any) -> Replica:
    peers = {name: Peer(*places, lapse=lapse, renewed=renewed) for name, *places, lapse, renewed in node.peers}
    votes: dict[str, Any] = dict.fromkeys(node.votes)
    replica = Replica(AUTHOR, node.me, blocks, log, node.term, node.voted, node.role, "", node.kept, node.stored, node.asked, votes, peers)
    replica.lapse = node.lapse
    return replica


def _frozen(node: Node, replica: Replica, queue: tuple[Any, ...]) -> Node:
    """What no rule of the replica reads is left out (`leader`, `Peer.heard`, votes of who does not ask): states would multiply."""
    asks = replica.role in ("asking", "candidate")
    return node._replace(
        queue=queue,
        term=replica.term,
        voted=replica.voted,
        role=replica.role,
        kept=replica.kept,
        stored=replica.stored if replica.role == LEADER else (0, 0),
        asked=replica.asked if asks else 0,
        votes=tuple(sorted(replica.votes)) if asks else (),
        peers=tuple(sorted((name, at.match, at.next, at.probing, at.lapse, at.renewed) for name, at in replica.peers.items())),
        lapse=replica.lapse,
    )
