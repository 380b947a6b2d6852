"""What a flow costs, on real nodes, beside the same work done otherwise: a chain of 50, 1 -> 1,000 -> 1, and a graph of 1,000 steps.

    chain    50 steps, each needs the one before
    fan      one step, a map over 1,000, one step that takes all
    graph    1,000 steps in 50 layers of 20, each needs three of the layer before

Ours: `flow` is a document that the node's own driver interprets; `ctx.step` a handler that asks for the same steps; of both a step counts
when two of three disks have it. `ctx.call` is that handler with calls, which nobody keeps. `submit` is a client that submits each step,
layer by layer, and waits.

    --peers COMMAND   run once in each round, when our nodes are down; each line of its output that begins with { is a JSON object:
                      bench F: system, variant (chain-50, 1-1000-1 or graph-1000), s

Three nodes of one machine, a no-op worker at each. Per step: time of the whole, by its number of steps. A ratio is that of `flow` over the
other, taken within a round; figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from common import HERE, mesh, show
from peers import peers_round
from rows_pair import NOOP, offered

from mesh import connect, flow

NODES = ("n1", "n2", "n3")
CHAIN, WIDTH, LAYERS, LAYER, NEEDS = 50, 1000, 50, 20, 3
RUN_MAX_S = 300.0
STORIES = {"chain-50": [1] * CHAIN, "1-1000-1": [1, WIDTH, 1], "graph-1000": [LAYER] * LAYERS}
"""Variant -> how many steps at once, one after the other."""
FLOW = "mesh flow"
KEPT = {
    FLOW: "2 of 3 disks",
    "mesh ctx.step": "2 of 3 disks",
    "mesh ctx.call": "nowhere",
    "mesh submit": "2 of 3 disks",
    "Ray": "memory",
    "Dask": "memory",
    "Celery": "memory of Redis",
    "Celery, Redis fsyncs": "disk of Redis",
    "DBOS": "disk, SQLite",
}
"""Where a step that is done is kept."""
Ways = dict[str, Callable[[], Awaitable[Any]]]


def needs_of(seed: int) -> list[list[int]]:
    """Of the graph: what each step needs, by number."""
    chance = random.Random(seed)
    layers = [range(first, first + LAYER) for first in range(0, LAYERS * LAYER, LAYER)]
    return [[] for _ in layers[0]] + [chance.sample(above, NEEDS) for above in layers[:-1] for _ in range(LAYER)]


def chain() -> Any:
    built = flow("chain")
    last = built.step("s0", "noop", text="x")
    for number in range(1, CHAIN):
        last = built.step(f"s{number}", "noop", text=last)
    return built


def fan() -> Any:
    built = flow("fan", items="array")
    built.step("first", "noop", text="x")
    each = built.map("each", "noop", over=built.input["items"], text=built.item, max_parallel=256, options={"needs": ["first"]})
    built.step("last", "count", items=each)
    return built


def graph(seed: int) -> Any:
    built = flow("graph")
    for number, needs in enumerate(needs_of(seed)):
        built.step(f"s{number}", "noop", text="x", options={"needs": [f"s{one}" for one in needs]})
    return built


def ways_of(client: Any, seed: int) -> dict[str, Ways]:
    """Of each story: how we do it."""
    built = {"chain-50": (chain(), {}), "1-1000-1": (fan(), {"items": [str(n) for n in range(WIDTH)]}), "graph-1000": (graph(seed), {})}
    handlers = {
        "chain-50": ("chain", {"count": CHAIN}),
        "1-1000-1": ("fan", {"count": WIDTH}),
        "graph-1000": ("graph", {"needs": needs_of(seed)}),
    }

    async def kept(capability: str, arguments: dict[str, Any]) -> None:
        await (await client.submit(capability, **arguments)).result(RUN_MAX_S)

    async def by_hand(widths: list[int]) -> None:
        for width in widths:
            await asyncio.gather(*(kept("noop", {"text": "x"}) for _ in range(width)))

    def of(story: str) -> Ways:
        (document, given), (handler, arguments) = built[story], handlers[story]
        return {
            FLOW: lambda: kept("mesh.flow", {"spec": document.document(), "input": given}),
            "mesh ctx.step": lambda: kept(handler, {**arguments, "durable": True}),
            "mesh ctx.call": lambda: client.call(handler, **arguments, durable=False),
            "mesh submit": lambda: by_hand(STORIES[story]),
        }

    return {story: of(story) for story in STORIES}


async def our_round(seed: int) -> dict[str, float]:
    """Seconds by `system/variant`. Everything is done once before it is measured, but for what would only take long."""
    found = {}
    more = [HERE / each for each in ("count_agent.py", "fan_agent.py", "flows_agent.py")]
    with mesh() as made:
        for name in NODES:
            made.node(name)
            made.worker(NOOP, name, *(more if name == NODES[0] else ()))
        async with connect(home=made.home, node=NODES[0], timeout_s=RUN_MAX_S) as client:
            await offered(client, {"noop"}, len(NODES))
            await offered(client, {"count", "fan", "chain", "graph"})
            ways = ways_of(client, seed)
            for warm in ways["chain-50"].values():
                await warm()
            for story, each in ways.items():
                for system, way in each.items():
                    began = time.perf_counter()
                    await way()
                    found[f"{system}/{story}"] = time.perf_counter() - began
    return found


def table(rounds: list[dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for story, widths in STORIES.items():
        for system in dict.fromkeys(key.partition("/")[0] for found in rounds for key in found if key.endswith(f"/{story}")):
            times = [found for found in rounds if f"{system}/{story}" in found]
            seconds = [found[f"{system}/{story}"] for found in times]
            ratios = [found[f"{FLOW}/{story}"] / found[f"{system}/{story}"] for found in times]
            row = {
                "what": story,
                "system": system,
                "kept": KEPT.get(system, "?"),
                "s": round(median(seconds), 3),
                "ms per step": 1000 * median(seconds) / sum(widths),
            }
            rows.append(row | {"flow / it": median(ratios), "least": min(ratios), "most": max(ratios)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of the graph")
    parser.add_argument("--peers", default="", metavar="COMMAND", help="what measures the others, see above")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rounds = []
    for number in range(asked.rounds):
        began = time.monotonic()
        rounds.append(asyncio.run(our_round(asked.seed)) | (peers_round(asked.peers) if asked.peers else {}))
        print(f"round {number + 1} of {asked.rounds}: {len(rounds[-1])} figures in {time.monotonic() - began:.0f} s", file=sys.stderr)
    show(table(rounds), asked.json)


if __name__ == "__main__":
    main()
