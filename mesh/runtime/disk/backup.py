"""A copy of one node and its home that is consistent at one moment, made beside the running node.

    journal   SQLite's own backup: one read transaction, which neither waits for the writer nor stops it; checked before it counts
    files     whole by their names, and put in place before the journal names them: copied after it, none is missing
    the rest  copied last, under the home's lock: keys are never older than what the journal says of them

Invariant: the file appears whole or not at all, 0600. Private files are sealed by the home's vault in it; the vault's own key goes along
only where it is a file (`kek.py`), and can be left out: then whoever finds the backup can open nothing of it but the users' files. Changes
nothing in the home.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, NoNode, Refused
from mesh.runtime.clock import wall_ms
from mesh.runtime.disk import archive, store_chain, store_file
from mesh.runtime.disk.kek import FILE
from mesh.runtime.disk.sealing import KeySealer
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.vault import Vault, open_vault
from mesh.runtime.home import NodeFolder, read_private, sync_folder
from mesh.runtime.trust.credentials import Credentials

TABLE = "backup/1"
PRIVATE_BYTES_MAX = 16 * 1024 * 1024
_KEK = re.compile(r"kek\.\d+")
_PASSING = re.compile(r"(node\.(lock|json|sock|log|ended)|worker\.log|stock\.log|lock|name|incarnation\.json|journal\.sqlite.*|\..*)")
"""Of this machine, of this moment, or made anew by a restore."""


def back_up(folder: NodeFolder, target: Path, *, with_key: bool = True, prompt: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Write the backup of the node in `folder` to `target`, a new file, or one of its own name in that folder. Says what is in it:
    ``{"file", "node", "id", "entries", "incarnation", "files", "bytes", "key", "kek", "made_ms"}``.

    Raises Refused ``file_exists``, StoreError for a damaged journal, HomeError, MeshError ``disk_full``.
    """
    if not folder.journal_path.exists():
        own = [each.name for each in folder.home.nodes()]
        which, fix = (f", only {', '.join(own)}", f"mesh backup {target} --node {own[0]}") if own else ("", "mesh up")
        raise NoNode(f"there is no node {folder.name} in {folder.home.path}{which}", fix=fix, code="no_such_node")
    made_ms = wall_ms()
    target = target / f"{folder.name}-{made_ms}.mesh-backup" if target.is_dir() else target
    if target.exists():
        raise Refused(f"there is a file {target} already", fix="choose another name", code="file_exists")
    vault = open_vault(folder.home, prompt=prompt)
    with explained(target), _partial(target) as (partial, journal):
        facts = {"node": folder.name, "made_ms": made_ms, "mesh": Credentials(folder.home).mesh}
        facts |= _copy_journal(folder, vault, journal)
        facts |= {"kek": vault.source, "key": with_key and vault.source == FILE}
        with open(partial, "wb") as out:
            count = _write(archive.Writer(out, facts), folder, vault, journal, with_key=with_key)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        os.rename(partial, target)
        sync_folder(target.parent)
    return {"file": str(target), **facts, "files": count, "bytes": size}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """A disk that is full or fails, in words."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = f"free space at {path.parent}" if full else f"ls -ld {path.parent}"
        raise MeshError(f"{path}: {error.strerror or error}", fix=fix, code="disk_full" if full else "disk_error") from error


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, Path]]:
    """Where the archive and the copy of the journal grow, beside `target`. Nothing of it is left behind."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:  # 0700
        partial = Path(folder) / "partial"
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield partial, Path(folder) / "journal.sqlite"


def _copy_journal(folder: NodeFolder, vault: Vault, copy: Path) -> dict[str, Any]:
    """A snapshot, with every entry compared with what was signed. Answers what it is."""
    path = folder.journal_path
    try:
        with contextlib.closing(store_file.connect(path, read_only=True)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except store_file.UNREADABLE as error:
        raise store_file.explain(path, error) from error
    return look_into(copy, vault)


def look_into(path: Path, vault: Vault) -> dict[str, Any]:
    """Whose journal a copy is, in which mesh it began, and how far it goes; checked whole. Raises StoreError."""
    names = ("author", "mesh", "incarnation", "vault")
    found = {name: store_file.peek(path, name).decode(errors="replace") for name in names}
    last = 0
    try:
        with contextlib.closing(store_file.connect(path, read_only=True)) as connection:
            life = store_file.get_life(path, connection)
            rows = Rows(path, vault.sealer("journal", found["author"]))
            for commit, _, _ in store_chain.read_commits(connection, rows, found["author"]):
                last = commit.first + commit.count - 1
            store_chain.check_bodies(connection, rows)
    except store_file.UNREADABLE as error:
        raise store_file.explain(path, error) from error
    for rest in ("-wal", "-shm"):  # who only reads leaves them behind
        path.with_name(path.name + rest).unlink(missing_ok=True)
    return {"id": found["author"], "began_in": found["mesh"], "vault": found["vault"], "incarnation": life, "entries": last}


def _write(out: archive.Writer, folder: NodeFolder, vault: Vault, journal: Path, *, with_key: bool) -> int:
    """All files into the archive; how many of them are the users'."""
    out.add_file("node/journal.sqlite", journal)
    out.add("node/name", folder.name.encode())
    count = 0
    for path in sorted(folder.files_path.glob("??/*")):
        out.add_file(f"node/files/{path.parent.name}/{path.name}", path)
        count += 1
    seal = sealer(vault)
    with folder.home.lock():
        for name, path in _private(folder):
            if _KEK.fullmatch(path.name):
                if with_key:
                    out.add(name, _bytes_of(path))
            elif path.name == "vault.json":
                out.add(name, _bytes_of(path))
            else:
                out.add(name, seal.seal(TABLE, name, _bytes_of(path)), sealed=True)
    out.close()
    return count


def sealer(vault: Vault) -> KeySealer:
    """For the private files of a backup."""
    return vault.sealer("backup", vault.id)


def _private(folder: NodeFolder) -> Iterator[tuple[str, Path]]:
    """What only the home's owner may read, small files all: its name in the archive, and where it is."""
    home = folder.home
    places = [("home", home.config_path), *(("home/mesh", path) for path in sorted(home.mesh_path.iterdir()))]
    places += [("home/mesh/secrets", path) for path in sorted((home.mesh_path / "secrets").glob("*"))]
    places += [("node", path) for path in sorted(folder.path.iterdir())]
    for place, path in places:
        if path.is_file() and not _PASSING.fullmatch(path.name):
            yield f"{place}/{path.name}", path


def _bytes_of(path: Path) -> bytes:
    data = path.read_bytes() if path.name == "config.toml" else read_private(path, PRIVATE_BYTES_MAX)
    return data or b""
