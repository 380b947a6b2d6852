"""The file store: pieces in order, hashes that must be right, disks that fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.core.inputs import FileKnown, FileRead, FileSealed
from mesh.effects import ReadFile, WriteFile
from mesh.errors import MeshError, NoSuchFile, Refused
from mesh.limits import FileLimits
from mesh.runtime.disk.blobs import Blobs

DATA = b"0123456789" * 1000
HASH = hashlib.sha256(DATA).hexdigest()


class Told:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def __call__(self, sender: str, body: Any) -> None:
        assert sender == "me"
        self.queue.put_nowait(body)

    async def next(self) -> Any:
        return await asyncio.wait_for(self.queue.get(), 10)


def run(folder: Path, story: Callable[[Blobs, Told], Awaitable[None]], **limits: Any) -> None:
    async def main() -> None:
        told = Told()
        blobs = Blobs(folder / "files", "me", told, FileLimits(**limits))
        async with anyio.create_task_group() as tasks:
            await tasks.start(blobs.run)
            await story(blobs, told)
            tasks.cancel_scope.cancel()

    asyncio.run(main())


def write(blobs: Blobs, offset: int, data: bytes, last: bool = False, file: str = HASH) -> None:
    blobs.effects[WriteFile](WriteFile(file, offset, data, last))


def test_a_fetched_file_is_sealed_when_its_hash_is_right(tmp_path: Path) -> None:
    async def story(blobs: Blobs, told: Told) -> None:
        waiting = asyncio.ensure_future(blobs.arrival(HASH, 10))
        write(blobs, 0, DATA[:4000])
        write(blobs, 4000, DATA[4000:], True)
        assert await told.next() == FileSealed(HASH, True)
        await waiting
        path = blobs.path(HASH)
        assert path.read_bytes() == DATA and stat.S_IMODE(path.stat().st_mode) == 0o400
        assert stat.S_IMODE(blobs.folder.stat().st_mode) == 0o700 and not list((blobs.folder / "tmp").iterdir())
        blobs.effects[ReadFile](ReadFile("peer", HASH, 9995, 100))
        assert await told.next() == FileRead("peer", HASH, 9995, 10_000, DATA[9995:])
        blobs.effects[ReadFile](ReadFile("peer", "ff" * 32, 0, 100))
        assert await told.next() == FileRead("peer", "ff" * 32, 0, -1, None)

    run(tmp_path, story)


@pytest.mark.parametrize(
    "pieces", [[(0, DATA[:-1] + b"x")], [(0, DATA[:10]), (20, DATA[20:])], [(5, DATA[5:])]], ids=["bytes", "gap", "headless"]
)
def test_wrong_bytes_are_gone_and_a_second_try_begins_anew(tmp_path: Path, pieces: list[tuple[int, bytes]]) -> None:
    async def story(blobs: Blobs, told: Told) -> None:
        for i, (offset, data) in enumerate(pieces):
            write(blobs, offset, data, i == len(pieces) - 1)
        assert await told.next() == FileSealed(HASH, False)
        assert not blobs.has(HASH) and blobs.statistics().wrong_hash == 1 and not list((blobs.folder / "tmp").iterdir())
        write(blobs, 0, b"from a source that fell silent")
        write(blobs, 0, DATA, True)
        assert await told.next() == FileSealed(HASH, True)

    run(tmp_path, story)


def test_uploads_are_kept_under_their_hash_and_known_to_the_node(tmp_path: Path) -> None:
    async def story(blobs: Blobs, told: Told) -> None:
        owner = object()
        pieces = [blobs.upload(owner, "u", at, DATA[at : at + 3000], at + 3000 >= len(DATA)) for at in range(0, len(DATA), 3000)]
        answers = await asyncio.gather(*pieces)
        assert answers[:-1] == [{}] * 3 and answers[-1] == {"sha256": HASH, "size": len(DATA)}
        assert await told.next() == FileKnown(HASH, len(DATA))
        assert await blobs.upload(owner, "again", 0, DATA, True) == {"sha256": HASH, "size": len(DATA)}
        assert blobs.statistics().stored == 1, "the same bytes are kept once"
        assert await blobs.read(HASH, 0, 5) == {"data": b"01234", "total": 10_000}
        with pytest.raises(NoSuchFile):
            await blobs.read("ee" * 32, 0, 5)
        with pytest.raises(Refused, match="out of order"):
            await blobs.upload(owner, "new", 5, b"x", False)
        with pytest.raises(NoSuchFile, match=r"within 0\.01 s"):
            await blobs.arrival("ee" * 32, 0.01)

    run(tmp_path, story)


def test_bounds_and_abandoned_uploads(tmp_path: Path) -> None:
    async def story(blobs: Blobs, _told: Told) -> None:
        owner = object()
        with pytest.raises(Refused, match="larger than 100 bytes"):
            await blobs.upload(owner, "u", 0, DATA, True)
        for i in range(256):
            await blobs.upload(owner, str(i), 0, b"x", False)
        with pytest.raises(Refused, match="too many"):
            await blobs.upload(owner, "one more", 0, b"x", False)
        blobs.forget_owner(owner)
        assert blobs.statistics().uploads == 0
        assert (await blobs.upload(owner, "last", 0, b"x", True))["size"] == 1
        assert not list((blobs.folder / "tmp").iterdir())

    run(tmp_path, story, file_bytes_max=100)


def test_a_failing_disk_is_told_to_who_asked_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def story(blobs: Blobs, told: Told) -> None:
        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(MeshError, match="No space left") as caught:
            await blobs.upload(object(), "u", 0, DATA, True)
        assert caught.value.code == "disk_full" and str(blobs.folder) in caught.value.fix
        write(blobs, 0, DATA, True)
        assert await told.next() == FileSealed(HASH, False)
        assert blobs.statistics().disk_errors == 2 and not list((blobs.folder / "tmp").iterdir())
        monkeypatch.setattr(os, "rename", real)
        write(blobs, 0, DATA, True)
        assert await told.next() == FileSealed(HASH, True)

    run(tmp_path, story)


def test_what_was_not_whole_is_gone_at_the_next_start(tmp_path: Path) -> None:
    async def first(blobs: Blobs, _told: Told) -> None:
        await blobs.upload(object(), "u", 0, b"half", False)
        assert list((blobs.folder / "tmp").iterdir())

    async def second(blobs: Blobs, _told: Told) -> None:
        assert not list((blobs.folder / "tmp").iterdir())

    run(tmp_path, first)
    run(tmp_path, second)
