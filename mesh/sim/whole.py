"""Whether the mesh has made up for the disks that were put back and the nodes that were revoked: then it may lose another.

Of the three that keep a journal one may lose its memory at a time; two at once are more than a majority can make up for (docs/keepers.md).
So the next disk is put back when nobody counts among keepers any more who may have forgotten something, and when others drive what was in
the journals that were put back. And it is always the same node's: each of its lives begins lapsed, so two such that restart together are
two at once again. Reads what nodes say of themselves; a harness's view, for whoever injects faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.ids import NodeId
from mesh.messages.records import Guarded

if TYPE_CHECKING:
    from mesh.sim.disk import Image
    from mesh.sim.host import Host
    from mesh.sim.world import World


def may_forget(world: World, name: NodeId, image: Image) -> bool:
    """Whether the disk of `name` may be put back to `image` now, by what docs/keepers.md promises."""
    again = all(one == name for one in world.old_disks.lives)
    return again and is_kept(world, name) and _was_kept(image) and _shows(world, name, image.seq) and is_whole(world)


def _shows(world: World, name: NodeId, seq: int) -> bool:
    """Whether an image of that disk that ends with entry `seq` is seen to be old: all others know a newer head."""
    others = [host for host in world.hosts.values() if host.name != name and host.name not in world.revoked]
    return all((host.assembly.records.known_of(name) if host.up else host.disk.knows_of(name)) > seq for host in others)


def _was_kept(image: Image) -> bool:
    """Whether two others kept that journal when the image was taken: a node cannot tell from any other that they do by now
    (docs/keepers.md)."""
    rosters = [entry for _, entry, _ in image.kept["rows"] if type(entry) is Guarded]
    return bool(rosters) and len(rosters[-1].members) > 2


def is_kept(world: World, name: NodeId) -> bool:
    """Whether two others keep the journal of `name`, or it is down. What it takes over while they do not is lost with it."""
    host = world.hosts[name]
    return not host.up or len(host.assembly.keepers.statistics().keepers) > 1


def is_whole(world: World) -> bool:
    hurt = [*world.old_disks.lives, *world.revoked]
    if not hurt:
        return True
    sound = [host for host in world.living() if host.name not in hurt]
    if len(sound) + len(dict.fromkeys(hurt)) < len(world.names):
        return False
    return all(_is_over(world, name) for name in hurt)


def _is_over(world: World, hurt: NodeId) -> bool:
    """Nobody counts on what it may have forgotten, or on what it says as it is not believed any more."""
    revoked = hurt in world.revoked
    host = world.hosts[hurt]
    if not revoked and not (host.up and host.assembly.records.statistics().rolled_back):
        return False  # it does not know yet
    lapsed = host.assembly.keepers.statistics().lapsed
    for other in world.living():
        if other.name in world.revoked or other.name == hurt:
            continue
        if hurt in _counted_on(other) and (revoked or other.name in lapsed) and not other.directory.guard.behind:
            return False
    return _is_taken_over(world, hurt)


def _counted_on(host: Host) -> tuple[NodeId, ...]:
    """Who keeps its journal; those of the roster before, too, while the newest is not known to be safe."""
    own = next(replica for replica in host.assembly.keepers.replicas() if replica.author == host.name)
    rosters = own.log.rosters[-1:] if own.log.rosters[-1].at <= own.kept else own.log.rosters[-2:]
    return tuple(member for roster in rosters for member in roster.members)


def _is_taken_over(world: World, author: NodeId) -> bool:
    """All of its journal that others keep; True also if nobody does."""
    copies = [replica for host in world.living() for replica in host.assembly.keepers.replicas() if replica.author == author != host.name]
    longest = max((replica.log.seq for replica in copies), default=0)
    return any(replica.log.taken_up_to(replica.kept) >= longest for replica in copies) or not longest
