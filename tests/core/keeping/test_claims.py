"""One key, one decree: claimants, keepers and rosters in every order that a seed gives, and by hand where the order is the point."""

from __future__ import annotations

from random import Random

import pytest

from mesh.core.keeping.claims import NO_TURN, Attempt, accept, blank, merged, prepare
from mesh.messages.claims import Cell, Choice, ClaimAnswer, ClaimAsk, Turn

A, B, C, D = "abcd"
OLD, NEW = (A, B, C), (A, B, D)


class Keeper:
    """One key at one node, as `keys.py` uses the rules. It answers under one roster, the newest it has heard of."""

    def __init__(self) -> None:
        self.cell: Cell = blank("k")
        self.roster = 1

    def on_ask(self, ask: ClaimAsk) -> ClaimAnswer | None:
        if ask.turn[0] != self.roster:
            return None
        after = accept(self.cell, ask.turn, ask.choice[0]) if ask.choice else prepare(self.cell, ask.turn)
        self.cell = after or self.cell
        choice = () if self.cell.accepted == NO_TURN else (self.cell.choice,)
        return ClaimAnswer("r", "k", ask.turn, after is not None, self.cell.promised, self.cell.accepted, choice, bool(ask.choice))


def ask_of(attempt: Attempt) -> ClaimAsk:
    return ClaimAsk("r", "k", attempt.turn, () if attempt.proposed is None else (attempt.proposed,))


def go(attempt: Attempt, keepers: dict[str, Keeper], members: tuple[str, ...]) -> Choice | None:
    """Both rounds, with those of `keepers` that are given, in order."""
    for _ in range(2):
        before = attempt.proposed
        ask = ask_of(attempt)
        for name, keeper in keepers.items():
            answer = keeper.on_ask(ask)
            if answer is not None and (choice := attempt.on_answer(name, answer, members)) is not None:
                return choice
        if attempt.proposed is before:
            return None
    return None


def attempt_of(task: str, roster: int = 1, number: int = 1) -> Attempt:
    attempt = Attempt("k", Choice(task, "w"))
    attempt.begin(roster, number, task)
    return attempt


def test_the_first_that_a_majority_accepts_is_what_all_others_hear() -> None:
    keepers = {name: Keeper() for name in OLD}
    assert go(attempt_of("t1"), keepers, OLD) == Choice("t1", "w")
    assert go(attempt_of("t2", number=2), {C: keepers[C], B: keepers[B]}, OLD) == Choice("t1", "w")


def test_three_claims_that_split_the_three_keepers_come_to_one() -> None:
    keepers = {name: Keeper() for name in OLD}
    split = [attempt_of("t1", number=1), attempt_of("t2", number=2), attempt_of("t3", number=3)]
    for attempt in split:  # each is promised by all, one after the other; then each reaches one keeper only with its choice
        ask = ask_of(attempt)
        for name, keeper in keepers.items():
            if (answer := keeper.on_ask(ask)) is not None:
                attempt.on_answer(name, answer, OLD)
    for attempt, name in zip(split, OLD, strict=True):
        answer = keepers[name].on_ask(ask_of(attempt))
        assert answer is not None and answer.ok == (attempt is split[2])
    split[0].begin(1, 4, "t1")
    assert go(split[0], keepers, OLD) == Choice("t1", "w"), "A and B, who answer first, have accepted nothing"
    split[2].begin(1, 5, "t3")
    assert go(split[2], {C: keepers[C], B: keepers[B]}, OLD) == Choice("t1", "w"), "though C had accepted t3"


def test_who_promised_a_greater_turn_accepts_no_lesser() -> None:
    cell = prepare(blank("k"), (1, 5, "x"))
    assert cell is not None and accept(cell, (1, 4, "y"), Choice("t")) is None and prepare(cell, (1, 4, "y")) is None
    assert prepare(cell, (1, 5, "x")) == cell, "the same question again gets the same answer"


def test_a_claim_that_one_keeper_accepted_under_the_old_roster_does_not_overrule_one_of_the_new() -> None:
    """Only A had accepted t1, in a high turn, when the roster changed. B and D, who did not hear of it, accept t2."""
    keepers = {name: Keeper() for name in (A, B, C, D)}
    keepers[A].cell = Cell("k", (1, 99, "z"), (1, 99, "z"), Choice("t1", "w"))
    for keeper in keepers.values():
        keeper.roster = 2
    assert go(attempt_of("t2", 2), {B: keepers[B], D: keepers[D]}, NEW) == Choice("t2", "w")
    assert go(attempt_of("t3", 2, 2), {A: keepers[A], B: keepers[B]}, NEW) == Choice("t2", "w")


def test_what_came_to_two_keepers_from_one_is_not_taken_for_accepted_by_both() -> None:
    """A alone had accepted t1 under the old roster; A and D both show it now. It must be accepted anew before it counts."""
    keepers = {name: Keeper() for name in NEW}
    shown = Cell("k", (1, 1, "z"), (1, 1, "z"), Choice("t1", "w"))
    keepers[A].cell, keepers[D].cell = shown, merged(blank("k"), shown)
    for keeper in keepers.values():
        keeper.roster = 2
    attempt = attempt_of("t2", 2)
    ask = ask_of(attempt)
    for name in (A, D):
        answer = keepers[name].on_ask(ask)
        assert answer is not None and attempt.on_answer(name, answer, NEW) is None
    assert attempt.proposed == Choice("t1", "w")


class Storm:
    """Claimants and keepers over lost, late and repeated messages; and once, the roster changes under them."""

    def __init__(self, seed: int, *, forgets: bool = False, blind: bool = False) -> None:
        self.rng = Random(seed)
        self.keepers = {name: Keeper() for name in (A, B, C, D)}
        self.members: tuple[str, ...] = OLD
        self.roster = 1
        self.attempts = [Attempt("k", Choice(f"t{number}", "w")) for number in range(4)]
        self.wire: list[tuple[int, str, ClaimAsk | ClaimAnswer]] = []
        self.settled: dict[int, Choice] = {}
        self.forgets, self.blind = forgets, blind
        self.turns = 0

    def step(self) -> None:
        draw = self.rng.random()
        if self.forgets and self.rng.random() < 0.02:
            self.keepers[self.rng.choice(OLD)].cell = blank("k")
        if self.wire and draw < 0.93:
            number, name, message = self.wire[at := self.rng.randrange(len(self.wire))]
            if draw < 0.85:
                del self.wire[at]
            if draw > 0.1:
                self.deliver(number, name, message)
        elif draw < 0.99 or self.roster == 2:
            number = self.rng.randrange(len(self.attempts))
            self.turns += 1
            self.attempts[number].begin(self.roster, 1, f"{number}/{self.turns}")
            self.ask(number)
        else:
            self.change()

    def ask(self, number: int) -> None:
        self.wire += [(number, name, ask_of(self.attempts[number])) for name in self.members]

    def deliver(self, number: int, name: str, message: ClaimAsk | ClaimAnswer) -> None:
        attempt = self.attempts[number]
        if isinstance(message, ClaimAsk):
            if (answer := self.keepers[name].on_ask(message)) is not None:
                self.wire.append((number, name, answer))
            return
        if number in self.settled or message.turn[0] != self.roster:
            return
        before = attempt.proposed
        choice = attempt.on_answer(name, message, self.members)
        if choice is not None:
            self.settled[number] = choice
        elif attempt.proposed is not before:
            self.ask(number)

    def change(self) -> None:
        """C goes, D comes. Each of the new ones pulls from a majority of the old, who answer under the new roster from then on."""
        self.roster, self.members = 2, NEW
        cells: dict[str, Cell] = {}
        for member in NEW:
            cell = self.keepers[member].cell
            for other in self.rng.sample(OLD, 2):
                cell = cell if self.blind else merged(cell, self.keepers[other].cell)
            cells[member] = cell
        for name, keeper in self.keepers.items():
            keeper.roster, keeper.cell = 2, cells.get(name, keeper.cell)

    def run(self) -> set[str]:
        for _ in range(400):
            self.step()
            if len(self.settled) == len(self.attempts):
                break
        return {choice.task for choice in self.settled.values()}


def test_in_any_order_all_hear_of_one_task() -> None:
    heard = [Storm(seed).run() for seed in range(120)]
    assert {len(tasks) for tasks in heard} == {1}


@pytest.mark.parametrize("fault", ["forgets", "blind", "half", "turns", "lesser"])
def test_each_rule_is_needed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break one rule, and some seed gives two tasks for the key."""
    promise, take = prepare, accept
    if fault == "half":  # less than a majority is enough
        rule = Attempt.on_answer
        monkeypatch.setattr(Attempt, "on_answer", lambda self, keeper, answer, members: rule(self, keeper, answer, (keeper,)))
    elif fault == "turns":  # what was accepted is not proposed again
        monkeypatch.setitem(globals(), "prepare", lambda cell, turn: promise(Cell("k", cell.promised, NO_TURN, Choice()), turn))
    elif fault == "lesser":  # a promise is not kept
        monkeypatch.setitem(
            globals(), "accept", lambda cell, turn, choice: take(Cell("k", NO_TURN, cell.accepted, cell.choice), turn, choice)
        )
    storms = (Storm(seed, forgets=fault == "forgets", blind=fault == "blind") for seed in range(400))
    assert any(len(storm.run()) > 1 for storm in storms)


def test_merged_keeps_the_newest_of_both() -> None:
    one = Cell("k", (1, 9, "a"), (1, 2, "a"), Choice("t1"))
    other = Cell("k", (1, 3, "b"), (1, 3, "b"), Choice("t2"))
    turn: Turn = (1, 9, "a")
    assert merged(one, other) == merged(other, one) == Cell("k", turn, (1, 3, "b"), Choice("t2"))
    assert merged(None, one) == one
