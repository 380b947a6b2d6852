"""A manager alone on a bench: rows are set by hand, time by hand, and every effect is compared as a literal."""

from __future__ import annotations

from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory, Row
from mesh.core.inputs import FileWanted, Replay, Started, Submit, TurnEnds
from mesh.core.keeping.inputs import TaleRead
from mesh.core.node import Node
from mesh.core.work.manager import Manager
from mesh.core.work.task import Task
from mesh.effects import Append, ReadTale, Refused, Reply, Send
from mesh.ids import content_hash
from mesh.limits import WorkLimits
from mesh.messages.membership import LoadRow, Offer
from mesh.messages.work import Accept, Ask, Award, AwardItem, Result


class Elsewhere:
    """Stands in for the machines that are not on the bench."""

    def __init__(self) -> None:
        self.wanted: list[FileWanted] = []
        self.local: list[Any] = []
        self.inputs: dict[type, Any] = {FileWanted: lambda now, me, fact: self.wanted.append(fact)}


class Bench:
    def __init__(self, seed: int = 1, incarnation: int = 1, **limits: Any) -> None:
        self.now = 100.0
        self.directory = Directory("me", "home")
        self.deadlines = Deadlines()
        self.manager = Manager(self.directory, self.deadlines, WorkLimits(**limits), Random(seed), incarnation=incarnation)
        self.elsewhere = Elsewhere()
        self.node = Node("me", (self.manager, self.elsewhere), self.deadlines)
        self.journal: list[Any] = []
        self.bodies: dict[str, bytes] = {}
        self.log: list[Any] = []

    def unknown(self, ask: Ask, sender: str) -> list[Any]:
        """A question about a task that is not in the book: the own journal, which is asked then, knows nothing of it."""
        (read,) = [effect for effect in self.give(ask, sender) if type(effect) is ReadTale]
        return self.give(TaleRead(read.token, (), False))

    # ---- the world

    def row(
        self, node: str, *offers: Offer, linked: bool = True, state: str = "alive", room: int | None = None, service_ms: int = 10
    ) -> Row:
        row = self.directory.ensure(node)
        row.name, row.linked, row.state = node.upper(), linked, state
        self.directory.set_offers(row, offers)
        self.hear(node)
        if room is not None:
            self.load(node, room)
        return row

    def hear(self, node: str) -> None:
        """An envelope came from it just now, and it has heard ours."""
        row = self.directory.ensure(node)
        row.stamp_ms, row.stamp_at_s, row.echo_ms = int(self.now * 1000) + 7, self.now, int(self.now * 1000)

    def load(self, node: str, room: int, service_ms: int = 10, slots: int = 1) -> None:
        row = self.directory.ensure(node)
        row.load = {name: LoadRow(name, slots, 0, 0, room, service_ms) for name in row.offers}
        row.load_at_s = self.now

    # ---- inputs

    def start(self, *entries: Any, bodies: dict[str, bytes] | None = None) -> list[Any]:
        for seq, entry in enumerate(entries, 1):
            assert self.node.handle(self.now, "me", Replay(seq, entry, bodies or {})) == []
        return self.give(Started())

    def give(self, body: Any = None, sender: str = "me", end: bool = True) -> list[Any]:
        """One input and the end of its turn."""
        effects = self.node.handle(self.now, sender, body)
        if end:
            effects += self.node.handle(self.now, "me", TurnEnds())
        for effect in effects:
            if type(effect) is Append:
                self.journal.append(effect.entry)
                self.bodies.update(effect.bodies)
        self.log += effects
        return effects

    def after(self, seconds: float, hear: tuple[str, ...] = ()) -> list[Any]:
        """Time passes, each deadline at its own time; `hear` are heard at the end of it."""
        end, effects = self.now + seconds, []
        while (at := self.node.wake_at()) is not None and at <= end:
            self.now = max(self.now, at)
            effects += self.give()
        self.now = end
        for node in hear:
            self.hear(node)
        return effects + self.give()

    # ---- short cuts

    def submit(self, capability: str = "greet", data: bytes = b"{}", **options: Any) -> list[Any]:
        return self.give(Submit(1, capability, data, **options))

    def awarded(self, effects: list[Any]) -> tuple[str, AwardItem]:
        """The one award in `effects`."""
        found = [(e.to, item) for e in effects if type(e) is Send and type(e.message) is Award for item in e.message.items]
        assert len(found) == 1, found
        return found[0]

    def held(self, **options: Any) -> AwardItem:
        """A durable task, accepted by whoever got it."""
        node, item = self.awarded(self.submit(**options))
        self.give(Accept(((item.task, item.fence),)), node)
        return item

    def result(self, item: AwardItem, node: str, output: bytes = b'"hi"', **fields: Any) -> list[Any]:
        return self.give(Result(item.task, item.fence, content_hash(output), output, **fields), node)

    def task(self, name: str) -> Task:
        task = self.manager.book.find(name)
        assert task is not None
        return task

    @staticmethod
    def sends(effects: list[Any], kind: type | None = None) -> list[tuple[str, Any]]:
        return [(e.to, e.message) for e in effects if type(e) is Send and (kind is None or type(e.message) is kind)]

    @staticmethod
    def entries(effects: list[Any], kind: type | None = None) -> list[Any]:
        return [e.entry for e in effects if type(e) is Append and (kind is None or type(e.entry) is kind)]

    @staticmethod
    def replies(effects: list[Any]) -> list[tuple[bool, dict[str, Any]]]:
        return [(e.ok, e.body) for e in effects if type(e) is Reply]

    @staticmethod
    def refused(effects: list[Any]) -> list[str]:
        return [e.reason for e in effects if type(e) is Refused]


def started() -> Bench:
    """Started long ago, with one other node, `a`, that offers `greet` and has room."""
    bench = Bench()
    bench.start()
    bench.now += 10
    bench.row("a", Offer("greet", "greeter"), room=4)
    return bench
