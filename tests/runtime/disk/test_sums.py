"""A journal that was summed up: what a start reads, what it leaves out, and that damage there is found after it, and never replayed."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from mesh.core.inputs import StoreFailed
from mesh.core.keeping.inputs import TaleRead
from mesh.core.records.inputs import OpenFound
from mesh.effects import FindOpen, ReadTale
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.records import Finished, Submitted, Summed
from mesh.runtime.disk.store_file import StoreError

LIMITS = RecordsLimits(sum_ended_max=2, scrub_entries=8, scrub_pause_s=0.01)
TASKS = 10
GIVEN, RESULT = b'{"n":1}', b'"done"'


@pytest.fixture
def summed(desk: Any) -> Any:
    """Ten tasks that have ended and one that lives, summed up; then another one."""
    store = desk.start(limits=LIMITS)
    desk.write(store, desk.opened(store))
    bodies = {content_hash(GIVEN): GIVEN, content_hash(RESULT): RESULT}
    for number in range(TASKS):
        desk.write(store, *desk.story_of(task(desk, number), desk.signer.node, GIVEN, RESULT), bodies=bodies)
    desk.write(store, *desk.story_of(task(desk, TASKS), desk.signer.node, GIVEN, RESULT)[:4])
    found = find_open(desk, store)
    assert found.open is not None
    desk.write(store, Summed(found.upto, found.open), *desk.story_of(task(desk, TASKS + 1), desk.signer.node, GIVEN, RESULT))
    desk.close()
    desk.found = found
    return desk


def task(desk: Any, number: int) -> str:
    return f"{desk.signer.node}.1.{number}"


def find_open(desk: Any, store: Any) -> OpenFound:
    store.effects[FindOpen](FindOpen(0))
    found: OpenFound = desk.told.wait(lambda item: isinstance(item, OpenFound))
    return found


def scrubbed(desk: Any) -> Any:
    """A start, and all that is verified after it."""
    store = desk.start(limits=LIMITS)
    while store.statistics().unverified:
        desk.told.items.clear()
        find_open(desk, store)  # between two pieces of the scrub
        assert not desk.told.failures
    return store


def flip(desk: Any, seq: int) -> None:
    with sqlite3.connect(desk.path) as file:
        [data] = file.execute("SELECT entry FROM entries WHERE seq=?", (seq,)).fetchone()
        file.execute("UPDATE entries SET entry=? WHERE seq=?", (data[:-1] + bytes([data[-1] ^ 1]), seq))
    file.close()


def test_a_start_reads_what_is_open_and_what_came_after(summed: Any) -> None:
    summed.open(limits=LIMITS)
    seqs = [seq for seq, _, _ in summed.rows]
    assert seqs == [*summed.found.open, *range(summed.found.upto + 1, seqs[-1] + 1)]
    about = {entry.task for _, entry, _ in summed.rows if isinstance(entry, Submitted)}
    assert about == {task(summed, number) for number in (TASKS - 2, TASKS - 1, TASKS, TASKS + 1)}
    [(_, _, bodies)] = [row for row in summed.rows if isinstance(row[1], Submitted) and row[1].task == task(summed, TASKS)]
    assert bodies == {content_hash(GIVEN): GIVEN}


def test_each_sum_goes_on_from_the_one_before(summed: Any) -> None:
    store = summed.start(limits=LIMITS)
    found = find_open(summed, store)
    ended = [entry.task for _, entry, _ in summed.rows if isinstance(entry, Finished)]
    assert found.upto == summed.found.upto + 8 and ended[-1] == task(summed, TASKS + 1)
    entries = {seq: entry for seq, entry, _ in summed.rows}
    kept = {entries[seq].task for seq in found.open or () if isinstance(entries[seq], Submitted)}
    assert kept == {task(summed, TASKS - 1), task(summed, TASKS), task(summed, TASKS + 1)}


def test_where_too_much_is_open_nothing_is_summed_up(summed: Any) -> None:
    assert find_open(summed, summed.start(limits=RecordsLimits(sum_open_max=5))).open is None


def test_what_ended_long_ago_is_found_again(summed: Any) -> None:
    store = summed.start(limits=LIMITS)
    store.effects[ReadTale](ReadTale(1, summed.signer.node, 0, 100, (task(summed, 3),)))
    read: TaleRead = summed.told.wait(lambda item: isinstance(item, TaleRead))
    [(_, entry, bodies)] = [row for row in read.rows if isinstance(row[1], Finished)]
    assert entry.task == task(summed, 3) and bodies == {content_hash(RESULT): RESULT}


@pytest.mark.parametrize("where", ["open", "after", "the sum"])
def test_damage_in_what_is_replayed_is_refused_at_the_start(summed: Any, where: str) -> None:
    flip(summed, {"open": summed.found.open[-1], "after": summed.found.upto + 3, "the sum": summed.found.upto + 1}[where])
    with pytest.raises(StoreError) as caught:
        summed.open(limits=LIMITS)
    assert caught.value.code == "journal_broken"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET entry=x'91a1' WHERE seq=17",
        "DELETE FROM entries WHERE seq=17",
        "INSERT INTO entries VALUES(-5, x'91a1')",
        "DELETE FROM commits WHERE first=2",
        "UPDATE commits SET digest=x'00' WHERE first=9",
        "UPDATE commits SET hash=x'00' WHERE first=9",
    ],
)
def test_damage_in_what_is_left_out_ends_the_node_and_the_next_start_refuses_it(summed: Any, damage: str) -> None:
    with sqlite3.connect(summed.path) as file:
        file.execute(damage)
    file.close()
    summed.start(limits=LIMITS)
    failed: StoreFailed = summed.told.wait(lambda item: isinstance(item, StoreFailed))
    assert failed.code == "journal_broken"
    summed.close()
    with pytest.raises(StoreError) as caught:
        summed.open(limits=LIMITS)
    assert caught.value.code == "journal_broken"


def test_a_good_copy_put_back_starts_as_before(summed: Any) -> None:
    good = summed.path.read_bytes()
    flip(summed, 17)
    summed.start(limits=LIMITS)
    summed.told.wait(lambda item: isinstance(item, StoreFailed))
    summed.close()
    summed.path.write_bytes(good)
    assert scrubbed(summed).statistics().failed == ""


def test_what_is_left_out_is_verified_after_the_start(summed: Any) -> None:
    store = summed.start(limits=LIMITS)
    assert store.statistics().unverified
    summed.close()
    store = scrubbed(summed)
    assert store.statistics().commits == TASKS + 3 and not store.statistics().index_rebuilt
    assert store.examine()["ok"]


def test_an_index_that_was_damaged_is_made_again_after_the_start(summed: Any) -> None:
    with sqlite3.connect(summed.path) as file:
        before = file.execute("SELECT key, seq FROM about ORDER BY key, seq").fetchall()
        file.execute("DELETE FROM about WHERE seq=20")
    file.close()
    store = scrubbed(summed)
    summed.close()  # the writer ends with what it has been asked for
    assert store.statistics().index_rebuilt
    with sqlite3.connect(summed.path) as file:
        assert file.execute("SELECT key, seq FROM about ORDER BY key, seq").fetchall() == before
    file.close()


def test_without_its_place_in_the_index_a_sum_is_not_used(summed: Any) -> None:
    with sqlite3.connect(summed.path) as file:
        file.execute("DELETE FROM about WHERE key='summed'")
    file.close()
    store = summed.open(limits=LIMITS)
    assert len(summed.rows) == store.head_seq and store.statistics().index_rebuilt
