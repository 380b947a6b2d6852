"""How a home comes to belong to a mesh: it makes one, opens its own to the LAN, or is admitted to another.

    found(home, "open")      every home's first start: throw-away keys, this machine only
    found(home, "token")     `mesh init` in a home that has none
    open_up(home)            `mesh init` in a home that has an open mesh: an amendment; mesh, ids and history stay
    enter(home, admission)   `mesh join`: the keys of the home and its nodes stay, the mesh is another; the old one's id is remembered

Invariant: after a crash the home is as it was before, or `complete`, which everybody calls first, brings the step to its end: what changes
a home that has a mesh is on disk as a whole, in `pending`, before the first file is touched. Call with the home's lock held.
"""

from __future__ import annotations

import json

from mesh.messages.enrol import Admission
from mesh.runtime.home import Home, HomeError, host_name, read_private, write_atomic
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials, Paths, new_discovery_key, read_past, write_statements
from mesh.runtime.trust.genesis import make_genesis, read_genesis
from mesh.runtime.trust.keyfiles import SECRET, make_key, public_of, read_key, write_key
from mesh.wire.authorities import Authorities
from mesh.wire.chain import join_chain
from mesh.wire.enrolment import pack_admission, read_admission
from mesh.wire.objects import node_id
from mesh.wire.packing import Refusal, pack, unpack_row

PENDING_BYTES_MAX = 2 * 1024 * 1024
_OPEN_UP = "open_up"


def found(home: Home, mode: str, name: str) -> Credentials:
    """Make the home's mesh, with this home as its root and first issuer, where there is none. Completes what a crash left half made."""
    complete(home)
    if Credentials.exist(home):
        return Credentials(home)
    paths = Paths(home.mesh_path)
    raw = read_private(paths.genesis)
    if raw is None:
        raw = make_genesis(name, mode, public_of(make_key(paths.root))).raw
        write_atomic(paths.genesis, raw)
    if read_key(paths.discovery, SECRET) is None:
        new_discovery_key(paths)
    make_key(paths.home_key)
    return _certify_self(Credentials(home), host_name())


def complete(home: Home) -> None:
    """Bring to its end what a crash left half done: opening up, entering, or the rotation of a key."""
    paths = Paths(home.mesh_path)
    raw = read_private(paths.pending, PENDING_BYTES_MAX)
    if raw is not None:
        _carry_out(home, paths, raw)
    if Credentials.exist(home):
        Credentials(home).settle()


def _carry_out(home: Home, paths: Paths, raw: bytes) -> None:
    """The step in `pending`. Twice is as once."""
    try:
        row, admission = unpack_row(raw), read_admission(raw)
    except Refusal:
        row, admission = (), None
    if admission is not None:
        _move_in(paths, admission)
    elif len(row) == 3 and row[0] == _OPEN_UP:
        _amend_and_certify(home, row[1], row[2])
    else:
        raise HomeError(f"{paths.pending} is damaged", fix=f"remove {paths.pending}, then again: mesh init, or mesh join TOKEN")
    paths.pending.unlink()


# ---- a mesh of one's own


def open_up(home: Home, mode: str, name: str) -> Credentials:
    """Make the home's open mesh one that other machines may join. Its id, its nodes and their journals stay. Raises Refused, HomeError."""
    if Credentials(home).root_signer() is None:
        raise HomeError(
            f"{Paths(home.mesh_path).root} is gone or not of this mesh", fix="restore it from a backup, or choose another --home"
        )
    _begin(home, pack((_OPEN_UP, mode, name)))
    return Credentials(home)


def _begin(home: Home, step: bytes) -> None:
    paths = Paths(home.mesh_path)
    write_atomic(paths.pending, step)
    _carry_out(home, paths, step)


def _amend_and_certify(home: Home, mode: str, name: str) -> None:
    credentials = Credentials(home)
    if credentials.mode == "open":
        Authority(credentials).amend(credentials.authorities.roots, mode, name)
    _certify_self(Credentials(home), host_name())


def _certify_self(credentials: Credentials, label: str) -> Credentials:
    """The first issuer's and the first home's certificate, by the root key that lies here."""
    paths, authority = credentials.paths, Authority(credentials)
    write_atomic(paths.issuer, authority.certify_issuer(public_of(make_key(paths.issuer_key)), label))
    home_key = credentials.home_key
    home = credentials.home_id if Credentials.exist(credentials.home) else node_id(home_key)
    write_atomic(paths.membership, authority.admit(home, home_key, label, Grant(("member", ISSUER_ROLE))))
    return Credentials(credentials.home)


# ---- another's


def enter(home: Home, admission: Admission) -> Credentials:
    """Belong to the mesh of `admission` from now on. Raises HomeError if what it says does not hold together."""
    genesis = read_genesis(admission.genesis, "the admission")
    home_public = public_of(make_key(Paths(home.mesh_path).home_key))
    _check(admission, genesis.mesh, genesis.root_public_key, genesis.mode, home_public)
    _begin(home, pack_admission(admission))
    return Credentials(home)


def _move_in(paths: Paths, admission: Admission) -> None:
    mesh = read_genesis(admission.genesis, "the admission").mesh
    past = [one for one in (*read_past(paths), *_mesh_of(paths)) if one != mesh]
    paths.membership.unlink(missing_ok=True)
    write_atomic(paths.past, json.dumps(list(dict.fromkeys(past))).encode())
    for mine in (paths.root, paths.issuer):
        mine.unlink(missing_ok=True)
    write_atomic(paths.genesis, admission.genesis)
    write_key(paths.discovery, admission.discovery_key, SECRET)
    write_statements(paths, admission.statements)
    if admission.own_issuer:
        write_atomic(paths.issuer, admission.own_issuer)
    write_atomic(paths.membership, admission.chain)


def _mesh_of(paths: Paths) -> tuple[str, ...]:
    raw = read_private(paths.genesis)
    return (read_genesis(raw, str(paths.genesis)).mesh,) if raw is not None else ()


def _check(admission: Admission, mesh: str, root: bytes, mode: str, home_public: bytes) -> None:
    """All of it, before anything is written."""
    try:
        authorities = Authorities(mesh, (root,), mode)
        for statement in admission.statements:
            authorities.open(statement)
        chain = authorities.chains.read(admission.chain)
        if len(chain.certificates) != 2 or chain.last.key != home_public:
            raise Refusal("not_own", chain.last.subject)
        if admission.own_issuer:
            authorities.chains.read(join_chain((admission.own_issuer,)))
    except Refusal as refusal:
        raise HomeError(
            f"what the mesh answered does not hold together: {refusal.reason}", fix="mesh join TOKEN, with a new token"
        ) from None
