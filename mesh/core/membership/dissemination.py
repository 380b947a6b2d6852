"""How statements travel: at once to all linked peers, then as rumours, and at last by comparing tables, which never stops.

    news  --broadcast-->  every linked peer            (who makes a statement)
          --spread----->  a few random peers, 4 * ceil(log10(N + 1)) times   (who learns one)
    every anti_entropy_s: DIGEST --> one random peer; RUMOURS bring each side what it lacks

Invariant: a statement is forwarded as it was signed, and a bounded number of times; anti-entropy, not luck, makes it reach everybody.
What it does not do: judge statements; that is `knowledge.py`. Source: SWIM 4.1, Demers et al. 1987.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, LEFT
from mesh.core.membership import overlay
from mesh.core.membership.members import RANK, WIRE_STATE, Member, Members, order
from mesh.effects import Need, Refused, Send
from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Dead, Digest, Rumours
from mesh.messages.signed import Signed

RUMOUR_TICK_S = 0.2
RUMOUR_FANOUT = 3
HOT_MAX = 4096
"""Rumours in hand; beyond it the oldest is left to anti-entropy."""
STATEMENTS_MAX = 20
BYTES_MAX = 32 * 1024
"""Of one RUMOURS message, so that it shares an envelope of 64 KiB. One statement alone may be larger."""

Effects = Iterator[object]
"""What methods of this wing yield: see `mesh/effects.py`."""


@dataclass(frozen=True, slots=True)
class SyncDue:
    """Time to compare tables with somebody."""


@dataclass(frozen=True, slots=True)
class RumoursDue:
    """Time to pass on what is hot."""


@dataclass(slots=True)
class Hot:
    item: Signed | Dead
    sends: int
    source: NodeId


def size_of(item: Signed | Dead) -> int:
    """About how many bytes `item` takes on the wire."""
    if isinstance(item, Dead):
        return 64 + sum(map(size_of, item.votes))
    if item.raw:
        return len(item.raw)
    if isinstance(item.body, Alive):
        offers = item.body.offers
        others = sum(200 + len(o.input_schema) + len(o.output_schema) for offer in offers for o in offer.variants)
        return 600 + others + sum(200 + len(o.doc) + len(o.input_schema) + len(o.output_schema) for o in offers)
    return 240


def pack(items: Iterable[Signed | Dead]) -> Iterator[Rumours]:
    """`items` in messages of bounded size, in order."""
    statements: list[Signed] = []
    deaths: list[Dead] = []
    size = 0
    for item in items:
        weight = size_of(item)
        if statements or deaths:
            full = len(statements) + len(deaths) >= STATEMENTS_MAX
            if full or size + weight > BYTES_MAX:
                yield Rumours(tuple(statements), tuple(deaths))
                statements, deaths, size = [], [], 0
        size += weight
        if isinstance(item, Dead):
            deaths.append(item)
        else:
            statements.append(item)
    if statements or deaths:
        yield Rumours(tuple(statements), tuple(deaths))


def about(member: Member, known_life: bool) -> list[Signed | Dead]:
    """All that proves this row to somebody; without the ALIVE if he has it (`known_life`)."""
    items: list[Signed | Dead] = []
    if member.alive is not None and not known_life:
        items.append(member.alive)
    if member.left is not None:
        items.append(member.left)
    elif member.dead is not None:
        items.append(member.dead)
    else:
        items.extend(member.votes[voter] for voter in sorted(member.votes))
    return items


class Dissemination:
    """Sends, never judges."""

    def __init__(self, members: Members, deadlines: Deadlines, limits: MembershipLimits, random: Random) -> None:
        self._members = members
        self._deadlines = deadlines
        self._limits = limits
        self._random = random
        self._hot: dict[tuple[str, NodeId, NodeId], Hot] = {}
        self.rumours_sent = 0
        self.digests_sent = 0

    def __len__(self) -> int:
        return len(self._hot)

    # ---- news

    def broadcast(self, item: Signed | Dead, first: NodeId = "") -> Effects:
        """To all linked peers at once, `first` (the subject of a suspicion) before the others."""
        message = Rumours((item,)) if isinstance(item, Signed) else Rumours((), (item,))
        if first in self._members.linked:
            yield self._send(first, message)
        for node in self._members.linked_names():
            if node != first:
                yield self._send(node, message)

    def tell(self, node: NodeId, items: Iterable[Signed | Dead]) -> Effects:
        """To one peer, if there is a link."""
        if node in self._members.linked:
            for message in pack(items):
                yield self._send(node, message)

    def _send(self, node: NodeId, message: Rumours) -> Send:
        self.rumours_sent += 1
        return Send(node, message, need=Need.FREE)

    # ---- rumours

    def spread(self, now_s: float, item: Signed | Dead, source: NodeId) -> None:
        """Pass `item` on, a bounded number of times. A newer one of its kind about the same node replaces it."""
        if isinstance(item, Dead):
            key = ("Dead", item.node, "")
        else:
            kind = type(item.body).__name__
            key = (kind, item.body.node, item.author if kind == "Suspect" else "")
        if not self._hot and self._deadlines.when(RumoursDue()) is None:
            self._deadlines.set(RumoursDue(), now_s + RUMOUR_TICK_S)
        sends = self._limits.rumour_sends_factor * math.ceil(math.log10(self._members.present() + 1))
        self._hot.pop(key, None)
        self._hot[key] = Hot(item, sends, source)
        while len(self._hot) > HOT_MAX:
            del self._hot[next(iter(self._hot))]

    def tick(self, now_s: float) -> Effects:
        """Some of what is hot, the freshest last, to a few random peers."""
        targets = overlay.gossip_targets(self._members, RUMOUR_FANOUT, self._random)
        batches: dict[NodeId, list[Signed | Dead]] = {target: [] for target in targets}
        for key in list(self._hot)[:STATEMENTS_MAX]:
            hot = self._hot[key]
            for target in targets:
                if hot.sends > 0 and target != hot.source:
                    batches[target].append(hot.item)
                hot.sends -= 1  # who told it counts too: with one peer a rumour must end as well
            if hot.sends <= 0 or not targets:
                del self._hot[key]
        for target in targets:
            yield from self.tell(target, batches[target])
        if self._hot:
            self._deadlines.set(RumoursDue(), now_s + RUMOUR_TICK_S)

    # ---- anti-entropy

    def digest(self, answer: bool) -> Digest:
        members = self._members
        self.digests_sent += 1
        return Digest(
            tuple(
                (row.node, row.incarnation, row.version, WIRE_STATE[row.state])
                for row in members.directory.rows()
                if row.incarnation > 0 and not row.revoked
            ),
            answer,
            members.directory.trust,
        )

    def compare(self, sender: NodeId, digest: Digest) -> Effects:
        """Send what the sender lacks; if this node lacks something too and was asked, its own digest, so that the sender sends that."""
        members = self._members
        theirs: dict[NodeId, tuple[int, int, str]] = {}
        lacking = False
        for node, incarnation, version, state in digest.rows:
            if state not in RANK:
                yield Refused("bad_state", sender)
                return
            theirs[node] = (incarnation, version, state)
            if not lacking and node != members.me and not members.directory.revoked(node):
                member = members.get(node)
                if member is None:
                    lacking = not members.is_grave(node, incarnation, version)
                else:
                    lacking = order(incarnation, version, state) > member.key()
        yield from self.tell(sender, self._news_for(theirs))
        if lacking and digest.answer and sender in members.linked:
            yield Send(sender, self.digest(False), need=Need.FREE)

    def _news_for(self, theirs: dict[NodeId, tuple[int, int, str]]) -> Iterator[Signed | Dead]:
        members = self._members
        own = members.own.body
        inc, version, state = theirs.get(members.me, (0, 0, ALIVE))
        if (inc, version) < (own.incarnation, own.version):
            yield members.own
        if members.own_left is not None and (inc, state) != (own.incarnation, LEFT):
            yield members.own_left
        tail: list[Signed | Dead] = []  # every ALIVE first: who votes must be known before his vote counts
        for member in members.all():
            if member.row.revoked:
                continue
            inc, version, state = theirs.get(member.node, (0, 0, ALIVE))
            if member.key() > order(inc, version, state):
                known_life = (inc, version) == (member.row.incarnation, member.row.version)
                if member.alive is not None and not known_life:
                    yield member.alive
                tail.extend(about(member, True))
        yield from tail
