"""Whose turn it is: priorities that age, share keys that take turns, a bounded table of them."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.work.turns import NO_TURN, OTHERS, Shares, Turn, Turns
from mesh.ids import UNRANKED, Rank


@dataclass(eq=False)
class Item:
    name: str
    rank: Rank = UNRANKED
    turn: Turn = NO_TURN
    aged: int = 0


def line(keys_max: int = 256) -> tuple[Turns[Item], Shares]:
    shares = Shares(keys_max)
    return Turns(shares, 5.0), shares


def put(turns: Turns[Item], name: str, priority: int = 0, share: str = "", *, back: bool = False) -> Item:
    item = Item(name, (priority, share))
    turns.add(name, item, back=back)
    return item


def take(turns: Turns[Item], shares: Shares, now_s: float = 0.0, cost_ms: float = 10.0) -> str:
    item = turns.first(now_s)
    assert item is not None and turns.stands(item.name, item)
    turns.remove(item.name, item)
    shares.charge(item.turn[1], cost_ms)
    turns.took(now_s, item)
    return item.name


def test_the_greater_priority_goes_first_and_equals_as_they_came() -> None:
    turns, shares = line()
    for name, priority in (("low", 1), ("middle", 5), ("unsaid", 0), ("high", 9), ("beyond", 99)):
        put(turns, name, priority)
    assert [take(turns, shares) for _ in range(5)] == ["high", "beyond", "middle", "unsaid", "low"]
    assert turns.first(0.0) is None and not len(turns)


def test_what_was_given_back_goes_before_its_equals_only() -> None:
    turns, shares = line()
    put(turns, "new", 5)
    put(turns, "back", 5, back=True)
    put(turns, "high", 9)
    assert [take(turns, shares) for _ in range(3)] == ["high", "back", "new"]


def test_those_that_fit_go_in_the_same_turns() -> None:
    turns, shares = line()
    for name, priority, share in (("low", 1, "a"), ("first", 5, "a"), ("other", 5, "b"), ("high", 9, "a")):
        put(turns, name, priority, share)
    shares.charge("a", 10.0)
    order: list[str] = []
    while (item := turns.first_that(0.0, lambda item: item.name not in order)) is not None:
        order.append(item.name)
    assert order == ["high", "other", "first", "low"] and len(turns) == 4
    low = put(turns, "lower", 2)
    assert turns.height_of(0.0, low) == 2 and turns.height_of(11.0, low) == 4
    assert turns.height_of(0.0, Item("elsewhere", (7, ""))) == 7


def test_what_waits_rises_and_gets_a_turn_within_a_bound_however_much_comes() -> None:
    turns, shares = line()
    for number in range(3):
        put(turns, f"low{number}", 1)
    got: list[float] = []
    for second in range(200):
        put(turns, f"high{second}", 9)
        if take(turns, shares, float(second)).startswith("low"):
            got.append(second)
    assert got == [40, 80, 120], "8 steps of 5 s each time: it falls back when it had its turn"


def test_keys_take_turns_by_what_they_cost_not_by_how_many_there_are() -> None:
    turns, shares = line()
    for number in range(100):
        put(turns, f"big{number}", share="big")
    for number in range(4):
        put(turns, f"small{number}", share="small")
    assert [take(turns, shares)[:3] for _ in range(8)] == ["big", "sma"] * 4
    for number in range(9):
        put(turns, f"dear{number}", share="dear")
    given = []
    for _ in range(12):
        head = turns.first(0.0)
        assert head is not None
        given.append(take(turns, shares, 0.0, 30.0 if head.rank[1] == "dear" else 10.0))
    assert sum(name.startswith("dear") for name in given) == 3


def test_what_has_risen_elsewhere_begins_there() -> None:
    turns, shares = line()
    risen = Item("risen", (1, ""), aged=9)
    turns.add("risen", risen)
    put(turns, "high", 9)
    assert take(turns, shares) == "risen" and risen.turn[0] == 9


def test_who_was_away_has_saved_nothing_up() -> None:
    turns, shares = line()
    put(turns, "early", share="b")
    take(turns, shares)
    for number in range(50):
        put(turns, f"a{number}", share="a")
    for _ in range(40):
        take(turns, shares)
    for number in range(10):
        put(turns, f"b{number}", share="b")
    assert sum(take(turns, shares).startswith("b") for _ in range(10)) == 5


def test_what_it_really_took_is_what_counts() -> None:
    turns, shares = line()
    for number in range(10):
        put(turns, f"a{number}", share="a")
        put(turns, f"b{number}", share="b")
    assert take(turns, shares) == "a0"
    shares.correct("a", 25.0)
    assert [take(turns, shares) for _ in range(5)] == ["b0", "b1", "b2", "b3", "a1"]


def test_the_table_of_keys_is_bounded_and_those_beyond_take_turns_as_one() -> None:
    turns, shares = line(keys_max=2)
    items = [put(turns, f"{share}{number}", share=share) for share in "abcd" for number in range(2)]
    assert [item.turn[1] for item in items] == ["a", "a", "b", "b", OTHERS, OTHERS, OTHERS, OTHERS]
    given = [take(turns, shares)[0] for _ in range(6)]
    assert (given.count("a"), given.count("b"), len(given) - given.count("a") - given.count("b")) == (2, 2, 2)
    assert len(shares) == 3
    put(turns, "e", share="e")
    assert len(shares) == 3, "a key of which nothing waits gave its place"


def test_a_name_that_does_not_stand_is_removed_in_vain() -> None:
    turns, _ = line()
    item = put(turns, "one")
    other = Item("two")
    turns.remove("two", other)
    assert len(turns) == 1 and turns.stands("one", item) and not turns.stands("two", other)
    turns.remove("one", item)
    turns.remove("one", item)
    assert not len(turns)
