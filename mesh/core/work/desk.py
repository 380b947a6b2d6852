"""The desk: a local client's questions about the mesh's work go to the node that can answer, or to all, and come back as one reply.

    Enquire task | cancel | retry | story | signal | update | answer | read | write --> the task's author, now or not at all
            result                  --> the task's author, for as long as the client waits, through broken links
            (where he is gone, sends on to one who is gone, or knows it no more: all are asked, and look into what they keep. The first
            good answer counts; what changes something is then asked of him who gave it)
            tasks | hash | waits | scopes --> every linked node; merged when all have answered or gather_s is over, naming who is missing
            audit                   --> this node; every linked node where ``args["all"]`` says so, as packed stories
            body                    --> every linked node; the first that has the bytes
            logs                    --> every linked node: whoever ran an attempt has its lines
            (story, hash, body, audit and logs: only to ``args["node"]`` where that is given)

Invariant: every question is replied to exactly once (a result when there is one), unless its client is gone; an answer counts only from a
node that was asked. Answers nothing itself: the manager and the records do. Ids may be shortened in the author's part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, LEFT, ReadDirectory
from mesh.core.inputs import Enquire, MemberDied, MemberLeft, MemberLinked, MemberRevoked, MemberUnreachable, RequestGone
from mesh.core.keeping.inputs import Deposed, LogSettled
from mesh.core.work.errands import Errands, failure, full, json_object, reply, revoked
from mesh.core.work.files import is_hash
from mesh.core.work.forwarding import FORWARD_ASKS
from mesh.effects import Need, Refused, Reply, Send
from mesh.ids import NodeId, author_of
from mesh.limits import WorkLimits
from mesh.messages.keeping import Took
from mesh.messages.work import SEARCH, Answer, Ask

ONE = ("task", "kept", "result", "cancel", "retry", "story", "signal", "update", "answer", "read", "write")
ALL = ("tasks", "hash", "body", "audit", "logs", "waits", "scopes")
CHANGING = ("cancel", "retry", "signal", "update", "answer", "read", "write")
KEPT_FIRST = ("retry", "signal", "update", "answer", "read", "write")
"""What this node says to these itself is said when its keepers have it, as it would be to others: it must hold whoever manages later."""
KEPT_REFUSALS = ("task_ended", "version_conflict")
"""So are these refusals of theirs."""
HOPS_MAX = 8
DENIED_MAX = 2
"""Once is not enough: it may be on its way from one to another."""


@dataclass(frozen=True, slots=True)
class AskDue:
    """A question is over (or, for a result, said again)."""

    ask: int


@dataclass(frozen=True, slots=True)
class DeskStatistics:
    """One moment; counts since the start of this life."""

    asking: int
    waiting: int
    """Of those, for a result, however long that takes."""
    steps: int
    asked: int
    steps_asked: int
    steps_repeated: int


@dataclass(slots=True, eq=False)
class _Question:
    """One that waits. `left` are the nodes whose answers are still out; `missing` those that will not answer."""

    request: int
    message: Ask
    left: dict[NodeId, None]
    missing: dict[NodeId, None] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    pages: list[tuple[NodeId, bytes]] = field(default_factory=list)
    """Of ``audit``: who answered, and his packed story."""
    gather: bool = False
    wide: NodeId = ""
    """Who should answer and cannot: all are asked instead, since who kept his journal may know. The first good answer counts."""
    denied: int = 0
    """How often in turn everybody has said that he does not know it, and nobody was away who might."""
    hops: int = 0
    """How often it was sent on to another node."""

    @property
    def said(self) -> Ask:
        """What is asked now. What changes something is asked of one node only: all are asked who knows the task."""
        if self.wide and self.message.question in CHANGING:
            return replace(self.message, question="task")
        return self.message


class Desk:
    """One of the node's machines; its other half, `Errands`, brings its own inputs."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits) -> None:
        self._me = directory.me
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._open: dict[int, _Question] = {}
        self._asks: dict[int, int] = {}
        self._last_ask = 0
        self._asked = 0
        self._steps = Errands(directory, deadlines, limits, self._next_ask)
        self.inputs: dict[type, Any] = self._steps.inputs | {
            Enquire: self._do_enquire,
            Answer: self._on_answer,
            AskDue: self._expire_ask,
            MemberLinked: self._on_member_linked,
            MemberUnreachable: self._on_member_lost,
            MemberDied: self._on_member_lost,
            MemberLeft: self._on_member_lost,
            MemberRevoked: self._on_member_revoked,
            RequestGone: self._do_request_gone,
            Took: self._look_again,
            LogSettled: self._look_again,
            Deposed: self._look_again,
        }

    def _next_ask(self, now_s: float) -> int:
        """Begins at the clock, which outlives this process: an answer meant for an earlier life must fit no question of this one."""
        self._last_ask = max(self._last_ask + 1, int(now_s * 1000) << 20)
        return self._last_ask

    # ---- asking

    def _do_enquire(self, now_s: float, _me: NodeId, enquire: Enquire) -> Iterator[Any]:
        question = enquire.question
        if question not in ONE + ALL:
            yield self._no(enquire, "unknown_question", f"nobody answers {question!r}", "mesh --help")
            return
        if len(self._open) >= self._limits.asks_max:
            yield Reply(enquire.request, False, full(f"{len(self._open)} questions wait"), need=Need.FREE)
            return
        if question in ("hash", "body") and not is_hash(enquire.key):
            yield self._no(enquire, "bad_hash", f"{enquire.key!r} is no sha256", "give the 64 digits that sha256sum prints")
            return
        directed = enquire.args.get("node", "") if question in ("story", "hash", "body", "audit", "logs") else ""
        if directed:
            node, key = self._named(str(directed)), enquire.key
            if not node:
                yield self._no(enquire, "unknown_node", f"no node is called {directed!r}", "mesh nodes")
                return
        elif question in ONE and not (question == "story" and is_hash(enquire.key)):
            node, key, problem = self._resolve(enquire.key)
            if problem is not None:
                yield Reply(enquire.request, False, problem, need=Need.FREE)
                return
            if not self._reachable(node):  # else the author knows best, even where others drive it now
                node = self._directory.manager_of(key)
        else:
            here = question == "story" or (question == "audit" and not enquire.args.get("all"))
            node, key = self._me if here else "", enquire.key
        if question == "audit" and key:
            key = self._named(key) or key
        elif question in ("logs", "waits") and key:
            key = self._resolve(key)[1]
        yield from self._ask(now_s, enquire, node, key)

    @staticmethod
    def _no(enquire: Enquire, code: str, message: str, fix: str) -> Reply:
        return Reply(enquire.request, False, failure(code, message, fix), need=Need.FREE)

    def _named(self, text: str) -> NodeId:
        """The node with this id, this name, or a unique beginning of an id; "" if there is none."""
        if self._directory.get(text) is not None:
            return text
        rows = list(self._directory.rows())
        found = [row.node for row in rows if row.name == text] or [row.node for row in rows if row.node.startswith(text)]
        return found[0] if len(found) == 1 else ""

    def _resolve(self, key: str) -> tuple[NodeId, str, dict[str, Any] | None]:
        """The author and the full id of a task, however its author's part is shortened; or what is wrong with it."""
        author, _, rest = key.partition(".")
        if not author_of(key):
            return "", key, failure("unknown_task", f"{key!r} is no task id", "mesh tasks")
        if self._directory.get(author) is not None or self._directory.taker_from(author):
            return author, key, None
        found = [row.node for row in self._directory.rows() if row.node.startswith(author)]
        if len(found) > 1:
            names = ", ".join(self._directory.name_of(node) for node in found[:5])
            return "", key, failure("ambiguous_task", f"{author!r} may be a task of {names}", "give more of the id's first part")
        if not found:
            return "", key, failure("unknown_task", f"no node known here has given out {key!r}", "mesh tasks")
        return found[0], f"{found[0]}.{rest}", None

    def _ask(self, now_s: float, enquire: Enquire, node: NodeId, key: str) -> Iterator[Any]:
        """`node` "": all that are linked."""
        question, directed = enquire.question, bool(enquire.args.get("node"))
        missing: dict[NodeId, None] = {}
        if self._directory.revoked(node) and node != self._me and (directed or node == author_of(key) or question not in ONE):
            yield Reply(enquire.request, False, revoked(self._directory, node), need=Need.FREE)
            return
        drivers = [one for one in self._directory.drivers_of(key) if self._reachable(one)] if question == "story" and node else []
        if len(drivers) > 1 and not directed:
            node = ""  # each of them has a part of it
        wide = bool(node) and question in ONE and not directed and not self._reachable(node)
        if node:
            asked = {node: None}
            if question != "result" and not wide and not self._reachable(node):
                yield Reply(enquire.request, False, self._unreachable(node, key), need=Need.FREE)
                return
        elif len(drivers) > 1:
            asked = dict.fromkeys(drivers)
        else:
            asked = self._everybody()
            silent = (row for row in self._directory.rows() if row.node not in asked and row.state != LEFT)
            missing = {row.node: None for row in silent if not row.revoked}
        ask = self._next_ask(now_s)
        message = Ask(ask, question, key, json.dumps(enquire.args).encode(), enquire.words)
        self._open[ask] = _Question(enquire.request, message, asked, missing, gather=not node)
        self._asks[enquire.request] = ask
        self._asked += 1
        if question == "result":
            wait_s = self._limits.ask_repeat_s
        else:
            wait_s = self._limits.ask_timeout_s if (node and not wide) or question == "body" else self._limits.gather_s
        self._deadlines.set(AskDue(ask), now_s + wait_s)
        yield from self._ask_everybody(self._open[ask], node) if wide else self._say(self._open[ask])

    def _say(self, question: _Question) -> Iterator[Any]:
        """To those of whom it is still out, as far as they are linked."""
        for node in question.left:
            if self._reachable(node):
                yield Send(node, question.said, need=Need.FREE)

    def _all_here(self) -> bool:
        return all(row.node == self._me or row.linked or row.revoked or row.state == LEFT for row in self._directory.rows())

    def _everybody(self) -> dict[NodeId, None]:
        return {row.node: None for row in self._directory.rows() if self._reachable(row.node)}

    def _reachable(self, node: NodeId) -> bool:
        row = self._directory.get(node)
        return node == self._me or (row is not None and row.linked)

    def _unreachable(self, node: NodeId, key: str) -> dict[str, Any]:
        row = self._directory.get(node)
        name, state = (row.name, row.state) if row else (node, "unknown")
        keeps = f"{name} manages {key} and" if key else name
        why = "no link to it" if state == ALIVE else f"it is {state} to this node"
        message = f"{keeps} cannot be reached from here ({why})"
        if not key:
            return failure("node_unreachable", message, "mesh nodes")
        fix = f"repeat it in some seconds: what survives a node is taken over; or start {name} again"
        return failure("author_unreachable", message, fix)

    # ---- answers

    def _on_answer(self, now_s: float, peer: NodeId, answer: Answer) -> Iterator[Any]:
        if answer.ask >= FORWARD_ASKS:
            return  # another machine has asked
        question = self._open.get(answer.ask)
        if question is None or peer not in question.left:
            yield from self._steps.on_answer(now_s, peer, answer)
            return
        del question.left[peer]
        if not answer.ok and (manager := self._moved_to(answer, question)):
            yield from self._redirect(question, manager)
            return
        if not answer.ok and self._may_be_elsewhere(answer, question):
            yield from self._ask_everybody(question, peer)
            return
        if question.gather:
            yield from self._gathered(answer.ask, question, peer, answer)
            return
        if question.wide and (not answer.ok or (question.message.question == "story" and not tells(answer.body))):
            if not any(self._reachable(left) for left in question.left) and question.message.question != "result":
                yield self._gave_up(answer.ask, question)
            return
        if question.wide and question.message.question in CHANGING:
            yield from self._found(now_s, question, peer)
            return
        kind = question.message.question
        packed = answer.ok and kind in ("story", "body", "audit")
        ok, body = answer.ok, None if packed else json_object(answer.body)
        if packed:
            body = {"pages": [(peer, answer.body)], "missing": []} if kind == "audit" else {kind: answer.body, "author": peer}
        elif body is None:
            yield Refused("bad_answer", peer)
            name = self._directory.name_of(peer)
            ok, body = False, failure("bad_answer", f"{name} sent an answer that is no JSON object", "mesh doctor")
        elif ok and kind == "hash":
            body = {"tasks": _rows(body), "missing": []}
        self._forget(answer.ask)
        if peer == self._me and kind in KEPT_FIRST and (ok or (body or {}).get("code") in KEPT_REFUSALS):
            yield Reply(question.request, ok, body or {}, need=Need.KEPT)
            return
        yield reply(self._me, peer, question.request, ok, body)

    def _moved_to(self, answer: Answer, question: _Question) -> NodeId:
        """Whom to ask instead; "" if it is another error, or if we have been sent on often enough."""
        body = json_object(answer.body)
        manager = body.get("manager") if body is not None and body.get("code") == "moved" else None
        known = isinstance(manager, str) and self._directory.get(manager) is not None
        return str(manager) if known and not question.gather and not question.wide and question.hops < HOPS_MAX else ""

    def _may_be_elsewhere(self, answer: Answer, question: _Question) -> bool:
        """It went from one to another, and whoever ended it is gone: those who keep the log of that one can tell, and are not known."""
        kind, key = question.message.question, question.message.key
        if question.gather or question.wide or question.hops >= HOPS_MAX or kind not in ONE or len(self._directory.drivers_of(key)) < 2:
            return False
        body = json_object(answer.body)
        return body is not None and body.get("code") == "unknown_task"

    def _redirect(self, question: _Question, manager: NodeId) -> Iterator[Any]:
        question.hops += 1
        # Each has a guess who has it, and those go round: then everybody is asked.
        if question.message.question in ONE and (not self._reachable(manager) or question.hops >= HOPS_MAX):
            yield from self._ask_everybody(question, manager)
            return
        question.wide, question.left = "", {manager: None}
        yield from self._say(question)

    def _ask_everybody(self, question: _Question, instead_of: NodeId) -> Iterator[Any]:
        question.wide, question.left = instead_of, self._everybody() | {instead_of: None}
        args = json_object(question.message.args) or {}
        question.message = replace(question.message, args=json.dumps(args | {SEARCH: True}).encode())
        yield from self._say(question)

    def _found(self, now_s: float, question: _Question, peer: NodeId) -> Iterator[Any]:
        """Who knows the task does what is to be done. Under another number: what still comes in answer to the search is none to this."""
        self._forget(question.message.ask)
        ask = self._next_ask(now_s)
        question.message = replace(question.message, ask=ask)
        question.wide, question.left, question.hops = "", {peer: None}, HOPS_MAX
        self._open[ask], self._asks[question.request] = question, ask
        self._deadlines.set(AskDue(ask), now_s + self._limits.ask_timeout_s)
        yield from self._say(question)

    def _look_again(self, now_s: float, me: NodeId, news: Any) -> Iterator[Any]:
        """Others drive some tasks now: whoever waits for one waits there."""
        for question in list(self._open.values()):
            if question.gather or question.message.question not in ("result", "task", "cancel"):
                continue
            manager = self._directory.manager_of(question.message.key)
            if manager and manager not in question.left:
                yield from self._redirect(question, manager)
        yield from self._steps.look_again()

    def _gathered(self, ask: int, question: _Question, peer: NodeId, answer: Answer) -> Iterator[Any]:
        if question.message.question == "body":
            if answer.ok:
                self._forget(ask)
                yield reply(self._me, peer, question.request, True, {"body": answer.body, "author": peer})
                return
        elif question.message.question in ("audit", "story") and answer.ok:
            question.pages.append((peer, answer.body))
        else:
            body = json_object(answer.body) if answer.ok else None
            if body is None:
                yield Refused("bad_answer", peer)
                question.missing[peer] = None
            else:
                question.rows += _rows(body)
        if not question.left:
            yield self._conclude(ask, question)

    def _conclude(self, ask: int, question: _Question) -> Reply:
        """All have answered, or time is up."""
        self._forget(ask)
        missing = sorted(self._directory.name_of(node) for node in question.missing | question.left)
        if question.message.question == "body":
            where = f"; not asked or silent: {', '.join(missing)}" if missing else ""
            error = failure("unknown_body", f"nobody here has {question.message.key}{where}", "mesh nodes")
            return reply(self._me, self._me, question.request, False, error | {"missing": missing})
        if question.message.question == "story":
            whole = {"story": joined(page for _, page in sorted(question.pages)), "author": author_of(question.message.key)}
            return reply(self._me, self._me, question.request, True, whole)
        if question.message.question == "audit":
            return reply(self._me, self._me, question.request, True, {"pages": sorted(question.pages), "missing": missing})
        rows = question.rows
        if question.message.question in ("tasks", "waits", "scopes"):
            rows = sorted({row["task"]: row for row in rows}.values(), key=_youngest_first)
        return reply(self._me, self._me, question.request, True, {"tasks": rows, "missing": missing})

    # ---- time and members

    def _expire_ask(self, now_s: float, _me: NodeId, due: AskDue) -> Iterator[Any]:
        question = self._open.get(due.ask)
        if question is None:
            return
        if question.gather:
            yield self._conclude(due.ask, question)
        elif question.message.question == "result":
            question.denied = question.denied + 1 if question.wide and not question.left and self._all_here() else 0
            if question.denied == DENIED_MAX:
                yield self._gave_up(due.ask, question)
                return
            self._deadlines.set(due, now_s + self._limits.ask_repeat_s)
            if question.wide:
                question.left = self._everybody() | {question.wide: None}
            yield from self._say(question)
        else:
            yield self._gave_up(due.ask, question)

    def _gave_up(self, ask: int, question: _Question) -> Reply:
        node, key = question.wide or next(iter(question.left), self._me), question.message.key
        self._forget(ask)
        error = self._unreachable(node, key)
        if question.wide and self._reachable(node):
            error = failure("unknown_task", f"nobody who is here knows {key}; it ended long ago, or whoever had it is away", "mesh nodes")
        return Reply(question.request, False, error, need=Need.FREE)

    def _on_member_linked(self, now_s: float, me: NodeId, linked: MemberLinked) -> Iterator[Any]:
        """What was on the old link may be lost: ask again. Every question may be asked twice."""
        for question in list(self._open.values()):
            if linked.node in question.left:
                yield Send(linked.node, question.said, need=Need.FREE)
        yield from self._steps.inputs[MemberLinked](now_s, me, linked)

    def _on_member_lost(self, _now_s: float, _me: NodeId, lost: MemberUnreachable | MemberDied | MemberLeft) -> Iterator[Any]:
        for ask, question in list(self._open.items()):
            if lost.node not in question.left or question.message.question == "result":
                continue
            if question.wide:
                continue
            if not question.gather:
                yield self._gave_up(ask, question)
                continue
            del question.left[lost.node]
            question.missing[lost.node] = None
            if not question.left:
                yield self._conclude(ask, question)

    def _on_member_revoked(self, now_s: float, me: NodeId, fact: MemberRevoked) -> Iterator[Any]:
        """Nobody waits for what it has submitted: not for a result either."""
        for ask, question in list(self._open.items()):
            its_own = fact.node == author_of(question.message.key)
            if question.gather or not (fact.node in question.left or (its_own and question.wide)):
                continue
            if not its_own and question.message.question not in CHANGING:
                yield from self._ask_everybody(question, question.wide or fact.node)  # what it had taken over goes on elsewhere
            elif not its_own and question.wide:
                del question.left[fact.node]
            else:
                self._forget(ask)
                yield Reply(question.request, False, revoked(self._directory, fact.node), need=Need.FREE)
        yield from self._steps.inputs[MemberRevoked](now_s, me, fact)

    def _do_request_gone(self, now_s: float, me: NodeId, gone: RequestGone) -> None:
        ask = self._asks.get(gone.request)
        if ask is not None:
            self._forget(ask)
        self._steps.inputs[RequestGone](now_s, me, gone)

    def _forget(self, ask: int) -> None:
        del self._asks[self._open.pop(ask).request]
        self._deadlines.clear(AskDue(ask))

    def statistics(self) -> DeskStatistics:
        waiting = sum(question.message.question == "result" for question in self._open.values())
        return DeskStatistics(len(self._open), waiting, len(self._steps), self._asked, self._steps.asked, self._steps.repeated)


def joined(stories: Iterable[bytes]) -> bytes:
    """Packed stories as one. What is beyond the first page of each is left out."""
    told = [packed for story in stories if (packed := json_object(story)) is not None]
    commits = [commit for packed in told for commit in packed.get("commits", ())]
    return json.dumps({**(told[0] if told else {}), "commits": commits, "more": 0}, separators=(",", ":")).encode()


def tells(story: bytes) -> bool:
    """Whether a packed story holds anything."""
    packed = json_object(story)
    return packed is not None and bool(packed.get("commits"))


def _rows(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a peer's answer that have the shape of rows."""
    rows = body.get("tasks")
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("task"), str)] if isinstance(rows, list) else []


def _youngest_first(row: dict[str, Any]) -> tuple[float, str]:
    age = row.get("age_ms")
    return (age if isinstance(age, int | float) else 0.0, row["task"])
