"""Others' logs on disk: written with the commits around them, told after the sync, read back as they were; damage is named and survived."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import NewHead, StoryRead, Synced
from mesh.core.keeping.blocks import end_of
from mesh.core.keeping.inputs import ShelfKnown, ShelfRead, Shelved, TaleRead
from mesh.core.records.journal import JournalWriter
from mesh.effects import LogState, ReadShelf, ReadStory, ReadTale, Shelve
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Ballot, Block, Yield
from mesh.messages.records import Accepted, Effected, Guarded, Parked, Submitted, Summed
from mesh.messages.signed import Signed
from mesh.runtime.disk import store_file
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.wire.codec import encode_entry
from mesh.wire.objects import body_bytes
from mesh.wire.packing import pack

CANARY = b"canary-51ab"
STATE = LogState(3, "heron", ((1, 0, "wren"), (3, 2, "heron")), ((0, 0, ("wren",)), (1, 2, ("wren", "heron"))), 2)


def blocks_of(signer: Any, term: int, *lengths: int, bodies: bytes = CANARY) -> list[Block]:
    """Commits as their author's store makes them, each entry with a body."""
    writer = JournalWriter(signer.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(signer.seal(signed))).digest())
    found = []
    for length in lengths:
        given = [b"%d %b" % (seq, bodies) for seq in range(writer.next_seq, writer.next_seq + length)]
        entries = tuple(encode_entry(Accepted(f"t.{body[:1].decode()}", 1, "m", "c", content_hash(body))) for body in given)
        found.append(Block(term, writer.commit(entries, 5), entries, tuple(given)))
    return found


@pytest.fixture
def wren(desk: Any) -> Any:
    """Another author."""
    return desk.signer_from(8)


def do(store: Store, effect: Any) -> None:
    store.effects[type(effect)](effect)
    store.flush()


def summed_up(signer: Any) -> list[Block]:
    """Blocks of 3, 2, 1, 1, 2 and 1 entries; the fourth says that of the first five two are still needed."""
    writer = JournalWriter(signer.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(signer.seal(signed))).digest())
    found = []
    for length in (3, 2, 1, 1, 2, 1):
        given = {seq: b"%d" % seq for seq in range(writer.next_seq, writer.next_seq + length) if seq != 7}
        told = [Accepted(f"t.{seq}", 1, "m", "c", content_hash(body)) for seq, body in given.items()] or [Summed(5, (2, 5))]
        entries = tuple(map(encode_entry, told))
        found.append(Block(1, writer.commit(entries, 5), entries, tuple(given.values())))
    return found


def keep(desk: Any, store: Store, author: str, blocks: list[Block], ticket: int = 1, state: LogState = STATE, cut: Any = None) -> None:
    do(store, Shelve(author, ticket, state, cut, tuple(blocks)))
    desk.told.wait(lambda item: item == Shelved(author, ticket))


def read(desk: Any, store: Store, author: str, since: Any = (0, 0), until: Any = (9, 99), size: int = 1 << 20) -> list[Block]:
    token = len(desk.told.items) + 1
    do(store, ReadShelf(token, author, since, until, size))
    return list(desk.told.wait(lambda item: isinstance(item, ShelfRead) and item.token == token).blocks)


def tale(desk: Any, store: Store, author: str, since: int = 0, most: int = 100, about: tuple[str, ...] = ()) -> TaleRead:
    token = len(desk.told.items) + 1
    do(store, ReadTale(token, author, since, most, about))
    found: TaleRead = desk.told.wait(lambda item: isinstance(item, TaleRead) and item.token == token)
    return found


def edit(desk: Any, statement: str, *values: Any) -> None:
    with sqlite3.connect(desk.path) as file:
        assert file.execute(statement, values).rowcount > 0
    file.close()


# ---- writing and reading


@pytest.mark.parametrize("since,seqs", [(0, [2, 5, 6, 7, 8, 9, 10]), (2, [5, 6, 7, 8, 9, 10]), (6, [7, 8, 9, 10])])
def test_a_tale_leaves_out_what_its_author_has_summed_up_as_over(desk: Any, wren: Any, since: int, seqs: list[int]) -> None:
    store = desk.start()
    keep(desk, store, wren.node, summed_up(wren))
    told = tale(desk, store, wren.node, since)
    assert [seq for seq, _, _ in told.rows] == seqs and not told.more
    assert all(type(entry) is Summed or bodies == {entry.input: b"%d" % seq} for seq, entry, bodies in told.rows)
    paged: list[int] = []
    more = True
    while more:
        page = tale(desk, store, wren.node, paged[-1] if paged else since, most=2)
        paged, more = [*paged, *(seq for seq, _, _ in page.rows)], page.more
    assert paged == seqs


def test_what_is_asked_about_a_task_is_read_however_long_it_is_over(desk: Any, wren: Any) -> None:
    store = desk.start()
    keep(desk, store, wren.node, summed_up(wren))
    assert [seq for seq, _, _ in tale(desk, store, wren.node, about=("t.3",)).rows] == [1, 2, 3]


def test_a_sum_that_others_wrote_over_is_not_followed(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), summed_up(wren)
    keep(desk, store, wren.node, blocks)
    assert len(tale(desk, store, wren.node).rows) == 7
    keep(desk, store, wren.node, [], 2, cut=end_of(blocks[2]))
    assert [seq for seq, _, _ in tale(desk, store, wren.node).rows] == [1, 2, 3, 4, 5, 6]


def test_blocks_come_back_in_order_as_they_were(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), blocks_of(wren, 1, 2, 1, 3)
    keep(desk, store, wren.node, blocks[:2])
    keep(desk, store, wren.node, blocks[2:], 2)
    found = read(desk, store, wren.node)
    assert found == blocks and [block.head.raw for block in found] == [block.head.raw for block in blocks]
    assert read(desk, store, wren.node, since=(1, 2)) == blocks[1:] and read(desk, store, wren.node, until=(1, 3)) == blocks[:2]
    assert read(desk, store, wren.node, since=(1, 6)) == [] and read(desk, store, "nobody") == []
    assert read(desk, store, wren.node, size=1) == blocks[:1], "one at least"
    desk.close()
    assert read(desk, desk.start(), wren.node) == blocks


def test_so_many_blocks_are_read_at_once(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(limits=RecordsLimits(ship_blocks_max=3)), blocks_of(wren, 1, 1, 1, 1, 1)
    keep(desk, store, wren.node, blocks)
    assert read(desk, store, wren.node) == blocks[:3]


def test_a_cut_forgets_what_follows_and_what_this_node_adds_is_signed(desk: Any, wren: Any) -> None:
    store, blocks, me = desk.start(), blocks_of(wren, 1, 2, 1, 3), desk.signer.node
    keep(desk, store, wren.node, blocks)
    theirs = Signed(wren.node, Ballot(wren.node, 3, me))
    wren.seal(theirs)
    took = Block(3, Signed(me, Yield(wren.node, 3, 3, me, 1, 9, (theirs, Signed(me, Ballot(wren.node, 3, me))))))
    keep(desk, store, wren.node, [took], 2, cut=(1, 3))
    found = read(desk, store, wren.node)
    assert found == [*blocks[:2], took] and found[-1].head.raw == took.head.raw != b""
    assert [ballot.raw[:1] for ballot in found[-1].head.body.ballots] == [theirs.raw[:1]] * 2, "with the ballots that chose it"
    assert read(desk, store, wren.node, since=(1, 3)) == [took] and read(desk, store, wren.node, until=(2, 99)) == blocks[:2]


def test_it_is_told_once_another_connection_sees_it_and_in_one_transaction_with_the_commit(desk: Any, wren: Any) -> None:
    store = desk.open()
    seen: list[tuple[str, int, int]] = []

    def look(item: Any) -> None:
        with sqlite3.connect(desk.path) as file:
            counts = (file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("entries", "shelf"))
            seen.append((type(item).__name__, *counts))
        file.close()

    desk.told.on = look
    store.add(1, Parked("t1", "r"), {})
    store.effects[Shelve](Shelve(wren.node, 1, STATE, None, tuple(blocks_of(wren, 1, 1))))
    store.add(2, Parked("t2", "r"), {})
    store.effects[Shelve](Shelve(wren.node, 2, STATE))
    store.flush()
    store.start()
    desk.told.wait(lambda item: item == Shelved(wren.node, 2))
    assert seen == [("Synced", 2, 1), ("NewHead", 2, 1), ("Shelved", 2, 1), ("Shelved", 2, 1)]
    assert [item for item in desk.told.items if isinstance(item, Synced)] == [Synced(2)]


def test_what_is_known_of_a_log_is_told_to_the_next_life(desk: Any, wren: Any) -> None:
    store = desk.start()
    keep(desk, store, wren.node, [], 1, LogState(1))
    keep(desk, store, wren.node, [], 2)
    keep(desk, store, desk.signer.node, [], 3, LogState(7, "x"))
    desk.close()
    known = desk.open().shelf_known()
    assert known == sorted([ShelfKnown(wren.node, STATE), ShelfKnown(desk.signer.node, LogState(7, "x"))], key=lambda one: one.author)


def test_large_shelvings_are_written_one_by_one(desk: Any, wren: Any) -> None:
    store = desk.open(limits=RecordsLimits(commit_bytes_max=1000))
    for ticket, block in enumerate(blocks_of(wren, 1, 1, 1, bodies=b"x" * 2000), 1):
        store.effects[Shelve](Shelve(wren.node, ticket, STATE, None, (block,)))
    store.add(1, Parked("t1", "r"), {})
    store.flush()
    store.start()
    desk.told.synced(1)
    assert [type(item) for item in desk.told.items][:3] == [Shelved, Shelved, Synced]


def test_a_failed_write_fails_the_store(desk: Any, wren: Any) -> None:
    store = desk.open()
    with sqlite3.connect(desk.path) as file:
        file.execute("DROP TABLE shelf")
    file.close()
    store.start()
    do(store, Shelve(wren.node, 1, STATE, None, tuple(blocks_of(wren, 1, 1))))
    assert desk.told.wait(lambda item: item in desk.told.failures).code == "journal_broken"
    assert not any(isinstance(item, Shelved) for item in desk.told.items)


# ---- tales


def test_a_tale_gives_entries_with_their_bodies_page_by_page(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), blocks_of(wren, 1, 2, 3)
    keep(desk, store, wren.node, blocks)
    first = tale(desk, store, wren.node, 1, 3)
    assert [(seq, entry.task) for seq, entry, _ in first.rows] == [(2, "t.2"), (3, "t.3"), (4, "t.4")] and first.more
    assert first.rows[0][2] == {content_hash(blocks[0].bodies[1]): blocks[0].bodies[1]}
    rest = tale(desk, store, wren.node, 4, 3)
    assert [seq for seq, _, _ in rest.rows] == [5] and not rest.more
    end = tale(desk, store, wren.node, 5)
    assert (end.rows, end.more) == ((), False)


def test_the_outcome_of_an_effect_goes_where_its_entry_goes(desk: Any, wren: Any) -> None:
    """In a tale, and in what is read of the own journal for its keepers: else a second take-over finds the deed without its outcome."""
    store, me, body = desk.start(), desk.signer.node, b'"sent"'
    entry = Effected("t1", 1, "mail", 1, content_hash(body))
    writer = JournalWriter(wren.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(wren.seal(signed))).digest())
    data = (encode_entry(entry),)
    keep(desk, store, wren.node, [Block(1, writer.commit(data, 5), data, (body,))])
    assert [bodies for _, _, bodies in tale(desk, store, wren.node).rows] == [{content_hash(body): body}]
    desk.write(store, entry, bodies={content_hash(body): body})
    desk.told.wait(lambda item: isinstance(item, NewHead))
    assert [block.bodies for block in read(desk, store, me)] == [(body,)]


def test_of_a_tale_about_some_tasks_only_commits_that_name_them_are_read(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), blocks_of(wren, 1, 2, 1, 2)
    keep(desk, store, wren.node, blocks)
    found = tale(desk, store, wren.node, about=("t.2", "t.5"))
    assert [entry.task for _, entry, _ in found.rows] == ["t.1", "t.2", "t.4", "t.5"] and not found.more
    assert tale(desk, store, wren.node, about=("t.6",)).rows == ()


def test_a_story_tells_of_steps_and_theirs_too(desk: Any, wren: Any) -> None:
    """Only where they begin do they name who began them."""
    writer = JournalWriter(wren.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(wren.seal(signed))).digest())
    task, step, inner, other = (f"{wren.node}.1.{number}" for number in (1, 2, 3, 4))
    submitted = [Submitted(name, "c", "", "", 0, 0, parent) for name, parent in ((task, ""), (step, task), (inner, step), (other, ""))]
    told = [[submitted[0]], [Parked(step, "not yet")], submitted[1:3], [submitted[3], Parked(inner, "busy")], [Parked(other, "busy")]]
    blocks = []
    for entries in told:
        data = tuple(map(encode_entry, entries))
        blocks.append(Block(1, writer.commit(data, 5), data))
    store = desk.start()
    keep(desk, store, wren.node, blocks)
    do(store, ReadStory(7, "story", task))
    story = json.loads(desk.told.wait(lambda item: isinstance(item, StoryRead) and item.token == 7).body)
    assert [commit["first"] + index for commit in story["commits"] for index, *_ in commit["entries"]] == [1, 3, 4, 6]


def test_a_tale_stops_where_its_bodies_would_be_too_much_at_once(desk: Any, wren: Any) -> None:
    store = desk.start(limits=RecordsLimits(tale_bytes_max=5000))
    keep(desk, store, wren.node, blocks_of(wren, 1, 4, bodies=b"x" * 2400))
    page = tale(desk, store, wren.node)
    assert [seq for seq, _, _ in page.rows] == [1, 2, 3] and page.more


def test_an_entry_that_this_version_does_not_know_ends_a_tale(desk: Any, wren: Any) -> None:
    store = desk.start()
    writer = JournalWriter(wren.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(wren.seal(signed))).digest())
    entries = (encode_entry(Parked("t1", "r")), pack(("Later", 1)))
    keep(desk, store, wren.node, [Block(1, writer.commit(entries, 5), entries)])
    found = tale(desk, store, wren.node)
    assert [seq for seq, _, _ in found.rows] == [1] and found.more and store.statistics().shelf_damaged == 1


# ---- the own log


def test_the_own_log_is_read_from_the_journal(desk: Any) -> None:
    store, me = desk.start(), desk.signer.node
    body = b"given"
    for entry in (Parked("t1", "r"), Guarded(4, (me, "wren")), Accepted("t3", 1, "m", "c", content_hash(body))):
        desk.write(store, entry, bodies={content_hash(body): body})
    took = Block(3, Signed(me, Yield(me, 3, 1, me)))
    keep(desk, store, me, [took])
    desk.told.wait(lambda item: isinstance(item, NewHead) and item.signed.body.first == 3)
    old, *new = [(item.signed, item.entries) for item in desk.told.items if isinstance(item, NewHead)]
    assert read(desk, store, me, until=(1, 1)) == [Block(1, *old)]
    assert read(desk, store, me, since=(1, 1), until=(3, 1)) == [took]
    assert read(desk, store, me, since=(3, 1), until=(4, 3)) == [Block(4, *new[0], (), (me, "wren")), Block(4, *new[1], (body,))]
    assert read(desk, store, me, since=(5, 1), until=(5, 2)) == [Block(5, *new[0])], "of another term: no change of who keeps it"
    assert read(desk, store, me, since=(4, 3)) == []


# ---- damage


def test_a_damaged_block_ends_the_reading_and_is_counted(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), blocks_of(wren, 1, 1, 1, 1)
    keep(desk, store, wren.node, blocks)
    for damage in ("x'00'", "'text'", "(SELECT block FROM shelf WHERE seq=3)", "replace(block, x'6d', x'6e')"):
        edit(desk, f"UPDATE shelf SET block={damage} WHERE seq=2")
        before = store.statistics().shelf_damaged
        assert read(desk, store, wren.node) == blocks[:1]
        assert read(desk, store, wren.node, since=(1, 1)) == [] and read(desk, store, wren.node, since=(1, 2)) == blocks[2:]
        found = tale(desk, store, wren.node)
        assert [seq for seq, _, _ in found.rows] == [1] and found.more
        assert store.statistics().shelf_damaged == before + 3
    assert desk.told.failures == []
    keep(desk, store, wren.node, [blocks[1]], 2)
    assert read(desk, store, wren.node) == blocks, "whoever has it ships it again"


def test_a_damaged_state_is_left_out_and_counted(desk: Any, wren: Any) -> None:
    store = desk.start()
    keep(desk, store, wren.node, [], 1)
    keep(desk, store, desk.signer.node, [], 2)
    desk.close()
    edit(desk, "UPDATE shelf_states SET state=x'9205' WHERE author=?", wren.node)
    again = desk.open()
    assert again.shelf_known() == [ShelfKnown(desk.signer.node, STATE)]
    assert again.statistics().shelf_damaged == 1


def test_sealed_nothing_of_it_is_readable_and_no_row_can_change_places(desk: Any, wren: Any, tmp_path: Path) -> None:
    sealer = open_vault(Home(tmp_path / "home"), "file", environ={}).sealer("journal", desk.signer.mesh, desk.signer.node)
    store, blocks = desk.start(sealer=sealer), blocks_of(wren, 1, 1, 1, 1)
    keep(desk, store, wren.node, blocks)
    assert read(desk, store, wren.node) == blocks
    desk.close()
    data = desk.path.read_bytes()
    assert CANARY not in data and b"heron" not in data
    edit(desk, "UPDATE shelf SET block=(SELECT block FROM shelf WHERE seq=1) WHERE seq=2")
    again = desk.start(sealer=sealer)
    assert [known.state for known in again.shelf_known()] == [STATE]
    assert read(desk, again, wren.node) == blocks[:1] and again.statistics().shelf_damaged == 1


# ---- older files


def test_a_journal_without_a_shelf_gets_one_and_goes_on(honest: Any, wren: Any) -> None:
    older(honest)
    assert store_file.peek(honest.path, "author").decode() == honest.signer.node, "it can be looked at before that"
    store = honest.start()
    assert (store.incarnation, store.head_seq) == (3, 44) and store.shelf_known() == []
    honest.write(store, honest.opened(store))
    blocks = blocks_of(wren, 1, 1)
    keep(honest, store, wren.node, blocks)
    honest.close()
    again = honest.start()
    assert again.head_seq == 45 and read(honest, again, wren.node) == blocks
    assert again.examine()["ok"]


def test_a_sealed_journal_without_a_shelf_still_opens(desk: Any, tmp_path: Path) -> None:
    sealer = open_vault(Home(tmp_path / "home"), "file", environ={}).sealer("journal", desk.signer.mesh, desk.signer.node)
    desk.write(desk.start(sealer=sealer), Parked("t1", "r"))
    desk.close()
    older(desk)
    desk.open(sealer=sealer)
    assert [entry for _, entry, _ in desk.rows] == [Parked("t1", "r")]


def older(desk: Any) -> None:
    """Make the file what the version before wrote."""
    with sqlite3.connect(desk.path) as file:
        file.executescript("DROP TABLE shelf; DROP TABLE shelf_states; PRAGMA user_version=1;")
    file.close()


def test_positions_are_those_of_the_blocks(desk: Any, wren: Any) -> None:
    store, blocks = desk.start(), blocks_of(wren, 2, 2, 3)
    keep(desk, store, wren.node, blocks)
    with sqlite3.connect(desk.path) as file:
        assert file.execute("SELECT term, seq FROM shelf ORDER BY seq").fetchall() == [end_of(block) for block in blocks]
    file.close()
