"""What is wrong with a home on disk that nothing running would tell: keys that admit others, and nodes that could not start.

Only reads. What a start would find wrong in a journal's chain, `mesh up` and `mesh verify` say: that takes reading all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from mesh.runtime.disk.store_file import peek
from mesh.runtime.disk.store_newest import Newest, rolled_back
from mesh.runtime.home import Home, HomeError, NodeFolder
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.identity import deed_of, identity_seed
from mesh.runtime.trust.keyfiles import TRANSPORT, read_key


def is_member(home: Home) -> bool:
    """Whether the home is in a mesh, open ones included."""
    return Credentials.exist(home)


def damaged_authority(home: Home) -> list[MeshError]:
    """What keeps this home from admitting others although the files for it are here. Raises HomeError if the membership does not hold."""
    credentials = Credentials.current(home)
    found: list[MeshError] = []
    paths = credentials.paths
    for path, holds in ((paths.issuer, credentials.issuer_signer), (paths.root, credentials.root_signer)):
        if (damage := credentials.damage_of(holds)) is not None:
            found.append(damage)
        elif path.exists() and holds() is None:
            what = f"{path} is of no use: its key is gone, or the root it comes from counts no more"
            fix = f"restore {path.parent} from a backup, or mesh grant issuer, where the root key is"
            found.append(HomeError(what, fix=fix))
    return found


def stoppers(folder: NodeFolder) -> list[MeshError]:
    """Each thing that would stop a start of this node, which does not run now."""
    found = []
    looks: tuple[Callable[[NodeFolder], object], ...] = (_identity, _transport, deed_of, _journal)
    for look in looks:
        try:
            look(folder)
        except MeshError as error:
            found.append(error)
    return found


def _identity(folder: NodeFolder) -> bytes | None:
    return identity_seed(folder) if folder.deed_path.exists() else read_key(folder.identity_path)


def _transport(folder: NodeFolder) -> bytes | None:
    return read_key(folder.transport_path, TRANSPORT)


def _journal(folder: NodeFolder) -> None:
    newest, path = Newest(folder.incarnation_path), folder.journal_path
    newest.read()
    exists = path.exists()
    life = int(peek(path, "incarnation") or b"0") if exists else 0
    if (doubt := newest.doubt(exists, life, newest.seq)) and not newest.restored:
        raise rolled_back(path, doubt)
