"""The worker's side of ``ctx.effect``, between a handler and its node: the go is waited for, under a lease that holds.

    permit: [lease holds] --effect--> node --go, done--> [lease holds] --> the handler        lease_over --> wait for the renewal, ask again
    settle: --effected--> node --noted--> the handler

Invariant: what `permit` answers is acted on under a lease that holds by this worker's clock at that moment; secrets a run was told leave in
no key, outcome or error. Used for handlers here and, through `Runner.relay`, for those in processes of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mesh.errors import MeshError
from mesh.runs import Run

AskFor = Callable[[Run, str, dict[str, Any]], Awaitable[dict[str, Any]]]
LEASE_OVER = "lease_over"


class Reach:
    """`ask` puts a run's question to the node; `may_start` returns when its lease holds."""

    def __init__(self, ask: AskFor, may_start: Callable[[Run], Awaitable[None]]) -> None:
        self._ask, self._may_start = ask, may_start

    async def permit(self, run: Run, params: dict[str, Any]) -> dict[str, Any]:
        """``{"state": "go" | "done", "output"}``. Raises what the manager or the node refuses with."""
        if run.redactor is not None:
            run.redactor.check("the key of an effect", params["key"].encode())
        while True:
            await self._may_start(run)
            lease_end_ms = run.lease_end_ms
            try:
                answer = await self._ask(run, "effect", params | {"task": run.task, "fence": run.fence})
            except MeshError as error:
                if error.code != LEASE_OVER:
                    raise
                if run.lease_end_ms == lease_end_ms:
                    run.lease_end_ms = 0  # the node's word counts; what it renewed meanwhile counts too
                continue
            await self._may_start(run)
            return answer

    async def settle(self, run: Run, params: dict[str, Any]) -> None:
        """Returns when it is on record."""
        if run.redactor is not None:
            run.redactor.check(f"the outcome of the effect {params['key']}", params["output"])
            params["error"] = run.redactor.text(params["error"])
        await self._ask(run, "effected", params | {"task": run.task, "fence": run.fence})
