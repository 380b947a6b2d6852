"""The simulator's disk: what one commit holds, and what of it a crash leaves."""

from __future__ import annotations

from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.records import Parked
from mesh.sim.disk import Disk, encode_entry


def fresh() -> Disk:
    disk = Disk("a", 0.001)
    disk.begin_life()
    return disk


def test_a_commit_holds_so_many_entries_and_bytes() -> None:
    disk, limits = fresh(), RecordsLimits(commit_entries_max=4, commit_bytes_max=2000)
    for number in range(12):
        body = b"%d" % number * (900 if number < 4 else 9000 if number == 4 else 1)
        disk.add(Parked(f"t{number}", "toy"), {content_hash(body): body})
    groups = []
    while disk.begin_sync(limits):
        groups.append(disk.end_sync(0)[0])
    assert [len(group.entries) for group in groups] == [2, 2, 1, 4, 3]
    assert [len(body) for group in groups for body in group.bodies] == [900] * 4 + [9000] + [1] * 5 + [2] * 2
    assert [group.last for group in groups] == [2, 4, 5, 9, 12]


def test_an_encoded_entry_still_has_the_entry() -> None:
    entry = Parked("t", "toy")
    encoded = encode_entry(entry)
    assert encoded.entry is entry and encoded == repr(entry).encode() and hash(encoded) == hash(repr(entry).encode())
    assert repr(encoded) == repr(bytes(encoded)), "a trace says the same of both"
