"""How a contractor tells its managers what became of their work: beats while it lasts, then the result until it is acknowledged.

    handler ends --> Ended entry (durable) --> RESULT | FAILURE --every second, and when the link returns--> RESULT_ACK --> Closed entry

Invariant: the Ended entry of durable work comes before its report, in the same list of effects, so the outbox holds the report until the
entry is on disk. A report is kept for as long as its manager may ask for it. Decides nothing about leases or slots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.work.breakers import Breakers
from mesh.core.work.holdings import HeldFor, Holding, Holdings, State
from mesh.core.work.slots import Slots
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import Hash, NodeId, content_hash
from mesh.limits import WorkLimits
from mesh.messages.records import Closed, Ended
from mesh.messages.work import Beat, BeatItem, Failure, FileRef, Release, Result, ResultAck

MESSAGE_CHARS_MAX = 2_000
DETAILS_CHARS_MAX = 16_000
RETRY_AFTER_MS_MAX = 30 * 86_400_000
_KINDS = (
    "error",
    "invalid_argument",
    "timeout",
    "worker_lost",
    "cancelled",
    "no_file",
    "too_big",
    "heartbeat",
    "outcome_unknown",
    "over_budget",
)


@dataclass(frozen=True, slots=True)
class BeatDue:
    manager: NodeId


@dataclass(frozen=True, slots=True)
class ReportsDue:
    manager: NodeId


@dataclass(frozen=True, slots=True)
class Pulled:
    """Why work is given back that could run here: `to` would start it at once and takes so long; here it would start in `start_ms`."""

    to: NodeId
    to_service_ms: int
    start_ms: int
    service_ms: int


def need_of(durable: bool) -> Need:
    """Durable work waits for the disk; a plain call never does. The same for its Execute and Stop, so that none overtakes the other."""
    return Need.SYNCED if durable else Need.FREE


class Reports:
    """Everything owed to managers."""

    def __init__(
        self, directory: Directory, deadlines: Deadlines, limits: WorkLimits, holdings: Holdings, slots: Slots, breakers: Breakers
    ) -> None:
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._holdings = holdings
        self._slots = slots
        self._breakers = breakers
        self.ended = 0
        self.failed = 0
        self.resent = 0
        self.inputs: dict[type, Any] = {
            BeatDue: self._expire_beat,
            ReportsDue: self._expire_reports,
            ResultAck: self._on_result_ack,
        }

    # ---- the end of a holding

    def succeed(
        self, now_s: float, holding: Holding, output: bytes, files: tuple[FileRef, ...], agent: str, service_ms: int, out: list[Any]
    ) -> None:
        """The handler returned `output`, JSON."""
        if len(output) > self._limits.body_bytes_max:
            message = f"the result is {len(output)} bytes; at most {self._limits.body_bytes_max} travel as JSON: return a File"
            self.fail(now_s, holding, "error", {"kind": "too_big", "message": message}, agent, service_ms, out)
            return
        digest = content_hash(output)
        holding.report = Result(holding.task, holding.fence, digest, output, agent, files, service_ms, holding.version)
        if holding.durable:
            at_ms = int(now_s * 1000)
            entry = Ended(holding.task, holding.fence, "ok", digest, files, "", agent, service_ms, at_ms, holding.version)
            out.append(Append(entry, {digest: output}))
        self._owe(now_s, holding, out)

    def fail(
        self, now_s: float, holding: Holding, outcome: str, error: dict[str, Any], agent: str, service_ms: int, out: list[Any]
    ) -> None:
        """It did not. `outcome` as in `Ended`; `error` as a worker gives it: ``{kind, message, details, retryable}``, all optional."""
        failure = failure_of(holding, outcome, error, agent, service_ms)
        holding.report = failure
        self.failed += 1
        if holding.durable:
            kept: dict[str, Any] = {"kind": failure.kind, "message": failure.message, "details": failure.details}
            text = json.dumps(kept | {"retryable": failure.retryable, "retry_after_ms": failure.retry_after_ms})
            what = (holding.task, holding.fence, outcome, "", (), text, agent, service_ms, int(now_s * 1000), holding.version)
            out.append(Append(Ended(*what)))
        self._owe(now_s, holding, out)

    def release(self, now_s: float, holding: Holding, reason: str, out: list[Any], pulled: Pulled | None = None) -> None:
        """Give back what has not started. `pulled`: for that node, which asked for it."""
        if holding.durable:
            at_ms = int(now_s * 1000)
            out.append(Append(Ended(holding.task, holding.fence, "released", error=json.dumps({"kind": reason}), at_ms=at_ms)))
        release = Release(((holding.task, holding.fence, reason),))
        if pulled is not None:
            release.to, release.to_service_ms = pulled.to, pulled.to_service_ms
            release.start_ms, release.service_ms = pulled.start_ms, pulled.service_ms
        out.append(Send(holding.manager, release, need=need_of(holding.durable)))
        self.forget(holding, out, closed=False)

    def forget(self, holding: Holding, out: list[Any], closed: bool = True) -> None:
        """Nothing more is owed. `closed`: say so in the journal (a released one has its own entry)."""
        self._slots.move(holding, State.GONE)
        self._holdings.drop(holding)
        self._directory.homes.pop(holding.task, None)
        self._directory.origins.pop(holding.task, None)
        self._directory.pinned.pop(holding.task, None)
        self._breakers.gone(holding)
        if holding.durable and closed:
            out.append(Append(Closed(holding.task, holding.fence), lazy=True))

    def _owe(self, now_s: float, holding: Holding, out: list[Any]) -> None:
        self.ended += 1
        self._slots.move(holding, State.ENDED)
        holding.input = b""
        if holding.report is not None and self._breakers.ended(now_s, holding, holding.report):
            for other in list(self._holdings.by_task.values()):
                if other.capability == holding.capability and other.state in (State.WAITING, State.READY):
                    self.release(now_s, other, "breaker_open", out)
        self.send(now_s, holding, out)
        self.watch(now_s, self._holdings.held_for(holding.manager))

    def send(self, now_s: float, holding: Holding, out: list[Any]) -> None:
        """Say the report of an ended holding, if there is a link to say it on."""
        if self.reachable(holding.manager):
            holding.sent_s = now_s
            out.append(Send(holding.manager, holding.report, need=need_of(holding.durable)))

    def reachable(self, node: NodeId) -> bool:
        if node == self._directory.me:
            return True
        row = self._directory.get(node)
        return row is not None and row.linked

    # ---- timers of a pair

    def watch(self, now_s: float, pair: HeldFor) -> None:
        """Keep the timers of `pair` running: beats while anything is held, resends while a report is owed."""
        if not pair.beating:
            pair.beating = True
            self._deadlines.set(BeatDue(pair.manager), now_s + self._limits.beat_s)
        if not pair.resending:
            pair.resending = True
            self._deadlines.set(ReportsDue(pair.manager), now_s + self._limits.result_resend_s)

    def _expire_beat(self, now_s: float, _me: NodeId, due: BeatDue) -> Iterator[Any]:
        pair = self._holdings.by_manager.get(due.manager)
        if pair is None:
            return
        pair.beating = False
        if not pair.tasks:
            self._holdings.forget_idle(pair)
            return
        pair.beating = True
        self._deadlines.set(due, now_s + self._limits.beat_s)
        if self.reachable(due.manager):
            yield Send(due.manager, self.beat(now_s, pair), need=Need.FREE)

    def beat(self, now_s: float, pair: HeldFor) -> Beat:
        """All that is held for one manager. Whole, so that what is missing from it is not held."""
        return Beat(tuple(self._beat_item(now_s, holding) for holding in pair.tasks.values()))

    def _beat_item(self, now_s: float, holding: Holding) -> BeatItem:
        if holding.state is State.ENDED:
            return BeatItem(holding.task, holding.fence, "ended", 1.0)
        running = holding.state is State.RUNNING
        if holding.lease_end_ms <= int(now_s * 1000):
            state = "suspended"
        else:
            state = "running" if running else "queued"
        if not running:
            return BeatItem(holding.task, holding.fence, state, 0.0, self._slots.hindrance(now_s, holding))
        run = self._slots.runs[holding.task]
        return BeatItem(holding.task, holding.fence, state, run.fraction, run.note)

    def _expire_reports(self, now_s: float, _me: NodeId, due: ReportsDue) -> Iterator[Any]:
        pair = self._holdings.by_manager.get(due.manager)
        if pair is None:
            return
        pair.resending = False
        if not pair.tasks:
            self._holdings.forget_idle(pair)
            return
        pair.resending = True
        self._deadlines.set(due, now_s + self._limits.result_resend_s)
        # Half the period of tolerance: a report made just before this timer is not repeated at once, nor left for two periods.
        yield from self.resend(now_s, due.manager, now_s - self._limits.result_resend_s / 2)

    def resend(self, now_s: float, manager: NodeId, sent_before_s: float) -> list[Any]:
        """The reports owed to `manager` that were last said before that time."""
        out: list[Any] = []
        pair = self._holdings.by_manager.get(manager)
        for holding in list(pair.tasks.values()) if pair else ():
            if holding.state is State.ENDED and holding.sent_s <= sent_before_s:
                self.resent += 1
                self.send(now_s, holding, out)
        return out

    def _on_result_ack(self, _now_s: float, manager: NodeId, ack: ResultAck) -> list[Any]:
        out: list[Any] = []
        for task, fence in ack.items:
            holding = self._holdings.by_task.get(task)
            if holding is None or holding.fence != fence or holding.state is not State.ENDED:
                out.append(Refused("ack_unknown", manager))
            elif holding.manager != manager:
                out.append(Refused("not_manager", manager))
            else:
                self.forget(holding, out)
        return out


def failure_of(holding: Holding, outcome: str, error: dict[str, Any], agent: str, service_ms: int) -> Failure:
    """A worker's error as the message that tells of it; whatever a worker sends, the message is well-formed and bounded."""
    kind = error.get("kind")
    if kind not in _KINDS:
        kind = outcome if outcome in _KINDS else "error"
    message = str(error.get("message") or f"the handler ended with {outcome}")[:MESSAGE_CHARS_MAX]
    retryable = bool(error.get("retryable", kind not in ("invalid_argument", "too_big")))
    details = str(error.get("details") or "")[:DETAILS_CHARS_MAX]
    after_ms = error.get("retry_after_ms")
    after_ms = min(max(0, after_ms), RETRY_AFTER_MS_MAX) if type(after_ms) is int else 0
    return Failure(holding.task, holding.fence, kind, message, retryable, agent, details, service_ms, after_ms, holding.version)


def report_of(holding: Holding, entry: Ended, bodies: dict[Hash, bytes]) -> Result | Failure:
    """The report that an Ended entry owes, after a restart."""
    holding.version = entry.version
    if entry.outcome == "ok":
        output = bodies.get(entry.output)
        if output is not None:
            files = tuple(entry.files)
            return Result(holding.task, holding.fence, entry.output, output, entry.agent, files, entry.service_ms, entry.version)
        error: Any = {"kind": "worker_lost", "message": "the result's body is not in this node's store any more"}
    else:
        try:
            error = json.loads(entry.error) if entry.error else {}
        except ValueError:
            error = {"message": entry.error}
    return failure_of(holding, entry.outcome, error if isinstance(error, dict) else {}, entry.agent, entry.service_ms)
