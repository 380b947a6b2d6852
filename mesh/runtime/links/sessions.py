"""HELLO, WELCOME and what they agree on: one session per direction, chosen by whoever will receive under it.

    we                                    peer's door
    HELLO(row, nonce, back=True)  ----->  proves certificate and row; chooses the session that we send under
    WELCOME(row, session, nonce)  <-----  signed, echoes the nonce: no recorded answer fits
    ...and the peer, asked `back`, says HELLO at our door: the other direction.

Invariant: a session that is in use ends only when envelopes have verified under newer ones, so that nobody cuts a link by repeating an old
HELLO, and what was on its way under the one before still counts (unless the peer started anew); one from a former life, or older than the
newest by more than `handshake_s`, is turned away. Does no I/O and knows no sockets. Source: the sessions of RFC 9000 (path validation) and
Zyre's one link per direction.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages.membership import Alive
from mesh.messages.session import Hello, Turned, Welcome
from mesh.messages.signed import Signed
from mesh.messages.trust import Binding
from mesh.runtime.clock import now_ms
from mesh.wire.envelope import SESSION_BYTES, Session
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.replay import ReplayWindow

VERSION = 1
NONCE_BYTES = 16
ROW_BYTES_MAX = 12 * 1024
"""A larger row of our own is said at the door without its offers, as version 0 of this life; gossip brings the whole one."""
Said = TypeVar("Said", Hello, Welcome)
_REASON = re.compile(r"[a-z_]{1,32}")


@dataclass(slots=True)
class Greeting:
    """A proven peer. `session`: what we send under (of a WELCOME), or what it may send under (of a HELLO). `back`: it wants our HELLO in
    return (of a HELLO)."""

    peer: NodeId
    alive: Signed
    incarnation: int
    door: str
    router: str
    curve_key: bytes = b""
    """The peer's transport key of today, by its own signed word."""
    binding_seq: int = 0
    session: bytes = b""
    back: bool = False


@dataclass(slots=True)
class _Life:
    """What we gave one peer to send under. `last`: the session before `current`, under which something may still be on its way."""

    incarnation: int
    stamp_ms: int
    current: Session | None = None
    last: Session | None = None
    restarted: bool = False
    pending: list[Session] = field(default_factory=list)


def turned(reason: str) -> bytes:
    """The door's no, as bytes."""
    return pack(("turned", VERSION, reason))


def read_turned(frame: bytes) -> Turned | None:
    """The no in `frame`, if it is one. Unsigned, so it is worth a hint and no more. Raises Refusal ``malformed``."""
    row = unpack_row(frame)
    if len(row) < 3 or row[0] != "turned":
        return None
    reason = row[2] if type(row[2]) is str and _REASON.fullmatch(row[2]) else "malformed"
    return Turned(VERSION, reason)


class Sessions:
    """`me` gives our own signed row, the newest. `token(n)` gives n random bytes."""

    def __init__(
        self,
        me: Callable[[], Signed],
        binding: Callable[[], Signed],
        signer: Signer,
        keyring: Keyring,
        limits: LinkLimits,
        *,
        token: Callable[[int], bytes] = os.urandom,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._me, self._binding, self._signer, self._keyring, self._limits = me, binding, signer, keyring, limits
        self._token, self._clock_ms = token, clock_ms
        self._lives: OrderedDict[NodeId, _Life] = OrderedDict()
        self._slim: Signed | None = None
        self._bindings: dict[NodeId, int] = {}
        """The newest binding of each peer, by number: an older one, recorded by somebody, brings no key back."""
        self.inbound: dict[bytes, Session] = {}
        """Sessions that peers may send under, by id."""

    # ---- what we say

    def hello(self, recipient: NodeId = "", *, back: bool = True, row: Signed | None = None) -> tuple[bytes, bytes]:
        """(nonce, frame) to say at a door. `recipient` "": whoever lives there; `row`: to show instead of the own of today."""
        nonce = self._token(NONCE_BYTES)
        hello = Hello(VERSION, self._signer.mesh, row or self._row(), recipient, nonce, self._clock_ms(), self._binding(), back)
        return nonce, self._signer.seal(Signed(self._signer.node, hello))

    def _row(self) -> Signed:
        row = self._me()
        if len(self._signer.seal(row)) <= ROW_BYTES_MAX:
            return row
        if self._slim is None:
            self._slim = Signed(row.author, replace(row.body, version=0, offers=()))
        return self._slim

    # ---- what is said to us

    def answer(self, frame: bytes) -> tuple[bytes, Greeting]:
        """The WELCOME for the HELLO in `frame`, and who said it. Raises Refusal; say `turned(refusal.reason)` then.

        Reasons: ``version``, ``other_mesh``, ``self``, ``other_node`` (meant for somebody else), ``old_life``, ``replayed``, ``malformed``,
        and those of `Keyring.open`.
        """
        greeting, hello = self._open(frame, Hello)
        if hello.recipient not in ("", self._signer.node):
            raise Refusal("other_node", greeting.peer)
        life = self._life(greeting, hello.stamp_ms)
        session = Session(greeting.peer, self._token(SESSION_BYTES), ReplayWindow(self._limits.window))
        life.pending.append(session)
        self.inbound[session.id] = session
        if len(life.pending) > self._limits.pending_sessions_max:
            del self.inbound[life.pending.pop(0).id]
        welcome = Welcome(VERSION, self._signer.mesh, self._row(), session.id, hello.nonce, self._clock_ms(), self._binding())
        greeting.back, greeting.session = hello.back, session.id
        return self._signer.seal(Signed(self._signer.node, welcome)), greeting

    def welcomed(self, frame: bytes, nonce: bytes, recipient: NodeId = "") -> Greeting:
        """Who answered our HELLO of that nonce, and the session. Raises Refusal: as `answer`, the door's own reason, ``wrong_nonce``."""
        if (no := read_turned(frame)) is not None:
            raise Refusal(no.reason)
        greeting, welcome = self._open(frame, Welcome)
        if welcome.nonce != nonce:
            raise Refusal("wrong_nonce", greeting.peer)
        if recipient and greeting.peer != recipient:
            raise Refusal("other_node", greeting.peer)
        if len(welcome.session) != SESSION_BYTES:
            raise Refusal("malformed", greeting.peer)
        greeting.session = welcome.session
        return greeting

    def _open(self, frame: bytes, kind: type[Said]) -> tuple[Greeting, Said]:
        body = self._keyring.open(frame).body
        if not isinstance(body, kind) or not isinstance(body.alive.body, Alive):
            raise Refusal("malformed")
        row, author = body.alive.body, body.alive.author
        if body.v != VERSION:
            raise Refusal("version", author)
        if body.mesh != self._signer.mesh:
            raise Refusal("other_mesh", author)
        if author == self._signer.node:
            raise Refusal("self", author)
        binding = body.binding.body
        if not isinstance(binding, Binding) or body.binding.author != author:
            raise Refusal("malformed", author)
        if binding.seq < self._bindings.get(author, 0):
            raise Refusal("old_binding", author)
        self._bindings[author] = binding.seq
        if len(self._bindings) > self._limits.peers_max:
            del self._bindings[next(iter(self._bindings))]
        return Greeting(author, body.alive, row.incarnation, row.door, row.router, binding.curve_key, binding.seq), body

    def _life(self, greeting: Greeting, stamp_ms: int) -> _Life:
        """The peer's entry, freshened. Raises Refusal ``old_life`` or ``replayed``."""
        life = self._lives.get(greeting.peer)
        if life is None:
            life = self._lives[greeting.peer] = _Life(greeting.incarnation, stamp_ms)
            if len(self._lives) > self._limits.peers_max:
                self.forget(next(iter(self._lives)))
        elif greeting.incarnation < life.incarnation:
            raise Refusal("old_life", greeting.peer)
        elif greeting.incarnation > life.incarnation:
            life.incarnation, life.stamp_ms, life.restarted = greeting.incarnation, stamp_ms, True
        elif stamp_ms < life.stamp_ms - self._limits.handshake_s * 1000:
            raise Refusal("replayed", greeting.peer)
        life.stamp_ms = max(life.stamp_ms, stamp_ms)
        self._lives.move_to_end(greeting.peer)
        return life

    # ---- what is used

    def used(self, session: Session) -> None:
        """An envelope verified under `session`: from now on those of the peer that are older than the one before it are stale."""
        life = self._lives.get(session.peer)
        if life is None or life.current is session or life.last is session:
            return
        ended = (life.last, life.current) if life.restarted else (life.last,)
        for one in ended:
            if one is not None:
                del self.inbound[one.id]
        life.last, life.current, life.restarted = None if life.restarted else life.current, session, False
        at = life.pending.index(session)
        for older in life.pending[:at]:
            del self.inbound[older.id]
        del life.pending[: at + 1]

    def forget(self, peer: NodeId) -> None:
        """End all sessions of `peer`."""
        life = self._lives.pop(peer, None)
        if life is not None:
            for session in (*life.pending, life.current, life.last):
                if session is not None:
                    del self.inbound[session.id]
