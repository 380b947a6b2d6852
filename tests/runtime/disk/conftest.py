"""A journal in a temporary folder, a collector of what the store tells, and an honest two-life journal to damage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import NewHead, StoreFailed, Synced
from mesh.ids import NodeId, content_hash
from mesh.messages.records import Accepted, Bound, Candidate, Closed, Decided, Ended, Finished, Opened, Submitted
from mesh.runtime.disk.store import Store
from mesh.wire import ed25519
from mesh.wire.objects import Signer, node_id

FENCE = 1 << 32 | 1
WALL_MS = 1_700_000_000_000
WAIT_S = 30.0
"""Only a test that has already failed waits so long."""


def signer_from(seed: int, mesh: str = "mesh-one") -> Signer:
    key = bytes([seed]) * 32
    return Signer(node_id(ed25519.signer_of(key)[0]), key, mesh)


class Told:
    """What the store told, from any thread; `wait` blocks until something matching is there."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.on: Callable[[Any], None] = lambda item: None
        self._changed = threading.Condition()

    def __call__(self, sender: NodeId, item: Any) -> None:
        self.on(item)
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, matches: Callable[[Any], bool]) -> Any:
        with self._changed:
            found = self._changed.wait_for(lambda: next((item for item in self.items if matches(item)), None), WAIT_S)
        assert found is not None, f"never told; only {self.items[-3:]}"
        return found

    def synced(self, seq: int) -> None:
        self.wait(lambda item: (isinstance(item, Synced) and item.seq >= seq) or isinstance(item, StoreFailed))
        assert not self.failures, self.failures

    @property
    def failures(self) -> list[StoreFailed]:
        return [item for item in self.items if isinstance(item, StoreFailed)]

    @property
    def heads(self) -> list[Any]:
        return [item.signed for item in self.items if isinstance(item, NewHead)]


def opened(store: Store) -> Opened:
    return Opened(store.incarnation, store.head, store.head_seq, "otter")


def story_of(task: str, me: NodeId, given: bytes, result: bytes, parent: str = "", files: Any = (), made: Any = ()) -> list[Any]:
    """What manager and contractor, here one node, write about a task that ends well."""
    return [
        Submitted(task, "upper", content_hash(given), "cli", 0, 3, parent, "step" if parent else "", files, 1),
        Decided(task, FENCE, "award", "least score", me, (Candidate(me, "otter", 0, 5, 0.0, "agent"),), (), 2),
        Accepted(task, FENCE, me, "upper", content_hash(given), 3),
        Bound(task, FENCE, 4),
        Ended(task, FENCE, "ok", content_hash(result), made, "", "agent", 5, 9),
        Finished(task, FENCE, "done", me, "agent", content_hash(result), made, "", 5, 10),
        Closed(task, FENCE),
    ]


class Desk:
    """Opens stores on one path and closes what is still open at the end. Also the way to this file's helpers: tests cannot import it."""

    FENCE, WALL_MS = FENCE, WALL_MS
    signer_from = staticmethod(signer_from)
    opened = staticmethod(opened)
    story_of = staticmethod(story_of)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signer = signer_from(7)
        self.told = Told()
        self._open: list[Store] = []

    def open(self, **more: Any) -> Store:
        """A new life, its journal replayed, its threads not started."""
        self.told = Told()
        store = Store(self.path, more.pop("signer", self.signer), self.told, wall_ms=lambda: WALL_MS, **more)
        self._open.append(store)
        self.rows = list(store.replay())
        return store

    def start(self, **more: Any) -> Store:
        store = self.open(**more)
        store.start()
        return store

    def write(self, store: Store, *entries: Any, bodies: dict[str, bytes] | None = None) -> int:
        """Add and wait until all of it is synced. Answers the last number."""
        first = store.statistics().seq + 1
        for seq, entry in enumerate(entries, first):
            store.add(seq, entry, bodies or {})
        store.flush_soon()
        self.told.synced(first + len(entries) - 1)
        return first + len(entries) - 1

    def close(self) -> None:
        for store in self._open:
            store.close()
        self._open.clear()


@pytest.fixture(scope="session")
def desks() -> type[Desk]:
    """For fixtures that live longer than one test."""
    return Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.db")
    yield desk
    desk.close()


@pytest.fixture(scope="session")
def honest_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of two lives: in each a commit of the Opened entry, and three of seven entries about a task."""
    desk = Desk(tmp_path_factory.mktemp("honest") / "journal.db")
    for life in range(2):
        store = desk.start()
        desk.write(store, opened(store))
        for number in range(3):
            given, result = b'{"n":%d}' % number, b"%d" % number
            entries = story_of(f"{desk.signer.node}.{life}.{number}", desk.signer.node, given, result)
            desk.write(store, *entries, bodies={content_hash(given): given, content_hash(result): result})
        desk.close()
    return desk.path.read_bytes()


@pytest.fixture
def honest(desk: Desk, honest_bytes: bytes) -> Desk:
    """A desk with a journal of 44 entries on it, not open."""
    desk.path.write_bytes(honest_bytes)
    return desk
