"""The node's side of attached workers: effects to frames in lots, frames to inputs.

    Execute, Extend, Stop, Credit, Price  -->  [0, verb, {"items": [...]}]   one frame per worker and verb, once per turn
    attach, started, progress, said, items, ended, priced  -->  WorkerAttached, Handler*, Priced      connection lost  -->  WorkerGone
    stand_by  -->  WorkerAttached, with no process yet: its lots wait until the one that is expected has attached (`stock.py`)

Invariant: a worker number is never used twice in one life of the node, and is spoken of only between its WorkerAttached and its WorkerGone.
Bodies pass through undecoded. Believes a worker's frames only after their shape has been checked; does not know what it was given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.core.inputs import (
    HandlerEnded,
    HandlerItems,
    HandlerProgress,
    HandlerSaid,
    HandlerStarted,
    HandlerWaits,
    Priced,
    WorkerAttached,
    WorkerGone,
)
from mesh.core.triggers.topics import is_pattern
from mesh.effects import Credit, Execute, Extend, Price, Stop
from mesh.errors import Refused
from mesh.ids import NodeId
from mesh.messages.membership import Offer
from mesh.messages.triggers import Plan
from mesh.runtime.params_local import is_plan
from mesh.runtime.protocol_local import BadFrame, Channel
from mesh.runtime.stated import stated_of

WORKERS_MAX = 256
OFFERS_MAX = 256
"""Per worker: all of them are gossiped."""
SCHEMA_CHARACTERS_MAX = 16 * 1024
CONCURRENCY_MAX = 1024
LINE_CHARS_MAX = 8192
STREAMS = ("stdout", "stderr", "log")
LOT_BYTES_MAX = 4 * 1024 * 1024
"""A lot with more bodies than this is cut into several frames."""

_OFFER_FIELDS = (str, str, str, str, bool, int, int, str, bool, str, str, list, int, int, int, int, int, list, list)
_TAGS_AT = 11
_OUTCOMES = ("ok", "error", "cancelled", "timeout", "worker_lost")


@dataclass(frozen=True, slots=True)
class AttachedWorker:
    """One worker process, as `status` shows it."""

    agent: str
    pid: int
    concurrency: int
    running: int
    capabilities: tuple[str, ...]
    executed: int = 0
    stock: bool = False
    """Started by the node itself (`stock.py`); `pid` 0: its process is not there."""


@dataclass(frozen=True, slots=True)
class WorkersStatistics:
    attached: tuple[AttachedWorker, ...]
    executed: int
    ended: int
    gone: int
    refusals: dict[str, int]


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int
    agent: str
    concurrency: int
    capabilities: tuple[str, ...]
    channel: Channel | None
    """None: nobody is there yet."""
    lots: dict[str, list[Any]] = field(default_factory=dict)
    running: int = 0
    executed: int = 0
    wanted: Callable[[], None] | None = None
    """Of one that stands by: called when there is something for it and nobody is there."""

    def snapshot(self) -> AttachedWorker:
        known = (self.agent, self.pid, self.concurrency, self.running, self.capabilities, self.executed)
        return AttachedWorker(*known, stock=self.wanted is not None)


def _anything(capability: str) -> bool:
    return True


class Workers:
    """`tell` hands inputs to the node. `on_last_gone` is called when the last worker has left that somebody else has started.

    `may_offer`: whether this home's certificate allows a capability. `comes` is told of each process before the node is. Connections belong
    to `local.py`, which passes on what concerns workers; there is nothing to run here.
    """

    def __init__(
        self,
        me: NodeId,
        tell: Callable[[NodeId, Any], None],
        *,
        on_last_gone: Callable[[], None] | None = None,
        may_offer: Callable[[str], bool] = _anything,
        comes: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._comes = comes
        self._me, self._tell, self._on_last_gone, self._may_offer = me, tell, on_last_gone, may_offer
        self._workers: dict[int, _Worker] = {}
        self._expected: dict[int, tuple[int, Callable[[], None]]] = {}
        """Processes that will attach as a worker which stands by: its number, and whom to tell, by pid."""
        self._last = 0
        self._dirty: dict[int, _Worker] = {}
        self._executed = self._ended = self._gone = 0
        self._refused: Counter[str] = Counter()
        self.effects: dict[type, Callable[[Any], None]] = {
            Execute: self._execute,
            Extend: self._extend,
            Stop: self._stop,
            Credit: self._credit,
            Price: self._price,
        }

    # ---- effects

    def _execute(self, effect: Execute) -> None:
        worker = self._workers.get(effect.worker)
        if worker is not None:
            self._executed += 1
            worker.executed += 1
            worker.running += 1
            self._add(worker, "execute", effect.row())

    def _extend(self, effect: Extend) -> None:
        worker = self._workers.get(effect.worker)
        if worker is not None:
            for item in effect.items:
                self._add(worker, "extend", list(item))

    def _stop(self, effect: Stop) -> None:
        worker = self._workers.get(effect.worker)
        if worker is not None:
            self._add(worker, "stop", [effect.task, effect.fence, effect.reason])

    def _credit(self, effect: Credit) -> None:
        worker = self._workers.get(effect.worker)
        if worker is not None:
            self._add(worker, "taken", [effect.task, effect.fence, effect.upto, effect.again])

    def _price(self, effect: Price) -> None:
        worker = self._workers.get(effect.worker)
        if worker is not None:
            self._add(worker, "price", [effect.round, effect.task, effect.capability, effect.input])

    def _add(self, worker: _Worker, verb: str, item: list[Any]) -> None:
        worker.lots.setdefault(verb, []).append(item)
        self._dirty[worker.number] = worker
        if worker.channel is None and worker.wanted is not None:
            worker.wanted()

    def flush(self) -> None:
        """Write what was collected, one frame per verb and worker. In the order execute, extend, stop: a stop finds what it stops."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        for worker in dirty.values():
            channel = worker.channel
            if channel is None:
                continue  # until somebody is there
            lots, worker.lots = worker.lots, {}
            for verb in sorted(lots):
                self._send(channel, verb, lots[verb])
            channel.flush()

    @staticmethod
    def _send(channel: Channel, verb: str, items: list[Any]) -> None:
        start, total = 0, 0
        for i, item in enumerate(items):
            total += sum(len(part) for part in item if type(part) is bytes)
            if total > LOT_BYTES_MAX:
                channel.send([0, verb, {"items": items[start : i + 1]}])
                start, total = i + 1, 0
        if start < len(items):
            channel.send([0, verb, {"items": items[start:]}])

    # ---- frames

    def attach(self, channel: Channel, pid: int, params: dict[str, Any]) -> int:
        """A worker registers. Returns its number. Raises Refused, naming what is wrong."""
        if pid in self._expected:
            return self._fill(*self._expected.pop(pid), channel, pid)
        agent, concurrency = params.get("agent"), params.get("concurrency")
        running, offers = params.get("running"), params.get("offers")
        if type(agent) is not str or not agent or type(concurrency) is not int or not 1 <= concurrency <= CONCURRENCY_MAX:
            raise self._refuse("bad_attach", "agent and concurrency")
        if type(offers) is not list or not 1 <= len(offers) <= OFFERS_MAX:
            raise self._refuse("bad_attach", f"between 1 and {OFFERS_MAX} capabilities")
        if type(running) is not list or not all(type(item) is list and [type(x) for x in item] == [str, int] for item in running):
            raise self._refuse("bad_attach", "what is still running")
        if len(self._workers) >= WORKERS_MAX:
            raise self._refuse("node_busy", f"at most {WORKERS_MAX} workers")
        stated = stated_of(params)
        found = tuple(stated.on(self._offer(offer)) for offer in offers)
        for offer in found:
            if not self._may_offer(offer.capability):
                self._refused["not_granted"] += 1
                raise Refused(
                    f"this home's certificate does not let it offer {offer.capability}",
                    fix="mesh id; mesh invite --offer, there",
                    code="not_granted",
                )
        self._comes(pid)
        self._last += 1
        names = tuple(offer.capability for offer in found)
        self._workers[self._last] = _Worker(self._last, pid, agent, concurrency, names, channel, running=len(running))
        held = tuple((task, fence) for task, fence in running)
        self._tell(self._me, WorkerAttached(self._last, pid, agent, found, concurrency, held, stated.labels, stated.resources))
        return self._last

    def _offer(self, fields: Any) -> Offer:
        if type(fields) is not list or tuple(map(type, fields)) != _OFFER_FIELDS:
            raise self._refuse("bad_attach", "the form of a capability")
        tags = fields[_TAGS_AT]
        if not all(type(tag) is str for tag in tags):
            raise self._refuse("bad_attach", "tags")
        if max(len(fields[9]), len(fields[10])) > SCHEMA_CHARACTERS_MAX:
            raise self._refuse("schema_too_big", f"{fields[0]}: a schema of at most {SCHEMA_CHARACTERS_MAX} characters")
        queue_timeout_ms, heartbeat_ms, limit, rate, rate_ms, topics, plans = fields[_TAGS_AT + 1 :]
        if not all(type(topic) is str and is_pattern(topic) for topic in topics):
            raise self._refuse("bad_attach", "patterns of topics")
        if not all(map(is_plan, plans)):
            raise self._refuse("bad_attach", "the form of a schedule")
        return replace(
            Offer(*fields[:_TAGS_AT]),
            tags=tuple(tags),
            queue_timeout_ms=queue_timeout_ms,
            heartbeat_ms=heartbeat_ms,
            limit=limit,
            rate=rate,
            rate_ms=rate_ms,
            topics=tuple(topics),
            schedules=tuple(Plan(*plan) for plan in plans),
        )

    def _refuse(self, code: str, wanted: str) -> Refused:
        self._refused[code] += 1
        return Refused(
            f"the node does not take this worker: it wants {wanted}", fix="use the same version of the package on both sides", code=code
        )

    def take(self, number: int, verb: str, params: dict[str, Any]) -> None:
        """A lot from worker `number`. Raises BadFrame for one that makes no sense: its connection is then cut."""
        worker = self._workers.get(number)
        items = params.get("items")
        if worker is None or type(items) is not list:
            raise BadFrame("bad_lot")
        make = self._take_ended if verb == "ended" else _TAKE.get(verb)
        if make is None:
            raise BadFrame("unknown_verb")
        try:
            for item in items:
                self._tell(self._me, make(worker, item))
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            self._refused["bad_lot"] += 1
            raise BadFrame("bad_lot") from error

    def _take_ended(self, worker: _Worker, item: Any) -> HandlerEnded:
        task, fence, outcome, output, files, error, service_ms = item
        _check((task, str), (fence, int), (output, bytes), (error, dict), (service_ms, int))
        if outcome not in _OUTCOMES:
            raise ValueError(outcome)
        refs = tuple((sha256, size) for sha256, size in files)
        for sha256, size in refs:
            _check((sha256, str), (size, int))
        self._ended += 1
        worker.running -= 1
        return HandlerEnded(worker.number, task, fence, outcome, output, refs, error, max(0, service_ms))

    def gone(self, number: int, channel: Channel | None = None) -> None:
        """The worker's connection ended: that one, if it is named."""
        worker = self._workers.get(number)
        if worker is None or (channel is not None and worker.channel is not channel):
            return
        del self._workers[number]
        self._forget_expected(number)  # another process may have its pid one day
        self._dirty.pop(number, None)
        self._gone += 1
        self._tell(self._me, WorkerGone(worker.number, worker.pid))
        if worker.wanted is None and not self.in_use() and self._on_last_gone is not None:
            self._on_last_gone()

    # ---- those that stand by

    def stand_by(self, offer: Offer, concurrency: int, wanted: Callable[[], None]) -> int:
        """Offer this, with nobody there who could do it; `wanted` is called, more than once, when there is work. Returns its number."""
        self._last += 1
        self._workers[self._last] = _Worker(self._last, 0, offer.agent, concurrency, (offer.capability,), None, wanted=wanted)
        self._tell(self._me, WorkerAttached(self._last, 0, offer.agent, (offer,), concurrency))
        return self._last

    def expect(self, number: int, pid: int, came: Callable[[], None]) -> None:
        """Process `pid` will attach as that worker: `came` is called then."""
        self._forget_expected(number)
        self._expected[pid] = (number, came)

    def _forget_expected(self, number: int) -> None:
        self._expected = {pid: told for pid, told in self._expected.items() if told[0] != number}

    def _fill(self, number: int, came: Callable[[], None], channel: Channel, pid: int) -> int:
        """Whoever was expected is there, and gets what has waited for him."""
        self._comes(pid)
        worker = self._workers[number]
        worker.channel, worker.pid = channel, pid
        self._dirty[number] = worker
        came()
        return number

    def rest(self, number: int) -> None:
        """Its process is not spoken to any more; the worker stands by."""
        worker = self._workers[number]
        assert not worker.running, "what runs would be lost"
        worker.channel, worker.pid = None, 0

    def of(self, number: int) -> AttachedWorker | None:
        worker = self._workers.get(number)
        return None if worker is None else worker.snapshot()

    # ---- looking

    def attached(self) -> list[AttachedWorker]:
        """Whose process is there, in order of attaching."""
        return [worker.snapshot() for worker in self._workers.values() if worker.channel is not None]

    def in_use(self) -> bool:
        """Whether somebody has started a worker that is attached."""
        return any(worker.wanted is None for worker in self._workers.values())

    def statistics(self) -> WorkersStatistics:
        return WorkersStatistics(tuple(self.attached()), self._executed, self._ended, self._gone, dict(self._refused))

    def __len__(self) -> int:
        return len(self._workers)


def _check(*pairs: tuple[Any, type]) -> None:
    for value, kind in pairs:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {kind.__name__}")


def _started(worker: _Worker, item: Any) -> HandlerStarted:
    task, fence = item
    _check((task, str), (fence, int))
    return HandlerStarted(worker.number, task, fence)


def _progress(worker: _Worker, item: Any) -> HandlerProgress:
    task, fence, fraction, note = item
    _check((task, str), (fence, int), (fraction, float), (note, str))
    return HandlerProgress(worker.number, task, fence, fraction, note)


def _said(worker: _Worker, item: Any) -> HandlerSaid:
    task, fence, attempt, lines, dropped = item
    _check((task, str), (fence, int), (attempt, int), (dropped, int))
    for at_ms, stream, text in lines:
        _check((at_ms, int), (text, str))
        if stream not in STREAMS or len(text) > LINE_CHARS_MAX:
            raise ValueError(stream)
    return HandlerSaid(worker.number, task, fence, attempt, tuple((at_ms, stream, text) for at_ms, stream, text in lines), max(0, dropped))


def _items(worker: _Worker, item: Any) -> HandlerItems:
    task, fence, first, items, last = item
    _check((task, str), (fence, int), (first, int), (last, bool), *((data, bytes) for data in items))
    return HandlerItems(worker.number, task, fence, first, tuple(items), last)


def _waits(worker: _Worker, item: Any) -> HandlerWaits:
    task, fence, waits = item
    _check((task, str), (fence, int), (waits, bool))
    return HandlerWaits(worker.number, task, fence, waits)


def _priced(worker: _Worker, item: Any) -> Priced:
    round_number, task, cost, eta_ms = item
    _check((round_number, int), (task, str))
    if cost is not None:
        _check((cost, float))
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(cost)
    if eta_ms is not None:
        _check((eta_ms, int))
    return Priced(worker.number, round_number, task, cost, eta_ms)


_TAKE: dict[str, Callable[[_Worker, Any], Any]] = {
    "started": _started,
    "progress": _progress,
    "said": _said,
    "items": _items,
    "waits": _waits,
    "priced": _priced,
}
