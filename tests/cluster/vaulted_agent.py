"""Uses secrets, well and badly."""

from mesh import Agent, Context, Secret

agent = Agent("vaulted")


@agent.capability(name="report.login")
async def login(ctx: Context, password: Secret) -> int:
    ctx.progress(0.5, f"with {password.reveal()}")
    return len(password.reveal())


@agent.capability(name="report.crash")
async def crash(ctx: Context) -> None:
    raise ValueError((await ctx.secret("db")).reveal())


@agent.capability(name="mail.send")
async def send(ctx: Context) -> str:
    return (await ctx.secret("db")).reveal()
