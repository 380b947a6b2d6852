"""Toy machines: enough of a node to test the world around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import Call, DialFailed, Heard, LinkDown, LinkUp, NewHead, Replay, Started, TurnEnds
from mesh.core.node import Node
from mesh.effects import Append, Dial, Need, Reply, Send
from mesh.messages.membership import Alive, Ping
from mesh.messages.records import Opened, Parked


@dataclass(frozen=True, slots=True)
class Tick:
    pass


class Toy:
    """Dials its seeds, writes down all it gets, and does what a `Call` names: ``send``, ``append``, ``tick``."""

    def __init__(self, me: Alive, deadlines: Deadlines, random: Random, seq: int, head: bytes) -> None:
        self.me, self.deadlines, self.random, self.seq, self.head = me, deadlines, random, seq, head
        self.log: list[tuple[float, str, Any]] = []
        self.inputs = {
            Started: self._started,
            Call: self._call,
            Tick: self._write,
            Ping: self._write,
            Heard: self._write,
            LinkUp: self._write,
            LinkDown: self._write,
            DialFailed: self._write,
            Replay: self._write,
            NewHead: self._write,
            TurnEnds: lambda now_s, sender, item: None,
        }

    def _started(self, now_s: float, sender: str, item: Started) -> Iterable[Any]:
        yield Append(Opened(self.me.incarnation, self.head, self.seq, self.me.name))
        for seed in item.seeds:
            yield Dial(seed, need=Need.FREE)

    def _call(self, now_s: float, sender: str, item: Call) -> Iterable[Any]:
        verb, _, rest = item.capability.partition(" ")
        if verb == "send":
            to, _, numbers = rest.partition(" ")
            for number in numbers.split():
                yield Send(to, Ping(int(number)), need=Need.FREE)
        elif verb == "append":
            yield Append(Parked(rest, "toy"))
            yield Reply(item.request, True, {"saved": rest})
        elif verb == "tick":
            self.deadlines.set(Tick(), now_s + float(rest))

    def _write(self, now_s: float, sender: str, item: Any) -> None:
        self.log.append((now_s, sender, item))

    def got(self, kind: type) -> list[Any]:
        return [item for _, _, item in self.log if type(item) is kind]


def build_toy(me: Alive, random: Random, seq: int, head: bytes) -> Any:
    deadlines, directory = Deadlines(), Directory(me.node, me.name)
    row = directory.ensure(me.node)
    row.incarnation, row.version = me.incarnation, me.version
    toy = Toy(me, deadlines, random, seq, head)
    return SimpleNamespace(node=Node(me.node, (toy,), deadlines, seq), directory=directory, toy=toy)


@pytest.fixture
def toys() -> Any:
    return build_toy
