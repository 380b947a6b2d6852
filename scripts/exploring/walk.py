"""One long random schedule from a seed: three to five nodes, slow disks, crashes, a bad network, members back and forth.

The code as it is, with nothing left out (`space.py` is exhaustive, and looser): the same promises are judged after every step, and at the
end, with faults off, something must be kept by all members again.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from exploring.meeting import Meeting, goes_on, members
from exploring.member import Broken, Caller, Event, Node, thawed
from exploring.packed import AUTHOR, Mail, log_of
from exploring.promises import Past, match, remember, safe, well_formed
from mesh.core.keeping.replica import LEADER

PHASE = 0.01
"""How often faults begin, or end for a while: in one long storm nothing would ever be kept."""

UNDER_WAY_MAX = 40
"""A network that holds more loses some."""

COMMITS = 0.2
"""How often the author may write: seldom, or the logs get long, and nothing else happens."""


class Walked(NamedTuple):
    steps: int
    faults: int
    terms: int
    kept: int
    """Pieces."""
    taken: int
    """Take-overs in what is kept."""
    broken: str = ""


class Walk:
    def __init__(self, seed: int, steps: int, caller: Caller | None = None) -> None:
        self._random = Random(seed)
        names = [AUTHOR, *[f"K{number}" for number in range(1, self._random.randint(3, 5))]]
        self._caller = caller or Caller(batch=self._random.choice((1, 2, 8)), slow=True)
        self._steps = steps
        self._fault_share = self._random.choice((0.01, 0.03, 0.1))
        self._impatience = self._random.choice((0.01, 0.03, 0.1))
        """How often somebody campaigns."""
        self._storm = True
        self._keepers = names[1 : self._random.randint(3, len(names))]
        self.nodes = {name: Node(name) for name in names}
        self._past = Past()
        self._under_way: list[Mail] = []
        self._faults = 0

    def run(self) -> Walked:
        broken = ""
        done = -1
        try:
            begun = members(Caller(), self._keepers)
            self._past = begun.past
            self.nodes.update(begun.nodes)
            for done in range(self._steps):  # noqa: B007
                self._step()
            if wrong := goes_on(Meeting(self._at_rest(), self._past, Caller(batch=self._caller.batch))):
                raise Broken(wrong)
        except Broken as error:
            broken = str(error)
        terms = max(node.term for node in self.nodes.values())
        taken = sum(not piece.first for piece in self._past.kept)
        return Walked(done + 1, self._faults, terms, len(self._past.kept), taken, broken)

    def _at_rest(self) -> list[Node]:
        """The members the author knows of, and whoever led last; what was under way is lost."""
        wanted = set(log_of(self.nodes[AUTHOR].view).members).union(*[log_of(node.view).members for node in self.nodes.values()])
        return [node for name, node in self.nodes.items() if name in wanted]

    def _step(self) -> None:
        random = self._random
        name = random.choice(list(self.nodes))
        node = self.nodes[name]
        if random.random() < PHASE:
            self._storm = not self._storm
        roll = random.random()
        if self._storm and roll < self._fault_share:
            self._fault(node)
        elif roll < self._fault_share + self._impatience * (1 if self._storm else 0.2):
            self._do(node, ("campaign",))
        elif (waiting := [one for one in self.nodes.values() if one.queue]) and random.random() < 0.5:
            slow = random.choice(waiting)
            self._do(slow, ("sync", random.randint(1, len(slow.queue))))
        elif self._under_way and random.random() < 0.7:
            mail = self._under_way.pop(random.randrange(len(self._under_way)))
            self._do(self.nodes[mail.to], ("deliver", mail))
        elif events := [(one, event) for one in self.nodes.values() for event in self._own(one)]:
            self._do(*random.choice(events))

    def _own(self, node: Node) -> list[Event]:
        log = log_of(node.view)
        events: list[Event] = []
        if node.me == AUTHOR and self._random.random() < COMMITS:
            events.append(("commit", self._random.randint(1, 3)))
        if node.role != LEADER:
            return events
        events += [("ship_all",), *[("retry", name) for name, *_ in node.peers]]
        if node.me != AUTHOR:
            return [*events, ("take_over",)] if log.last[0] < node.term else events
        if node.length > log.seq:
            return [*events, ("catch_up",), ("catch_up",)]
        other = self._random.choice([name for name in self.nodes if name != AUTHOR])
        replica = thawed(node, log, None)
        if replica.may_change(wanted := self._wanted(log.members, other)):
            events.append(("commit", 1, wanted))
        return [*events, ("teach", other)] if other not in replica.peers else events

    def _wanted(self, members: tuple[str, ...], other: str) -> tuple[str, ...]:
        """One more or less, or anything."""
        if self._random.random() < 0.2:
            return tuple(name for name in self.nodes if name == AUTHOR or self._random.random() < 0.5)
        return tuple(member for member in members if member != other) if other in members else (*members, other)

    def _fault(self, node: Node) -> None:
        self._faults += 1
        random = self._random
        kind = random.choice(("crash", "lose", "double", "commit_and_crash", "power_cut"))
        if kind == "crash":
            self._do(node, ("crash",))
        elif kind == "commit_and_crash":
            self._do(self.nodes[AUTHOR], ("commit_and_crash", random.randint(1, 3)))
        elif kind == "power_cut":
            for one in list(self.nodes.values()):
                self._do(one, ("crash",))
        elif self._under_way:
            number = random.randrange(len(self._under_way))
            if kind == "lose":
                self._under_way.pop(number)
            else:
                self._under_way.append(self._under_way[number])

    def _do(self, node: Node, event: Event) -> None:
        after, sent = self._caller.step(node, event)
        self.nodes[node.me] = after
        self._under_way += sent
        while len(self._under_way) > UNDER_WAY_MAX:
            self._under_way.pop(self._random.randrange(len(self._under_way)))
        if after == node:
            return
        before, self._past = self._past, remember(self._past, after)
        view = after.view
        if view != node.view:
            well_formed(view)
            for other in self.nodes.values():
                match(view, other.view)
        if after.disk != node.disk or self._past != before:
            safe(self._past, [(name, other.disk, other.lapses > 0) for name, other in self.nodes.items()])
