"""What an agent asks for its work: runs ``@agent.bid`` functions when the node asks. A price function that fails declines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mesh.agent import Agent
from mesh.bids import Bid
from mesh.errors import UsageError
from mesh.failures import failure, report
from mesh.ids import TaskId


class Prices:
    """`out` gets one `priced` item for each question."""

    def __init__(self, agent: Agent, out: Callable[[str, list[Any]], None]) -> None:
        self._agent, self._out = agent, out
        self._asked: set[asyncio.Task[None]] = set()
        self.declined = 0
        """Because the function failed."""

    def ask(self, item: list[Any]) -> None:
        """``[round, task, capability, input]``."""
        task = asyncio.get_running_loop().create_task(self._price(*item))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def __len__(self) -> int:
        return len(self._asked)

    async def _price(self, round_number: int, task: TaskId, capability: str, data: bytes) -> None:
        cost: float | None = None
        eta_ms: int | None = None
        price = self._agent.prices.get(capability)
        try:
            if price is not None:
                arguments = self._agent.capabilities[capability].shape.arguments(data, None)
                wanted = {name: value for name, value in arguments.items() if name in price.parameters}
                bid = await (price.function(**wanted) if price.is_async else asyncio.to_thread(price.function, **wanted))
                if isinstance(bid, Bid):
                    cost, eta_ms = float(bid.cost), None if bid.eta_s is None else round(bid.eta_s * 1000)
                elif bid is not None:
                    raise UsageError(
                        f"the price of {capability} is {bid!r}, which is no Bid", fix="return Bid(cost=...), or None to decline"
                    )
        except Exception as error:  # noqa: BLE001  a price function that fails declines; counted and said
            self.declined += 1
            report(f"the price function of {capability} failed, so this worker declines: {failure(error)['message']}")
        self._out("priced", [round_number, task, cost, eta_ms])
