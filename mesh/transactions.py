"""``ctx.tx``: an effect in the user's own database, where the outcome is written in the same transaction as the deed.

    claim (task, key, fence), committed at once --a newer fence is known--> LeaseLost
          |                                     --its outcome is there--> that; the function does not run
          '--> BEGIN, the user's function, outcome written WHERE fence = ours AND none is there --no row--> ROLLBACK, LeaseLost; else COMMIT

Invariant: of one key of a task one transaction commits, and never one under an older fence than the database has seen: the database itself
compares them, at the commit, however long the process was paused before. The table is made when it is missing. Works with connections of
`sqlite3` (or a path) and `asyncpg`; imports neither before it is given one.
"""

from __future__ import annotations

import inspect
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from mesh.errors import LeaseLost, UsageError
from mesh.ids import Fence, TaskId
from mesh.keyed import outcome_json

TABLE = "mesh_effects"
CREATE = f"""CREATE TABLE IF NOT EXISTS {TABLE}(
    task text NOT NULL, key text NOT NULL, fence bigint NOT NULL, outcome text, PRIMARY KEY (task, key))"""
CLAIM = f"""INSERT INTO {TABLE} AS known (task, key, fence) VALUES ($1, $2, $3)
    ON CONFLICT (task, key) DO UPDATE SET fence = excluded.fence WHERE known.fence < excluded.fence"""
"""`fence` is the newest that has asked, not the one that committed."""
LOOK = f"SELECT outcome, (SELECT max(fence) FROM {TABLE} WHERE task = $1) FROM {TABLE} WHERE task = $1 AND key = $2"
COMMIT = f"""UPDATE {TABLE} SET outcome = $4 WHERE task = $1 AND key = $2 AND fence = $3 AND outcome IS NULL
    AND NOT EXISTS (SELECT 1 FROM {TABLE} WHERE task = $1 AND fence > $3)"""
BUSY_S = 10.0
"""How long a database given as a path may be locked by others."""


class Transaction:
    """One key of one task in one database. `function(connection)` is the user's; its answer is the outcome, as JSON."""

    def __init__(self, task: TaskId, fence: Fence, key: str, function: Callable[[Any], Any]) -> None:
        self._task, self._fence, self._key, self._function = task, fence, key, function

    # ---- SQLite

    def in_file(self, path: str | os.PathLike[str]) -> Any:
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            return self.in_sqlite(connection)

    def in_sqlite(self, connection: sqlite3.Connection) -> Any:
        """Blocks. Raises what the function raises, LeaseLost, UsageError, sqlite3.Error."""
        if inspect.iscoroutinefunction(self._function):
            raise UsageError("a transaction in SQLite is a plain function: others may use the connection while it waits", fix="write def")
        if connection.in_transaction:
            raise UsageError("this connection is inside a transaction", fix="commit it first: ctx.tx opens the transaction itself")
        names = {"1": self._task, "2": self._key, "3": self._fence}
        cursor = connection.cursor()
        cursor.row_factory = None
        cursor.execute(CREATE)
        cursor.execute("BEGIN IMMEDIATE")
        try:
            # One writer at a time: the claim can be part of the transaction itself.
            cursor.execute(CLAIM.replace("$", ":"), names)
            known, value = self._known(cursor.execute(LOOK.replace("$", ":"), names).fetchone())
            if not known:
                value = self._function(connection)
                if not connection.in_transaction:
                    raise self._committed_by_itself()
                text = self._text(value)
                if cursor.execute(COMMIT.replace("$", ":"), names | {"4": text}).rowcount != 1:
                    raise self._stale()
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        return value

    # ---- PostgreSQL

    async def in_postgres(self, connection: Any) -> Any:
        """Raises what the function raises, LeaseLost, UsageError, asyncpg.PostgresError."""
        if not inspect.iscoroutinefunction(self._function):
            raise UsageError("a transaction in PostgreSQL is awaited", fix="write async def")
        if connection.is_in_transaction():
            raise UsageError("this connection is inside a transaction", fix="end it first: ctx.tx opens the transaction itself")
        names = (self._task, self._key, self._fence)
        await self._make_table(connection)
        await connection.execute(CLAIM, *names)
        async with connection.transaction():
            row = await connection.fetchrow(LOOK, *names[:2])
            known, value = self._known(tuple(row) if row is not None else None)
            if known:
                return value
            value = await self._function(connection)
            if not connection.is_in_transaction():
                raise self._committed_by_itself()
            if await connection.execute(COMMIT, *names, self._text(value)) != "UPDATE 1":
                raise self._stale()
        return value

    @staticmethod
    async def _make_table(connection: Any) -> None:
        from asyncpg import PostgresError

        there = "SELECT to_regclass($1)"
        if await connection.fetchval(there, TABLE) is None:
            try:
                await connection.execute(CREATE)
            except PostgresError:
                # Others who make it at the same moment are told of it by several kinds of errors.
                if await connection.fetchval(there, TABLE) is None:
                    raise

    # ---- both

    def _known(self, row: tuple[Any, ...] | None) -> tuple[bool, Any]:
        """What the database says after the claim: an outcome, or that it is ours to do. Raises LeaseLost."""
        if row is None or row[1] > self._fence:
            raise self._stale()
        return row[0] is not None, None if row[0] is None else json.loads(row[0])

    def _text(self, value: Any) -> str:
        return outcome_json(f"the transaction {self._key!r}", value).decode()

    def _stale(self) -> LeaseLost:
        return LeaseLost(
            f"the database has seen a newer attempt of {self._task}: nothing of this one was written", fix=f"mesh why {self._task}"
        )

    def _committed_by_itself(self) -> UsageError:
        return UsageError(
            f"the function of the transaction {self._key!r} has ended the transaction itself: its outcome is not recorded",
            fix="leave commit and rollback to ctx.tx (executescript commits)",
        )


def effect_of(db: Any, transaction: Transaction, *, blocking: bool) -> Callable[[], Any]:
    """What `Keyed` is to perform. Raises UsageError if `db` is nothing that we know."""
    if isinstance(db, str | os.PathLike):
        if "://" in str(db):
            raise UsageError(f"{str(db)!r} is no path", fix="open the connection: await asyncpg.connect(...)")
        return lambda: transaction.in_file(db)
    if isinstance(db, sqlite3.Connection):
        if blocking:
            return lambda: transaction.in_sqlite(db)

        async def here() -> Any:
            # A connection belongs to the thread that made it: here, that is the loop's.
            return transaction.in_sqlite(db)

        return here
    if callable(getattr(db, "is_in_transaction", None)) and callable(getattr(db, "fetchrow", None)):

        async def there() -> Any:
            return await transaction.in_postgres(db)

        return there
    raise UsageError(
        f"ctx.tx knows no {type(db).__module__}.{type(db).__name__}",
        fix="pass a path, a sqlite3.Connection, or an asyncpg connection (of a pool: async with pool.acquire() as db)",
    )
