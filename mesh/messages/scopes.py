"""Versioned values that outlive nodes: what a handler asks of a scope's manager, and what a shared scope is.

A scope is a task: the submitted one that a handler belongs to, or one of the capability `STATE`, which nobody runs (as waits are run by
nobody): a keyed submit, so a name stands for one scope over the whole mesh, and whoever takes tasks over takes scopes over.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import Fence, TaskId

STATE = "mesh.state"
"""The capability of shared scopes: tasks that nobody runs, and that do not end. Their manager keeps what is written to them."""

SCOPE_NAME_CHARACTERS_MAX = 100


@dataclass(slots=True)
class HandlerAsk:
    """What the handler of `task`, at the sender under that fence, asks of the manager of `about`: its own task, or a shared scope.

    Repeated until answered by ANSWER: what is asked changes nothing the second time. `args` is JSON.
    """

    ask: int
    task: TaskId
    fence: Fence
    about: TaskId
    question: str
    """read, write (of a scope), reply (to an update)."""
    args: bytes = b"{}"


def is_scope_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= SCOPE_NAME_CHARACTERS_MAX and text.isprintable() and "/" not in text


def scope_key(name: str, gone: tuple[str, ...] = ()) -> str:
    """Under which key the shared scope of that name is submitted. `gone`: which nodes had opened it before, and were revoked."""
    return "/".join((STATE, name, *gone))
