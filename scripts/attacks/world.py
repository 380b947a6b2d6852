"""A mesh on paper: fixed keys, chains from a root down to each node, one receiver, and one sample of every class that travels.

    root --issuer--> home of a --> node a        b receives; a (also an issuer), c and one of each narrower role are known to it
         \\-> other issuer --> home of e --> e     e is a member whom b has not met; the stranger has a key and no certificate

Everything here is honest; what attacks it is beside (`forgery.py`). The same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from mesh.messages.membership import Alive, Offer
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Binding, Certificate, Deed
from mesh.wire.chain import join_chain
from mesh.wire.codec import encode, encode_object, kind_of
from mesh.wire.envelope import Batch, Expectations, Opened, Session, frame_message, open_envelope, seal_flush
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer, mesh_id, node_id, signed_bytes
from mesh.wire.packing import pack

NOW_MS = 1_800_000_000_000
SESSION = b"session-A-to-B--"
OTHER_SESSION = b"session-C-to-B--"
NARROW = {
    "worker": b"session-W-to-B--",
    "requester": b"session-R-to-B--",
    "observer": b"session-O-to-B--",
    "issuer": b"session-I-to-B--",
}
"""Roles that may do less than a member, or something else, and the session of the one who has that alone."""
LIMITED_SESSION = b"session-L-to-B--"
E_SESSION = b"session-E-to-B--"
MESH = mesh_id(b"genesis of the tests")


def signer_of(seed: int, mesh: str = MESH, node: str = "") -> Signer:
    """The signer with the key made of this byte. `node`: its id, where that is not its key's."""
    signer = Signer(node, bytes([seed]) * 32, mesh)
    signer.node = node or node_id(signer.public_key)
    return signer


def sealed(signer: Signer, body: Any, author: str = "", mesh: str | None = None) -> Signed:
    """The statement, signed by `signer`: in his own name, or as somebody else's; for his mesh, or for another."""
    author = author or signer.node
    tag, data = encode_object(body, signer.seal)
    signature = signer.sign(signed_bytes(tag, signer.mesh if mesh is None else mesh, data))
    return Signed(author, body, pack((tag, author, data, signature)))


def deed_of(first: Signer, home: str) -> bytes:
    """The node's word, under its first key and in no mesh, that it belongs to that home."""
    return sealed(first, Deed(first.node, home, first.public_key), mesh="").raw


ISSUED = ("member", "worker", "requester", "observer", "issuer")
"""What the issuers of these meshes may give: fixed, as it stands in golden frames."""


@dataclass(frozen=True)
class Line:
    """Who signs whom, down to one node. `first` holds the node's first key, where it took another since."""

    root: Signer
    issuer: Signer
    home: Signer
    node: Signer
    first: Signer | None = None

    def certificates(self, **changes: dict[str, Any]) -> list[bytes]:
        """One certificate for each level; `changes` to their fields by level: issuer=, home=, node=."""
        deed = deed_of(self.first or self.node, self.home.node)
        past = (self.first.public_key,) if self.first else ()
        plans = (
            (self.root, ISSUER, self.issuer, {"roles": ISSUED}),
            (self.issuer, HOME, self.home, {}),
            (self.home, NODE, self.node, {"deed": deed, "past_keys": past, "serial": 2 if self.first else 1}),
        )
        return [sealed(by, certificate_of(level, of, **(own | changes.get(level, {})))).raw for by, level, of, own in plans]

    def chain(self, **changes: dict[str, Any]) -> bytes:
        return join_chain(self.certificates(**changes))

    def row(self, name: str = "x", chain: bytes | None = None, **changes: Any) -> Signed:
        """The node's own row, signed by it."""
        offers = (Offer("greet", "greeter", tags=("polite",)),)
        fields = {"offers": offers, "certificate": self.chain() if chain is None else chain} | changes
        node = self.node.node
        return sealed(self.node, Alive(**({"node": node, "incarnation": 1, "version": 1} | _doors(name) | fields)))

    def renewed(self, seed: int) -> Line:
        """The same node with another identity key."""
        return replace(self, node=signer_of(seed, self.node.mesh, self.node.node), first=self.first or self.node)

    def binding(self, **changes: Any) -> Signed:
        fields = {"mesh": self.node.mesh, "node": self.node.node, "curve_key": bytes(range(32)), "seq": 1, "made_ms": NOW_MS}
        return sealed(self.node, Binding(**(fields | changes)))


def _doors(name: str) -> dict[str, str]:
    return {"name": name, "door": "127.0.0.1:7710", "router": "127.0.0.1:7711"}


def certificate_of(level: str, holder: Signer, /, **changes: Any) -> Certificate:
    fields = {"mesh": holder.mesh, "level": level, "subject": holder.node, "key": holder.public_key, "name": level, "serial": 1}
    return Certificate(**(fields | {"not_before_ms": 0} | changes))


def line_of(seed: int, mesh: str = MESH, *, root: int = 1, issuer: int = 10) -> Line:
    """The line of the node with this key; its home's key is the one 100 above."""
    return Line(*(signer_of(each, mesh) for each in (root, issuer, 100 + seed, seed)))


@dataclass
class World:
    """`now_ms` is everybody's clock."""

    mode: str = "token"
    mesh: str = MESH
    receiver: str = "b"
    now_ms: int = NOW_MS
    root: Signer = field(init=False)
    lines: dict[str, Line] = field(init=False)
    rows: dict[str, Signed] = field(init=False)
    keyring: Keyring = field(init=False)
    sessions: dict[bytes, Session] = field(init=False)
    expect: Expectations = field(init=False)
    stranger: Signer = field(init=False)

    def __post_init__(self) -> None:
        lines, rows = _people(self.mesh)
        self.lines, self.rows = dict(lines), dict(rows)
        self.root = self.lines["a"].root
        self.stranger = signer_of(5, self.mesh)
        self.keyring = Keyring(self.mesh, (self.root.public_key,), self.mode, lambda: self.now_ms)
        for name, row in self.rows.items():
            if name != "e":
                self.keyring.open(row.raw)
        self.forget_sessions()

    def forget_sessions(self) -> None:
        """The receiver starts anew: the same sessions, nothing received yet."""
        by = {SESSION: "a", OTHER_SESSION: "c", LIMITED_SESSION: "limited", E_SESSION: "e", **{each: role for role, each in NARROW.items()}}
        self.sessions = {each: Session(self.lines[name].node.node, each) for each, name in by.items()}
        self.expect = Expectations(self.lines[self.receiver].node.node, self.sessions, lambda: self.now_ms)

    @property
    def a(self) -> Signer:
        return self.lines["a"].node

    @property
    def b(self) -> Signer:
        return self.lines["b"].node

    @property
    def c(self) -> Signer:
        return self.lines["c"].node

    def seal(self, messages: list[Any], signer: Signer | None = None, **changes: Any) -> list[bytes]:
        """The frames of one honest envelope from `a` to `b`, or with `changes` to its batch."""
        signer = signer or self.a
        parts = [frame_message(kind_of(message), encode(message, signer.seal), number) for number, message in enumerate(messages, 1)]
        fields = {"recipient": self.b.node, "session": SESSION, "first_seq": 1, "echo_ms": 5, "parts": parts} | changes
        return seal_flush(signer, [Batch(**fields)], sent_ms=NOW_MS, stamp_ms=77, cert_serial=1, journal_head=bytes(32))[0]

    def open(self, frames: list[bytes], carrier: str = "") -> Opened:
        return open_envelope(self.keyring, frames, self.expect, carrier)

    def sample(self, cls: type) -> Any:
        from attacks.samples import sample_of

        return sample_of(cls, self)

    def state(self, windows: bool = True) -> Any:
        """All that a refusal must leave as it was."""
        members = [(each.node, each.home, each.serial, each.key, each.chain, each.before_until_ms) for each in self.keyring.members()]
        trust = [signed.raw for signed in self.keyring.authorities.statements()]
        links = [
            (each.id, each.peer, *((each.window.newest, each.window._seen, each.proven) if windows else ()))
            for each in self.sessions.values()
        ]
        return members, trust, self.keyring.authorities.roots, self.keyring.authorities.mode, links


@cache
def _people(mesh: str) -> tuple[dict[str, Line], dict[str, Signed]]:
    """Everybody, and what each says of itself: the same in every world of this mesh."""
    seeds = {"a": 2, "b": 3, "c": 4, **{role: 20 + n for n, role in enumerate(NARROW)}, "limited": 30}
    lines = {name: line_of(seed, mesh) for name, seed in seeds.items()}
    lines["e"] = line_of(6, mesh, issuer=11)
    return lines, {name: line.row(name, line.chain(**grants(name)), offers=offers(name)) for name, line in lines.items()}


def grants(name: str) -> dict[str, dict[str, Any]]:
    """What the chain of this member grants, where it is less than all."""
    roles = ("member", "issuer") if name == "a" else (name,) if name in NARROW else ()
    if roles:
        return {"home": {"roles": roles}, "node": {"roles": roles}}
    if name == "limited":
        only = {"offers": ("greet*",), "requests": ("capability*",)}
        return {"home": only, "node": only}
    return {}


def offers(name: str) -> tuple[Offer, ...]:
    return () if name in ("requester", "observer", "issuer") else (Offer("greet", "greeter", tags=("polite",)),)
