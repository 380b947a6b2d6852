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


@agent.capability(name="report.echo")
async def echo(text: str, fails: bool = False) -> str:
    if fails:
        raise ValueError(f"cannot echo {text}")
    return text[::-1]


@agent.capability(name="mail.send")
async def send(ctx: Context) -> str:
    return (await ctx.secret("db")).reveal()
