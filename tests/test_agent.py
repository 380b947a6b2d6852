"""Declarations: what is accepted, and what every kind of misuse is told."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Bid, Context, File
from mesh.errors import DeclarationError, UsageError
from mesh.sync import Context as BlockingContext


def test_the_names_of_the_mesh_itself_are_refused() -> None:
    agent = Agent("mine")
    with pytest.raises(DeclarationError, match=r"names that begin with mesh\. are the mesh's own"):

        @agent.capability(name="mesh.flow")
        async def flow() -> None: ...


def test_the_decorator_returns_the_function_unchanged_and_makes_an_offer() -> None:
    agent = Agent("greeter", tags=["demo"], concurrency=3)

    async def greet(name: str) -> str:
        """Greets.

        At length.
        """
        return name

    assert agent.capability(greet) is greet
    named = agent.capability(name="greet.twice", idempotent=True, timeout_s=1.5, retries=2, on_lost="fail", version="2")
    assert named(greet) is greet
    first, second = agent.offers()
    assert (first.capability, first.agent, first.doc, first.tags, first.version) == ("greet", "greeter", "Greets.", ("demo",), "1")
    assert (second.capability, second.idempotent, second.timeout_ms, second.retries, second.on_lost) == (
        "greet.twice",
        True,
        1500,
        2,
        "fail",
    )
    assert json.loads(first.input_schema) == {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    assert json.loads(first.output_schema) == {"type": "string"}


class NotATravelType:
    pass


def no_hint(x) -> None: ...  # type: ignore[no-untyped-def]
def no_return(x: int): ...  # type: ignore[no-untyped-def]
def positional(x: int, /) -> None: ...
def starred(*x: int) -> None: ...
def keywords(**x: int) -> None: ...
def path(x: Path) -> None: ...
def path_inside(x: dict[str, list[Path]]) -> None: ...
def path_out() -> Path: ...  # type: ignore[empty-body]
def own_class(x: NotATravelType) -> None: ...
def stream(x: io.BytesIO) -> None: ...
def function(x: Callable[[], int]) -> None: ...
def kind(x: type) -> None: ...
def two_contexts(a: Context, b: Context) -> None: ...
def unknown(x: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def generator() -> AsyncIterator:  # type: ignore[type-arg]
    yield 1


def listed() -> list[int]:  # type: ignore[misc]
    yield 1


async def blocking(ctx: BlockingContext) -> None: ...


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (no_hint, "parameter 'x' has no type hint"),
        (no_return, "no return hint"),
        (positional, "cannot be passed by name"),
        (starred, "cannot be passed by name"),
        (keywords, "cannot be passed by name"),
        (path, "use File"),
        (path_inside, "use File"),
        (path_out, "use File"),
        (own_class, "NotATravelType.*and File for data in a file"),
        (stream, "BytesIO.*and File for data in a file"),
        (function, "File"),
        (kind, "File"),
        (two_contexts, "two Context"),
        (unknown, "'NoSuchName', which is not known here"),
        (generator, "is a generator, and does not say what it yields"),
        (listed, "is a generator, and does not say what it yields"),
        (blocking, "its Context blocks"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_work_is_refused_where_it_stands(declared: Any, words: str) -> None:
    with pytest.raises(DeclarationError, match=words) as caught:
        Agent("a").capability(declared)
    assert declared.__name__ in caught.value.message and caught.value.fix and caught.value.exit_code == 2


def test_names_and_numbers_are_checked() -> None:
    agent = Agent("a")

    def work(x: int) -> int:
        return x

    agent.capability(work)
    for make, words in (
        (lambda: Agent("no spaces"), "cannot be one"),
        (lambda: Agent("x" * 65), "cannot be one"),
        (lambda: Agent("a", concurrency=0), "concurrency"),
        (lambda: Agent("a", concurrency=True), "concurrency"),
        (lambda: Agent("a", tags="data"), r"tags=\['data'\]"),
        (lambda: agent.capability(work), "has it already"),
        (lambda: agent.capability(name="x y")(work), "cannot be one"),
        (lambda: agent.capability(name="b", timeout_s=0)(work), "timeout_s"),
        (lambda: agent.capability(name="b", retries=-1)(work), "retries"),
        (lambda: agent.capability(name="b", on_lost="maybe")(work), "on_lost"),
        (lambda: agent.capability(print), "not a plain function"),
        (lambda: agent.bid("other")(work), "no such capability"),
        (lambda: Agent("empty").offers(), "no capability"),
    ):
        with pytest.raises(DeclarationError, match=words):
            make()


def test_bids_name_some_of_the_parameters() -> None:
    agent = Agent("a")

    @agent.capability
    def work(x: int, y: int = 1) -> int:
        return x + y

    with pytest.raises(DeclarationError, match="no parameter 'z'"):

        @agent.bid("work")
        def wrong(z: int) -> Bid:
            return Bid(1)

    @agent.bid("work")
    def price(y: int) -> Bid:
        return Bid(y)

    assert agent.offers()[0].priced
    with pytest.raises(DeclarationError, match="one already"):
        agent.bid("work")(price)
    for cost, eta_s in ((-1, None), (float("nan"), None), (1, -2), (float("inf"), 0)):
        with pytest.raises(UsageError, match="finite number"):
            Bid(cost, eta_s)


def test_lifespans() -> None:
    agent = Agent("a")
    steps: list[str] = []

    @agent.lifespan
    async def life() -> AsyncIterator[int]:
        steps.append("open")
        yield 7
        steps.append("close")

    async def use() -> None:
        async with agent.open() as value:
            steps.append(str(value))
        async with Agent("b").open() as value:
            assert value is None

    asyncio.run(use())
    assert steps == ["open", "7", "close"]
    with pytest.raises(DeclarationError, match="one already"):
        agent.lifespan(life)

    def plain() -> Iterator[int]:
        yield 1

    with pytest.raises(DeclarationError, match="not an async generator"):
        Agent("c").lifespan(plain)


def test_types_declared_inside_a_function_are_found() -> None:
    @dataclass
    class Local:
        file: File
        n: int

    agent = Agent("a")

    @agent.capability
    def work(item: Local, ctx: Context | None = None) -> Local:
        return item

    assert list(json.loads(agent.offers()[0].input_schema)["properties"]) == ["item"]
