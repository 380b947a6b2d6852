"""Poison: work that takes down whoever runs it must not go through the whole mesh.

    lost with its worker, or with its node's process --counted by node--> three different nodes --> failed: poison      mesh retry frees it

Invariant: no task is awarded again after it has taken down three different nodes, or six in all where the mesh is smaller than that. A node
that cannot be reached counts until it is back as it was. The count is folded out of the journal's own reasons, so it survives a restart.
"""

from __future__ import annotations

from typing import Any

from mesh.core.directory import ReadDirectory
from mesh.core.work.task import HELD, Task
from mesh.ids import COORDINATE, Fence, NodeId

NODES_MAX = 3
LOSSES_MAX = 6

TOOK_DOWN = ("failed:worker_lost", "suspected", "dead", "restarted", "lease_over:dead")
"""Reasons of `Lost` that say: what ran it is gone. (``suspected`` is written for a refused connect only: the process has ended.)"""
MAY_HAVE = ("unreachable", "lease_over:unreachable")


def note_loss(task: Task, node: NodeId, reason: str) -> None:
    """An award of `task` is over for that reason. Call it before its state changes: what had not been accepted ran nowhere."""
    if task.state == HELD and (reason in TOOK_DOWN or reason in MAY_HAVE):
        if task.took_down is None:
            task.took_down = {}
        task.took_down[task.fence] = (node, reason in TOOK_DOWN)


def is_back(task: Task, fence: Fence, *, as_it_was: bool) -> None:
    """Who could not be reached is here again: innocent if his process has lived on, guilty if it is another one."""
    found = (task.took_down or {}).get(fence)
    if task.took_down is not None and found is not None and not found[1]:
        if as_it_was:
            del task.took_down[fence]
        else:
            task.took_down[fence] = (found[0], True)


def is_poison(task: Task) -> bool:
    if task.capability == COORDINATE:
        return False  # it goes on for years: some of those who held it will have died
    losses = task.took_down or {}
    return len(losses) >= NODES_MAX and (len({node for node, _ in losses.values()}) >= NODES_MAX or len(losses) >= LOSSES_MAX)


def poison(task: Task, directory: ReadDirectory) -> dict[str, Any]:
    """The error of a task that is put away."""
    losses = task.took_down or {}
    names = ", ".join(dict.fromkeys(directory.name_of(node) for node, _ in losses.values()))
    message = f"whatever ran it was lost, {len(losses)} times, on {names}; nobody else gets it (mesh retry submits it again)"
    return {"code": "poison", "message": message, "fix": f"mesh retry {task.id}"}
