"""What a flow costs beside the same work submitted by hand, on real nodes: a chain of 50, 1 -> 1,000 -> 1, and a graph of 1,000 steps.

    chain    50 steps, each needs the one before;            by hand: submit, wait, submit, ...
    fan      one step, a map over 1,000, one step that takes all;     1,000 submits at once
    graph    1,000 steps in 50 layers of 20, each needs three of the layer before;     layer by layer

Three nodes of one machine, a no-op worker at each; the flow's driver is what a node starts by itself. Rounds of both are interleaved; the
figures are medians. Per step: time of the whole, by its number of steps.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from typing import Any

from common import HERE, mesh, show
from rows_pair import NOOP, offered

from mesh import connect, flow

NODES = ("n1", "n2", "n3")
CHAIN, WIDTH, LAYERS, LAYER = 50, 1000, 50, 20
RUN_MAX_S = 300.0


def chain() -> Any:
    built = flow("chain")
    last = built.step("s0", "noop", text="x")
    for number in range(1, CHAIN):
        last = built.step(f"s{number}", "noop", text=last)
    return built


def fan() -> Any:
    built = flow("fan", items="array")
    first = built.step("first", "noop", text="x")
    each = built.map("each", "noop", over=built.input["items"], text=built.item, max_parallel=256, options={"needs": ["first"]})
    built.step("last", "count", items=each)
    assert first is not None
    return built


def graph(seed: int) -> Any:
    built, chance = flow("graph"), random.Random(seed)
    for number in range(LAYERS * LAYER):
        layer = number // LAYER
        above = range((layer - 1) * LAYER, layer * LAYER) if layer else range(0)
        needs = [f"s{one}" for one in chance.sample(above, 3)] if layer else []
        built.step(f"s{number}", "noop", text="x", options={"needs": needs})
    return built


async def by_hand(client: Any, widths: list[int]) -> None:
    """So many no-ops at once, one layer after the other."""

    async def one() -> None:
        await (await client.submit("noop", text="x")).result(RUN_MAX_S)

    for width in widths:
        await asyncio.gather(*(one() for _ in range(width)))


async def as_flow(client: Any, built: Any, given: dict[str, Any]) -> None:
    task = await client.submit("mesh.flow", spec=built.document(), input=given)
    await task.result(RUN_MAX_S)


async def timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def measure(rounds: int, seed: int) -> list[dict[str, Any]]:
    stories: dict[str, tuple[Any, dict[str, Any], list[int]]] = {
        "chain of 50": (chain(), {}, [1] * CHAIN),
        "1 -> 1,000 -> 1": (fan(), {"items": [str(number) for number in range(WIDTH)]}, [1, WIDTH, 1]),
        "graph of 1,000": (graph(seed), {}, [LAYER] * LAYERS),
    }
    rows = []
    with mesh() as made:
        for name in NODES:
            made.node(name)
            made.worker(NOOP, name)
        made.worker(HERE / "count_agent.py", NODES[0])
        async with connect(home=made.home, node=NODES[0], timeout_s=120.0) as client:
            await offered(client, {"noop"}, len(NODES))
            await offered(client, {"count"})
            await as_flow(client, chain(), {})
            for name, (built, given, widths) in stories.items():
                flows, hands = [], []
                for _ in range(rounds):
                    flows.append(await timed(as_flow(client, built, given)))
                    hands.append(await timed(by_hand(client, widths)))
                in_flow, in_hand, steps = statistics.median(flows), statistics.median(hands), sum(widths)
                rows.append(
                    {
                        "what": name,
                        "flow s": round(in_flow, 3),
                        "by hand s": round(in_hand, 3),
                        "ratio": round(in_flow / in_hand, 2),
                        "ms per step": round(1000 * in_flow / steps, 2),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    show(asyncio.run(measure(asked.rounds, asked.seed)), asked.json)


if __name__ == "__main__":
    main()
