"""How a home comes to belong to a mesh: it makes one, opens its own to the LAN, or is admitted to another.

    found(home, "open")      every home's first start: throw-away keys, this machine only
    found(home, "token")     `mesh init` in a home that has none
    open_up(home)            `mesh init` in a home that has an open mesh: an amendment; mesh, ids and history stay
    enter(home, admission)   `mesh join`: the keys of the home and its nodes stay, the mesh is another; the old one's id is remembered

Invariant: `membership` is written last, so a home that has it is whole; a crash before leaves what was there before. Call with the home's
lock held.
"""

from __future__ import annotations

import json

from mesh.messages.enrol import Admission
from mesh.runtime.authority import ISSUER_ROLE, Authority, Grant
from mesh.runtime.credentials import Credentials, Paths, new_discovery_key, read_past, write_statements
from mesh.runtime.genesis import make_genesis, read_genesis
from mesh.runtime.home import Home, HomeError, host_name, read_private, write_atomic
from mesh.runtime.keyfiles import SECRET, make_key, read_key, write_key
from mesh.wire.authorities import Authorities
from mesh.wire.chain import join_chain
from mesh.wire.objects import Signer, node_id
from mesh.wire.packing import Refusal


def found(home: Home, mode: str, name: str) -> Credentials:
    """Make the home's mesh, with this home as its root and first issuer, where there is none. Completes what a crash left half made."""
    if Credentials.exist(home):
        return Credentials(home)
    paths = Paths(home.mesh_path)
    raw = read_private(paths.genesis)
    if raw is None:
        root_key = Signer("", make_key(paths.root), "").public_key
        raw = make_genesis(name, mode, root_key).raw
        write_atomic(paths.genesis, raw)
    if read_key(paths.discovery, SECRET) is None:
        new_discovery_key(paths)
    make_key(paths.home_key)
    make_key(paths.issuer_key)
    return _certify_self(Credentials(home), host_name())


def _certify_self(credentials: Credentials, label: str) -> Credentials:
    """The first issuer's and the first home's certificate, by the root key that lies here."""
    paths, authority = credentials.paths, Authority(credentials)
    issuer_public = Signer("", make_key(paths.issuer_key), credentials.mesh).public_key
    write_atomic(paths.issuer, authority.certify_issuer(issuer_public, label))
    home_key = credentials.home_key
    home = credentials.home_id if Credentials.exist(credentials.home) else node_id(home_key)
    write_atomic(paths.membership, authority.admit(home, home_key, label, Grant(("member", ISSUER_ROLE))))
    return Credentials(credentials.home)


def open_up(home: Home, mode: str, name: str) -> Credentials:
    """Make the home's open mesh one that other machines may join. Its id, its nodes and their journals stay. Raises Refused, HomeError."""
    credentials = Credentials(home)
    Authority(credentials).amend(credentials.authorities.roots, mode, name)
    return _certify_self(Credentials(home), host_name())


def enter(home: Home, admission: Admission) -> Credentials:
    """Belong to the mesh of `admission` from now on. Raises HomeError if what it says does not hold together."""
    paths = Paths(home.mesh_path)
    genesis = read_genesis(admission.genesis, "the admission")
    home_public = Signer("", make_key(paths.home_key), genesis.mesh).public_key
    _check(admission, genesis.mesh, genesis.root_public_key, genesis.mode, home_public)
    past = [one for one in (*read_past(paths), *_mesh_of(paths)) if one != genesis.mesh]
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
    return Credentials(home)


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
