"""Stories in the simulator: the same packed format as the runtime's store, read from the disks of the world.

What bytes stand for is looked up in the world's own tables instead of being decoded: entries are written by `repr` and never parsed back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mesh.core.records import merkle
from mesh.core.records.journal import keys, last_of, roles
from mesh.core.records.story import Chapter, Story, chapter, pack_story, verify_story
from mesh.ids import Hash, author_of
from mesh.messages.records import Submitted
from mesh.messages.signed import Signed
from mesh.sim.disk import Disk, Group, encode_entry


def packed_story(disk: Disk, key: str, since: int = 0) -> bytes:
    """Every durable entry of `disk` that tells about `key`, or about a task that `key` leads to; else what its shelf tells of that task."""
    author = author_of(key)
    here = any(type(entry) is Submitted and entry.task == key for _, entry, _ in disk.rows)
    if author and not here and (kept := [_chapter(block.head, block.entries, wanted) for block, wanted in disk.shelf.about(author, key)]):
        return pack_story(kept)
    wanted = sorted(seq for seq in _about(disk, key) if seq > since)
    return pack_story(_chapters(disk.groups, wanted))


def packed_audit(disk: Disk, key: str, since: int, newest: int) -> bytes:
    """The durable entries under an audit key: all after `since`, or the newest of them."""
    wanted = [seq for seq, entry, _ in disk.rows if seq > since and key in keys(entry)]
    return pack_story(_chapters(disk.groups, wanted[-newest:]))


def touched(disk: Disk, name: Hash) -> bytes:
    """JSON ``{"tasks": [...]}``: every task here that read or made the content `name`."""
    rows: list[dict[str, Any]] = []
    for _, entry, _ in disk.rows:
        for named, what, *_ in roles(entry):
            if named == name:
                rows.append({"task": entry.task, "as": what})
    return json.dumps({"tasks": rows}).encode()


def read_story(disks: Iterable[Disk], data: bytes) -> Story:
    """Verify and read a packed story whose entries came from `disks`."""
    commits: dict[bytes, Signed] = {}
    entries: dict[bytes, Any] = {}
    for disk in disks:
        commits.update((group.signed.raw, group.signed) for group in disk.groups)
        entries.update((encode_entry(row[1]), row[1]) for row in disk.rows)
    return verify_story(data, commits.get, entries.__getitem__, (KeyError,))


def _about(disk: Disk, key: str) -> set[int]:
    found: set[int] = set()
    seen, todo = {key}, [key]
    while todo:
        name = todo.pop()
        for seq, entry, _ in disk.rows:
            if seq not in found and name in keys(entry):
                found.add(seq)
                task = getattr(entry, "task", "")
                if task and task not in seen:
                    seen.add(task)
                    todo.append(task)
    return found


def _chapters(groups: list[Group], wanted: list[int]) -> Iterable[Chapter]:
    for group in groups:
        commit = group.signed.body
        here = [seq for seq in wanted if commit.first <= seq <= last_of(commit)]
        if here:
            yield _chapter(group.signed, group.entries, here)


def _chapter(signed: Signed, entries: tuple[bytes, ...], wanted: list[int]) -> Chapter:
    return chapter(signed.body, signed.raw, list(entries), [merkle.leaf(entry) for entry in entries], wanted)
