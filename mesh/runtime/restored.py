"""A node that came back from a backup asks around before it writes: does anybody know it further than its journal goes?

    start --links--> others send the newest heads they know, this node's too --none is newer--> `release`: it goes on
                                                                    '--one is newer--> it ends: to go on would be a fork
    nobody else was ever known, and none turns up: it goes on       somebody was, and nobody answers: it ends, and says so

Until then the journal holds what is to be written, and the outbox all that depends on it: to the rest of the node it is a slow disk. Knows
as much as those who are linked by then; who goes on without them does so knowingly (`mesh up --accept-rollback`): others keep proof of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from mesh.runtime import clock
from mesh.runtime.disk.store_file import StoreError

if TYPE_CHECKING:
    from mesh.runtime.app import NodeProcess

HEARD_S = 3.0
"""From the first link on: heads come with a link, and those that others have told each other within a second or two. Where nobody was ever
known, a link is waited for as long."""
ALONE_S = 20.0
LOOK_EVERY_S = 0.1
WAITING = "this node was restored from a backup, and writes nothing before another has said that it knows nothing newer"


async def ask_around(process: NodeProcess) -> None:
    """Return once the journal may be written. Raises StoreError ``rolled_back``, ``nobody_to_ask``, HomeError."""
    me, began_s, linked_s = process.identity.node, clock.now_s(), 0.0
    known = bool(process.folder.peers()) or any(member.node != me for member in process.identity.keyring.members())
    while True:
        now_s = clock.now_s()
        if newer := process.assembly.records.statistics().rolled_back:
            raise _older(newer.partition(":")[0])
        if not linked_s and any(row.linked and row.node != me for row in process.assembly.directory.rows()):
            linked_s = now_s
        if now_s - (linked_s or began_s) >= (HEARD_S if linked_s or not known else ALONE_S):
            break
        await anyio.sleep(LOOK_EVERY_S)
    if known and not linked_s:
        raise _alone()
    process.store.release()


def _older(newer: str) -> StoreError:
    return StoreError(
        "rolled_back",
        f"the backup is older than what others know: {newer}",
        "restore a newer backup; or go on as another node: mesh up --name NAME; "
        "or knowingly, though others keep proof of it: mesh up --accept-rollback",
    )


def _alone() -> StoreError:
    return StoreError(
        "nobody_to_ask",
        f"nobody of this mesh was linked within {ALONE_S:g} s, so nobody can say whether the backup is the newest",
        "start another node first; or go on without asking: mesh up --accept-rollback",
    )
