"""Who one node is: its key, its chain, its transport key, and the members it knew when it last ran.

    identity.key  deed  certificate     the id is that of the first identity key; the deed says to which home it belongs
    transport.key  binding              CURVE key, and the identity's word for it
    members                             chains of members it knew: expiry does not make strangers of them

Invariant: what is in use is on disk first; a step of a rotation that a crash interrupts is completed at the next `load_identity`. A node of
a home can do what its home can, no more. Does not start anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.messages.trust import Binding, Deed
from mesh.runtime.home import HomeError, NodeFolder, host_name, read_private, write_atomic
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.trust.authority import Authority
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.founding import found
from mesh.runtime.trust.genesis import Genesis
from mesh.runtime.trust.keyfiles import TRANSPORT, PastKey, adopt_key, make_key, next_of, prepare_key, public_of, read_key
from mesh.wire import ed25519
from mesh.wire.authorization import OBSERVE, OFFER, QUESTIONS, READ, REQUEST, Rights, rights_of
from mesh.wire.chain import PAST_KEYS_MAX, Chain, read_deed, split_chain
from mesh.wire.codec import decode_object
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer, handover_bytes, node_id, parts, signed_bytes
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.patterns import covers

MEMBERS_BYTES_MAX = 1024 * 1024


@dataclass(slots=True)
class Identity:
    """All that a node needs to say who it is, and to check who others are. Replaced in part when a key is rotated."""

    node: NodeId
    name: str
    genesis: Genesis
    credentials: Credentials
    signer: Signer
    seed: bytes
    chain: bytes
    serial: int
    expires_ms: int
    curve: CurveKey
    binding: Signed
    keyring: Keyring
    """Knows this node already, unless it was revoked, and the members of earlier lives."""
    past: tuple[PastKey, ...] = ()

    def may_offer(self, capability: str) -> bool:
        """Whether this node's certificate of today lets it offer the capability."""
        rights = self._rights()
        return OFFER in rights.rights and covers(rights.offers, capability)

    def may_request(self, capability: str) -> bool:
        rights = self._rights()
        return REQUEST in rights.rights and covers(rights.requests, capability)

    def may_keep(self) -> bool:
        """Whether it lets this node keep others' journals: take part in managing their work, and hold what their payloads say."""
        return {REQUEST, READ} <= self._rights().rights

    def may_ask(self, question: str) -> bool:
        """Whether others would answer such a question of this node: who asks all the same is taken for hostile."""
        rights = self._rights().rights
        return OBSERVE in rights and QUESTIONS.get(question, OBSERVE) in rights

    def _rights(self) -> Rights:
        member = self.keyring.member(self.node)
        return member.rights if member is not None else rights_of(())


def load_identity(folder: NodeFolder) -> Identity:
    """The node's identity; makes whatever is not there yet, the home's open mesh too. Raises HomeError."""
    folder.make()
    with folder.home.lock():
        credentials = found(folder.home, "open", _mesh_name(folder))
        complete_rotation(folder)
        chain = chain_of_node(folder, credentials)
        seed, node = identity_seed(folder), chain.last.subject
        curve = CurveKey.of(make_key(folder.transport_path, TRANSPORT))
        signer = Signer(node, seed, credentials.mesh)
        binding = _binding(folder, signer, curve)
    keyring = _keyring(credentials, chain, known_chains(folder))
    last = chain.last
    return Identity(
        node,
        folder.name,
        credentials.genesis,
        credentials,
        signer,
        seed,
        chain.raw,
        last.serial,
        chain.expires_ms,
        curve,
        binding,
        keyring,
        past_keys(folder),
    )


def _mesh_name(folder: NodeFolder) -> str:
    home = folder.home.path
    return home.name if home.parent.name == "meshes" else host_name()


def _keyring(credentials: Credentials, own: Chain, known: tuple[bytes, ...]) -> Keyring:
    genesis = credentials.genesis
    keyring = Keyring(credentials.mesh, (genesis.root_public_key,), genesis.mode)
    for statement in credentials.authorities.statements():
        keyring.authorities.open(statement.raw)
    for raw in (own.raw, *known):
        try:
            keyring.introduce(raw, recalled=True)
        except Refusal:  # of the mesh before, or revoked since: it introduces itself again if it may
            continue
    return keyring


# ---- the chain


def _deed(folder: NodeFolder, credentials: Credentials, seed: bytes) -> tuple[NodeId, bytes]:
    """The node's id, and its first key's word for the home it belongs to: made once, with the first key."""
    known = deed_of(folder)
    if known is not None:
        return known
    public = public_of(seed)
    signer = Signer(node_id(public), seed, "")
    raw = signer.seal(Signed(signer.node, Deed(signer.node, credentials.home_id, public)))
    write_atomic(folder.deed_path, raw)
    return signer.node, raw


def deed_of(folder: NodeFolder) -> tuple[NodeId, bytes] | None:
    """The id of the node in `folder`, and its deed; None if it was never started. Raises HomeError."""
    raw = read_private(folder.deed_path)
    if raw is None:
        return None
    try:
        deed: Deed = read_deed(raw).body
    except Refusal as refusal:
        raise HomeError(f"{folder.deed_path} is damaged: {refusal.reason}", fix=f"restore {folder.deed_path} from a backup") from None
    return deed.node, raw


def identity_seed(folder: NodeFolder) -> bytes:
    """The node's identity key of today; made with the node, and never again. Raises HomeError."""
    if folder.deed_path.exists() and read_key(folder.identity_path) is None:
        fix = f"restore {folder.identity_path} from a backup, or begin anew: mv {folder.path} {folder.path}.old"
        raise HomeError(f"{folder.identity_path} is gone: what this node has signed was signed with it", fix=fix)
    return make_key(folder.identity_path)


def _chain(folder: NodeFolder, credentials: Credentials, node: NodeId, seed: bytes, deed: bytes) -> Chain:
    """The node's chain; made anew where the one on disk is not for this key, this home's certificate of today, or this mesh.

    It lists the newest past keys alone: what was signed with older ones, others believe by the journal's own handovers.
    """
    public, past = public_of(seed), tuple(one.old for one in past_keys(folder))[-PAST_KEYS_MAX:]
    raw = read_private(folder.certificate_path)
    if raw is not None and (known := _still_right(credentials, raw, node, public, past)) is not None:
        return known
    fresh = Authority(credentials).certify_node(node, public, folder.name, deed=deed, past_keys=past)
    write_atomic(folder.certificate_path, fresh)
    return credentials.authorities.chains.read(fresh)


def chain_of_node(folder: NodeFolder, credentials: Credentials) -> Chain:
    """The node's chain under the home's certificates of today. Raises HomeError."""
    seed = identity_seed(folder)
    node, deed = _deed(folder, credentials, seed)
    return _chain(folder, credentials, node, seed, deed)


def folder_id(folder: NodeFolder) -> NodeId:
    """The id of the node in `folder`, from its deed; "" if it was never started."""
    raw = read_private(folder.deed_path)
    try:
        return read_deed(raw).body.node if raw is not None else ""
    except Refusal:
        return ""


def node_key(folder: NodeFolder) -> bytes:
    """The public identity key of the node in `folder`; made if it was never started. Raises HomeError."""
    return public_of(identity_seed(folder))


def _still_right(credentials: Credentials, raw: bytes, node: NodeId, public: bytes, past: tuple[bytes, ...]) -> Chain | None:
    try:
        known = credentials.authorities.chains.read(raw)
    except Refusal:  # of another mesh, or damaged: the home's key makes a new one
        return None
    is_same = (known.last.subject, known.last.key, known.last.past_keys) == (node, public, past)
    return known if is_same and split_chain(raw)[:2] == split_chain(credentials.chain.raw) else None


def past_keys(folder: NodeFolder) -> tuple[PastKey, ...]:
    """The node's earlier keys, the first one first: they must outlive the mesh in which they were used. Raises HomeError."""
    raw = read_private(folder.past_keys_path)
    try:
        rows = unpack_row(raw) if raw is not None else ()
        if any(type(row) is not tuple or [type(part) for part in row] != [bytes] * 3 for row in rows):
            raise Refusal("malformed")
    except Refusal:
        raise HomeError(f"{folder.past_keys_path} is damaged", fix=f"restore {folder.past_keys_path} from a backup") from None
    return tuple(PastKey(*row) for row in rows)


# ---- the transport key


def _binding(folder: NodeFolder, signer: Signer, curve: CurveKey) -> Signed:
    """The identity's word for the transport key; made anew where the one on disk is for another key, or signed with another."""
    raw = read_private(folder.binding_path)
    seq = 0
    if raw is not None:
        body, is_own = _read_binding(raw, signer)
        seq = body.seq if body else 0
        if body is not None and is_own and body.curve_key == curve.public:
            return Signed(signer.node, body, raw)
    return make_binding(folder, signer, curve, seq)


def _read_binding(raw: bytes, signer: Signer) -> tuple[Binding | None, bool]:
    try:
        tag, author, body, signature = parts(raw)
        binding = decode_object(tag, body)
    except Refusal:
        return None, False
    if not isinstance(binding, Binding):
        return None, False
    holds = ed25519.verifier_of(signer.public_key)(signature, signed_bytes(tag, signer.mesh, body))
    return binding, holds and author == signer.node


def make_binding(folder: NodeFolder, signer: Signer, curve: CurveKey, seq_before: int) -> Signed:
    """A binding that replaces every earlier one, kept on disk."""
    now_ms = time.time_ns() // 1_000_000
    signed = Signed(signer.node, Binding(signer.mesh, signer.node, curve.public, max(seq_before + 1, now_ms), now_ms))
    write_atomic(folder.binding_path, signer.seal(signed))
    return signed


# ---- rotation


def replace_identity(folder: NodeFolder) -> bytes:
    """Take the node's next identity key into use; returns its seed. Raises HomeError."""
    seed = prepare_key(folder.identity_path)
    complete_rotation(folder)
    return seed


def complete_rotation(folder: NodeFolder) -> None:
    """A rotation of the identity that was interrupted after the next key had been made: finish it. Before, nothing had happened."""
    if read_key(next_of(folder.identity_path)) is not None:
        retire_identity(folder)
        adopt_key(folder.identity_path)


def retire_identity(folder: NodeFolder) -> None:
    """Put the identity key of today among the past ones, with its word for the next, before that is adopted. Twice is as once."""
    seed, following = read_key(folder.identity_path), read_key(next_of(folder.identity_path))
    assert seed is not None and following is not None, "a node that rotates has a key and a next one"
    old, new = public_of(seed), public_of(following)
    past = past_keys(folder)
    if all(one.old != old for one in past):
        word = Signer("", seed, "").sign(handover_bytes(old, new))
        write_atomic(folder.past_keys_path, pack(tuple((one.old, one.new, one.proof) for one in (*past, PastKey(old, new, word)))))


# ---- members


def known_chains(folder: NodeFolder) -> tuple[bytes, ...]:
    """Chains of members known in earlier lives. A cache: whatever is wrong with it, it is as if it were empty."""
    try:
        raw = read_private(folder.members_path, MEMBERS_BYTES_MAX)
        rows = unpack_row(raw) if raw is not None else ()
    except Refusal:
        return ()
    return tuple(row for row in rows if type(row) is bytes)


def keep_chains(folder: NodeFolder, chains: list[bytes]) -> None:
    """Remember them for the next life, the newest last; as many as fit. Raises HomeError."""
    room, kept = MEMBERS_BYTES_MAX - 1024, []
    for chain in reversed(chains):
        room -= len(chain) + 5
        if room < 0:
            break
        kept.append(chain)
    write_atomic(folder.members_path, pack(tuple(reversed(kept))))
