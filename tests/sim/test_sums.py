"""What a start leaves out is what nobody needs: machines that replay what is still open, and what came after, become what they were.

Over journals of simulated runs with faults, summed up again and again at any place. (Each run of the simulator starts its nodes so, too.)
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from unittest import mock

import pytest

from mesh.core.assembly import Assembly, build
from mesh.core.inputs import Replay
from mesh.core.keeping.blocks import end_of, needed, newest_sum, rows_of
from mesh.core.records import still_open
from mesh.core.records.still_open import sum_up
from mesh.core.work import scope
from mesh.core.work.fold import Fold
from mesh.core.work.succession import Tale
from mesh.core.work.task import Task
from mesh.messages.membership import Alive
from mesh.messages.records import Summed
from mesh.sim.disk import Row
from mesh.sim.scenario import LIMITS, Plan, Scenario

POINTS = 4
"""Where each journal is summed up."""


def replayed(node: str, rows: list[Row]) -> Assembly:
    made = build(Alive(node, 99, 1, node, "door", "router"), random=Random(1), limits=LIMITS)
    for seq, entry, bodies in rows:
        assert not made.node.handle(0.0, node, Replay(seq, entry, bodies))
    return made


def of_task(task: Task) -> dict[str, Any]:
    """All that is known of it; of its steps, which there are."""
    known = {name: getattr(task, name) for name in Task.__slots__ if name not in ("children", "turn", "effects")}
    known["scope"] = task.scope and (task.scope.values, task.scope.version, task.scope.size_bytes, task.scope._writes)
    known["steps"] = sorted((step, child.id, child.state) for step, child in (task.children or {}).items())
    known["effects"] = [(key, repr(intent)) for key, intent in (task.effects or {}).items()]
    return known


def of_fold(fold: Fold) -> dict[str, Any]:
    live = {name: of_task(task) for name, task in fold.tasks.items() if not task.ended}
    drafts = {key: (draft.begun, of_fold(draft)) for key, draft in fold.whole_drafts().items()}
    return {"live": live, "drafts": drafts, "told_by": fold._told_by, "left": fold._draft_left}


def state(made: Assembly) -> dict[str, Any]:
    """All that machines have rebuilt, but for tasks that have ended."""
    assert made.manager._fold is not None
    holdings, keys, records, keepers = made.contractor._holdings, made.keys, made.records, made.keepers
    return {
        "work": of_fold(made.manager._fold),
        "held": {name: (one.fence, one.manager, one.state, one.capability, one.report) for name, one in holdings.by_task.items()},
        "homes": dict(made.directory.homes),
        "guards": keepers._guards,
        "taken": keepers._taken,
        "lives": list(records._lives),
        "rolled_back": records._rolled_back,
        "keys": (keys._roster, keys._complete, keys._cells, made.directory.guard.key_keepers),
        "trust": made.trust._on_record,
    }


def differing(journals: dict[str, list[Row]]) -> Iterator[str]:
    """What differs, of journals that were summed up twice, the second time from the first."""
    for node, rows in journals.items():
        random = Random(node)
        for _ in range(POINTS):
            one, two, end = sorted(random.randrange(1, len(rows) + 1) for _ in range(3))
            whole = [row[:2] for row in rows]
            first = sum_up(node, whole[:one], 0, LIMITS.records)
            second = sum_up(node, [*(whole[seq - 1] for seq in first.open or ()), *whole[one:two]], 0, LIMITS.records)
            left = [*(rows[seq - 1] for seq in second.open or ()), *rows[two:end]]
            full, part = state(replayed(node, rows[:end])), state(replayed(node, left))
            yield from (f"{what} of {node} at {one}, {two}, {end}" for what in full if full[what] != part[what])


@pytest.fixture(scope="module")
def scenario() -> Iterator[Scenario]:
    with mock.patch.object(scope, "WRITES_REMEMBERED", 5):  # so that most of what is written to states is written over
        kinds = ("crash", "pause_manager", "cut_manager", "worker_crash")
        scenario = Scenario(Plan(4, 2, kinds, 25.0, 3.0, hard=3, keys=1.0, states=4.0))
        assert not scenario.run().verdicts
        yield scenario


@pytest.fixture(scope="module")
def journals(scenario: Scenario) -> dict[str, list[Row]]:
    found = {name: host.disk.rows for name, host in scenario.world.hosts.items()}
    kinds = {type(entry).__name__ for rows in found.values() for _, entry, _ in rows}
    assert {"Summed", "Inherited", "TookOver", "Sworn", "Rostered", "Guarded", "Effected", "Claimed", "Stored"} <= kinds
    return found


def test_what_is_left_out_is_not_needed(journals: dict[str, list[Row]]) -> None:
    assert list(differing(journals)) == []


@pytest.mark.parametrize("part", [still_open.Facts, still_open.Keys, still_open.Held, still_open.Work])
def test_a_part_that_is_forgotten_is_found(journals: dict[str, list[Row]], part: type) -> None:
    with mock.patch.object(part, "numbers", lambda *_: ()):
        assert list(differing(journals))


def test_a_take_over_needs_no_more_either(scenario: Scenario) -> None:
    """Whoever takes over carries the same entries, told all of a log or what is needed of it, whenever its author might die."""
    read: dict[bool, int] = {True: 0, False: 0}
    for host in scenario.world.hosts.values():
        for replica in host.assembly.keepers.replicas():
            blocks = host.disk.shelf._blocks.get(replica.author, []) if replica.author != host.name else []
            for cut in range(1, len(blocks) + 1, max(1, len(blocks) // 5)):
                since = max((run.after for run in replica.log.runs if (run.term, run.after) <= end_of(blocks[cut - 1])), default=0)
                tales = {}
                for short in read:
                    summed = newest_sum(reversed(blocks[:cut]), decoded) if short else Summed(0)
                    rows = [row for block in blocks[:cut] for row in rows_of(block, decoded, needed(summed, since))]
                    read[short] += len(rows)
                    tale = Tale(replica.author, 99, lambda _node: False)
                    tale.add(rows)
                    tales[short] = (tale.entries(), tale.last)
                assert tales[True] == tales[False], f"{replica.author} at {host.name}, {cut} blocks"
    assert read[True] < read[False]


def decoded(data: Any) -> Any:
    return data.entry


def test_a_start_reads_little_of_a_long_journal(journals: dict[str, list[Row]]) -> None:
    """Not a bound on anything: only that the simulator's own starts do leave something out."""
    [*long] = (rows for rows in journals.values() if len(rows) > 200)
    assert long
    for rows in long:
        found = sum_up("n1", [row[:2] for row in rows], 0, LIMITS.records)
        assert len(found.open or ()) < len(rows) / 2
