"""A capability that does nothing."""

from mesh import Agent

agent = Agent("noop", concurrency=64)


@agent.capability(idempotent=True)
async def noop(text: str) -> str:
    """Give back what came."""
    return text
