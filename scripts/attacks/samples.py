"""One object of every class that travels, each field set to something that is not its default; statements inside are by real members."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from attacks.world import NOW_MS, SESSION, deed_of, sealed
from mesh.core.records import merkle
from mesh.messages import SIGNED
from mesh.messages.enrol import Renewal
from mesh.messages.keeping import Ballot, Block, Yield
from mesh.messages.membership import Suspect
from mesh.messages.policy import Policy
from mesh.messages.records import Commit, Witness
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, NODE, Amendment, Revocation
from mesh.wire.chain import join_chain, read_deed
from mesh.wire.enrolment import open_renewal, open_request

if TYPE_CHECKING:
    from attacks.world import World
    from mesh.wire.objects import Signer

_BYTES = {"session": SESSION, "nonce": b"n" * 16, "prev": bytes(32), "head": bytes(32), "merkle_root": bytes(range(32))}
_BYTES |= {"key": bytes(range(32)), "curve_key": bytes(range(32)), "first_key": bytes(range(32))}
_BYTES |= {"old_key": bytes(range(32)), "new_key": bytes(range(1, 33)), "discovery_key": bytes(range(32)), "invite": b"invite-1"}
_INTS = {"fence": 1 << 32 | 3, "hlc": NOW_MS << 16, "retries": 2, "total": -1, "attempt": 1, "not_after_ms": 2 * NOW_MS}
_TEXTS = {"question": "task", "level": HOME, "mode": "token"}
_NODES = ("node", "author", "manager", "winner", "target", "recipient", "subject", "home", "taker")


def sample_of(cls: type, world: World) -> Any:
    hints = get_type_hints(cls)
    return cls(**{each.name: _value(hints[each.name], cls, each.name, world) for each in dataclasses.fields(cls)})


def _value(hint: Any, cls: type, name: str, world: World) -> Any:
    if hint is Signed:
        return _statement(name, world)
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args == (Signed, ...):
            return _statements(cls, name, world)
        items = args[:1] * 2 if args[-1] is Ellipsis else args
        return tuple(_value(item, cls, f"{name}{index}", world) for index, item in enumerate(items))
    if hint is Block:
        return block(world, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return sample_of(hint, world)
    if hint is bytes:
        return _bytes(cls, name, world)
    if hint is bool:
        return True
    if hint is int:
        return _INTS.get(name, 1000 + len(name))
    return 0.25 if hint is float else _text(name, world)


def _bytes(cls: type, name: str, world: World) -> bytes:
    if name == "certificate" or name.startswith("chains"):
        return world.lines["a"].chain()
    if name == "deed":
        return deed_of(world.a, world.lines["a"].home.node)
    if name.startswith(("roots", "past_keys")):
        return (world.root if name.endswith("0") else world.b).public_key
    if name in ("home_key", "issuer_key"):
        return getattr(world.lines["a"], name.removesuffix("_key")).public_key
    if cls.__name__ == "Rekeyed" and name == "proof":
        return bytes(64)
    return _BYTES.get(name, b'{"name":"Bob"}')


def _text(name: str, world: World) -> str:
    if name in _NODES:
        return world.a.node
    if name == "mesh":
        return world.mesh
    if "task" in name or name in ("parent", "child"):
        return f"{world.a.node}.12.345"
    if name in ("input", "output", "file", "work", "input_hash", "output_hash") or name.startswith("files"):
        return hashlib.sha256(name.encode()).hexdigest()
    return _TEXTS.get(name, f"{name}-1")


# ---- statements


def commit(world: World, number: int, signer: Signer | None = None) -> Signed:
    signer = signer or world.a
    return sealed(signer, Commit(signer.node, 12, 0, 1, number, bytes(32), bytes(range(32)), NOW_MS << 16))


def block(world: World, name: str = "") -> Block:
    """The first of a message is a commit of a's, and the second says that c has taken a's log over."""
    if name.endswith("1"):
        return Block(2, sealed(world.c, Yield(world.a.node, 2, 2, world.c.node, 12, 7, _statements(Yield, "ballots", world))))
    entries = (b"an entry", b"another")
    root = merkle.root([merkle.leaf(entry) for entry in entries])
    head = sealed(world.a, Commit(world.a.node, 12, 0, 1, 2, bytes(32), root, NOW_MS << 16))
    return Block(1, head, entries, (b'{"name":"Bob"}',), (world.a.node, world.c.node))


def _statement(name: str, world: World) -> Signed:
    if name in ("one", "other"):
        return commit(world, 1 if name == "one" else 2)
    return world.lines["a"].binding() if name == "binding" else world.rows["a"]


def _statements(cls: type, name: str, world: World) -> tuple[Signed, ...]:
    if name == "heads":
        return commit(world, 1), commit(world, 2)
    if name == "yields":
        return (block(world, "1").head,)
    if name in ("ballot", "ballots"):
        return (sealed(world.c, Ballot(world.a.node, 3, world.b.node)),)
    if name == "words":
        return (sealed(world.c, sample_of(SIGNED["verdict"], world)),)
    if name == "votes":
        return (sealed(world.c, Suspect(world.a.node, 1, 1, True)),)
    if name == "witnesses":
        return (sealed(world.c, Witness(world.a.node, 12, 2, bytes(32), NOW_MS)),)
    if cls.__name__ == "Trust":
        return honest("amendment", world), honest("revocation", world)
    return world.rows["a"], world.rows["c"]


def honest(tag: str, world: World) -> Signed:
    """A signed object of this kind that everybody in the mesh believes."""
    line = world.lines["a"]
    if tag == "certificate":
        return Signed(world.root.node, world.keyring.authorities.chains.read(line.chain()).certificates[0], line.certificates()[0])
    if tag == "deed":
        return read_deed(deed_of(world.a, line.home.node))
    if tag == "revocation":
        gone = "y" * 32  # nobody here: a sample takes nothing away from the tests that come after it
        return sealed(world.root, Revocation(world.mesh, NODE, gone, "gone", "sold", NOW_MS))
    if tag == "amendment":
        return sealed(world.root, Amendment(world.mesh, 1, (world.root.public_key, world.b.public_key), "token", "tests", NOW_MS))
    body = sample_of(SIGNED[tag], world)
    if isinstance(body, Policy):
        body.certificate = b""
        return sealed(world.root, body)
    if isinstance(body, Renewal):
        body.home = line.home.node
    if tag in ("join", "ask", "renewal"):
        return sealed(line.home, body, mesh="" if tag == "ask" else None)
    return sealed(world.a, body)


def opened(tag: str, world: World, raw: bytes) -> Any:
    """The object in `raw`, opened by whoever opens such objects. Raises Refusal."""
    if tag == "certificate":
        return world.keyring.authorities.chains.read(join_chain((raw,))).last
    if tag == "deed":
        return read_deed(raw).body
    if tag in ("join", "ask"):
        return open_request(raw, world.mesh).body
    if tag == "renewal":
        home = world.lines["a"].home
        return open_renewal(raw, world.mesh, home.node, home.public_key)
    return world.keyring.open(raw).body
