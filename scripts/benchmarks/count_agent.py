"""What comes after a fan: how many there were."""

from mesh import Agent

agent = Agent("count")


@agent.capability(idempotent=True)
async def count(items: list[str]) -> int:
    """Their number."""
    return len(items)
