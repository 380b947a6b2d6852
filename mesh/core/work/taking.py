"""What a manager takes, and how it turns the rest down: no room, not allowed, or nobody who would keep it.

    Call, Submit --room--> taken | too much here, too big, revoked, denied by the policy       Submit --unguarded--> no majority of keepers

Invariant: what is turned down here was never taken: whoever asked may ask again, or elsewhere.
"""

from __future__ import annotations

from typing import Any

from mesh.core.inputs import Call, Submit
from mesh.core.outbox import PUT_BACK
from mesh.core.work.book import Book
from mesh.core.work.ending import own_revocation
from mesh.core.work.errands import json_object
from mesh.core.work.governor import Governor
from mesh.core.work.scope import not_submitted
from mesh.effects import Need, Reply
from mesh.messages.scopes import STATE
from mesh.messages.waits import WAIT

KEEPERS_COME_S = 5.0
"""After a start: so long work is taken that waits for keepers to be met."""
UNLED_S = 10.0
"""So long without a majority that follows is no election any more."""


class Taking:
    def __init__(self, book: Book, governor: Governor) -> None:
        self._book, self._governor = book, governor

    def room(self, now_s: float, work: Call | Submit) -> Reply | None:
        """None, or why the work is turned down."""
        request, capability, data = work.request, work.capability, work.input
        if capability in (WAIT, STATE) and (problem := _no_work(work)) is not None:
            return Reply(request, False, problem, need=Need.FREE)
        if self._book.directory.revoked(self._book.me):
            return Reply(request, False, own_revocation(), need=Need.FREE)
        if (overloaded := self._book.admission.refusal(now_s, len(data))) is not None:
            return Reply(request, False, overloaded, need=Need.FREE)
        if len(data) > self._book.limits.body_bytes_max:
            message = (
                f"arguments of {len(data)} bytes; at most {self._book.limits.body_bytes_max} travel inside a message, larger ones as File"
            )
            return Reply(request, False, {"code": "too_big", "message": message, "fix": "mesh call CAP name=@file"}, need=Need.FREE)
        durable, parent = isinstance(work, Submit), work.parent if isinstance(work, Call) else ""
        if (denied := self._governor.refusal(capability, data, work.placement.where, durable, parent)) is not None:
            return Reply(request, False, denied, need=Need.FREE)
        return None

    def unguarded(self, now_s: float, request: int) -> Reply | None:
        """None, or why nothing can be kept: it would wait for keepers who are not here."""
        book, guard = self._book, self._book.directory.guard
        if guard.behind:
            return Reply(request, False, PUT_BACK, need=Need.FREE)
        keepers = guard.keepers
        away = [book.directory.name_of(node) for node in keepers if not book.is_linked(node)]
        unreachable, unled = 2 * len(away) > len(keepers), bool(keepers) and now_s - guard.unled_since_s >= UNLED_S
        if not (unreachable or unled) or now_s - book.started_at_s < KEEPERS_COME_S:
            return None
        names = away if unreachable else [book.directory.name_of(node) for node in keepers]
        why = "cannot be reached" if unreachable else "do not follow it, as if their disks were put back or are stuck"
        others = f"{' and '.join(names)}, which {'keeps' if len(names) == 1 else 'keep'} copies of this node's journal, {why}"
        message = f"{others}: no majority would have what is submitted now, so nothing is taken that must survive"
        fix = f"mesh up --name {names[0]}, where it ran (mesh nodes shows its address)" if unreachable else f"mesh status --node {names[0]}"
        return Reply(request, False, {"code": "no_majority", "message": message, "fix": fix}, need=Need.FREE)


def _no_work(work: Call | Submit) -> dict[str, Any] | None:
    """Of the mesh's own capabilities that nobody runs, clients may open shared states alone, each under its own key."""
    key = work.key if isinstance(work, Submit) else ""
    return not_submitted(work.capability, key, (json_object(work.input) or {}).get("name"))
