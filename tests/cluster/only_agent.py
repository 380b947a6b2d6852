"""A capability that few nodes offer."""

from gated_agent import work

from mesh import Agent, Context

agent = Agent("only")


@agent.capability(name="rare")
async def rare(ctx: Context, ledger: str, label: str, gate: str = "") -> int:
    """As `plain`, elsewhere."""
    return await work(ctx, ledger, label, gate)
