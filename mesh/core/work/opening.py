"""New durable tasks with all that was asked for: what a client submits, and what is submitted in place of an earlier task."""

from __future__ import annotations

from typing import Any

from mesh.core.inputs import Submit
from mesh.core.work.book import Book
from mesh.core.work.pinning import as_asked
from mesh.core.work.task import Task
from mesh.core.work.waits import dumps
from mesh.messages.waits import WAIT


def opened(book: Book, now_s: float, submit: Submit) -> Task:
    """What a client submitted; the caller writes it down (`Book.submit`)."""
    return book.open(
        now_s,
        submit.capability,
        submit.input,
        durable=True,
        timeout_ms=submit.timeout_ms,
        files=submit.files,
        retries=submit.retries,
        by=submit.by,
        bounds=submit.bounds,
        key=submit.key,
        placement=submit.placement,
        rank=submit.rank,
        budget=submit.budget,
        baggage=submit.baggage,
    )


def opened_again(book: Book, now_s: float, old: Task, data: bytes, *, by: str, key: str = "") -> Task:
    """The same work as `old`, whose arguments were `data`; the caller writes it down."""
    with book.origins.behind(old.origin):
        return book.open(
            now_s,
            old.capability,
            data,
            durable=True,
            timeout_ms=old.timeout_ms,
            files=old.files,
            retries=old.retries,
            by=by,
            bounds=old.bounds,
            key=key,
            placement=as_asked(old),
            rank=old.rank,
            budget=old.budget,
            baggage=old.baggage,
        )


def opened_wait(book: Book, now_s: float, parent: Task, step: str, arguments: dict[str, Any]) -> Task:
    """The wait of that name among the steps of `parent`: the one that is there, or a new one, for whoever asks. The caller writes a new one
    down."""
    if parent.children is None:
        parent.children = {}
    child = parent.children.get(step)
    if child is None:
        what, data = parent.by or parent.agent, dumps(arguments)
        child = parent.children[step] = book.open(
            now_s, WAIT, data, durable=parent.durable, timeout_ms=0, files=(), by=what, parent=parent.id, step=step, rank=parent.rank
        )
    return child
