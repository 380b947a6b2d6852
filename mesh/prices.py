"""What an agent's ``@agent.bid`` function asks for a piece of work. One that fails declines, and says so."""

from __future__ import annotations

import asyncio

from mesh.agent import Agent
from mesh.bids import Bid
from mesh.errors import UsageError
from mesh.failures import failure, report


async def price_of(agent: Agent, capability: str, data: bytes) -> tuple[float | None, int | None, bool]:
    """``(cost, eta_ms, failed)``; cost None declines. `data`: the work's arguments."""
    price = agent.prices.get(capability)
    if price is None:
        return None, None, False
    try:
        arguments = agent.capabilities[capability].shape.arguments(data, None)
        wanted = {name: value for name, value in arguments.items() if name in price.parameters}
        bid = await (price.function(**wanted) if price.is_async else asyncio.to_thread(price.function, **wanted))
        if isinstance(bid, Bid):
            return float(bid.cost), None if bid.eta_s is None else round(bid.eta_s * 1000), False
        if bid is not None:
            raise UsageError(f"the price of {capability} is {bid!r}, which is no Bid", fix="return Bid(cost=...), or None to decline")
    except Exception as error:  # noqa: BLE001  a price function that fails declines; counted and said
        report(f"the price function of {capability} failed, so this worker declines: {failure(error)['message']}")
        return None, None, True
    return None, None, False
