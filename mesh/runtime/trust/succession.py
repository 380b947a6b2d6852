"""The key that follows a home's, an issuer's or the mesh's root key: made, certified, kept, taken into use. On disk only; blocking.

    home     next key --> home's certificate by the own issuer --> in use          (or a certificate that another issuer granted)
    issuer   next key --> issuer's certificate by the root here --> in use
    root     next key --> amendment: old and new --> in use --> `finish_root`: new alone, the old one is deleted

Invariant: the certificate (or amendment) is on disk before the key is renamed, and tells which key is in use; so a crash at any step leaves
what works, and `Credentials.settle`, or saying it again, completes it. Takes the home's lock itself. Tells nobody: `rotation.py` does.
"""

from __future__ import annotations

from mesh.errors import Refused
from mesh.messages.signed import Signed
from mesh.runtime.home import Home, write_atomic
from mesh.runtime.trust.authority import Authority, Grant
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.keyfiles import adopt_key, next_of, prepare_key, public_of, read_key
from mesh.wire.chain import Chain, join_chain
from mesh.wire.packing import Refusal


def replace_home_key(home: Home) -> bytes:
    """The home's next key, certified by its own issuer's: its public half. Raises Refused: nobody is admitted here; HomeError."""
    with home.lock():
        credentials = Credentials(home)
        public, today = public_of(prepare_key(credentials.paths.home_key)), credentials.chain.last
        grant = Grant(today.roles, today.offers, today.requests)
        fresh = Authority(credentials).admit(today.subject, public, today.name, grant)
        adopt_home_key(credentials, credentials.authorities.chains.read(fresh))
        return public


def adopt_home_key(credentials: Credentials, fresh: Chain) -> None:
    """If `fresh` is this home's and for its next key, that is the home's key from now on. With the home's lock held."""
    path = credentials.paths.home_key
    seed = read_key(next_of(path))
    if seed is not None and (fresh.last.subject, fresh.last.key) == (credentials.home_id, public_of(seed)):
        write_atomic(credentials.paths.membership, fresh.raw)
        adopt_key(path)


def replace_issuer_key(home: Home) -> bytes:
    """The issuer's next key, certified by the root key that lies here: its public half. Raises Refused: no root key here; HomeError."""
    with home.lock():
        credentials = Credentials(home)
        public = public_of(prepare_key(credentials.paths.issuer_key))
        keep_issuer(credentials, Authority(credentials).certify_issuer(public, credentials.chain.last.name))
        return public


def keep_issuer(credentials: Credentials, raw: bytes) -> None:
    """A certificate for this home's issuer key, or for the next one, which it takes into use. With the home's lock held.

    Raises Refusal ``not_own`` for another key.
    """
    certificate = credentials.authorities.chains.read(join_chain((raw,))).last
    path = credentials.paths.issuer_key
    for candidate in (path, next_of(path)):
        seed = read_key(candidate)
        if seed is not None and public_of(seed) == certificate.key:
            write_atomic(credentials.paths.issuer, raw)
            if candidate != path:
                adopt_key(path)
            return
    raise Refusal("not_own", certificate.subject)


def amend_root(home: Home) -> Signed:
    """Let the next root key count beside that of today. Raises Refused: no root key here, or the last time is not finished; HomeError."""
    with home.lock():
        credentials = Credentials(home)
        credentials.settle_root()
        root, authorities = credentials.root_signer(), credentials.authorities
        if root is None:
            raise Refused("the root key of this mesh is not on this machine", fix="do it where `mesh init` was typed", code="no_root")
        if len(authorities.roots) > 1:
            raise Refused("the last rotation of the root key is not finished", fix="mesh rotate root --finish", code="unfinished")
        fresh = public_of(prepare_key(credentials.paths.root))
        signed = Authority(credentials).amend((*authorities.roots, fresh), credentials.mode, credentials.name, root)
        credentials.settle_root()
        return signed


def finish_root(home: Home) -> Signed | None:
    """Let the newest root key alone count, and delete the old one; None if that is so already. Raises Refused, HomeError."""
    with home.lock():
        credentials = Credentials(home)
        credentials.settle_root()
        *old, newest = credentials.authorities.roots
        signed = Authority(credentials).amend((newest,), credentials.mode, credentials.name) if old else None
        credentials.settle_root()
        return signed
