"""What `mesh sim` predicts beside what real nodes then take: makespans, side by side in one run.

    chain           steps one after the other
    fan             1 -> N -> 1, with times of which some are long
    map at once     a map of which only so many items run at once
    load            tasks at chance times that take 85 % of all slots; recorded, then rehearsed

Four nodes of one machine, with handlers that sleep. Of a flow each round predicts first, from what the mesh knows by
then (a run of the same kind before, with other times), and runs it afterwards: nobody who predicts has seen the times. `replayed`: the same
run rehearsed once more from its record, with the very times that it had.

    --calibrate     what the mesh itself costs, beside the constants in `mesh/rehearsal/model.py`: no-ops in a chain, in a fan, alone
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import replace
from random import Random
from typing import Any

from common import HERE, mesh, percentile, show
from rows_pair import offered

from mesh import connect, flow
from mesh.flows.reading import flow_from
from mesh.inspector.rehearse_facts import of_flow, of_task
from mesh.rehearsal.calibrating import calibrated, learned
from mesh.rehearsal.model import Capability, Model
from mesh.rehearsal.recorded import load_of, rows_of, this_mesh
from mesh.rehearsal.rehearse import rehearse_flow
from mesh.rehearsal.replay import rehearse_load
from mesh.rehearsal.service import always, lognormal
from mesh.sim.makespan import SPREAD, stream

NODES = ("n1", "n2", "n3", "n4")
SLOTS = 2
RUN_MAX_S = 300.0
GOAL_PCT = 10.0


def chain(length: int) -> Any:
    built = flow("chain", seconds="number")
    last = built.step("s0", "prepare", seconds=built.input.seconds)
    for number in range(1, length):
        last = built.step(f"s{number}", "prepare", seconds=last)
    return built


def fan(at_once: int) -> Any:
    built = flow("fan", seconds="number", each="array")
    built.step("first", "prepare", seconds=built.input.seconds)
    built.map("shards", "shard", over=built.input.each, seconds=built.item, max_parallel=at_once, options={"needs": ["first"]})
    built.step("last", "merge", seconds=built.input.seconds, options={"needs": ["shards"]})
    return built


def uneven(seed: int, count: int, mean_s: float) -> list[float]:
    """Of one distribution, in another order and with other values each time; so many of each size that no run is long by chance."""
    rng, kind = Random(f"{seed}/shards"), lognormal(mean_s, SPREAD)
    found = [round(kind.draw((number + rng.random()) / count), 3) for number in range(count)]
    rng.shuffle(found)
    return found


async def ran(client: Any, built: Any, given: dict[str, Any]) -> tuple[str, float]:
    """The task, and its makespan by its own record."""
    task = await client.submit("mesh.flow", spec=built.document(), input=given)
    await task.result(RUN_MAX_S)
    return task.id, (await client.task(task.id))["took_ms"] / 1000


async def predicted(client: Any, built: Any, given: dict[str, Any], widths: dict[str, int], seeds: int) -> float:
    known = await this_mesh(client)
    subject = of_flow(flow_from(built.document()), given, (widths, ()), known)
    return await spans(await ready(subject), seeds)


async def ready(subject: Any) -> Any:
    """Its rehearsal, with what the mesh costs here."""
    return replace(subject, model=await asyncio.to_thread(calibrated, subject.model)).rehearse


async def spans(rehearse: Any, seeds: int) -> float:
    """The median over seeds; in a thread, since each has a loop of its own, and nothing else is measured meanwhile."""
    found = [(await asyncio.to_thread(rehearse, seed)).makespan_s for seed in range(1, seeds + 1)]
    return statistics.median(found)


def row(what: str, real: list[float], said: list[float], replayed: list[float]) -> dict[str, Any]:
    off = [100 * (one - other) / other for one, other in zip(said, real, strict=True)]
    again = [100 * (one - other) / other for one, other in zip(replayed, real, strict=False)]
    return {
        "what": what,
        "real s": statistics.median(real),
        "predicted s": statistics.median(said),
        "off %": statistics.median(off),
        "worst %": max(off, key=abs),
        "replayed off %": statistics.median(again) if again else None,
        "goal %": GOAL_PCT,
    }


async def flows(client: Any, rounds: int, seeds: int, share: float) -> list[dict[str, Any]]:
    wide = max(8, int(64 * share))
    stories: dict[str, tuple[Any, dict[str, int]]] = {
        f"chain of {max(4, int(16 * share))}": (chain(max(4, int(16 * share))), {}),
        f"fan of {wide}, uneven": (fan(256), {"shards": wide}),
        f"map of {wide}, 4 at once": (fan(4), {"shards": wide}),
    }
    rows = []
    for number, (what, (built, widths)) in enumerate(stories.items()):
        real, said, replayed = [], [], []
        for turn in range(rounds + 1):
            given: dict[str, Any] = {"seconds": 0.2}
            if widths:
                given["each"] = uneven(100 * number + turn, widths["shards"], 0.3)
            if turn:
                said.append(await predicted(client, built, {"seconds": 0.2}, widths, seeds))
            task, took_s = await ran(client, built, given)
            if turn:
                real.append(took_s)
                subject = await of_task(client, task, None, lambda model: model)
                replayed.append(await spans(await ready(subject), 1))
        rows.append(row(what, real, said, replayed))
    return rows


async def load(client: Any, rounds: int, seeds: int, share: float) -> list[dict[str, Any]]:
    """The makespan of an open load is mostly that of its arrivals; how long each waited says more."""
    real, said, p95_real, p95_said, mean_real, mean_said = [], [], [], [], [], []
    for turn in range(1, rounds + 1):
        jobs = stream(turn, max(40, int(300 * share)), 0.2, 0.85, (float(SLOTS),) * len(NODES), 1)
        before = {one["task"] for one in await rows_of(client)}
        began = time.perf_counter()

        async def one(at_s: float, service_s: float, began: float = began) -> None:
            await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
            await (await client.submit("shard", seconds=round(service_s, 3))).result(RUN_MAX_S)

        await asyncio.gather(*(one(job.at_s, job.service_s) for job in jobs))
        whole = await load_of(client)
        mine = tuple(job for job in whole.jobs if job.task not in before and not job.parent)
        first_ms = min(job.at_ms for job in mine)
        recorded = type(whole)(tuple(job for job in mine if job.at_ms >= first_ms), whole.model)
        model = await asyncio.to_thread(calibrated, learned(recorded))
        outcomes = [await asyncio.to_thread(rehearse_load, recorded, model, seed) for seed in range(1, seeds + 1)]
        real.append(recorded.makespan_s)
        said.append(statistics.median(one.makespan_s for one in outcomes))
        took = [job.took_ms / 1000 for job in mine]
        sim = [work.finished_s - work.submitted_s for work in outcomes[0].works]
        p95_real.append(percentile(took, 0.95))
        p95_said.append(percentile(sim, 0.95))
        mean_real.append(statistics.fmean(took))
        mean_said.append(statistics.fmean(sim))
    return [
        row("load at 85 %", real, said, []),
        row("load at 85 %, mean response", mean_real, mean_said, []) | {"goal %": None},
        row("load at 85 %, p95 response", p95_real, p95_said, []) | {"goal %": None},
    ]


async def costs(client: Any, rounds: int) -> list[dict[str, Any]]:
    """No-ops: what is left is the mesh itself."""
    model = Model(capabilities=(Capability("noop", always(0.0)),)).of_names(list(NODES)).with_slots(SLOTS)
    ladder, wide = flow("ladder"), flow("wide", items="array")
    last = ladder.step("s0", "noop", text="x")
    for number in range(1, 50):
        last = ladder.step(f"s{number}", "noop", text=last)
    wide.map("each", "noop", over=wide.input["items"], text=wide.item)
    items = [str(number) for number in range(1000)]
    rows = []
    for what, built, given, widths in (
        ("chain of 50 no-ops", ladder, {}, {}),
        ("fan of 1,000 no-ops", wide, {"items": items}, {"each": 1000}),
    ):
        real = [(await ran(client, built, given))[1] for _ in range(rounds)]
        made = of_flow(flow_from(built.document()), {}, (widths, ()), model)
        rows.append(row(what, real, [await spans(made.rehearse, 1)] * rounds, []) | {"goal %": None})
    alone = []
    for _ in range(20 * rounds):
        task = await client.submit("noop", text="x")
        await task.result(RUN_MAX_S)
        alone.append((await client.task(task.id))["took_ms"] / 1000)
        await asyncio.sleep(0.1)
    one = flow("one")
    one.step("only", "noop", text="x")
    outcome = await asyncio.to_thread(rehearse_flow, of_flow(flow_from(one.document()), {}, ({}, ()), model).made, model, 1)
    said = [next(work.finished_s - work.submitted_s for work in outcome.works if work.capability == "noop")]
    return [*rows, row("one no-op alone", [statistics.median(alone)], said, []) | {"goal %": None}]


async def kept(client: Any) -> None:
    """Until two others keep its journal, as they do from then on."""
    while (await client.status())["keepers"]["survives"] != "node-loss":  # noqa: ASYNC110  another process
        await asyncio.sleep(0.1)


async def warm(client: Any) -> None:
    """Until each node has driven a flow: what it starts for that stays for two minutes."""
    driven: set[str] = set()
    while len(driven) < len(NODES):
        await asyncio.gather(*(ran(client, chain(8), {"seconds": 0.2}) for _ in NODES))
        driven = {row["owner"] for row in (await client.tasks())["tasks"] if row["capability"] == "mesh.flow"}


async def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    with mesh() as made:
        for name in NODES:
            made.node(name)
            made.worker(HERE / "rehearsal_agent.py", name, environ={"SLOTS": str(SLOTS)})
        async with connect(home=made.home, node=NODES[0], timeout_s=120.0) as client:
            await offered(client, {"noop", "prepare", "shard", "merge"}, len(NODES))
            await kept(client)
            await warm(client)
            if asked.calibrate:
                return await costs(client, asked.rounds)
            return [
                *await flows(client, asked.rounds, asked.seeds, asked.share),
                *await load(client, asked.rounds, asked.seeds, asked.share),
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5, help="of each prediction")
    parser.add_argument("--share", type=float, default=1.0, help="of the full sizes")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    show(asyncio.run(measure(asked)), asked.json)


if __name__ == "__main__":
    main()
