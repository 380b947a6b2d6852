"""Use: call, submit, result, cancel, retry, get."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import TIMEOUT_S, Mesh
from mesh.errors import NodeLost, TimedOut, UsageError, task_error
from mesh.inspector import fitting, streaming
from mesh.inspector.gates import telling_gates
from mesh.inspector.render import clean, say, value_text
from mesh.inspector.shell import (
    LOOK_S,
    WAIT_S,
    HomeOption,
    JsonOption,
    LookTimeout,
    NodeOption,
    WaitTimeout,
    Where,
    ask,
    bound,
    bounded,
    explained,
    filled,
    in_range,
    run,
)
from mesh.inspector.streaming import plain
from mesh.inspector.watch import TaskArgument
from mesh.labels import amounts_in

CapabilityArgument = Annotated[
    str, typer.Argument(help="What is wanted, as `mesh caps` lists it; NAME@^2: of these versions.", show_default=False, callback=in_range)
]
WordsArgument = Annotated[list[str] | None, typer.Argument(help="name=text  name:=JSON  name=@file", show_default=False)]
WholeOption = Annotated[
    str | None,
    typer.Option("-i", "--input", metavar="JSON|@FILE", help="All arguments as one JSON object.", show_default=False, callback=filled),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="PATH",
        help="Save the file of the result here; several, into this folder.",
        show_default=False,
        callback=filled,
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="LABEL",
        help="Only where this label is: zone=eu, or gpu for any. May be repeated.",
        show_default=False,
        callback=filled,
    ),
]
NearOption = Annotated[
    str | None,
    typer.Option(
        "--near", metavar="KEY", help="Where the last work with this key went, if it is free.", show_default=False, callback=filled
    ),
]
ApartOption = Annotated[
    str | None,
    typer.Option(
        "--apart", metavar="KEY", help="Where no other work with this key is, if that is free.", show_default=False, callback=filled
    ),
]
HedgeOption = Annotated[bool, typer.Option("--hedge", help="Begin it once more elsewhere if it is slow, and idempotent.")]
WithinOption = Annotated[
    float | None,
    typer.Option("--within", metavar="SECONDS", help="The task fails if it has not ended by then.", show_default=False, callback=bounded),
]
QueueWithinOption = Annotated[
    float | None,
    typer.Option(
        "--queue-within", metavar="SECONDS", help="It fails if nobody has taken it by then.", show_default=False, callback=bounded
    ),
]
RunWithinOption = Annotated[
    float | None,
    typer.Option("--run-within", metavar="SECONDS", help="One run is stopped after so long.", show_default=False, callback=bounded),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=AMOUNT",
        help="What it and all that it begins may spend: usd=5, calls=100, time_s=600. May be repeated.",
        show_default=False,
        callback=filled,
    ),
]
CallTimeout = Annotated[float, bound(TIMEOUT_S)]
PriorityOption = Annotated[
    int | None,
    typer.Option("--priority", metavar="N", min=1, max=9, help="1 to 9, the greater goes first; 5 if not said.", show_default=False),
]
ShareOption = Annotated[
    str | None,
    typer.Option("--share", metavar="KEY", help="Waiting work is taken key by key, in turns.", show_default=False, callback=filled),
]


def pairs(words: list[str] | None) -> list[str] | None:
    """Option callback: each is ``name=text``."""
    for word in filled(words) or []:
        if not word.partition("=")[0] or "=" not in word:
            raise typer.BadParameter(f"{word!r} is no name=text")
    return words


BaggageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--baggage",
        metavar="NAME=TEXT",
        help="Goes along with the work and all below it. May be repeated.",
        show_default=False,
        callback=pairs,
    ),
]


def baggage_in(words: list[str] | None) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words or [])


def _files_in(value: Any) -> list[dict[str, Any]]:
    """Every file reference in a result."""
    if isinstance(value, dict):
        if set(value) == {"$file"}:
            return [value["$file"]]
        return [found for item in value.values() for found in _files_in(item)]
    return [found for item in value for found in _files_in(item)] if isinstance(value, list) else []


def _out(path: str | None) -> Path | None:
    """Where to save, looked at before any work is asked for. Raises UsageError."""
    if path is None:
        return None
    out = Path(path)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(out.parent)!r} to save into", fix=f"mkdir -p {out.parent}")
    if out.exists() and not out.is_dir() and not out.is_file():
        raise UsageError(f"{str(out)!r} is neither a file nor a folder", fix="name another: -o PATH")
    return out


async def _save(mesh: Mesh, value: Any, out: Path | None) -> list[str]:
    """Save the files of a result; their paths."""
    if out is None:
        return []
    found = _files_in(value)
    if not found:
        say("mesh: the result holds no file to save")  # the work is done: its answer is not thrown away
        return []
    try:
        if len(found) > 1:
            out.mkdir(exist_ok=True)
        saved: list[str] = []
        for file in found:
            to = _free(out / Path(file["name"]).name, saved) if out.is_dir() else out
            await mesh.get(file["sha256"], to)
            say(f"saved {clean(to)}")
            saved.append(str(to))
    except OSError as error:
        raise explained(error) from error
    return saved


def _free(path: Path, taken: list[str]) -> Path:
    """`path`, or with a number where another file of this result has that name."""
    number, found = 2, path
    while str(found) in taken:
        found = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return found


def _placed(
    where: list[str] | None,
    near: str | None,
    apart: str | None,
    hedge: bool,
    priority: int | None,
    share: str | None,
    budget: list[str] | None,
    baggage: list[str] | None,
) -> dict[str, Any]:
    """As `Mesh.options` takes them."""
    turn = {"priority": priority, "share": share, "budget": budget_in(budget), "baggage": baggage_in(baggage)}
    return {"where": where, "near": near or "", "apart": apart or "", "hedge": hedge, **turn}


def budget_in(words: list[str] | None) -> dict[str, float]:
    """``--budget usd=5 --budget calls=100``. Raises UsageError."""
    names = [word.partition("=")[0] for word in words or ()]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--budget: {name!r} is there twice", fix="give each name once")
    return {name: amount / 1000 for name, amount in amounts_in(words or (), "--budget")}


def _show_result(document: dict[str, Any]) -> str:
    return value_text(document["result"])


def call(
    capability: CapabilityArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    out: OutOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print each item of a generator as it comes; --timeout is for each.")] = False,
    where: WhereOption = None,
    near: NearOption = None,
    apart: ApartOption = None,
    hedge: HedgeOption = False,
    timeout: CallTimeout = TIMEOUT_S,
    priority: PriorityOption = None,
    share: ShareOption = None,
    budget: BudgetOption = None,
    baggage: BaggageOption = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a capability and print its answer.

    The work ends with this command: for what must outlive it, `mesh submit`. With --stream and --json: a document a line.
    """
    from mesh.inspector.arguments import parse_arguments

    placed = _placed(where, near, apart, hedge, priority, share, budget, baggage)
    if stream:
        if out:
            raise typer.BadParameter("--stream has no -o")
        at = Where(home, node, as_json, timeout)
        run(at, lambda: streaming.read(at, capability, parse_arguments(words or [], whole), placed))
        return

    async def action(mesh: Mesh) -> dict[str, Any]:
        to, arguments = _out(out), parse_arguments(words or [], whole)
        options = mesh.options(timeout_s=timeout, **placed)
        if hedge:
            fitting.say_hedge(fitting.offered(await mesh.caps(everything=True), capability))
        began_s = time.monotonic()
        try:
            async with fitting.telling_why_it_waits(mesh, capability, where or []):
                value = plain(await options.call(capability, **arguments))
        except TimedOut as error:
            raise _out_of_time(error, capability, timeout, time.monotonic() - began_s) from None
        saved = await _save(mesh, value, to)
        return {"schema": "mesh.call/1", "capability": capability, "result": value} | ({"saved": saved} if saved else {})

    ask(Where(home, node, as_json, timeout), action, _show_result)


def _out_of_time(error: TimedOut, capability: str, timeout_s: float, took_s: float) -> TimedOut:
    """A call that ran out of the time it was given here is exit 4. One whose handler ran out of its own was answered, by a failure: 1."""
    if took_s < timeout_s:
        error.exit_code = 1
        error.fix = f"give {capability} longer where it is declared: timeout_s=, queue_timeout_s="
    else:
        error.fix = "give it longer: --timeout SECONDS; or mesh submit, whose work goes on"
    return error


def submit(
    capability: CapabilityArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    where: WhereOption = None,
    near: NearOption = None,
    apart: ApartOption = None,
    hedge: HedgeOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    out: OutOption = None,
    timeout: WaitTimeout = WAIT_S,
    within: WithinOption = None,
    queue_within: QueueWithinOption = None,
    run_within: RunWithinOption = None,
    retries: Annotated[
        int | None, typer.Option("--retries", metavar="N", min=0, help="Tries after a failure of the handler.", show_default=False)
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="One task over the whole mesh, however often.", show_default=False, callback=filled),
    ] = None,
    priority: PriorityOption = None,
    share: ShareOption = None,
    budget: BudgetOption = None,
    baggage: BaggageOption = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a durable task and print its id.

    It survives this command, and the node's restart. Under a --key that was used before, on whichever node, that task's id is printed.
    """
    from mesh.inspector.arguments import parse_arguments

    if out and not wait:
        raise typer.BadParameter("-o needs --wait")

    async def action(mesh: Mesh) -> dict[str, Any]:
        to, arguments = _out(out), parse_arguments(words or [], whole)
        bounds: dict[str, Any] = {"timeout_s": within, "queue_timeout_s": queue_within, "run_timeout_s": run_within}
        placed = _placed(where, near, apart, hedge, priority, share, budget, baggage)
        options = mesh.options(retries=retries, key=key or "", **bounds, **placed)
        # Before the submit: nothing that fails may stand between what was acknowledged and its id.
        caps, nodes = await mesh.caps(everything=True), await mesh.nodes()
        fitting.check(fitting.offered(caps, capability), arguments, hedge)
        task = await options.submit(capability, **arguments)
        document: dict[str, Any] = {"schema": "mesh.submit/1", "task": task.id, "survives": task.survives}
        fitting.say_missing(caps, nodes, capability, where or [], "the task")
        if wait:
            if not as_json:
                say(f"task {task.id}")
            answer = await ended(mesh, task.id, timeout)
            raise_failure(answer)
            saved = await _save(mesh, answer["result"], to)
            document |= {"state": answer["state"], "result": answer["result"]} | ({"saved": saved} if saved else {})
        return document

    ask(Where(home, node, as_json, timeout), action, lambda document: _show_result(document) if wait else str(document["task"]))


async def ended(mesh: Mesh, task: str, timeout_s: float) -> dict[str, Any]:
    """The `result` document. Raises TimedOut, saying that the work goes on; NodeLost, saying how to ask again."""
    try:
        async with telling_gates(mesh, task):
            return await mesh.result(task, timeout_s=timeout_s)
    except NodeLost as error:
        raise NodeLost(f"the node that was asked went away; {task} outlives it", fix=f"mesh result {task}") from error
    except TimedOut as error:
        raise TimedOut(f"{task} has not ended within {timeout_s:g} s; it goes on", fix=f"mesh result {task}") from error


def raise_failure(answer: dict[str, Any]) -> None:
    if answer["state"] != "done":
        error = task_error(answer.get("error") or {}, answer["task"], answer["state"])
        if isinstance(error, TimedOut):
            error.fix = f"mesh why {answer['task']}"
        # The question was answered: the answer is that the task failed, whatever it failed of.
        error.exit_code = 1
        raise error


def result(
    task: TaskArgument,
    out: OutOption = None,
    timeout: WaitTimeout = WAIT_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a task and print its result; exit 1 if it failed."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        to = _out(out)
        answer = await ended(mesh, task, timeout)
        if answer["state"] != "done" and not as_json:
            raise_failure(answer)
        if answer["state"] == "done":
            saved = await _save(mesh, answer["result"], to)
            answer |= {"saved": saved} if saved else {}
        return answer

    ask(Where(home, node, as_json, timeout), action, _show_result, exit_code=lambda document: 0 if document["state"] == "done" else 1)


def cancel(
    task: TaskArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept in the record.", show_default=False)] = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a task and its steps; prints its state now."""
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.cancel(task, reason=reason), lambda document: clean(document["state"]))


def retry(
    task: TaskArgument,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a failed or cancelled task once more; prints the new id."""
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.retry(task), lambda document: clean(document["task"]))


def get(
    file: Annotated[str, typer.Argument(metavar="HASH", help="A file's sha256, as lineage and results name it.", show_default=False)],
    out: Annotated[str, typer.Option("-o", "--out", metavar="PATH", help="Where to save it.", show_default=False, callback=filled)],
    timeout: Annotated[float, bound(300.0)] = 300.0,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save a file by its hash, wherever in the mesh it is."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        to = _out(out)
        assert to is not None
        if to.is_dir():
            to = to / file
        try:
            size = await mesh.get(file, to)
        except OSError as error:
            raise explained(error) from error
        return {"schema": "mesh.get/1", "sha256": file, "path": str(to), "size": size}

    ask(
        Where(home, node, as_json, timeout), action, lambda document: f"{clean(document['path'])}  {document['size']} bytes, sha256 checked"
    )
