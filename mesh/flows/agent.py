"""The agent that runs flows: the stock handler of ``mesh.flow``. Every node can serve it; it holds nothing between two runs."""

from __future__ import annotations

from typing import Any

from mesh import Agent, Context
from mesh.errors import InvalidArgument
from mesh.flows.checks import checked
from mesh.flows.inputs import input_of
from mesh.flows.interpreter import interpret
from mesh.flows.problems import FlowError
from mesh.flows.reading import flow_from
from mesh.flows.spec import FLOW

agent = Agent("flows", concurrency=256)


@agent.capability(name=FLOW, idempotent=True)
async def run(ctx: Context, spec: dict[str, Any], input: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a flow: `spec` is its document, `input` what it is started with."""
    try:
        flow = checked(flow_from(spec))
    except FlowError as error:
        raise InvalidArgument(error.message, "spec", fix=error.fix) from error
    lacking = [name for name, _ in flow.budget if name not in await ctx.budget()] if flow.budget else []
    if lacking:
        message = f"the flow {flow.name!r} has a budget of {', '.join(lacking)}, and was begun without"
        raise InvalidArgument(message, "spec", fix="mesh flow run FILE; in Python: m.options(budget={...}); as a step: budget = {...}")
    return await interpret(flow, input_of(flow, input or {}), ctx)
