"""The store by what it tells and what the next life finds: group commit, replay, refusals to open, failures, answers."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.core.inputs import BodyRead, NewHead, Remembered, StoreFailed, StoryRead, Synced
from mesh.core.records import merkle
from mesh.core.records.journal import last_of
from mesh.core.records.story import Story, verify_story
from mesh.effects import ReadBody, ReadStory, Remember
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.records import Accepted, Answered, Checkpointed, Commit, Effected, Ended, Finished, Fork, Parked, Stored, Submitted
from mesh.messages.signed import Signed
from mesh.messages.trust import Certificate, Deed
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_file import StoreError
from mesh.wire.chain import join_chain
from mesh.wire.codec import decode_entry
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal


def parked(count: int, start: int = 0) -> list[Parked]:
    return [Parked(f"t{number}", "nobody") for number in range(start, start + count)]


# ---- writing


def test_what_was_synced_comes_back_in_order(desk: Any) -> None:
    store = desk.start()
    assert (store.incarnation, store.head, store.head_seq) == (1, bytes(32), 0)
    entries = [desk.opened(store), *parked(5)]
    desk.write(store, *entries)
    desk.close()
    again = desk.open()
    assert (again.incarnation, again.head_seq) == (2, 6)
    assert [(seq, entry) for seq, entry, _ in desk.rows] == list(enumerate(entries, 1))


def test_the_head_told_is_the_head_found(desk: Any) -> None:
    store = desk.start()
    desk.write(store, *parked(3))
    head = desk.told.wait(lambda item: isinstance(item, NewHead)).signed
    desk.close()
    again = desk.open()
    assert head.body.author == desk.signer.node and last_of(head.body) == again.head_seq
    again.start()
    desk.write(again, *parked(1))
    assert desk.told.heads[0].body.prev == again.head


def test_a_queue_becomes_commits_of_at_most_256_entries(desk: Any) -> None:
    store = desk.open()
    for seq, entry in enumerate(parked(600), 1):
        store.add(seq, entry, {})
    store.flush_soon()
    store.start()
    desk.told.synced(600)
    assert [head.body.count for head in desk.told.heads][:2] == [256, 256]
    assert [item.seq for item in desk.told.items if isinstance(item, Synced)] == [256, 512, 600]
    statistics = store.statistics()
    assert (statistics.seq, statistics.commits, statistics.queued, statistics.commit_entries_mean) == (600, 3, 0, 200.0)


def test_a_commit_ends_before_it_is_larger_than_one_frame_can_carry(desk: Any) -> None:
    store = desk.open(limits=RecordsLimits(commit_bytes_max=2000))
    large = [(b"%d" % number) * 700 for number in range(4)]
    given = [{content_hash(body): body} for body in (*large, large[3], b"x" * 9000, b"y")]
    for seq, (entry, bodies) in enumerate(zip(parked(7), given, strict=True), 1):
        store.add(seq, entry, bodies)
    store.flush_soon()
    store.start()
    desk.told.synced(7)
    assert [head.body.count for head in desk.told.heads] == [2, 3, 1, 1], "a body named twice counts once; what is larger stands alone"
    news = [item for item in desk.told.items if isinstance(item, NewHead)]
    assert [each.bodies for each in news] == [tuple(large[:2]), tuple(large[2:]), (b"x" * 9000,), (b"y",)]
    assert [decode_entry(entry) for each in news for entry in each.entries] == parked(7)
    for each in news:
        assert merkle.root([merkle.leaf(entry) for entry in each.entries]) == each.signed.body.merkle_root


def test_synced_is_told_only_when_another_connection_sees_the_rows(desk: Any) -> None:
    store = desk.open()
    seen: list[tuple[int, int]] = []

    def look(item: Any) -> None:
        if isinstance(item, Synced):
            with sqlite3.connect(desk.path) as other:
                seen.append((item.seq, other.execute("SELECT max(seq) FROM entries").fetchone()[0]))
            other.close()

    desk.told.on = look
    store.start()
    for start in range(3):
        desk.write(store, *parked(4, start))
    assert seen == [(4, 4), (8, 8), (12, 12)]


def test_numbers_must_follow(desk: Any) -> None:
    store = desk.open()
    with pytest.raises(AssertionError, match="entry 2 does not follow 0"):
        store.add(2, Parked("t", "r"), {})


def test_what_was_added_is_written_on_the_way_out(desk: Any) -> None:
    store = desk.start()
    for seq, entry in enumerate(parked(300), 1):
        store.add(seq, entry, {})
    store.close()
    store.close()
    assert desk.open().head_seq == 300


def test_stamps_outlive_a_clock_that_steps_back(desk: Any) -> None:
    store = desk.start()
    desk.write(store, *parked(1))
    first = desk.told.heads[0].body.hlc
    desk.close()
    late = Store(desk.path, desk.signer, desk.told, wall_ms=lambda: desk.WALL_MS - 86_400_000)
    late.start()
    late.add(2, Parked("t", "r"), {})
    late.close()
    assert desk.told.heads[-1].body.hlc > first


# ---- replay


def bodies_of(desk: Any) -> list[tuple[str, dict[str, bytes]]]:
    return [(type(entry).__name__, bodies) for _, entry, bodies in desk.rows if bodies]


def test_replay_brings_the_outcomes_of_effects_until_their_task_has_ended(desk: Any) -> None:
    store, sent = desk.start(), b'"sent"'
    effected = Effected("t", desk.FENCE, "mail", 1, content_hash(sent))
    desk.write(store, effected, Effected("t", desk.FENCE, "post", 2, error="OSError"), bodies={content_hash(sent): sent})
    desk.close()
    store = desk.start()
    assert bodies_of(desk) == [("Effected", {content_hash(sent): sent})]
    desk.write(store, Finished("t", desk.FENCE, "failed"))
    desk.close()
    desk.start()
    assert bodies_of(desk) == []


def test_replay_brings_the_bodies_of_what_is_not_over(desk: Any) -> None:
    given, result = b'{"n":1}', b"2"
    bodies = {content_hash(given): given, content_hash(result): result}
    story = desk.story_of("t", desk.signer.node, given, result)
    store = desk.start()
    desk.write(store, *story[:3], bodies=bodies)
    desk.close()
    desk.open()
    assert bodies_of(desk) == [("Submitted", {content_hash(given): given}), ("Accepted", {content_hash(given): given})]
    desk.close()
    store = desk.start()
    desk.write(store, *story[3:5])
    desk.close()
    desk.open()
    assert bodies_of(desk)[2:] == [("Ended", {content_hash(result): result})]
    desk.close()
    store = desk.start()
    desk.write(store, *story[5:])
    desk.close()
    desk.open()
    assert bodies_of(desk) == [("Finished", {content_hash(result): result})]


def test_an_erased_body_leaves_the_chain_whole(honest: Any) -> None:
    with sqlite3.connect(honest.path) as file:
        file.execute("DELETE FROM bodies")
    file.close()
    store = honest.start()
    assert store.head_seq == 44 and bodies_of(honest) == []
    store.effects[ReadBody](ReadBody(5, content_hash(b"1")))
    assert honest.told.wait(lambda item: isinstance(item, BodyRead)) == BodyRead(5, None)


# ---- refusals to open


def refused(desk: Any, code: str, **more: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        desk.open(**more)
    assert caught.value.code == code and caught.value.fix
    return caught.value


def test_a_second_opening_is_refused_and_harmless(desk: Any) -> None:
    store = desk.start()
    assert "--name" in refused(desk, "store_locked").fix
    store.add(1, Parked("t", "r"), {})
    store.close()
    assert desk.open().head_seq == 1


def test_a_newer_schema_is_refused_and_left_alone(honest: Any) -> None:
    with sqlite3.connect(honest.path) as file:
        file.execute("PRAGMA user_version=99")
    file.close()
    assert "schema 99" in refused(honest, "newer_schema").message


def test_an_entry_of_a_newer_kind_is_refused(honest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(data: bytes) -> Any:
        if data.startswith(b"\xa6Closed", 1):
            raise Refusal("unknown_entry")
        return decode_entry(data)

    monkeypatch.setattr("mesh.runtime.disk.store_chain.decode_entry", older)
    assert "entry 8 " in refused(honest, "newer_entries").message


def test_another_nodes_journal_is_refused(honest: Any) -> None:
    assert honest.signer.node in refused(honest, "other_author", signer=honest.signer_from(8)).message
    refused(honest, "other_author", signer=honest.signer_from(7, "mesh-two"))


@pytest.mark.parametrize("content", [b"hello, this is no database at all", b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(tmp_path: Path, desk: Any, content: bytes) -> None:
    desk.path.write_bytes(content)
    refused(desk, "journal_broken")
    assert desk.path.read_bytes() == content


def test_a_database_of_another_program(desk: Any) -> None:
    with sqlite3.connect(desk.path) as file:
        file.execute("CREATE TABLE songs(title)")
    file.close()
    refused(desk, "not_a_journal")


def test_a_folder_instead_of_a_file(desk: Any) -> None:
    desk.path.mkdir()
    refused(desk, "disk_error")


def test_no_folder(desk: Any) -> None:
    desk.path = desk.path.parent / "nowhere" / "journal.db"
    refused(desk, "disk_error")


# ---- failures


def full_after(store: Store, pages: int) -> None:
    store._connection.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_disk_stops_the_writer_for_good(desk: Any) -> None:
    store = desk.open()
    [pages] = store._connection.execute("PRAGMA page_count").fetchone()
    full_after(store, pages + 2)
    store.start()
    store.add(1, Parked("t", "x" * 100_000), {})
    store.add(2, Parked("t", "r"), {})
    store.flush_soon()
    failed = desk.told.wait(lambda item: isinstance(item, StoreFailed))
    assert failed.code == "disk_full" and "free some space" in failed.fix
    full_after(store, 1_000_000)
    store.add(3, Parked("t", "small"), {})
    store.close()
    assert not any(isinstance(item, Synced) for item in desk.told.items)
    assert store.statistics().failed == failed.message
    again = desk.start()
    assert again.head_seq == 0
    desk.write(again, *parked(1))


def test_run_raises_when_the_disk_fails(desk: Any) -> None:
    store = desk.open()
    [pages] = store._connection.execute("PRAGMA page_count").fetchone()
    full_after(store, pages)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(store.run)
            store.add(1, Parked("t", "x" * 100_000), {})
            store.flush_soon()

    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(main)
    [error] = caught.value.exceptions
    assert isinstance(error, StoreError) and error.code == "disk_full"


def test_run_writes_everything_before_it_ends(desk: Any) -> None:
    store = desk.open()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(store.run)
            for seq, entry in enumerate(parked(10), 1):
                store.add(seq, entry, {})
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert desk.open().head_seq == 10


def test_an_entry_that_cannot_be_encoded_fails_the_store(desk: Any) -> None:
    store = desk.start()
    store.add(1, Parked("t", object()), {})  # type: ignore[arg-type]
    store.flush_soon()
    assert desk.told.wait(lambda item: isinstance(item, StoreFailed)).code == "store_bug"


# ---- answers


def ask(desk: Any, store: Store, effect: Any) -> Any:
    store.effects[type(effect)](effect)
    return desk.told.wait(lambda item: getattr(item, "token", 0) == effect.token)


def keyring(desk: Any) -> Keyring:
    """Believes the journal's author: one key is root, issuer and home of its mesh."""
    mesh, root, me = desk.signer.mesh, desk.signer_from(1), desk.signer

    def certified(level: str, holder: Signer, deed: bytes = b"") -> bytes:
        return root.seal(Signed(root.node, Certificate(mesh, level, holder.node, holder.public_key, "x", 1, 0, deed=deed)))

    nowhere = desk.signer_from(7, "")
    deed = nowhere.seal(Signed(me.node, Deed(me.node, root.node, me.public_key)))
    ring = Keyring(mesh, (root.public_key,))
    ring.introduce(join_chain((certified("issuer", root), certified("home", root), certified("node", me, deed))))
    return ring


def read(desk: Any, answer: StoryRead) -> Story:
    return verify_story(answer.body, keyring(desk).open, decode_entry, (Refusal,))


def test_bodies_are_read_by_hash(honest: Any) -> None:
    store = honest.start()
    assert ask(honest, store, ReadBody(1, content_hash(b"1"))) == BodyRead(1, b"1")
    assert ask(honest, store, ReadBody(2, "0" * 64)) == BodyRead(2, None)


def test_a_story_is_verified_entry_by_entry(honest: Any) -> None:
    store = honest.start()
    me = honest.signer.node
    story = read(honest, ask(honest, store, ReadStory(1, "story", f"{me}.1.2")))
    assert [item.entry for item in story.items] == honest.story_of(f"{me}.1.2", me, b'{"n":2}', b"2")
    assert all(item.verified and item.author == me and item.incarnation == 2 and item.wall_ms >= honest.WALL_MS for item in story.items)
    assert [item.seq for item in story.items] == list(range(38, 45)) and story.more == 0
    row = story.rows()[1]
    assert row["kind"] == "Decided" and row["candidates"][0]["name"] == "otter"
    json.dumps(story.rows())


def test_a_story_follows_children_and_makers_of_input_files(desk: Any) -> None:
    me, made, other = desk.signer.node, content_hash(b"file"), content_hash(b"nobody's")
    store = desk.start()
    maker = desk.story_of("maker", me, b'{"a":1}', b"1", made=((made, 4),))
    parent = desk.story_of("parent", me, b'{"b":1}', b"2", files=((other, 1),))
    child = desk.story_of("child", me, b'{"c":1}', b"3", parent="parent", files=((made, 4),))
    stranger = desk.story_of("stranger", me, b'{"d":1}', b"4")
    desk.write(store, desk.opened(store), *maker, *stranger, *parent, *child)
    tasks = {item.entry.task for item in read(desk, ask(desk, store, ReadStory(1, "story", "parent"))).items}
    assert tasks == {"parent", "child", "maker"}
    assert {item.entry.task for item in read(desk, ask(desk, store, ReadStory(2, "story", "child"))).items} == {"child", "maker"}
    assert {item.entry.task for item in read(desk, ask(desk, store, ReadStory(3, "story", made))).items} == {"child", "maker"}


def test_tasks_with_the_same_small_arguments_are_no_relatives(desk: Any) -> None:
    me = desk.signer.node
    store = desk.start()
    desk.write(store, *desk.story_of("one", me, b"{}", b"{}"), *desk.story_of("two", me, b"{}", b"null"))
    assert {item.entry.task for item in read(desk, ask(desk, store, ReadStory(1, "story", "two"))).items} == {"two"}


def test_a_long_story_comes_in_pages(desk: Any) -> None:
    me = desk.signer.node
    store = desk.start(limits=RecordsLimits(story_bytes_max=4000))
    for child in range(20):
        desk.write(store, *desk.story_of(f"c{child}", me, b"%d" % child, b"1", parent="p"))
    since, pages, seen = 0, 0, []
    while True:
        pages += 1
        story = read(desk, ask(desk, store, ReadStory(pages, "story", "p", since)))
        seen += [item.seq for item in story.items]
        if not story.more:
            break
        since = story.more
    assert seen == list(range(1, 141)) and pages > 5


def test_a_page_of_large_entries_stays_small(desk: Any) -> None:
    """Even where they all stand in one commit: a page must fit a frame."""
    limit = 64 * 1024
    store = desk.start(limits=RecordsLimits(story_bytes_max=limit))
    desk.write(store, *[Parked("t", "x" * 10_000) for _ in range(40)])
    since, sizes, seen = 0, [], 0
    while True:
        answer = ask(desk, store, ReadStory(since + 1, "story", "t", since))
        sizes.append(len(answer.body))
        story = read(desk, answer)
        seen += len(story.items)
        if not story.more:
            break
        since = story.more
    assert seen == 40 and max(sizes) < limit + 20_000


def test_a_story_has_a_longest_form(desk: Any) -> None:
    store = desk.start(limits=RecordsLimits(story_entries_max=50))
    desk.write(store, *[Parked("t", f"{number}") for number in range(200)])
    assert len(read(desk, ask(desk, store, ReadStory(1, "story", "t"))).items) == 50


def test_nobody_knows_an_unknown_task(honest: Any) -> None:
    store = honest.start()
    assert read(honest, ask(honest, store, ReadStory(1, "story", "nothing"))).items == ()


def test_a_hash_names_its_tasks(desk: Any) -> None:
    me, made = desk.signer.node, content_hash(b"file")
    store = desk.start()
    maker = desk.story_of("maker", me, b'{"a":1}', b"1", made=((made, 4),))
    user = desk.story_of("user", me, b'{"c":1}', b"3", parent="p", files=((made, 4),))
    desk.write(store, *maker, *user)
    found = json.loads(ask(desk, store, ReadStory(1, "hash", made)).body)["tasks"]
    assert [(row["task"], row["as"], row["way"], row["capability"], row["step"]) for row in found] == [
        ("maker", "file", "out", "upper", ""),
        ("user", "input", "in", "upper", "step"),
    ]
    assert found[0]["agent"] == "agent" and found[0]["node"] == me


def test_a_thousand_proofs(desk: Any) -> None:
    store = desk.start()
    desk.write(store, *[Parked("t", f"{number}") for number in range(1000)])
    items = []
    since = 0
    while True:
        story = read(desk, ask(desk, store, ReadStory(since + 1, "story", "t", since)))
        items += story.items
        if not story.more:
            break
        since = story.more
    assert len(items) == 1000 and all(item.verified for item in items)


# ---- what others signed


def test_heads_and_forks_of_others_come_back(desk: Any) -> None:
    peer = desk.signer_from(9)

    def commit(root: bytes, first: int = 1) -> Signed:
        signed = Signed(peer.node, Commit(peer.node, 1, 0, first, 1, bytes(32), root, 0))
        peer.seal(signed)
        return signed

    one, other, later = commit(b"a" * 32), commit(b"b" * 32), commit(b"c" * 32, 9)
    store = desk.start()
    store.effects[Remember](Remember((one,)))
    store.effects[Remember](Remember((later,), (Fork(peer.node, one, other),)))
    store.effects[Remember](Remember((), (Fork(peer.node, one, other),)))
    desk.close()
    known = desk.open().remembered()
    assert known == Remembered((later,), (Fork(peer.node, one, other),))
    assert known.heads[0].raw == later.raw


def test_a_proof_of_a_fork_does_not_wait_for_the_next_entry(desk: Any) -> None:
    peer = desk.signer_from(9)
    two = [Signed(peer.node, Commit(peer.node, 1, 0, 1, 1, bytes(32), root, 0)) for root in (b"a" * 32, b"b" * 32)]
    for signed in two:
        peer.seal(signed)
    store = desk.open()
    written = threading.Event()
    store._connection.set_trace_callback(lambda sql: written.set() if sql == "COMMIT" else None)
    store.start()
    store.effects[Remember](Remember((), (Fork(peer.node, *two),)))
    assert written.wait(30)


def test_every_kind_with_bodies_is_in_the_replay_table() -> None:
    """Entries with an input or output field are the ones `_wanted` must know."""
    from mesh.messages.records import ENTRIES

    named = {cls for cls in ENTRIES if {"input", "output"} & set(cls.__dataclass_fields__)}
    assert named == {Submitted, Accepted, Ended, Finished, Checkpointed, Effected, Answered, Stored}


def test_a_checkpoint_comes_back_until_its_task_has_ended(desk: Any) -> None:
    given, kept, result = b"{}", b'{"value":1}', b'"done"'
    entries = desk.story_of("t.1.1", desk.signer.node, given, result)
    bodies = {content_hash(body): body for body in (given, kept, result)}
    store = desk.start()
    desk.write(store, desk.opened(store), *entries[:4], Checkpointed("t.1.1", desk.FENCE, content_hash(kept), 5), bodies=bodies)
    desk.close()
    store = desk.start()
    assert [found for _, entry, found in desk.rows if isinstance(entry, Checkpointed)] == [{content_hash(kept): kept}]
    desk.write(store, desk.opened(store), *entries[4:], bodies=bodies)
    desk.close()
    desk.open()
    assert [found for _, entry, found in desk.rows if isinstance(entry, Checkpointed)] == [{}]


# ---- the whole again


def test_examine_checks_everything_and_exports(honest: Any, tmp_path: Path) -> None:
    store = honest.start()
    document = store.examine(tmp_path / "export")
    assert (document["ok"], document["entries"], document["commits"], document["incarnation"]) == (True, 44, 8, 2)
    assert document["head"] == store.durable_head.hex() and (tmp_path / "export").stat().st_size > 1000


def test_examine_finds_an_old_signature_that_opening_does_not_check(honest: Any) -> None:
    """Its digest beside it was made to fit: only the signature itself tells."""
    file = sqlite3.connect(honest.path)
    [raw] = file.execute("SELECT raw FROM commits WHERE first=2").fetchone()
    raw = raw[:-1] + bytes([raw[-1] ^ 1])
    file.execute("UPDATE commits SET raw=?, digest=? WHERE first=2", (raw, hashlib.sha256(raw).digest()))
    file.commit()
    file.close()
    document = honest.start().examine()
    assert not document["ok"] and "ends with entry 8 is not this node's" in document["problem"]


def test_the_durable_head_is_that_of_the_newest_synced_commit(honest: Any) -> None:
    store = honest.start()
    assert store.durable_head == store.head
    honest.write(store, honest.opened(store))
    honest.write(store, *parked(1))
    assert honest.told.heads[1].body.prev != store.durable_head != store.head
    assert store.examine()["head"] == store.durable_head.hex()
