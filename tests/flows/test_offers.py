"""A flow against what is offered: what fits nobody is refused, what nobody offers is a warning, what may fit is left alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from mesh import Agent, File
from mesh.flows.checks import checked
from mesh.flows.graph import FORMS, drawn
from mesh.flows.offers import check
from mesh.flows.plan import planned
from mesh.flows.reading import read_text

agent = Agent("shop")


@dataclass
class Parts:
    parts: list[str]
    count: int
    table: File


@agent.capability(name="text.split")
async def split(text: str, most: int = 5, loud: bool = False) -> Parts: ...


@agent.capability(name="text.join")
async def join(words: list[str], table: File | None = None) -> str: ...


@agent.capability(name="text.count")
async def count(n: int) -> int: ...


def caps(**service_ms: int) -> dict[str, Any]:
    """As `mesh caps --json` has them."""
    rows = []
    for offer in agent.offers():
        schemas = {"input_schema": json.loads(offer.input_schema), "output_schema": json.loads(offer.output_schema)}
        ms = service_ms.get(offer.capability.partition(".")[2], 0)
        who = {"offered_by": ["shop@n1", "shop@n2"], "nodes": ["n1", "n2"], "service_ms": ms, "signature": "(...)"}
        rows.append({"capability": offer.capability, **schemas, **who})
    return {"schema": "mesh.caps/1", "caps": rows}


def told(*steps: str) -> list[tuple[str, bool]]:
    flow, source = read_text('flow = "f"\n' + "\n".join(f"[[step]]\n{step}\n" for step in steps))
    return [(problem.reason, problem.warning) for problem in check(checked(flow, source), caps())]


SPLIT = 'id = "a"\nuses = "text.split"\nwith = { text = "x" }'


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("with = { txt = 'x', text = 'y' }", "text.split has no argument 'txt'"),
        ("", "text.split is not given 'text'"),
        ("with = { text = 5 }", "5 is no string, as text.split wants it"),
        ("with = { text = 'x', most = [1] }", "[1] is no integer, as text.split wants it"),
        ("with = { text = 'x' }\ncompensate = { uses = 'text.count', with = { n = {} } }", "{} is no integer, as text.count wants it"),
        ("with = { text = 'x' }\nfallback = 'text.count'", "text.count has no argument 'text'"),
    ],
)
def test_literal_arguments_that_no_reading_fits_are_refused(given: str, reason: str) -> None:
    assert told(f'id = "a"\nuses = "text.split"\n{given}')[0] == (reason, False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("words = '$steps.a.parts[0]'", "steps.a.parts[0] is string, and text.join wants array"),
        ("words = '$steps.a.count'", "steps.a.count is integer, and text.join wants array"),
        ("words = '$steps.a.partz'", "what text.split gives has no 'partz'"),
        ("words = '$steps.a'", "steps.a is object, and text.join wants array"),
        ("words = ['x'], table = '$steps.a.parts'", "steps.a.parts is array, and text.join wants object or null"),
    ],
)
def test_results_that_do_not_fit_what_they_are_given_to_are_refused(given: str, reason: str) -> None:
    assert told(SPLIT, f'id = "b"\nuses = "text.join"\nneeds = ["a"]\nwith = {{ {given} }}') == [(reason, False)]


@pytest.mark.parametrize(
    "given",
    ["words = '$steps.a.parts', table = '$steps.a.table'", "words = '$steps.a.parts.map(x, x)'", "words = '$[string(steps.a.count)]'"],
)
def test_what_may_fit_is_left_to_the_handler(given: str) -> None:
    assert told(SPLIT, f'id = "b"\nuses = "text.join"\nneeds = ["a"]\nwith = {{ {given} }}') == []
    assert told('id = "a"\nuses = "text.split"\nwith = { text = "x", most = "5", loud = "yes" }') == []
    assert told(SPLIT + '\nmap = ["x"]', 'id = "b"\nuses = "text.count"\nneeds = ["a"]\nwith = { n = "$steps.a[0].count" }') == []


def test_what_nobody_offers_is_a_warning_that_says_what_waits() -> None:
    [(reason, warning)] = told('id = "a"\nuses = "text.spilt"')
    assert warning and reason == "nobody offers 'text.spilt' now: a would be parked until somebody does"
    flow, _ = read_text('flow = "f"\n[[step]]\nid = "a"\nuses = "text.spilt"\ntimeouts = { queue = "5s" }\n')
    [problem] = check(flow, caps())
    assert "a would wait for its queue timeout" in problem.reason and problem.fix == "did you mean 'text.split'?"


CHAIN = """
flow = "f"
[[step]]
id = "a"
uses = "text.count"
[[step]]
id = "b"
uses = "text.count"
map = [1, 2, 3, 4]
max_parallel = 3
needs = ["a"]
when = "$steps.a > 0"
compensate = "text.join"
[[step]]
id = "c"
uses = "no.body"
needs = ["a"]
fallback = { value = 0 }
[[step]]
id = "d"
needs = ["b", "c"]
join = "any"
gate = "Is it \\"right\\"?"
"""


def test_a_plan_names_candidates_times_and_what_nobody_knows() -> None:
    flow, _ = read_text(CHAIN)
    plan = planned(flow, caps(count=2000))
    rows = {row["step"]: row for row in plan["steps"]}
    assert (rows["a"]["begins_s"], rows["a"]["ends_s"], rows["a"]["candidates"]) == (0, 2, ["shop@n1", "shop@n2"])
    assert (rows["b"]["begins_s"], rows["b"]["ends_s"]) == (2, 6), "four of 2 s, on two nodes"
    assert rows["c"]["parked"] and not rows["d"]["parked"] and plan["unknown"] == ["c"]
    assert plan["makespan_s"] == 6 and planned(flow, caps(count=2000), slots=8)["makespan_s"] == 6, "three at once: two rounds"
    assert planned(flow, caps(), slots=8)["unknown"] == ["a", "b", "c"]


def test_pictures_show_every_step_and_edge() -> None:
    flow, _ = read_text(CHAIN)
    text, dot, mermaid = (drawn(flow, form, {"a": "done"}) for form in FORMS)
    assert text.splitlines()[0] == "f, 4 steps" and text.splitlines()[1].split() == ["done", "a", "text.count"]
    assert "after a" in text and "any of b, c" in text and "map over 4 items, 3 at once" in text and "else a value" in text
    assert '"a" -> "b";' in dot and '"c" -> "d" [style=dashed, label="any"];' in dot and "shape=diamond" in dot
    assert "s_a --> s_b" in mermaid and 's_b -. "any" .-> s_d' in mermaid and 's_b[["b<br>text.count"]]' in mermaid
    assert len(drawn(flow).splitlines()) == 5
