"""Start: launch. One plan for all hosts, each carried out over a connection of its own (`remote.py`), one line for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from mesh.errors import MeshError, UsageError
from mesh.inspector import enrolment, remote
from mesh.inspector.bundle import Bundle, bundle
from mesh.inspector.render import clean, fit, say, width
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, NodeOption, Where, bounded, fail, filled, run, show_document
from mesh.inspector.units import agent_name
from mesh.inspector.verbs import REST, parsed
from mesh.inspector.wheel import Wheel, check_package, known_extras, pins, repack
from mesh.runtime.home import check_name

LAUNCH_S = 900.0
"""A slow machine that installs everything from a slow index."""
HOSTS_AT_ONCE = 16
NOT_THERE = {"home": "--home", "mesh": "--mesh", "detach": "--detach", "reload": "--reload", "as_json": "--json"}


@dataclass(frozen=True, slots=True)
class Job:
    """What all hosts get. `enrol`: the mesh they join, None to leave them in the mesh they are in; `invite` makes a token for one."""

    plan: dict[str, Any]
    wheel: Wheel | None = None
    code: Bundle = Bundle((), {})
    invite: Callable[[], Awaitable[bytes]] | None = None

    async def answer(self, what: str, name: str) -> bytes:
        """What a host asks for. Raises MeshError."""
        if what == "wheel" and self.wheel is not None:
            return self.wheel.data
        if what == "file" and name in self.code.files:
            return await asyncio.to_thread(self.code.files[name].read_bytes)
        if what == "invitation" and self.invite is not None:
            return await self.invite()
        raise MeshError(f"the other end asked for {what} {name!r}, which it was not offered", fix="mesh launch again")


def launch(
    ctx: typer.Context,
    hosts: Annotated[
        list[str],
        typer.Argument(metavar="HOST", help="As your ssh knows them; may be followed by: -- run TARGET...", show_default=False),
    ],
    down: Annotated[bool, typer.Option("--down", help="Undo it: stop what was launched, remove what was copied.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="With --down: remove keys and journal too.")] = False,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", metavar="NAME", help="An extra of lanmesh that the agent needs.", callback=filled)
    ] = None,
    packages: Annotated[
        list[str] | None, typer.Option("--with", metavar="PACKAGE", help="A package from the index that it needs.", callback=filled)
    ] = None,
    ssh: Annotated[str, typer.Option("--ssh", metavar="COMMAND", help="How ssh is called.", callback=filled)] = "ssh",
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long a host may take.", callback=bounded)] = LAUNCH_S,
    as_json: JsonOption = False,
) -> None:
    """Bring other machines into this mesh, over ssh.

    Installs this very version there, joins this mesh, copies the agent's code, and keeps it running as a service of your account. A
    repeat changes nothing. Without `-- run TARGET...` it brings up a node.
    """
    where = Where(home, node, as_json, min(timeout, LOOK_S))
    try:
        command = remote.ssh_command(ssh)
        names = list(dict.fromkeys(map(remote.check_host, hosts)))
        if purge and not down:
            raise UsageError("--purge goes with --down", fix="mesh launch --down --purge HOST")
        job = prepare(ctx.meta[REST], extra or [], packages or [], down=down, purge=purge)
    except MeshError as error:
        fail(error, as_json)
    if not down:
        job = run(where, lambda: enrolling(job, where))
    document = run(where, lambda: carry_out(job, command, names, timeout, quiet=as_json))
    if as_json:
        show_document(document, str, as_json)
    if any(each["state"] == "failed" for each in document["hosts"]):
        raise typer.Exit(1)


def prepare(words: list[str], extras: list[str], packages: list[str], *, down: bool = False, purge: bool = False) -> Job:
    """The plan that `words` (after ``--``) ask for, without any mesh to join. Raises UsageError, MeshError."""
    options, targets = parse(words)
    for name in extras:
        if name not in known_extras():
            raise UsageError(f"--extra {name!r}: known are {', '.join(known_extras())}", fix=f"--extra {known_extras()[0]}")
    if purge and targets:
        raise UsageError("--purge takes out all of it, so it names no agent", fix="mesh launch --down --purge HOST")
    wheel, wanted = repack(), [check_package(each) for each in packages]
    code = Bundle(tuple(targets), {}) if down else bundle(targets)
    agent = {"name": agent_name(list(code.targets)), "targets": code.targets, "files": {} if down else code.hashes()} if targets else None
    plan = {
        "version": wheel.version,
        "wheel": {"name": wheel.name, "sha256": wheel.sha256},
        "pins": pins([], []),
        "agent_pins": pins(extras, wanted),
        "extras": sorted(extras),
        "packages": sorted(wanted),
        "node": options,
        "agent": agent,
        "enrol": None,
        "down": down,
        "purge": purge,
    }
    return Job(plan, wheel, code)


def parse(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """``run TARGET... [options]`` or ``up [options]``: the node's name and options, and the targets. Raises UsageError."""
    verb, *rest = words or ["up"]
    if verb not in ("run", "up"):
        raise UsageError(f"after -- comes run or up, not {verb!r}", fix="mesh launch HOST -- run FILE.py")
    given = parsed(verb, rest)
    for name, option in NOT_THERE.items():
        if given.get(name):
            raise UsageError(f"{option} does not go with launch", fix=f"leave {option} out")
    if given["name"] is not None:
        check_name(given["name"])
    more = []
    for name in ("bind", "port"):
        more += [f"--{name}", str(given[name])] if given[name] is not None else []
    for door in given["join"] or ():
        more += ["--join", door]
    return {"name": given["name"] or "", "words": more + (["--no-mdns"] if given["no_mdns"] else [])}, list(given.get("targets") or [])


async def enrolling(job: Job, where: Where) -> Job:
    """The same job, in which each host joins the mesh that `where` belongs to. Raises Refused in an open mesh, NoNode."""
    plan = job.plan | {"enrol": await enrolment.mesh_of(where)}
    return replace(job, plan=plan, invite=lambda: enrolment.invitation(where))


async def carry_out(job: Job, ssh: tuple[str, ...], hosts: list[str], timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """All hosts side by side: the document of ``mesh launch``. Unless `quiet`, each is told on stdout as it ends, one line."""
    free = asyncio.Semaphore(HOSTS_AT_ONCE)
    widest = max(map(width, hosts))

    async def one(host: str) -> remote.Report:
        async with free:
            report = await remote.carry_out(ssh, host, job.plan, job.answer, _silent if quiet else say, timeout_s)
        if not quiet:
            show_document({}, lambda _: line(report, widest), False)
        return report

    reports = await asyncio.gather(*map(one, hosts))
    return {"schema": "mesh.launch/1", "hosts": [asdict(report) for report in reports]}


def line(report: remote.Report, columns: int) -> str:
    """One host, for people."""
    state = "FAILED" if report.state == "failed" else report.state
    fix = f"; try: {clean(report.fix)}" if report.fix else ""
    return f"{fit(clean(report.host), columns)}  {fit(state, 9)}  {clean(report.message)}{fix}"


def _silent(_: str) -> None:
    return
