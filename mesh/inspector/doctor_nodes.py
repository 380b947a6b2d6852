"""What `mesh doctor` looks at in nodes that do not run: whether their keys, their deed and their journal let them start.

Only reads. What a start would find wrong in a journal's chain, `mesh up` and `mesh verify` say: that takes reading all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from mesh.inspector.findings import FAIL, Finding
from mesh.runtime.disk.store_file import peek
from mesh.runtime.disk.store_newest import Newest, rolled_back
from mesh.runtime.home import Home, NodeFolder
from mesh.runtime.trust.identity import deed_of, identity_seed
from mesh.runtime.trust.keyfiles import TRANSPORT, read_key


def resting(home: Home) -> list[Finding]:
    """One finding for each thing that would stop a node which does not run now."""
    found = []
    for folder in home.nodes():
        if folder.is_running():
            continue
        looks: tuple[Callable[[NodeFolder], object], ...] = (_identity, _transport, deed_of, _journal)
        for look in looks:
            try:
                look(folder)
            except MeshError as error:
                found.append(Finding("node", FAIL, f"node {folder.name} cannot start: {error.message}", error.fix))
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
    if doubt := newest.doubt(exists, life, newest.seq):
        raise rolled_back(path, doubt)
