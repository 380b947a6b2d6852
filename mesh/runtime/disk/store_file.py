"""The journal's file: SQLite, its schema, its lock, and what its failures mean to a person.

    commits  the chain: signed bytes as they were signed        entries  number -> canonical bytes; a commit covers a range
    bodies   arguments and results by content hash, outside the chain, so that one can be erased and the chain still holds
    about    key -> entries that tell about it: a fold, rebuilt when it disagrees with the entries
    meta     author, incarnation, vault        peer_heads, forks, witnesses  what others signed
    shelf    blocks of other authors' logs, kept for them        shelf_states  what is known of each log: terms, votes, who keeps it

Invariant: a transaction holds whole commits; nothing is acknowledged before SQLite has synced it (WAL, ``synchronous=FULL``). One process
has the file: an advisory lock on ``FILE.lock`` refuses a second one. Does not know what an entry means.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path

from mesh.errors import Refused

SCHEMA = 2
"""1 had no shelf. Such a file gets it when it is opened for writing, and is refused by older versions from then on: they would break the
promises made to other authors."""
_APPLICATION = 0x6D65_7368
"""SQLite's application id: tells our file from any other database."""

_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE commits(first INTEGER PRIMARY KEY, count INTEGER NOT NULL, raw BLOB NOT NULL, hash BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE entries(seq INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE about(key TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(key, seq)) WITHOUT ROWID;
CREATE TABLE bodies(hash TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE peer_heads(author TEXT PRIMARY KEY, raw BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE forks(author TEXT NOT NULL, one BLOB NOT NULL, other BLOB NOT NULL, PRIMARY KEY(author, one, other)) WITHOUT ROWID;
CREATE TABLE witnesses(author TEXT PRIMARY KEY, raw BLOB NOT NULL) WITHOUT ROWID;
"""

FACTS = ("author", "incarnation", "incarnation_check", "key", "mesh", "suspect", "vault")
"""What stands in `meta`."""

_SHELF = """
CREATE TABLE shelf(author TEXT NOT NULL, term INTEGER NOT NULL, seq INTEGER NOT NULL, block BLOB NOT NULL, PRIMARY KEY(author, term, seq));
CREATE TABLE shelf_states(author TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
"""


UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's calls raise over a damaged file: about some garbage it says what Python cannot decode."""


class StoreError(Refused):
    """The journal cannot be used. `code` is snake_case, `fix` what a person can do. Nothing on disk was changed by the attempt."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message, fix=fix, code=code)


def broken(path: Path | str, detail: str) -> StoreError:
    """The chain does not hold. Never repaired by guessing: a journal with silently missing rows would lie about acknowledged work."""
    return StoreError(
        "journal_broken",
        f"the journal {path} is damaged: {detail}",
        "put back a copy of it, or keep it aside and start a node under a new name: mesh up --name NAME",
    )


def other_vault(path: Path, sealed_by: str, vault: str) -> StoreError:
    """Sealed for good: a journal never goes back to plain, and never to another vault's keys."""
    if not vault:
        return StoreError("sealed", f"the journal {path} is sealed", "open it with the vault of its home")
    return StoreError(
        "other_vault",
        f"the journal {path} is sealed by the vault {sealed_by[:8]}, and this home's is {vault[:8]}: mesh/vault.json was lost or replaced",
        "restore mesh/vault.json and its key from a backup; without them, start a node under a new name: mesh up --name NAME",
    )


def explain(path: Path | str, error: sqlite3.Error | OSError | UnicodeDecodeError) -> StoreError:
    """What a failed read or write means, for people."""
    if isinstance(error, UnicodeDecodeError):
        return broken(path, "what should be names in it is no text")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    full = code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno == 28)
    if full:
        return StoreError("disk_full", f"no space left for the journal {path}", "free some space on that disk and start the node again")
    if code == sqlite3.SQLITE_READONLY or isinstance(error, PermissionError):
        return StoreError("store_read_only", f"the journal {path} cannot be written: {error}", "make the folder writable for this account")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH):  # wrong bytes, or tables
        return broken(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            "store_locked", f"another program has locked the journal {path}", "close it (a database browser?) and start again"
        )
    return StoreError(
        "disk_error", f"the disk failed under the journal {path}: {error}", "check the disk; the journal is whole up to its last commit"
    )


class Lock:
    """Held by one process (or one opening within it) at a time; the system lets go of it however that process ends."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError ``store_locked`` if another has it."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise StoreError(
                "store_locked",
                f"another process uses the journal beside {path}",
                "only one node per folder: see 'mesh status', or use --name",
            ) from None

    def close(self) -> None:
        os.close(self._file)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection without implicit transactions, usable from the one thread that owns it. Raises sqlite3.Error."""
    target = f"{path.absolute().as_uri()}?mode=ro" if read_only else f"{path.absolute().as_uri()}?mode=rwc"
    connection = sqlite3.connect(target, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA trusted_schema=OFF")
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache; elsewhere without effect
    return connection


def open_writer(path: Path) -> sqlite3.Connection:
    """The one writing connection; makes the tables if the file is new. Raises StoreError, also for another program's or a newer file."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = connect(path)
    except (*UNREADABLE, OSError) as error:
        raise explain(path, error) from error
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:  # new, or its maker was killed at once
            _make(connection)
            _sync_folder(path.parent)
        version = _admit(path, connection)
        _check_facts(path, connection)
        if version < SCHEMA:
            connection.executescript(f"BEGIN IMMEDIATE; {_SHELF} PRAGMA user_version={SCHEMA}; COMMIT;")
    except UNREADABLE as error:
        connection.close()
        raise explain(path, error) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection) -> None:
    tables = f"{_TABLES} {_SHELF}"
    connection.executescript(f"BEGIN IMMEDIATE; {tables} PRAGMA application_id={_APPLICATION}; PRAGMA user_version={SCHEMA}; COMMIT;")


def _admit(path: Path, connection: sqlite3.Connection) -> int:
    """The file's schema. Raises StoreError if it is none of ours, or newer."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise StoreError(
            "not_a_journal", f"{path} is a database, but not a journal of this program", "move it away or choose another --home"
        )
    if version > SCHEMA:
        raise StoreError(
            "newer_schema",
            f"{path} was written by a newer version (schema {version}, this one knows {SCHEMA})",
            "upgrade: pip install -U lanmesh",
        )
    if version < 1:
        raise broken(path, f"its schema number is {version}, which no version ever wrote")
    return int(version)


def _sync_folder(folder: Path) -> None:
    """A new file's name must survive a power cut as well."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def settle(connection: sqlite3.Connection) -> None:
    """Move what is committed from the log into the file, so that a lost log costs no more than this life. Raises sqlite3.Error."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _check_facts(path: Path, connection: sqlite3.Connection) -> None:
    """A fact under a name that was changed would be missed under its own, and made again. Raises StoreError, sqlite3.Error."""
    strange = [name for (name,) in connection.execute("SELECT name FROM meta") if name not in FACTS]
    if strange:
        raise broken(path, f"it holds a fact called {strange[0]!r}, which no version writes")


def get_meta(connection: sqlite3.Connection, name: str) -> bytes | None:
    row = connection.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
    return bytes(row[0]) if row else None


def get_life(path: Path, connection: sqlite3.Connection) -> int:
    """The newest life that the journal knows of; 0 for a new one. Raises StoreError if the number was changed, ValueError."""
    life, check = get_meta(connection, "incarnation") or b"0", get_meta(connection, "incarnation_check")
    if check is not None and check != hashlib.sha256(life).digest():
        raise broken(path, f"the number of its newest life, {life.decode(errors='replace')!r}, was changed on disk")
    return int(life)


def set_life(connection: sqlite3.Connection, incarnation: int) -> None:
    """Beside it its sum: it stands outside the chain, and a number too large would be as good as any."""
    life = str(incarnation).encode()
    set_metas(connection, {"incarnation": life, "incarnation_check": hashlib.sha256(life).digest()})


def check_file(path: Path, connection: sqlite3.Connection) -> None:
    """SQLite's own structures: pages, indexes, and the tables as they were made. Slow. Raises StoreError, sqlite3.Error."""
    [(found, *_)] = connection.execute("PRAGMA integrity_check(1)")
    if found != "ok":
        raise broken(path, found)
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(f"{_TABLES} {_SHELF}")
        if _schema(connection) != _schema(model):
            raise broken(path, "its tables are not as they were made")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def peek(path: Path, name: str) -> bytes:
    """A fact of the journal in `path`, which is not opened for use; b"" if it has none of that name. Raises StoreError."""
    try:
        with contextlib.closing(connect(path, read_only=True)) as connection:
            _admit(path, connection)
            return get_meta(connection, name) or b""
    except UNREADABLE as error:
        raise explain(path, error) from error


def set_metas(connection: sqlite3.Connection, facts: dict[str, bytes]) -> None:
    connection.executemany("INSERT INTO meta VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value=excluded.value", list(facts.items()))
