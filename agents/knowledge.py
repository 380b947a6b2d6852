"""Knowledge: full-text search over a folder of documents. An index is one SQLite file (FTS5), which travels by its sha256 like any file.

    kb.ingest(folder) -> index        on a machine that has the folder
    kb.search(index, query) -> passages: bm25 scores, snippets, how much of the question each speaks of; anywhere

Invariant: a passage is found word for word in its document, which is named with its sha256. What speaks of too little of the question is no
answer: its `answers` is false. Source: SQLite FTS5 (bm25, snippet, porter); weights of words as in Sparck Jones 1972.
"""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mesh import Agent, File

agent = Agent("knowledge", tags=["support"])

SUFFIXES = (".md", ".txt", ".rst")
SCHEMA = "CREATE VIRTUAL TABLE passages USING fts5(heading, body, document UNINDEXED, sha256 UNINDEXED, tokenize = 'porter unicode61')"
DOCUMENTS_MAX = 10_000
DOCUMENT_BYTES_MAX = 4_000_000
TERMS_MAX = 64
COVERAGE_MIN = 0.35
"""Of the weight of the question's words: what a passage must speak of to count as an answer."""
SMALL = """
a about after all am an and any are as at be been but by can could did do does for from get had has have hello help hi how i if in
into is it its just like make may me my need no not of on one or our out please so some sure than thank thanks that the their them
then there they this to up us want was way we were what when where which while who why will with without would you your
"""
"""Words that say nothing of what a question is about."""


@dataclass
class Ingested:
    """`skipped`: files that are no UTF-8 text, or too big."""

    index: File
    documents: int
    passages: int
    skipped: list[str]


@dataclass
class Passage:
    """`text` stands in `document` as it is; `score` is bm25 (greater is better); `coverage`: of the question's words, by weight."""

    document: str
    heading: str
    text: str
    snippet: str
    sha256: str
    score: float
    coverage: float
    answers: bool


@dataclass
class Found:
    """The best passages first. `unknown` are words of the question that stand nowhere in the documents."""

    passages: list[Passage]
    terms: list[str]
    unknown: list[str]


def passages_of(text: str) -> Iterator[tuple[str, str]]:
    """``(heading, passage)``: paragraphs as they stand; a block of code belongs to the paragraph before it."""
    heading, in_code = "", False
    kept: list[str] = []
    for line in [*text.splitlines(), ""]:
        in_code ^= line.startswith("```")
        title = None if in_code else re.match(r"#{1,6} +(.+)", line)
        if title or (not line.strip() and not in_code):
            if kept:
                yield heading, "\n".join(kept)
            kept = []
            heading = title[1].strip(" #") if title else heading
        else:
            kept.append(line)
    if kept:
        yield heading, "\n".join(kept)


@agent.capability(name="kb.ingest", idempotent=True, timeout_s=300)
def ingest(folder: str) -> Ingested:
    """Index the documents (.md, .txt, .rst) of a folder that the machine this runs on has."""
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"no documents ({', '.join(SUFFIXES)}) in {folder!r} on this machine")
    if len(paths) > DOCUMENTS_MAX:
        raise ValueError(f"{folder!r} has {len(paths)} documents; more than {DOCUMENTS_MAX} want another tool")
    target = Path(tempfile.mkdtemp(prefix="mesh-index-")) / "index.sqlite"
    skipped: list[str] = []
    with closing(sqlite3.connect(target)) as db, db:
        db.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(heading, body, document UNINDEXED, sha256 UNINDEXED, tokenize='porter unicode61')"
        )
        for path in paths:
            name = path.relative_to(root).as_posix()
            try:
                data = path.read_bytes() if path.stat().st_size <= DOCUMENT_BYTES_MAX else b"\xff"
                rows = [(heading, body, name, hashlib.sha256(data).hexdigest()) for heading, body in passages_of(data.decode())]
            except UnicodeDecodeError:
                skipped.append(name)
                continue
            db.executemany("INSERT INTO passages(heading, body, document, sha256) VALUES (?, ?, ?, ?)", rows)
        count = int(db.execute("SELECT count(*) FROM passages").fetchone()[0])
    return Ingested(File.of(target), len(paths) - len(skipped), count, skipped)


def terms_of(query: str) -> list[str]:
    """The words of a question that say what it is about, each once."""
    small = frozenset(SMALL.split())
    return list(dict.fromkeys(word for word in re.findall(r"\w+", query.lower()) if word not in small))[:TERMS_MAX]


def _weights(db: sqlite3.Connection, terms: list[str]) -> tuple[dict[str, float], dict[str, set[int]]]:
    """What each word weighs, rare ones more (one that stands nowhere as one that stands once), and which passages have it."""
    total = int(db.execute("SELECT count(*) FROM passages").fetchone()[0])
    rows = {
        term: {int(row) for (row,) in db.execute("SELECT rowid FROM passages WHERE passages MATCH ?", (f'"{term}"',))} for term in terms
    }
    return {term: math.log(1 + total / max(1, len(rows[term]))) for term in terms}, rows


@agent.capability(name="kb.search", idempotent=True, timeout_s=60)
def search(index: File, query: str, limit: int = 3) -> Found:
    """The passages that speak most of what the question asks, best first."""
    if not 1 <= limit <= 50:
        raise ValueError(f"limit must be between 1 and 50, not {limit}")
    terms = terms_of(query)
    if not terms:
        return Found([], [], [])
    with closing(sqlite3.connect(f"{index.path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        weights, having = _weights(db, terms)
        found = db.execute(
            "SELECT rowid, document, heading, body, snippet(passages, 1, '', '', '...', 24), sha256, -bm25(passages, 2.0, 1.0)"
            " FROM passages WHERE passages MATCH ? ORDER BY bm25(passages, 2.0, 1.0), rowid LIMIT ?",
            (" OR ".join(f'"{term}"' for term in terms), limit),
        ).fetchall()
    whole = sum(weights.values())

    def coverage(row: int) -> float:
        return round(sum(weights[term] for term in terms if row in having[term]) / whole, 3)

    passages = []
    for row, document, heading, body, snippet, sha256, score in found:
        covered = coverage(row)
        shown = " ".join(snippet.split())
        passages.append(Passage(document, heading, body, shown, sha256, round(score, 3), covered, covered >= COVERAGE_MIN))
    return Found(passages, terms, [term for term in terms if not having[term]])


if __name__ == "__main__":
    agent.run()
