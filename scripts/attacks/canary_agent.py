"""Agents whose names, capabilities, results, errors and notes are canaries: as the plan says that is named in CANARIES (JSON)."""

import asyncio
import json
import os
import tempfile
from pathlib import Path

from mesh import Agent, Context, File, Secret

plan = json.loads(Path(os.environ["CANARIES"]).read_text())


def _offer(agent: Agent, one: dict[str, str]) -> None:
    name = one["capability"]

    @agent.capability(name=f"{name}.work")
    async def work(ctx: Context, text: str) -> str:
        ctx.progress(0.5, one["progress"])
        return one["result"]

    @agent.capability(name=f"{name}.fail")
    async def fail(ctx: Context, text: str) -> str:
        ctx.progress(0.5, one["progress"])
        raise ValueError(one["error"])

    @agent.capability(name=f"{name}.login")
    async def login(ctx: Context, password: Secret) -> int:
        ctx.progress(0.5, f"with {password.reveal()}")
        return len(password.reveal())

    @agent.capability(name=f"{name}.betray")
    async def betray(ctx: Context, password: Secret) -> str:
        raise ValueError(f"cannot log in with {password.reveal()}")

    @agent.capability(name=f"{name}.draw")
    async def draw(ctx: Context, raw: File) -> File:
        raw.path.read_bytes()
        made = Path(tempfile.mkdtemp(dir=Path(os.environ["CANARIES"]).parent)) / one["made"]  # the agent's own doing is not searched
        made.write_text(f"{one['content']}\n")
        return File.of(made)

    @agent.capability(name=f"{name}.hang")
    async def hang(ctx: Context, text: str) -> str:
        ctx.progress(0.1, one["progress"])
        await asyncio.sleep(3600)
        return one["result"]


for number, one in enumerate(plan):
    made = globals()[f"agent{number}"] = Agent(one["agent"], concurrency=8)
    _offer(made, one)
