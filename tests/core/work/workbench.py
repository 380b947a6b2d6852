"""A contractor, files or desk machine inside a real `Node`, driven by hand: what it says outside and what it tells inside, in order."""

from __future__ import annotations

from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import FileWanted, OffersSet, TurnEnds, WorkerAttached
from mesh.core.node import Node
from mesh.core.work.contractor import Contractor
from mesh.core.work.inputs import EffectPermitted
from mesh.effects import Append, Execute, Send, Stop
from mesh.ids import content_hash, fence_of, task_id
from mesh.limits import WorkLimits
from mesh.messages.membership import Load, Offer
from mesh.messages.work import Accept, Award, AwardItem, Beat, Decline, Failure, Release, Result

ME, BOSS, OTHER = "me", "boss", "other"
NOW = 100.0
NOW_MS = 100_000
INPUT = b'{"n":1}'


class Sink:
    """Catches what a machine tells its neighbours or sends to its own node."""

    def __init__(self, *kinds: type) -> None:
        self.caught: list[Any] = []
        self.inputs: dict[type, Any] = dict.fromkeys(kinds, self._catch)

    def _catch(self, _now_s: float, _sender: str, item: Any) -> None:
        self.caught.append(item)


class Bench:
    """One contractor named "me", with peers linked."""

    def __init__(self, limits: WorkLimits | None = None, peers: tuple[str, ...] = (BOSS, OTHER)) -> None:
        self.limits = limits or WorkLimits()
        self.deadlines = Deadlines()
        self.directory = Directory(ME)
        for peer in peers:
            self.directory.ensure(peer).linked = True
        self.contractor = Contractor(self.directory, self.deadlines, self.limits, Random(1))
        self.sink = Sink(OffersSet, FileWanted, EffectPermitted, Load, Accept, Decline, Result, Failure, Beat, Release)
        self.node = Node(ME, (self.contractor, self.sink), self.deadlines)
        self.now = NOW

    def at(self, now_s: float) -> list[Any]:
        """Move time on, stopping at every deadline on the way; all effects but load gossip."""
        effects: list[Any] = []
        while (due := self.node.wake_at()) is not None and due <= now_s:
            self.now = max(self.now, due)
            effects += self.node.handle(self.now, ME) + self.node.handle(self.now, ME, TurnEnds())
        self.now = now_s
        return without_load(effects)

    def give(self, item: Any, sender: str = ME) -> list[Any]:
        """One input, without the end of the turn; all effects but load gossip."""
        return without_load(self.node.handle(self.now, sender, item))

    def turn(self, item: Any, sender: str = ME) -> list[Any]:
        """One input and the end of its turn."""
        return self.give(item, sender) + self.give(TurnEnds())

    def attach(self, *capabilities: str, worker: int = 1, concurrency: int = 1, **offer: Any) -> list[Any]:
        offers = tuple(Offer(name, "agent", **offer) for name in capabilities)
        return self.turn(WorkerAttached(worker, 1000 + worker, "agent", offers, concurrency))

    def award(self, counter: int = 1, number: int = 1, **changes: Any) -> Award:
        return award_of(self.now, item_of(counter, number, **changes))


def without_load(effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if not (isinstance(effect, Send) and isinstance(effect.message, Load))]


def task_of(counter: int = 1, author: str = BOSS) -> str:
    return task_id(author, 1, counter)


def fence(number: int = 1) -> int:
    return fence_of(1, number)


def item_of(counter: int = 1, number: int = 1, author: str = BOSS, **changes: Any) -> AwardItem:
    fields: dict[str, Any] = {"capability": "greet", "input_hash": content_hash(INPUT), "input": INPUT, "durable": False} | changes
    return AwardItem(task_of(counter, author), fence(number), **fields)


def award_of(now_s: float, *items: AwardItem, grant_ms: int = 3000, conditional: bool = False) -> Award:
    return Award(items, grant_ms, int(now_s * 1000), conditional)


def sent(effects: list[Any], kind: type) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def of(effects: list[Any], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def started(effects: list[Any]) -> list[tuple[str, int]]:
    return [(effect.task, effect.fence) for effect in of(effects, Execute)]


def stopped(effects: list[Any]) -> list[tuple[str, int]]:
    return [(effect.task, effect.fence) for effect in of(effects, Stop)]


def entries(effects: list[Any]) -> list[Any]:
    return [effect.entry for effect in of(effects, Append)]
