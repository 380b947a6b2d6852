"""A story: the entries of one journal that tell about something, each with the proof that its author wrote it there and then.

    commit (signed)  --merkle_root-->  path  -->  entry bytes  -->  {"author", "seq", "kind", "verified", ...fields}

A packed story is JSON, bytes in base64; `more` is the number after which the next page begins, 0 at the end. Invariant: an item is
`verified` only if its bytes are under the root of a commit whose signature the given function accepted, and author, incarnation, number and
time then come from that commit, not from the story's own claims. What cannot be verified is shown as such, never dropped. Each entry
counts once, however many tell it: those who keep its author's log have it as he has, and who took over has a copy. Reads no disk; which
entries belong to a story is `runtime/disk/store_read.py`'s to find. Source: Certificate Transparency's inclusion proofs (RFC 6962).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.records import merkle
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import ENTRIES, Commit
from mesh.messages.signed import Signed

FORMAT = 1
Place = tuple[NodeId, int, int, bytes]
"""Author, incarnation and number of an entry, and its bytes: of a journal that was forked both ends are shown."""
_BY_KIND: dict[str, type] = {cls.__name__: cls for cls in ENTRIES}


class BadStory(ValueError):
    """The bytes are no story at all."""


@dataclass(slots=True)
class Proof:
    """One entry of a commit."""

    index: int
    entry: bytes
    path: list[bytes]


@dataclass(slots=True)
class Chapter:
    """One commit and those of its entries that belong to the story."""

    commit: Commit
    raw: bytes
    proofs: list[Proof]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a story, read. `entry` is the object, or None where this version does not know its kind."""

    author: NodeId
    incarnation: int
    seq: int
    wall_ms: int
    verified: bool
    entry: Any

    @property
    def kind(self) -> str:
        return type(self.entry).__name__ if self.entry is not None else "unknown"

    def row(self) -> dict[str, Any]:
        """The JSON form. An `Opened` entry's own `seq` is shown as `cited_seq`."""
        fields = _plain(self.entry) if self.entry is not None else {}
        if "seq" in fields:
            fields["cited_seq"] = fields.pop("seq")
        return {
            **fields,
            "author": self.author,
            "incarnation": self.incarnation,
            "seq": self.seq,
            "kind": self.kind,
            "verified": self.verified,
            "wall_ms": self.wall_ms,
        }


@dataclass(frozen=True, slots=True)
class Story:
    items: tuple[Item, ...]
    more: int = 0

    def rows(self) -> list[dict[str, Any]]:
        return [item.row() for item in self.items]


def _plain(value: Any) -> Any:
    """JSON-able: bytes as hexadecimal digits, tuples as lists, dataclasses as objects."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


# ---- packing


def chapter(commit: Commit, raw: bytes, entries: list[bytes], leaves: list[bytes], wanted: list[int]) -> Chapter:
    """The proofs for the entries numbered `wanted` out of all `entries` of `commit`."""
    places = [seq - commit.first for seq in wanted]
    return Chapter(commit, raw, [Proof(at, entries[at], path) for at, path in zip(places, merkle.paths(leaves, places), strict=True)])


def pack_story(chapters: Iterable[Chapter], more: int = 0) -> bytes:
    pages = [
        {
            "raw": _to64(one.raw),
            "author": one.commit.author,
            "incarnation": one.commit.incarnation,
            "first": one.commit.first,
            "count": one.commit.count,
            "hlc": one.commit.hlc,
            "entries": [[proof.index, _to64(proof.entry), _to64(b"".join(proof.path))] for proof in one.proofs],
        }
        for one in chapters
    ]
    return json.dumps({"format": FORMAT, "commits": pages, "more": more}, separators=(",", ":")).encode()


def _to64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- reading


def verify_story(
    data: bytes,
    open_signed: Callable[[bytes], Signed | None],
    decode_entry: Callable[[bytes], Any],
    refusals: tuple[type[Exception], ...] = (ValueError,),
    *,
    entries_max: int = RecordsLimits().story_entries_max,
) -> Story:
    """Read a packed story and check every proof in it.

    `open_signed` gives the verified object of signed bytes; None, or one of `refusals` raised, where it cannot (forged, or an author whose
    certificate is not known here). `decode_entry` may raise `refusals`. Raises BadStory if `data` is no story of this format.
    """
    pages, more = _unpack(data)
    items: dict[Place, tuple[Item, bytes]] = {}
    for page in pages:
        try:
            raw, claimed, rows = _chapter_of(page)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BadStory(f"not a story: {error}") from None
        commit = _opened(raw, open_signed, refusals)
        for index, entry, path in rows:
            item = _item(commit, claimed, index, entry, path, decode_entry, refusals)
            place = (item.author, item.incarnation, item.seq, entry)
            if place not in items or item.verified:
                items[place] = (item, entry)
            if len(items) > entries_max:
                raise BadStory(f"a story of more than {entries_max} entries")
    return Story(tuple(_originals(items.values())), more)


def _originals(told: Iterable[tuple[Item, bytes]]) -> Iterator[Item]:
    """In order of time, without what a taker copied from the journal that he took over, if that one tells it too."""
    writers: dict[bytes, NodeId] = {}
    for item, entry in sorted(told, key=lambda one: (one[0].wall_ms, one[0].author, one[0].seq)):
        if not item.verified or writers.setdefault(entry, item.author) == item.author:
            yield item


def gathered(stories: list[Story], missing: list[str], name_of: Callable[[NodeId], str]) -> dict[str, Any]:
    """The audit entries of one node or of all as one document, oldest first, with the names that this node has for whom they concern."""
    names = (("node", "author"), ("about_name", "about"), ("by_name", "by"))
    rows = [row | {name: name_of(row.get(field, "")) for name, field in names} for story in stories for row in story.rows()]
    rows.sort(key=lambda row: (row["wall_ms"], row["author"], row["seq"]))
    return {"entries": rows, "missing": missing, "more": stories[0].more if len(stories) == 1 else 0}


def _unpack(data: bytes) -> tuple[list[Any], int]:
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise BadStory(f"a story in format {document['format']}; this version reads {FORMAT}")
        pages, more = document["commits"], document["more"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadStory(f"not a story: {type(error).__name__}") from None
    if not isinstance(pages, list) or not isinstance(more, int):
        raise BadStory("not a story: wrong types")
    return pages, more


def _chapter_of(page: Any) -> tuple[bytes, Commit, list[tuple[int, bytes, list[bytes]]]]:
    numbers = [page[name] for name in ("incarnation", "first", "count", "hlc")]
    if not isinstance(page["author"], str) or any(type(number) is not int or not 0 <= number < 1 << 64 for number in numbers):
        raise ValueError("wrong types")
    incarnation, first, count, hlc = numbers
    claimed = Commit(page["author"], incarnation, 0, first, count, b"", b"", hlc)
    rows: list[tuple[int, bytes, list[bytes]]] = []
    for index, entry, path in page["entries"]:
        siblings = base64.b64decode(path, validate=True)
        if type(index) is not int:
            raise ValueError("wrong types")
        rows.append((index, base64.b64decode(entry, validate=True), [siblings[at : at + 32] for at in range(0, len(siblings), 32)]))
    return base64.b64decode(page["raw"], validate=True), claimed, rows


def _opened(raw: bytes, open_signed: Callable[[bytes], Signed | None], refusals: tuple[type[Exception], ...]) -> Commit | None:
    try:
        signed = open_signed(raw)
    except refusals:
        return None
    if signed is None or not isinstance(signed.body, Commit) or signed.body.author != signed.author:
        return None
    return signed.body


def _item(
    commit: Commit | None,
    claimed: Commit,
    index: int,
    entry: bytes,
    path: list[bytes],
    decode_entry: Callable[[bytes], Any],
    refusals: tuple[type[Exception], ...],
) -> Item:
    verified = commit is not None and merkle.root_from_path(merkle.leaf(entry), index, commit.count, path) == commit.merkle_root
    told = commit if commit is not None and verified else claimed
    try:
        decoded = decode_entry(entry)
    except refusals:
        decoded = None
    return Item(told.author, told.incarnation, told.first + index, told.hlc >> 16, verified, decoded)
