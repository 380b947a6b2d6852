"""`mesh sim`: what a flow or a recorded load would come to, on this mesh or another, without running any of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from os import cpu_count
from typing import Annotated, Any, TypeVar

import typer

from mesh.client import Mesh, connect
from mesh.errors import MeshError, UsageError
from mesh.inspector.arguments import parse_arguments
from mesh.inspector.flow_facts import is_task, read
from mesh.inspector.rehearse_facts import Subject, of_flow, of_load, of_task, real_ms
from mesh.inspector.rehearse_show import show
from mesh.inspector.render import say
from mesh.inspector.shell import WAIT_S, HomeOption, JsonOption, NodeOption, WaitTimeout, Where, fail, filled, put, run, show_document
from mesh.inspector.use import WholeOption, WordsArgument
from mesh.policies import read_policy
from mesh.rehearsal.calibrating import calibrated
from mesh.rehearsal.load import is_load, lines
from mesh.rehearsal.model import SLOTS_MAX, Capability, Model
from mesh.rehearsal.outcome import Outcome
from mesh.rehearsal.reading import fault_of, read_model
from mesh.rehearsal.recorded import load_of, this_mesh
from mesh.rehearsal.report import reported
from mesh.rehearsal.service import service_of

Document = dict[str, Any]
SEEDS_MAX = 100
Several = list[str] | None
T = TypeVar("T")


def _several(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False, callback=filled)


def sim(
    what: Annotated[
        str,
        typer.Argument(metavar="FLOW|TRACE|TASK", help="A flow's file, a load's, or a flow's task on record.", show_default=False),
    ] = "",
    words: WordsArgument = None,
    whole: WholeOption = None,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=0, help="So many nodes, like those known.", show_default=False)] = 0,
    slots: Annotated[
        int, typer.Option("--slots", metavar="N", min=0, max=SLOTS_MAX, help="Handlers at once, of each worker.", show_default=False)
    ] = 0,
    service: Annotated[Several, _several("--service", "CAP=TIME", "How long a capability takes: 300ms, or 200ms..400ms.")] = None,
    width: Annotated[Several, _several("--width", "STEP=N", "Items of a map, turns of a loop, that depend on results.")] = None,
    skip: Annotated[Several, _several("--skip", "STEP", "Its condition will be false.")] = None,
    kill: Annotated[Several, _several("--kill", "NODE@TIME", "That machine is gone then: n2@3s; n2@3s+10s: and back.")] = None,
    speed: Annotated[str, typer.Option("--speed", metavar="2x", help="A load asked for so many times as fast.", show_default=False)] = "",
    model: Annotated[str, typer.Option("--model", metavar="FILE", help="A mesh in TOML, instead of this one.", show_default=False)] = "",
    alone: Annotated[bool, typer.Option("--alone", help="Ask no node: what is said here is all that is known.")] = False,
    policy: Annotated[str, typer.Option("--policy", metavar="FILE", help="Under these rules.", show_default=False)] = "",
    overhead: Annotated[
        str, typer.Option("--overhead", metavar="FACTOR", help="The mesh's own costs, times this: 2x.", show_default=False)
    ] = "",
    compare: Annotated[
        str, typer.Option("--compare", metavar="TASK", help="Hold it against that run of the flow.", show_default=False)
    ] = "",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, max=SEEDS_MAX, help="Rehearse so many times.")] = 3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first seed.", show_default=False)] = 1,
    record: Annotated[bool, typer.Option("--record", help="Print this mesh's load, or that TASK's, as JSON lines.")] = False,
    timeout: WaitTimeout = WAIT_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rehearse a flow or a recorded load: how long it would take, and where it would wait.

    The same nodes decide as ever, in virtual time; handlers only take time. Exit 1 if it would fail, or never end.
    """
    where = Where(home, node, as_json, timeout)
    if record:
        _record(where, what)
        return
    try:
        if not what:
            raise UsageError("what is to be rehearsed?", fix="mesh sim FLOW.toml, mesh sim LOAD.jsonl, or mesh sim TASK")
        given = parse_arguments(words or [], whole)
        wishes = (_numbers(width or [], "--width"), tuple(skip or ()))
        change = _changing(nodes, slots, service or [], kill or [], overhead, policy)
        known = read_model(model) if model else None
        subject = _subject(where, what, given, wishes, compare, known, alone, change, _factor(speed, "--speed"))
        began = time.perf_counter()
        subject = replace(subject, model=calibrated(subject.model))
        outcomes = _rehearsed(subject, range(seed, seed + seeds))
        document = _document(subject, outcomes, time.perf_counter() - began)
    except MeshError as error:
        fail(error, as_json)
    show_document(document, show, as_json)
    if document["state"] != "done":
        raise typer.Exit(1)


def _subject(
    where: Where,
    what: str,
    given: Document,
    wishes: tuple[dict[str, int], tuple[str, ...]],
    compare: str,
    model: Model | None,
    alone: bool,
    change: Callable[[Model], Model],
    faster: float,
) -> Subject:
    """Raises MeshError."""
    if is_task(what):
        return run(where, lambda: _asked(where, lambda mesh: of_task(mesh, what, model, change)))
    if is_load(what):
        return of_load(what, model, change, faster)
    if faster != 1.0:
        raise UsageError("--speed is for a recorded load", fix="leave it out: a flow goes as fast as it can")
    flow, _ = read(what)

    def made(known: Model, against: tuple[str, float] | None = None) -> Subject:
        return replace(of_flow(flow, given, wishes, change(known)), real=against)

    if compare:

        async def both(mesh: Mesh) -> Subject:
            return made(model or await this_mesh(mesh), await real_ms(mesh, compare))

        return run(where, lambda: _asked(where, both))
    if model is not None:
        return made(model)
    if alone or not _is_up(where):
        return made(Model())
    return made(run(where, lambda: _asked(where, this_mesh)))


async def _asked(where: Where, action: Callable[[Mesh], Awaitable[T]]) -> T:
    async with connect(home=where.home, node=where.node, timeout_s=where.timeout_s) as mesh:
        return await action(mesh)


def _is_up(where: Where) -> bool:
    from mesh.runtime.home import Home

    return where.node is not None or bool(Home.locate(where.home).running())


def _changing(nodes: int, slots: int, service: list[str], kill: list[str], overhead: str, policy: str) -> Callable[[Model], Model]:
    """What flags change of a model. Raises UsageError."""
    taken = dict(_pair(word, "--service", "--service ocr=300ms") for word in service)
    services = {name: service_of(text, f"--service {name}") for name, text in taken.items()}
    faults = tuple(map(fault_of, kill))
    factor = _factor(overhead, "--overhead")
    rules = read_policy(policy) if policy else None

    def change(model: Model) -> Model:
        model = replace(model, overheads=model.overheads.times(factor), faults=(*model.faults, *faults))
        model = model.resized(nodes) if nodes else model if model.nodes else model.resized(1)
        model = model.with_slots(slots) if slots else model
        model = replace(model, policy=rules) if rules is not None else model
        if services:
            changed = {name: replace(model.capability(name) or Capability(name), service=found) for name, found in services.items()}
            fresh = [name for name in services if model.capability(name) is None]
            model = model.with_capabilities(changed).offering(fresh)
        return model.checked()

    return change


def _pair(word: str, flag: str, form: str) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise UsageError(f"{flag} {word!r} has not the form NAME=VALUE", fix=form)
    return name, text


def _numbers(words: list[str], flag: str) -> dict[str, int]:
    found = {}
    for word in words:
        name, text = _pair(word, flag, f"{flag} shards=40")
        if not text.isdecimal() or int(text) > 10_000:
            raise UsageError(f"{flag} {word!r}: {text!r} is no whole number up to 10000", fix=f"{flag} {name}=40")
        found[name] = int(text)
    return found


def _factor(text: str, flag: str) -> float:
    if not text:
        return 1.0
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0.001 <= factor <= 1000:
        raise UsageError(f"{flag} {text!r} is no factor", fix=f"{flag} 2x")
    return factor


def _rehearsed(subject: Subject, seeds: range) -> list[Outcome]:
    """One process for each core, where there are several seeds."""
    workers = min(len(seeds), cpu_count() or 1)
    if workers == 1:
        return [subject.rehearse(seed) for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(subject.rehearse, seeds))


def _document(subject: Subject, outcomes: list[Outcome], took_s: float) -> Document:
    found = reported(outcomes, subject.model, subject.flow)
    makespan_ms = found["makespan_ms"]["median"]
    compared = None
    if subject.real is not None:
        name, real = subject.real
        compared = {"with": name, "real_ms": round(real, 1), "error_pct": round(100 * (makespan_ms - real) / real, 1) if real else None}
    about = {"what": subject.kind, "name": subject.name, "model": subject.model.came_from}
    return {"schema": "mesh.sim/1", **about, **found, "notes": list(subject.notes), "compared": compared, "took_ms": round(1000 * took_s)}


def _record(where: Where, task: str) -> None:
    async def action(mesh: Mesh) -> Any:
        full = str((await mesh.task(task))["task"]) if task else ""
        return await load_of(mesh, full)

    load = run(where, lambda: _asked(where, action))
    say(f"{len(load.jobs)} tasks")
    put("\n".join(lines(load)))
