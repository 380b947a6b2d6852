"""Use: schedule, publish."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError, UsageError
from mesh.inspector import fitting
from mesh.inspector.render import clean, say, seconds, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, WatchOption, Where, ask, fail, filled
from mesh.schedules import checked_topic, plan_of

ADD_FORM = "mesh schedule add NAME --every 5m CAPABILITY name=value"


class Action(enum.StrEnum):
    ADD = "add"
    LIST = "list"
    REMOVE = "remove"
    PAUSE = "pause"
    RESUME = "resume"


class CatchUp(enum.StrEnum):
    NONE = "none"
    LAST = "last"
    ALL = "all"


class Overlap(enum.StrEnum):
    SKIP = "skip"
    ALLOW = "allow"


NameArgument = Annotated[str | None, typer.Argument(help="Of the schedule, mesh-wide.", show_default=False)]
CapabilityArgument = Annotated[str | None, typer.Argument(help="What is to be done at each tick.", show_default=False)]
WordsArgument = Annotated[list[str] | None, typer.Argument(help="name=text  name:=JSON", show_default=False)]
EveryOption = Annotated[str | None, typer.Option("--every", metavar="TIME", help="30s, 5m, 12h, 1d.", show_default=False, callback=filled)]
CronOption = Annotated[
    str | None, typer.Option("--cron", metavar="TEXT", help="A cron expression: '0 6 * * 1-5'.", show_default=False, callback=filled)
]
ZoneOption = Annotated[
    str | None, typer.Option("--tz", metavar="ZONE", help="Of --cron. [default: UTC]", show_default=False, callback=filled)
]
JitterOption = Annotated[float, typer.Option("--jitter", metavar="SECONDS", help="Each tick so much later at most.")]
CatchUpOption = Annotated[CatchUp, typer.Option("--catch-up", help="Which missed ticks are made good.")]
CatchUpMaxOption = Annotated[int, typer.Option("--catch-up-max", metavar="N", help="Of all: the newest N.")]
OverlapOption = Annotated[Overlap, typer.Option("--overlap", help="While the task before has not ended.")]


def schedule(
    action: Annotated[Action, typer.Argument(show_default=False)],
    name: NameArgument = None,
    capability: CapabilityArgument = None,
    words: WordsArgument = None,
    every: EveryOption = None,
    cron: CronOption = None,
    tz: ZoneOption = None,
    jitter: JitterOption = 0.0,
    catch_up: CatchUpOption = CatchUp.NONE,
    catch_up_max: CatchUpMaxOption = 100,
    overlap: OverlapOption = Overlap.SKIP,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """Work at set times, with no code: add, list, remove, pause, resume.

    Each tick is one durable task over the whole mesh, whichever nodes are up. What agents declare with @agent.every is listed, too.
    """
    at = Where(home, node, as_json, timeout)
    options: dict[str, Any] = {
        "jitter_s": jitter,
        "catch_up": catch_up.value,
        "catch_up_max": catch_up_max,
        "overlap": overlap.value,
        "tz": tz or "",
    }
    try:
        when = _checked(action, name, capability, every, cron, tz, watch)
        if action is Action.ADD:
            plan_of(name or "", capability or "", when, **options)  # before anybody is asked
    except MeshError as error:
        fail(error, as_json)

    async def add(mesh: Mesh) -> dict[str, Any]:
        from mesh.inspector.arguments import parse_arguments

        arguments, wanted = parse_arguments(words or []), capability or ""
        caps, nodes = await mesh.caps(), await mesh.nodes()
        cap = fitting.offered(caps, wanted)
        if cap is not None:
            takes_tick = "tick" in (cap["input_schema"].get("properties") or {})
            fitting.check_arguments(cap, ({"tick": "2026-10-05T06:00:00Z"} if takes_tick else {}) | arguments)
        document = await mesh.add_schedule(name or "", when, wanted, arguments=arguments, **options)
        fitting.say_missing(caps, nodes, wanted, [], "each task")
        return document

    if action is Action.LIST:
        ask(at, lambda mesh: mesh.schedules(), _show_list, watch=watch)
    elif action is Action.ADD:
        ask(at, add, _show_change)
    else:
        ask(at, lambda mesh: mesh.change_schedule(action.value, name or ""), _show_change)


def _checked(
    action: Action, name: str | None, capability: str | None, every: str | None, cron: str | None, tz: str | None, watch: bool
) -> str:
    """When, of what is to be added. Raises UsageError for what does not belong together."""
    if action is Action.LIST:
        if name is not None:
            raise UsageError("list takes no name", fix="mesh schedule list")
        return ""
    if watch:
        raise UsageError("--watch goes with list only", fix="mesh schedule list --watch")
    if name is None:
        raise UsageError(f"which one? {action.value} wants a name", fix=ADD_FORM if action is Action.ADD else "mesh schedule list")
    if action is not Action.ADD:
        if capability is not None or every or cron or tz:
            raise UsageError(f"{action.value} takes a name and nothing else", fix=f"mesh schedule {action.value} {name}")
        return ""
    if capability is None:
        raise UsageError("what is to be done? add wants a capability", fix=f"mesh schedule add {name} --every 5m CAPABILITY name=value")
    if (every is None) == (cron is None):
        raise UsageError("when? add wants --every or --cron, one of them", fix=f"mesh schedule add {name} --every 5m {capability}")
    if every is not None and len(every.split()) != 1:
        raise UsageError(f"--every {every!r} is no interval", fix="write 30s, 5m, 12h, 1d; or --cron for a cron expression")
    if cron is not None and len(cron.split()) < 5:
        raise UsageError(f"--cron {cron!r} is no cron expression", fix="write five fields: --cron '0 6 * * 1-5'; or --every 5m")
    return every or cron or ""


def _show_change(document: dict[str, Any]) -> str:
    done = {"add": "is added", "remove": "is removed", "pause": "is paused", "resume": "goes on"}
    return f"{clean(document['name'])} {done[document['action']]}"


def _show_list(document: dict[str, Any]) -> str:
    rows = []
    for row in document["schedules"]:
        when = seconds(row["every_s"] * 1000) if row["every_s"] else f"{row['cron']} {row['tz'] or 'UTC'}"
        coming = "paused" if row["paused"] else _moment(row["next_ms"])
        last = _moment(row["last_ms"]) + (" (then skipped)" if row["skipped_ms"] else "")
        rows.append((row["name"], row["capability"], when, coming, last, row["task"], row["of"]))
    for row in document["schedules"]:
        if row["problem"]:
            say(f"{clean(row['name'])}: {clean(row['problem'])}")
    return table(("SCHEDULE", "CAPABILITY", "WHEN", "NEXT", "LAST", "TASK", "OF"), rows, empty=f"no schedules; add one: {ADD_FORM}")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else "-"


def publish(
    topic: Annotated[str, typer.Argument(help="Words joined by dots, such as file.created.", show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(help="name=text  name:=JSON  name=@file", show_default=False)] = None,
    event: Annotated[
        str | None,
        typer.Option("--id", metavar="TEXT", help="The same id is the same event, however often.", show_default=False, callback=filled),
    ] = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell everybody who subscribes to a topic; each gets one durable task. Prints their ids.

    Agents subscribe with @agent.on. Nobody does: says so, and that is no error. Exit 1 if one of the tasks could not be submitted.
    """
    from mesh.inspector.arguments import parse_arguments

    try:
        checked_topic(topic)
    except MeshError as error:
        fail(error, as_json)

    async def action(mesh: Mesh) -> dict[str, Any]:
        arguments = parse_arguments(words or [])
        if taken := sorted({"event_id", "topic"}.intersection(arguments)):
            raise UsageError(f"{taken[0]!r} is the event's own", fix="give the event's id with --id")
        return await mesh.publish(topic, event_id=event or "", **arguments)

    def show(document: dict[str, Any]) -> str:
        if not document["tasks"]:
            return f"nobody subscribes to {clean(document['topic'])}"
        for row in document["tasks"]:
            if "error" in row:
                say(f"{clean(row['capability'])}: {clean(row['error']['message'])}")
        return "\n".join(clean(row["task"]) for row in document["tasks"] if "task" in row)

    ask(Where(home, node, as_json, timeout), action, show, exit_code=lambda document: int(any("error" in row for row in document["tasks"])))
