"""What a handler asks about its state, and answers to updates, on its way to whoever manages that. The runner's part of `state.py`.

Invariant: nothing is asked past the end of the lease; what a run was told as a secret leaves in no value. A handler in a process of its own
asks through the worker that started it, which says whose task it is.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.errors import TimedOut
from mesh.publishing import Publishes
from mesh.state import Opened

if TYPE_CHECKING:
    from mesh.context import TaskInfo
    from mesh.runs import Run

Document = dict[str, Any]


class Scoped(Publishes):
    """What a runner has of this, for its handlers."""

    _relayed: bool
    _scopes: dict[str, Opened]
    """Shared states that were asked about, by name."""

    def _may_start(self, run: Run) -> Awaitable[None]:
        raise NotImplementedError

    async def of_handler(self, task: TaskInfo, question: str, args: Document, scope: str) -> Document:
        """`scope`: the name of a shared state; "": it is about the task itself."""
        return await self._of_run(self._living(task), question, args, scope)

    async def _of_run(self, run: Run, question: str, args: Document, scope: str) -> Document:
        if run.redactor is not None:
            run.redactor.check("what is written to a state" if question == "write" else "what is asked", values.dump(args)[0])
        await self._may_start(run)
        what: Document = {"question": question, "args": args}
        if self._relayed:
            return await self._ask_for(run, "of_handler", what | {"scope": scope})
        about = {"task": run.task, "fence": run.fence}
        if not scope:
            return await self._ask_for(run, "of_handler", what | about)

        async def ask(verb: str, params: Document) -> Document:
            return await self._ask_for(run, verb, params)

        opened = self._scopes.setdefault(scope, Opened(scope, f"task {run.task}"))
        while True:
            with suppress(TimedOut):  # too few of those who keep the mesh's keys are here: a handler waits for them
                return await opened.about(ask, lambda found: self._ask_for(run, "of_handler", what | about | {"about": found}))
