"""What a home has to show and to keep: everything in its folder ``mesh/``.

    genesis.json  discovery.key                 of the mesh: the same at every member
    home.key  membership  statements            of the home: its key, its chain (issuer, home), amendments and revocations
    root.key  issuer.key  issuer                only where members are admitted
    past                                        ids of meshes this home belonged to before: its journals go on
    pending                                     a step of `founding.py` that was begun and is not yet complete

Invariant: the folder is whole at any moment: what belongs together is written in an order in which a crash in between leaves the old state
or a state that is completed at the next look. Signs nothing (`authority.py`), and knows no node's files (`identity.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from mesh.ids import NodeId
from mesh.runtime.home import Home, HomeError, read_private, write_atomic
from mesh.runtime.trust.genesis import GENESIS_BYTES_MAX, Genesis, read_genesis
from mesh.runtime.trust.keyfiles import KEY_BYTES, SECRET, adopt_key, next_of, public_of, read_key, write_key
from mesh.wire.authorities import Authorities
from mesh.wire.chain import Chain, join_chain
from mesh.wire.objects import Signer, node_id
from mesh.wire.packing import Refusal, pack, unpack_row

T = TypeVar("T")
STATEMENTS_BYTES_MAX = 2 * 1024 * 1024
"""512 revocations of a kilobyte each, and the newest 16 policies of 33 KiB."""


class Paths:
    """The files of one home's ``mesh/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.genesis = folder / "genesis.json"
        self.discovery = folder / "discovery.key"
        self.root = folder / "root.key"
        self.issuer_key = folder / "issuer.key"
        self.issuer = folder / "issuer"
        self.home_key = folder / "home.key"
        self.membership = folder / "membership"
        self.statements = folder / "statements"
        self.past = folder / "past"
        self.pending = folder / "pending"
        self.invites = folder / "invites.json"
        self.admitted = folder / "admitted.json"


class Credentials:
    """A home's membership as it is on disk. Raises HomeError for whatever is damaged, missing, or open to others.

    `authorities` hold every kept statement already.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.paths = Paths(home.mesh_path)
        raw = read_private(self.paths.genesis, GENESIS_BYTES_MAX)
        if raw is None and self.exist(home):
            raise HomeError(f"{self.paths.genesis} is gone", fix=f"restore {self.paths.genesis} from a backup: every member has the same")
        if raw is None:
            raise HomeError(f"there is no mesh in {home.path} yet", fix="mesh up, or mesh init, or mesh join TOKEN")
        self.genesis: Genesis = read_genesis(raw, str(self.paths.genesis))
        self.mesh = self.genesis.mesh
        self.discovery_key = self._need(self.paths.discovery, SECRET)
        self.authorities = Authorities(self.mesh, (self.genesis.root_public_key,), self.genesis.mode)
        for statement in self.kept_statements():
            self._uphold(statement)
        self._membership = read_private(self.paths.membership)
        self._home_seed = self._seed_of(self.paths.home_key, self._membership) or self._need(self.paths.home_key)
        self._chain: Chain | None = None

    @classmethod
    def current(cls, home: Home) -> Credentials:
        """As they are on disk now, the chain included: nobody is in the middle of changing them. Raises HomeError."""
        with home.lock():
            found = cls(home)
            assert found.chain
            return found

    @staticmethod
    def exist(home: Home) -> bool:
        """Whether the home belongs to a mesh at all. `membership` is written last."""
        return Paths(home.mesh_path).membership.exists()

    def _need(self, path: Path, kind: str = "ed25519") -> bytes:
        key = read_key(path, kind)
        if key is None:
            raise HomeError(f"{path} is gone", fix=f"restore {path} from a backup, or begin anew: mv {path.parent} {path.parent}.old")
        return key

    def _seed_of(self, path: Path, chain: bytes | None) -> bytes | None:
        """The key in `path`, or the next one, whichever `chain` ends in: a certificate is written first, then its key is taken into use.

        None if neither is.
        """
        try:
            certified = self.authorities.chains.read(chain or b"").last.key
        except Refusal:
            return None
        seeds = (read_key(path), read_key(next_of(path)))
        return next((seed for seed in seeds if seed is not None and public_of(seed) == certified), None)

    @property
    def chain(self) -> Chain:
        """Issuer's and home's certificates. Raises HomeError if they are not there, or do not hold."""
        if self._chain is None:
            self._chain = self._read_chain()
        return self._chain

    def _read_chain(self) -> Chain:
        path = self.paths.membership
        try:
            chain = self.authorities.chains.read(self._membership or b"")
        except Refusal as refusal:
            fix = f"restore {path} from a backup, or join again: mesh join TOKEN"
            raise HomeError(f"{path} does not hold in this mesh: {refusal.reason}", fix=fix) from None
        if len(chain.certificates) != 2 or chain.last.key != self.home_key:
            raise HomeError(f"{path} is not for the key in {self.paths.home_key}", fix="restore both from one backup")
        return chain

    def _uphold(self, raw: bytes) -> None:
        try:
            self.authorities.open(raw)
        except Refusal as refusal:
            where = self.paths.statements
            raise HomeError(f"{where} is damaged: {refusal.reason}", fix=f"restore {where} from a backup") from None

    # ---- who we are

    @property
    def mode(self) -> str:
        return self.authorities.mode

    @property
    def name(self) -> str:
        """What people call the mesh: the newest amendment's word."""
        amendments = [signed.body for signed in self.authorities.statements() if hasattr(signed.body, "roots")]
        return amendments[-1].name if amendments else self.genesis.name

    @property
    def home_id(self) -> NodeId:
        return self.chain.last.subject

    @property
    def home_key(self) -> bytes:
        """The home's public key of today."""
        return public_of(self._home_seed)

    def home_signer(self) -> Signer:
        return Signer(self.home_id, self._home_seed, self.mesh)

    def issuer_signer(self) -> tuple[Signer, bytes] | None:
        """The issuer's key and its certificate, if members are admitted here and the certificate still holds."""
        raw = read_private(self.paths.issuer)
        seed = self._seed_of(self.paths.issuer_key, join_chain((raw,))) if raw is not None else None
        if raw is None or seed is None:
            return None  # signed by a root that counts no more, perhaps: `mesh grant issuer` gives a new one
        return Signer(node_id(public_of(seed)), seed, self.mesh), raw

    def issuer_chain(self) -> Chain | None:
        """The issuer's certificate of this home; None if it has none that holds, or whose key is damaged."""
        issuer = self.usable(self.issuer_signer)
        return self.authorities.chains.read(join_chain((issuer[1],))) if issuer else None

    def root_signer(self) -> Signer | None:
        """The root key, if it lies here and still counts."""
        seed = read_key(self.paths.root)
        if seed is None:
            return None
        signer = Signer("", seed, self.mesh)
        signer.node = node_id(signer.public_key)
        return signer if signer.node in self.authorities.root_ids else None

    @staticmethod
    def damage_of(signer: Callable[[], object]) -> HomeError | None:
        """What is wrong with the key that `issuer_signer` or `root_signer` reads. A node runs without: whoever is to use it is told."""
        try:
            signer()
        except HomeError as error:
            return HomeError(error.message, fix="restore it from a backup, or remove it: this home admits nobody then")
        return None

    def usable(self, signer: Callable[[], T | None]) -> T | None:
        """What it gives; None too where its key is damaged, which `damage_of` tells."""
        return None if self.damage_of(signer) else signer()

    # ---- what is kept

    def kept_statements(self) -> tuple[bytes, ...]:
        raw = read_private(self.paths.statements, STATEMENTS_BYTES_MAX)
        if raw is None:
            return ()
        try:
            rows = unpack_row(raw)
        except Refusal:
            rows = (None,)
        if any(type(row) is not bytes for row in rows):
            raise HomeError(f"{self.paths.statements} is damaged", fix=f"restore {self.paths.statements} from a backup")
        return rows

    def keep_statements(self) -> None:
        """Write down what the authorities know. Raises HomeError."""
        write_statements(self.paths, (signed.raw for signed in self.authorities.statements()))

    def keep_chain(self, raw: bytes) -> None:
        """New certificates for this home. Raises Refusal if they are not for it, HomeError."""
        chain = self.authorities.chains.read(raw)
        if len(chain.certificates) != 2 or (chain.last.subject, chain.last.key) != (self.home_id, self.home_key):
            raise Refusal("not_own", chain.last.subject)
        write_atomic(self.paths.membership, raw)
        self._chain = chain

    def settle(self) -> None:
        """Complete rotations of the home's, issuer's and root key that a crash interrupted. With the home's lock held."""
        issuer = read_private(self.paths.issuer)
        chains = {self.paths.home_key: read_private(self.paths.membership), self.paths.issuer_key: issuer and join_chain((issuer,))}
        if self.damage_of(self.issuer_signer):
            del chains[self.paths.issuer_key]
        for path, chain in chains.items():
            seed = self._seed_of(path, chain)
            if seed is not None and seed == read_key(next_of(path)):
                adopt_key(path)
        self.settle_root()

    def settle_root(self) -> None:
        """Take the next root key into use if an amendment names it, keep the one before while it counts, and no longer."""
        path = self.paths.root
        retired = path.with_name(path.name + ".old")
        following = read_key(next_of(path))
        if following is not None and public_of(following) in self.authorities.roots:
            if path.exists():
                os.replace(path, retired)
            adopt_key(path)
        old = read_key(retired)
        if old is not None and public_of(old) not in self.authorities.roots:
            retired.unlink()

    @property
    def past(self) -> tuple[str, ...]:
        """Ids of the meshes this home was in before, the latest last."""
        return read_past(self.paths)


def write_statements(paths: Paths, raws: Iterable[bytes]) -> None:
    write_atomic(paths.statements, pack(tuple(raws)))


def read_past(paths: Paths) -> tuple[str, ...]:
    raw = read_private(paths.past)
    try:
        found = json.loads(raw) if raw is not None else []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise HomeError(f"{paths.past} is damaged", fix=f"restore {paths.past} from a backup")
    return tuple(found)


def new_discovery_key(paths: Paths) -> bytes:
    return write_key(paths.discovery, os.urandom(KEY_BYTES), SECRET)
