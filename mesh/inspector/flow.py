"""Flows: run, check, plan, graph, show, list, pause, resume, patch, replay, cancel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError, UsageError
from mesh.flows.graph import drawn
from mesh.flows.inputs import input_of
from mesh.flows.plan import planned
from mesh.flows.reading import Text
from mesh.flows.spec import FLOW, Flow, amounts, document
from mesh.ids import short
from mesh.inspector.arguments import parse_arguments
from mesh.inspector.flow_facts import Run, fitting, flow_task, flows, is_task, read, run_of, with_widths
from mesh.inspector.render import clean, clean_lines, say, seconds, table, value_text
from mesh.inspector.shell import (
    LOOK_S,
    WAIT_S,
    HomeOption,
    JsonOption,
    LookTimeout,
    NodeOption,
    WaitTimeout,
    WatchOption,
    Where,
    ask,
    fail,
    filled,
    show_document,
)
from mesh.inspector.use import (
    BaggageOption,
    BudgetOption,
    PriorityOption,
    ShareOption,
    WholeOption,
    WithinOption,
    WordsArgument,
    baggage_in,
    budget_in,
    ended,
    raise_failure,
)
from mesh.inspector.watch import REASONS, TaskArgument

Document = dict[str, Any]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A flow in TOML, or its JSON.", show_default=False)]
LOOK_AGAIN_S = 0.5
"""How often a shell that waits for a flow looks at its steps."""


def run(
    file: FileArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Tell its steps, wait for the result and print it.")] = False,
    timeout: WaitTimeout = WAIT_S,
    within: WithinOption = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="One flow over the whole mesh, however often.", show_default=False, callback=filled),
    ] = None,
    priority: PriorityOption = None,
    share: ShareOption = None,
    budget: BudgetOption = None,
    baggage: BaggageOption = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a flow and print its task's id.

    A file that cannot be run is refused before anything is, with the line, the reason and the fix (exit 2).
    """

    async def action(mesh: Mesh) -> Document:
        (flow, source), given = read(file), parse_arguments(words or [], whole)
        input_of(flow, given)
        _against_offers(flow, source, await mesh.caps(everything=True))
        limit = amounts(flow.budget) | budget_in(budget)
        turn: Document = {"priority": priority, "share": share, "budget": limit, "baggage": baggage_in(baggage)}
        options = mesh.options(key=key or "", timeout_s=within, **turn)
        task = await options.submit(FLOW, spec=document(flow), input=given)
        found: Document = {"schema": "mesh.flow-run/1", "task": task.id, "survives": task.survives, "flow": flow.name}
        if wait:
            if not as_json:
                say(f"task {task.id}")
            async with _telling_steps(mesh, task.id):
                answer = await ended(mesh, task.id, timeout)
            raise_failure(answer)
            found |= {"state": answer["state"], "result": answer["result"]}
        return found

    show = lambda found: value_text(found["result"]) if wait else str(found["task"])  # noqa: E731
    ask(Where(home, node, as_json, timeout), action, show)


def _against_offers(flow: Flow, source: Text, caps: Document) -> list[str]:
    """Warnings are told, and given back. Raises UsageError for what fits nobody."""
    warnings = fitting(flow, source, caps)
    for warning in warnings:
        say(f"note: {clean(warning)}")
    return warnings


@asynccontextmanager
async def _telling_steps(mesh: Mesh, task: str) -> AsyncIterator[None]:
    """While inside, what becomes of the steps is told to the person, once each. A courtesy, as `gates.telling_gates` is."""
    known: dict[str, str] = {}

    async def look() -> None:
        with contextlib.suppress(MeshError):
            rows = [row for row in (await mesh.tasks())["tasks"] if row["parent"] == task and row["capability"] != "mesh.wait"]
            for row in sorted(rows, key=lambda row: row["age_ms"], reverse=True):
                now = _step_now(row)
                if now and known.get(row["task"]) != now:
                    known[row["task"]] = now
                    say(f"{clean(row['step'])}  {now}")

    async def tell() -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            await look()

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])
        await look()


def _step_now(row: Document) -> str:
    """ "" for what is not worth a word."""
    match row["state"]:
        case "held":
            return f"runs on {clean(row['owner'])}"
        case "done":
            return f"done on {clean(row['owner'])}, {seconds(row['took_ms'])}"
        case "parked":
            return f"waits: {clean(REASONS.get(row['reason'], row['reason']))}"
        case "failed" | "cancelled":
            return f"{row['state']}: {clean(row['reason'] or row['owner'])}"
    return ""


def check(
    file: FileArgument,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether a flow can be run as it stands, by itself and by what is offered now; exit 2 if not.

    Without a node it is checked by itself alone.
    """
    from mesh.runtime.home import Home

    async def action(mesh: Mesh) -> Document:
        return _checked(flow, _against_offers(flow, source, await mesh.caps(everything=True)), True)

    try:
        flow, source = read(file)
        if node is None and not Home.locate(home).running():
            say("note: no node of this home runs, so nobody knows what is offered")
            show_document(_checked(flow, [], False), _show_checked, as_json)
            return
    except MeshError as error:
        fail(error, as_json)
    ask(Where(home, node, as_json, timeout), action, _show_checked)


def _checked(flow: Flow, warnings: list[str], against_offers: bool) -> Document:
    found = {"flow": flow.name, "steps": len(flow.steps), "warnings": warnings, "against_offers": against_offers}
    return {"schema": "mesh.flow-check/1", "ok": True, **found}


def _show_checked(found: Document) -> str:
    return f"{clean(found['flow'])} can be run: {found['steps']} steps" + (f", {len(found['warnings'])} notes" if found["warnings"] else "")


def plan(
    file: FileArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    slots: Annotated[
        int, typer.Option("--slots", metavar="N", min=0, help="Pieces of work at once; else one on each node.", show_default=False)
    ] = 0,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who could do each step and how long all of it would take; runs nothing."""

    async def action(mesh: Mesh) -> Document:
        (flow, source), given = read(file), parse_arguments(words or [], whole)
        caps = await mesh.caps(everything=True)
        _against_offers(flow, source, caps)
        if given:
            flow = with_widths(flow, input_of(flow, given))
        return {"schema": "mesh.flow-plan/1", **planned(flow, caps, slots=slots)}

    ask(Where(home, node, as_json, timeout), action, _show_plan)


def _show_plan(found: Document) -> str:
    rows = [
        (
            step["step"],
            step["uses"] or "gate",
            ", ".join(step["candidates"]) or ("nobody now" if step["parked"] else "-"),
            seconds(1000 * step["service_s"]) if step["service_s"] is not None else "?",
            seconds(1000 * step["begins_s"]),
            seconds(1000 * step["ends_s"]),
        )
        for step in found["steps"]
    ]
    lines = [table(("STEP", "USES", "WHO COULD", "TAKES", "BEGINS", "ENDS"), rows, empty="no steps")]
    lines.append(f"all of it: {seconds(1000 * found['makespan_s'])}" + (", at least" if found["unknown"] else ""))
    if found["unknown"]:
        lines.append(f"nobody knows yet how long these take: {clean(', '.join(found['unknown']))}")
    return "\n".join(lines)


def graph(
    what: Annotated[str, typer.Argument(metavar="FILE|TASK", help="A flow's file; or its task, with what became of its steps.")],
    dot: Annotated[bool, typer.Option("--dot", help="For Graphviz.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="For Markdown pages.")] = False,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a flow: as text, for Graphviz or in Mermaid."""
    form = "dot" if dot else "mermaid" if mermaid else "text"

    def found(flow: Flow, states: dict[str, str]) -> Document:
        return {"schema": "mesh.flow-graph/1", "flow": flow.name, "form": form, "states": states, "text": drawn(flow, form, states)}

    async def action(mesh: Mesh) -> Document:
        run = await run_of(mesh, what)
        return found(run.flow, {step["step"]: step["state"] for step in run.steps})

    show = lambda document: clean_lines(document["text"])  # noqa: E731
    try:
        if dot and mermaid:
            raise UsageError("--dot and --mermaid do not go together", fix="leave one of them out")
        if not is_task(what):
            show_document(found(read(what)[0], {}), show, as_json)
            return
    except MeshError as error:
        fail(error, as_json)
    ask(Where(home, node, as_json, timeout), action, show)


def show(
    task: TaskArgument,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """One flow and its steps: how each stands, who does it, what it waits for."""

    async def action(mesh: Mesh) -> Document:
        return shown(await run_of(mesh, task))

    ask(Where(home, node, as_json, timeout), action, show_run, watch=watch)


def shown(run: Run) -> Document:
    """The ``flow-show`` document."""
    row = run.row
    known = {name: row[name] for name in ("task", "state", "owner", "attempts", "age_ms", "took_ms", "survives", "reason", "note")}
    degraded = run.result.get("degraded", []) if isinstance(run.result, dict) else []
    version = run.result.get("version", run.flow.version) if isinstance(run.result, dict) else run.flow.version
    about = {"flow": run.flow.name, "version": version, "paused": run.paused, "input": run.given, "steps": run.steps, "degraded": degraded}
    return {"schema": "mesh.flow-show/1", **known, **about}


def show_run(found: Document) -> str:
    """The same for people."""
    head = f"{clean(found['flow'])}, version {found['version']}: {clean(found['state'])}"
    head += f", driven by {clean(found['owner'])}" if found["owner"] and found["state"] == "held" else ""
    head += ", paused" if found["paused"] else ""
    head += f", {seconds(found['took_ms'])}" + (f", {found['attempts']} drivers" if found["attempts"] > 1 else "")
    rows = [
        (step["step"], step["state"], step["uses"], ", ".join(step["nodes"]) or "-", _pieces(step), _took(step), _note(step))
        for step in found["steps"]
    ]
    text = f"{head}\n{table(('STEP', 'STATE', 'USES', 'ON', 'DONE', 'TOOK', 'NOTE'), rows, empty='no steps')}"
    for one in found["degraded"]:
        text += f"\ndegraded: {clean(one['step'])} was done by {clean(one['instead'])}, because {clean(one['because'])}"
    return text


def _pieces(step: Document) -> str:
    return f"{step['done']} of {step['tasks']}" if step["tasks"] > 1 else str(step["done"]) if step["tasks"] else "-"


def _took(step: Document) -> str:
    return seconds(step["took_ms"]) if step["took_ms"] else "-"


def _note(step: Document) -> str:
    words = [f"{step['tries']} tries"] if step["tries"] > 1 else []
    words += [str(REASONS.get(step["waits"], step["waits"]))] if step["waits"] else []
    words += ["degraded"] if step["degraded"] else []
    words += [f"{step['failed']} failed"] if step["failed"] and step["state"] != "failed" else []
    return ", ".join(words)


def list_(
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """The flows of the whole mesh, newest first."""

    async def action(mesh: Mesh) -> Document:
        return {"schema": "mesh.flow-list/1", **await flows(mesh)}

    ask(Where(home, node, as_json, timeout), action, _show_list, watch=watch)


def _show_list(found: Document) -> str:
    rows = [
        (
            short(one["task"]),
            one["flow"] or "-",
            one["state"],
            one["driver"] or "-",
            f"{100 * one['progress']:.0f} %",
            seconds(one["age_ms"]),
            "asks a person: mesh approvals" if one["asks"] else f"{one['parked']} steps parked" if one["parked"] else one["note"],
        )
        for one in found["flows"]
    ]
    text = table(
        ("TASK", "FLOW", "STATE", "DRIVER", "STEPS", "AGE", "NOTE"), rows, empty="no flows; start one: mesh flow run FILE name=value"
    )
    return text + (f"\nnot asked: {clean(', '.join(found['missing']))}" if found["missing"] else "")


def cancel(
    task: TaskArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the record.", show_default=False)] = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a flow and all its steps at once; nothing is undone. Prints its state now."""

    async def action(mesh: Mesh) -> Document:
        return {**await mesh.cancel(await flow_task(mesh, task), reason=reason), "schema": "mesh.flow-cancel/1"}

    ask(Where(home, node, as_json, timeout), action, lambda found: clean(found["state"]))
