"""``ctx.tx`` against real SQLite files and a real PostgreSQL: one commit per key, none under a fence known to be stale."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import InvalidArgument, LeaseLost, UsageError
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh
from mesh.transactions import TABLE, Transaction, effect_of

sys.path.insert(0, str(Path(__file__).parent))
import postgres

MADE = "CREATE TABLE bills(attempt int)"
TASK = "n1.1.1"


def tx(function: Callable[[Any], Any], fence: int = 1, key: str = "tx", task: str = TASK) -> Transaction:
    return Transaction(task, fence, key, function)


# ---- SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "bills.db")) as connection:
        connection.execute(MADE)
    return tmp_path / "bills.db"


def bill(attempt: int) -> Callable[[sqlite3.Connection], dict[str, int]]:
    def book(db: sqlite3.Connection) -> dict[str, int]:
        db.execute("INSERT INTO bills VALUES(?)", (attempt,))
        return {"by": attempt}

    return book


def bills(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [attempt for (attempt,) in connection.execute("SELECT attempt FROM bills ORDER BY rowid")]


def test_sqlite_commits_once_per_key_and_gives_later_attempts_what_is_stored(path: Path) -> None:
    assert tx(bill(1)).in_file(path) == {"by": 1}
    assert tx(bill(2), fence=2).in_file(path) == {"by": 1}
    assert tx(bill(3), fence=2, key="other").in_file(path) == {"by": 3}
    assert tx(bill(4), task="n1.1.2").in_file(path) == {"by": 4}
    assert bills(path) == [1, 3, 4]


def test_sqlite_refuses_a_fence_that_is_stale_for_whatever_key(path: Path) -> None:
    tx(bill(2), fence=2).in_file(path)
    for key in ("tx", "other"):
        with pytest.raises(LeaseLost, match="newer attempt"):
            tx(bill(1), fence=1, key=key).in_file(path)
    assert bills(path) == [2]


def test_sqlite_rolls_back_with_the_function_and_runs_it_again(path: Path) -> None:
    def fails(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO bills VALUES(1)")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        tx(fails).in_file(path)
    with pytest.raises(InvalidArgument, match="cannot travel"):
        tx(lambda db: db.execute("INSERT INTO bills VALUES(1)")).in_file(path)
    assert tx(bill(2)).in_file(path) == {"by": 2} and bills(path) == [2]


def test_two_attempts_at_once_wait_for_each_other_in_sqlite(path: Path) -> None:
    """The second wants to begin while the first is inside its function."""
    inside, go = threading.Event(), threading.Event()
    found: list[Any] = []

    def slow(db: sqlite3.Connection) -> dict[str, int]:
        inside.set()
        assert go.wait(20)
        return bill(1)(db)

    first = threading.Thread(target=lambda: found.append(tx(slow).in_file(path)))
    second = threading.Thread(target=lambda: found.append(tx(bill(2), fence=2).in_file(path)))
    first.start()
    assert inside.wait(20)
    second.start()
    go.set()
    first.join()
    second.join()
    assert found == [{"by": 1}, {"by": 1}] and bills(path) == [1]


@pytest.mark.parametrize("how", ["plain", "autocommit", "rows"])
def test_a_connection_of_the_users_own(path: Path, how: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None if how == "autocommit" else "")) as connection:
        if how == "rows":
            connection.row_factory = lambda cursor, row: dict(zip([column[0] for column in cursor.description], row, strict=True))
        assert tx(bill(1)).in_sqlite(connection) == tx(bill(2)).in_sqlite(connection) == {"by": 1}
        assert not connection.in_transaction and bills(path) == [1]
        connection.execute("BEGIN")
        with pytest.raises(UsageError, match="inside a transaction"):
            tx(bill(3), key="other").in_sqlite(connection)


def test_a_function_that_commits_by_itself_or_is_async_is_a_mistake(path: Path) -> None:
    async def later(db: Any) -> None: ...

    with pytest.raises(UsageError, match="has ended the transaction itself"):
        tx(lambda db: db.commit()).in_file(path)
    with pytest.raises(UsageError, match="plain function"):
        tx(later).in_file(path)


@pytest.mark.parametrize("db", ["postgresql://localhost/db", 7, object()])
def test_what_is_no_database(db: Any) -> None:
    with pytest.raises(UsageError):
        effect_of(db, tx(bill(1)), blocking=False)


@pytest.mark.parametrize("blocking", [False, True], ids=["on the loop", "in a thread"])
def test_a_node_dies_between_the_commit_and_its_record(path: Path, blocking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager does not know that it happened; the database does."""
    from mesh.testing import _Runner

    agent, before = Agent("bookkeeper"), _Runner.effect_end

    async def never(self: Any, task: Any, *said: Any) -> None:
        if task.attempt == 1:
            await self.sleep(task, 20)
        await before(self, task, *said)

    monkeypatch.setattr(_Runner, "effect_end", never)
    if blocking:

        @agent.capability(name="work", idempotent=True)
        def work(ctx: BlockingContext) -> list[Any]:
            with closing(sqlite3.connect(path)) as connection:
                return [ctx.task.attempt, ctx.tx(connection, bill(ctx.task.attempt))]
    else:

        @agent.capability(name="work", idempotent=True)
        async def later(ctx: Context) -> list[Any]:
            return [ctx.task.attempt, await ctx.tx(path, bill(ctx.task.attempt))]

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}, seed=7) as m:
            task = await m.submit("work")
            await m.sleep(1.0)
            status = await task.status()
            assert bills(path) == [1] and [row["outcome"] for row in status["effects"]] == ["unknown"]
            m.kill(status["owner"])
            assert await task.result() == [2, {"by": 1}]
            assert bills(path) == [1] and [row["outcome"] for row in (await task.status())["effects"]] == ["known"]

    asyncio.run(asyncio.wait_for(story(), 20))


# ---- PostgreSQL


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    bin = postgres.programs()
    if bin is None:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    if importlib.util.find_spec("asyncpg") is None:
        pytest.skip("asyncpg is not installed: pip install 'lanmesh[postgres]'")
    with postgres.server(bin) as folder:
        yield folder


class Database:
    """Connections, and tables that go with the test."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._open: list[Any] = []

    async def connect(self) -> Any:
        import asyncpg

        connection = await asyncpg.connect(host=self._socket, user="tester", database="postgres")
        self._open.append(connection)
        return connection

    @asynccontextmanager
    async def made(self) -> AsyncIterator[Database]:
        own = await self.connect()
        await own.execute(MADE)
        try:
            yield self
        finally:
            for connection in self._open[1:]:
                await connection.close()
            await own.execute(f"DROP TABLE bills; DROP TABLE {TABLE}")
            await own.close()

    async def bills(self) -> list[int]:
        return [row["attempt"] for row in await self._open[0].fetch("SELECT attempt FROM bills ORDER BY attempt")]


def pg_bill(attempt: int) -> Callable[[Any], Awaitable[dict[str, int]]]:
    async def book(db: Any) -> dict[str, int]:
        await db.execute("INSERT INTO bills VALUES($1)", attempt)
        return {"by": attempt}

    return book


def with_database(socket: str, story: Callable[[Database], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Database(socket).made() as database:
            await story(database)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_postgres_commits_once_per_key_and_gives_later_attempts_what_is_stored(socket: str) -> None:
    async def story(database: Database) -> None:
        db = await database.connect()
        assert await tx(pg_bill(1)).in_postgres(db) == {"by": 1}
        assert await tx(pg_bill(2), fence=2).in_postgres(db) == {"by": 1}
        with pytest.raises(LeaseLost, match="newer attempt"):
            await tx(pg_bill(4), fence=1, key="third").in_postgres(db)
        assert await tx(pg_bill(3), fence=2, key="other").in_postgres(db) == {"by": 3}
        assert await database.bills() == [1, 3]

    with_database(socket, story)


@pytest.mark.parametrize("newer", ["has committed", "has begun", "is a twin", "does something else"])
def test_postgres_rejects_at_the_commit_whoever_was_paused_in_his_transaction(socket: str, newer: str) -> None:
    """The lease was checked, the transaction is open, the process is paused, the next attempt comes: no clock helps, the database does."""

    async def story(database: Database) -> None:
        inside, go, last = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def paused(db: Any) -> dict[str, int]:
            made = await pg_bill(1)(db)
            inside.set()
            await go.wait()
            return made

        async def next_one(db: Any) -> dict[str, int]:
            made = await pg_bill(2)(db)
            if newer == "has begun":
                go.set()
                await last.wait()
            return made

        first = asyncio.create_task(tx(paused).in_postgres(await database.connect()))
        await inside.wait()
        fence, key = 1 if newer == "is a twin" else 2, "other" if newer == "does something else" else "tx"
        second = asyncio.create_task(tx(next_one, fence, key).in_postgres(await database.connect()))
        if newer != "has begun":
            assert await second == {"by": 2}
            go.set()
        with pytest.raises(LeaseLost, match="nothing of this one was written"):
            await first
        last.set()
        assert await second == {"by": 2} and await database.bills() == [2]

    with_database(socket, story)


def test_a_stale_attempt_takes_nothing_from_the_newer_one_that_is_at_work(socket: str) -> None:
    async def story(database: Database) -> None:
        other = await database.connect()

        async def meanwhile(db: Any) -> dict[str, int]:
            with pytest.raises(LeaseLost):
                await tx(pg_bill(1)).in_postgres(other)
            return await pg_bill(2)(db)

        assert await tx(meanwhile, fence=2).in_postgres(await database.connect()) == {"by": 2}
        assert await database.bills() == [2]

    with_database(socket, story)


def test_postgres_with_many_at_once_and_no_table_yet(socket: str) -> None:
    async def story(database: Database) -> None:
        connections = [await database.connect() for _ in range(8)]
        tries = [tx(pg_bill(fence), fence=fence).in_postgres(db) for fence, db in enumerate(connections, 1)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        done = [end for end in ends if isinstance(end, dict)]
        assert done and all(isinstance(end, dict | LeaseLost) for end in ends), ends
        assert [{"by": attempt} for attempt in await database.bills()] == [done[0]] and len({str(end) for end in done}) == 1

    with_database(socket, story)


def test_postgres_rolls_back_with_the_function_and_says_what_is_a_mistake(socket: str) -> None:
    async def story(database: Database) -> None:
        db = await database.connect()

        async def fails(db: Any) -> None:
            await pg_bill(1)(db)
            raise ValueError("no")

        async def commits(db: Any) -> None:
            await db.execute("COMMIT")

        with pytest.raises(ValueError, match="no"):
            await tx(fails).in_postgres(db)
        with pytest.raises(UsageError, match="has ended the transaction itself"):
            await tx(commits).in_postgres(db)
        with pytest.raises(UsageError, match="is awaited"):
            await tx(bill(1)).in_postgres(db)
        async with db.transaction():
            with pytest.raises(UsageError, match="inside a transaction"):
                await tx(pg_bill(1)).in_postgres(db)
        assert await tx(pg_bill(2)).in_postgres(db) == {"by": 2} and await database.bills() == [2]

    with_database(socket, story)


def test_a_handler_books_in_postgres_over_a_re_award(socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mesh.testing import _Runner

    before = _Runner.effect_end

    async def lost(self: Any, task: Any, *said: Any) -> None:
        if task.attempt == 1:
            raise ConnectionError("the node died here")
        await before(self, task, *said)

    monkeypatch.setattr(_Runner, "effect_end", lost)

    async def story(database: Database) -> None:
        agent = Agent("bookkeeper")
        db = await database.connect()

        @agent.capability(retries=1)
        async def work(ctx: Context) -> list[Any]:
            return [ctx.task.attempt, await ctx.tx(db, pg_bill(ctx.task.attempt))]

        async with LocalMesh(agents=[agent]) as m:
            assert await (await m.submit("work")).result() == [2, {"by": 1}]
        assert await database.bills() == [1]

    with_database(socket, story)
