"""What goes on record: refusals in measure, texts that the journal can read back, and the machine that writes them."""

from __future__ import annotations

import ast
from pathlib import Path
from random import Random
from typing import Any

from mesh.core.assembly import build
from mesh.core.audit import MINUTE_S, OTHERS, SUSPICIOUS, Tally, audited
from mesh.core.inputs import Audit, Leave, LinkUp, Started
from mesh.effects import Append
from mesh.limits import Limits, RecordsLimits
from mesh.messages.membership import Alive
from mesh.messages.records import Audited
from mesh.messages.signed import Signed

LIMITS = RecordsLimits(refusals_per_minute_max=3)


def test_one_entry_per_reason_and_peer_with_a_count() -> None:
    tally = Tally("me", LIMITS)
    for at_s in range(5):
        tally.note(100.0 + at_s, "bad_signature", "b")
    tally.note(130.0, "bad_signature", "c", 3)
    assert tally.due_s == 100.0 + MINUTE_S
    assert tally.take() == [Audit("refused", "b", "me", "bad_signature x5"), Audit("refused", "c", "me", "bad_signature x3")]
    assert tally.due_s is None and tally.take() == []


def test_a_flood_costs_one_entry_more_and_no_count_is_lost() -> None:
    tally = Tally("me", LIMITS)
    for number in range(1000):
        tally.note(1.0, "bad_signature", f"10.0.0.{number}")
    made = tally.take()
    assert len(made) == 4 and made[-1] == Audit("refused", "", "me", f"{OTHERS} x997")
    assert sum(int(audit.note.rpartition("x")[2]) for audit in made) == 1000


def test_texts_are_cut_and_a_time_is_filled_in() -> None:
    entry = audited(Audit("joined", "n" * 900, "me", "w" * 9000), 77, RecordsLimits())
    assert (len(entry.about), len(entry.note), entry.at_ms) == (500, 500, 77)
    assert audited(Audit("joined", "n", "me", "", 5), 77, RecordsLimits()).at_ms == 5


def test_every_suspicious_reason_is_one_that_the_core_gives() -> None:
    given = set()
    for path in Path(__file__).parents[2].glob("mesh/core/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                given |= {each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)}
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant):
                given.add(node.value.value)
    assert given >= SUSPICIOUS


def node() -> Any:
    made = build(Alive("me", 1, 1, "me", "me:1", "me:2"), random=Random(1), limits=Limits()).node
    made.handle(10.0, "me", Started())
    return made


def entries(effects: list[Any]) -> list[Any]:
    return [effect.entry for effect in effects if type(effect) is Append]


def test_what_the_runtime_tells_is_written_down() -> None:
    assert entries(node().handle(11.0, "me", Audit("joined", "n", "me", "by invitation", 9))) == [
        Audited("joined", "n", "me", "by invitation", 9)
    ]


def test_refusals_of_any_machine_are_counted_for_a_minute() -> None:
    made = node()
    forged = LinkUp(Signed("c", Alive("c", 1, 1, "c", "", "")))
    for _ in range(3):
        assert entries(made.handle(20.0, "b", forged)) == []
    assert entries(made.handle(79.9, "me")) == []
    assert entries(made.handle(80.0, "me")) == [Audited("refused", "b", "me", "not_author x3", 80_000)]
    assert entries(made.handle(200.0, "me")) == [], "nothing more was refused"


def test_what_is_counted_is_written_before_the_node_leaves() -> None:
    made = node()
    made.handle(20.0, "b", LinkUp(Signed("c", Alive("c", 1, 1, "c", "", ""))))
    assert entries(made.handle(21.0, "me", Leave(1))) == [Audited("refused", "b", "me", "not_author x1", 21_000)]
