"""Mode central: new work is managed by the coordinator's node. Whichever node a client asks passes it on, and passes the answer back.

    Call, Submit --mode central, another is in office--> Ask manage --there, as its own client's--> Reply --Answer--> Reply here
    nobody in office --it waits--> somebody is | after a time, by the policy: managed here | refused: no_coordinator
    its client has gone, or the node it came through --> RequestGone there

Invariants: every request is replied to once; the same question asked twice is one piece of work there. What had been taken, or may have
been, when its manager was lost is not asked for again by itself, but under a key. Streams are managed where they are read, and the steps of
a task with it. Decides nothing about work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.coordination.inputs import FORWARDED, OfficeChanged
from mesh.core.deadlines import Deadlines
from mesh.core.inputs import (
    Call,
    FileWanted,
    MemberDied,
    MemberLeft,
    MemberLinked,
    MemberRestarted,
    MemberRevoked,
    MemberUnreachable,
    RequestGone,
    Submit,
)
from mesh.core.node import Method
from mesh.core.policy.rules import CENTRAL
from mesh.core.work.book import Book
from mesh.core.work.errands import failure
from mesh.core.work.passing import packed, parcel, unpacked, work_in
from mesh.effects import Need, Refused, Reply, Send, Tell
from mesh.ids import COORDINATE, NodeId
from mesh.messages.waits import WAIT
from mesh.messages.work import Answer, Ask

Effects = Iterator[Any]

FORWARD_ASKS = 1 << 62
"""Numbers of such questions begin here: no other machine's reach it."""
LOOK_S = 0.25
HOLD_S = 10.0
"""So long a client waits where nobody is in office, and nothing else follows: longer than another takes to be."""
ANSWERS_MAX = 5000
"""Remembered, for whoever asks the same once more."""


@dataclass(frozen=True, slots=True)
class ForwardDue:
    """Is somebody in office for what waits?"""


@dataclass(slots=True)
class _Sent:
    """One that waits. `to` "": for somebody in office."""

    work: Call | Submit
    ask: int
    since_s: float
    to: NodeId = ""


@dataclass(slots=True)
class _Taken:
    """One of another node's, here."""

    sender: NodeId
    ask: int
    request: int
    answer: Answer | None = None


class Forwarding:
    """`through(method)`: the manager's method for a client's work, for what is to be managed here."""

    def __init__(self, book: Book, deadlines: Deadlines, incarnation: int) -> None:
        self._origins, self._directory, self._deadlines, self._limits = book.origins, book.directory, deadlines, book.limits
        self._last = FORWARD_ASKS | (incarnation << 32)
        self._sent: dict[int, _Sent] = {}
        """By this node's request."""
        self._taken: dict[tuple[NodeId, int], _Taken] = {}
        self._answered: dict[tuple[NodeId, int], None] = {}
        """Of those, what was answered, the oldest first: one that takes long holds no others here."""
        self._requests: dict[int, _Taken] = {}
        self._given = 0
        self.passed = 0
        gone: dict[type, Callable[..., Any]] = dict.fromkeys(
            (MemberUnreachable, MemberDied, MemberLeft, MemberRevoked, MemberRestarted), self._on_gone
        )
        self.inputs: dict[type, Any] = {
            Ask: self._on_ask,
            Answer: self._on_answer,
            Reply: self._on_reply,
            RequestGone: self._do_gone,
            MemberLinked: self._on_linked,
            OfficeChanged: self._on_office_changed,
            ForwardDue: self._expire_due,
            **gone,
        }

    # ---- where it comes in

    def _manager(self, now_s: float) -> NodeId | None:
        """Who is to manage new work; "": somebody who is not in office yet."""
        mode, seat, me = self._directory.rulebook.mode, self._directory.seat, self._directory.me
        if mode.name != CENTRAL or (not seat.holder and mode.after_ms and (now_s - seat.since_s) * 1000 >= mode.after_ms):
            return me
        return seat.holder

    def through(self, method: Method) -> Method:
        def run(now_s: float, me: NodeId, work: Call | Submit) -> Effects:
            if (passed := self._take(now_s, work)) is not None:
                yield from passed
                return
            taken = self._requests.get(work.request)
            self._origins.behalf = taken.sender if taken is not None else ""
            yield from method(now_s, me, work) or ()
            self._origins.behalf = ""

        return run

    def _take(self, now_s: float, work: Call | Submit) -> list[Any] | None:
        if work.request < FORWARDED or work.capability in (WAIT, COORDINATE) or (isinstance(work, Call) and work.stream):
            return None
        to = self._manager(now_s)
        if to == self._directory.me:
            return None
        if len(self._sent) >= self._limits.asks_max:
            return [
                Reply(work.request, False, failure("overloaded", f"{len(self._sent)} wait already", "mesh coordinator"), need=Need.FREE)
            ]
        self._last += 1
        sent = self._sent[work.request] = _Sent(work, self._last, now_s, to or "")
        self._deadlines.set(ForwardDue(), now_s + LOOK_S)
        return [self._say(sent)] if to else []

    def _say(self, sent: _Sent) -> Send:
        self.passed += 1
        return Send(sent.to, Ask(sent.ask, "manage", sent.work.capability, packed(sent.work)), need=Need.FREE)

    def _expire_due(self, now_s: float, _me: NodeId, due: ForwardDue) -> Effects:
        for request, sent in list(self._sent.items()):
            if sent.to:
                continue
            to = self._manager(now_s)
            if to == self._directory.me:
                del self._sent[request]
                yield Tell(sent.work)
            elif to:
                sent.to = to
                yield self._say(sent)
            elif not self._directory.rulebook.mode.after_ms and now_s - sent.since_s >= HOLD_S:
                del self._sent[request]
                message = "the mesh's policy has all work managed by a coordinator, and nobody is in office"
                yield Reply(request, False, failure("no_coordinator", message, "mesh coordinator"), need=Need.FREE)
        if any(not sent.to for sent in self._sent.values()):
            self._deadlines.set(due, now_s + LOOK_S)

    def _on_office_changed(self, now_s: float, me: NodeId, _changed: OfficeChanged) -> Effects:
        return self._expire_due(now_s, me, ForwardDue())

    def _on_linked(self, _now_s: float, _me: NodeId, fact: MemberLinked) -> Effects:
        """What was on the old link may be lost."""
        for sent in self._sent.values():
            if sent.to == fact.node:
                yield self._say(sent)

    def _on_gone(self, now_s: float, _me: NodeId, fact: Any) -> Effects:
        for request, sent in list(self._sent.items()):
            if sent.to != fact.node:
                continue
            if isinstance(sent.work, Submit) and sent.work.key:
                sent.to, sent.since_s = "", now_s
                self._deadlines.set(ForwardDue(), now_s + LOOK_S)
                continue
            del self._sent[request]
            name = self._directory.name_of(fact.node)
            message = f"{name}, which managed it as coordinator, was lost before it answered"
            yield Reply(
                request, False, failure("node_lost", message, "mesh tasks; with a --key the same again is no second task"), need=Need.FREE
            )
        for taken in [taken for taken in self._requests.values() if taken.sender == fact.node]:
            yield Tell(RequestGone(taken.request))
            self._forget(taken)

    def _do_gone(self, _now_s: float, _me: NodeId, gone: RequestGone) -> Effects:
        sent = self._sent.pop(gone.request, None)
        if sent is not None and sent.to and isinstance(sent.work, Call):
            yield Send(sent.to, Ask(sent.ask, "unmanage", sent.work.capability), need=Need.FREE)

    def _on_answer(self, now_s: float, sender: NodeId, answer: Answer) -> Effects:
        if answer.ask < FORWARD_ASKS:
            return
        request, sent = next(((request, sent) for request, sent in self._sent.items() if sent.ask == answer.ask), (0, None))
        if sent is None or sent.to != sender:
            yield Refused("answer_not_asked", sender)
            return
        body = unpacked(answer.body)
        if body is None:
            yield Refused("bad_answer", sender)
            body = failure("bad_answer", f"{self._directory.name_of(sender)} sent what is no answer", "mesh doctor")
        elif not answer.ok and body.get("code") == "not_in_office":
            sent.to, sent.since_s = "", max(sent.since_s, now_s - HOLD_S / 2)
            self._deadlines.set(ForwardDue(), now_s + LOOK_S)
            return
        del self._sent[request]
        yield Reply(request, answer.ok, body, need=Need.FREE)

    # ---- at the coordinator's node

    def _on_ask(self, _now_s: float, sender: NodeId, ask: Ask) -> Effects:
        name = (sender, ask.ask)
        known = self._taken.get(name)
        if ask.question == "unmanage" and known is not None and known.answer is None:
            yield Tell(RequestGone(known.request))
            self._forget(known)
        if ask.question != "manage":
            return
        if known is not None:
            if known.answer is not None:
                yield Send(sender, known.answer, need=Need.FREE)
            return
        if self._directory.seat.holder != self._directory.me:
            body = failure("not_in_office", "this node is not in office", "mesh coordinator")
            yield Send(sender, Answer(ask.ask, False, parcel(body)), need=Need.FREE)
            return
        self._given += 1
        request = FORWARDED - self._given
        work = work_in(request, ask.key, ask.args)
        if work is None:
            yield Refused("bad_work", sender)
            yield Send(sender, Answer(ask.ask, False, parcel(failure("bad_work", "that is no work", "mesh doctor"))), need=Need.FREE)
            return
        taken = self._taken[name] = self._requests[request] = _Taken(sender, ask.ask, request)
        for sha256, size in work.files:
            yield Tell(FileWanted(sha256, size, (taken.sender,)))
        yield Tell(work)

    def _on_reply(self, _now_s: float, _me: NodeId, reply: Reply) -> Effects:
        taken = self._requests.pop(reply.request, None)
        if taken is not None:
            taken.answer = Answer(taken.ask, reply.ok, parcel(reply.body))
            self._answered[taken.sender, taken.ask] = None
            if len(self._answered) > ANSWERS_MAX:
                oldest = next(iter(self._answered))
                del self._answered[oldest], self._taken[oldest]
            yield Send(taken.sender, taken.answer, need=Need.FREE)

    def astray(self, living: Collection[NodeId]) -> int:
        """How many wait for somebody in office, or for an answer of a node that is not among these."""
        return sum(sent.to not in living for sent in self._sent.values())

    def _forget(self, taken: _Taken) -> None:
        self._requests.pop(taken.request, None)
        self._taken.pop((taken.sender, taken.ask), None)
