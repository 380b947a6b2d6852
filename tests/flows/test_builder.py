"""Flows written in Python: the same spec as from TOML, and what is wrong is told where it stands."""

from __future__ import annotations

import pytest

import mesh
from mesh.errors import UsageError
from mesh.flows.parsing import flow_of
from mesh.flows.problems import FlowError
from mesh.flows.reading import read_text
from mesh.flows.spec import canonical, document, hash_of

NOTES = """
flow = "notes"
doc = "Notes of a release."
input = { range = "string", tone = { type = "string", default = "dry", enum = ["dry", "warm"] } }
output = { url = "$steps.publish.url" }

[[step]]
id = "log"
uses = "vcs.log"
with = { range = "$input.range" }
retry = 5
timeouts = { queue = "30s", run = "2m" }

[[step]]
id = "drafts"
uses = "llm.draft"
needs = ["log"]
map = "$steps.log.parts"
max_parallel = 20
with = { part = "$item", price = "$$5", first = "$steps.log.parts[0]" }
hedge = true
labels = { region = "eu" }
fallback = "llm.small"

[[step]]
id = "review"
needs = ["drafts"]
gate = { question = "Publish it?", approvers = ["ann", "bob"], quorum = 2, expires = "3d" }

[[step]]
id = "publish"
uses = "site.publish"
needs = ["review", "drafts"]
with = { pages = "$steps.drafts" }
compensate = { uses = "site.unpublish", with = { url = "$steps.publish.url" } }
"""


def built() -> mesh.flows.builder.FlowBuilder:  # type: ignore[name-defined]
    f = mesh.flow("notes", range="string", tone={"type": "string", "default": "dry", "enum": ["dry", "warm"]})
    log = f.step("log", "vcs.log", range=f.input.range, options={"retry": 5, "timeouts": {"queue": "30s", "run": "120s"}})
    drafts = f.map(
        "drafts",
        "llm.draft",
        over=log.parts,
        max_parallel=20,
        part=f.item,
        price="$$5",
        first=log.parts[0],
        options={"hedge": True, "labels": {"region": "eu"}, "fallback": "llm.small"},
    )
    how = {"approvers": ["ann", "bob"], "quorum": 2, "expires": "72h"}
    review = f.gate("review", "Publish it?", **how, options={"needs": drafts})
    undo = {"uses": "site.unpublish", "with": {"url": "$steps.publish.url"}}
    published = f.step("publish", "site.publish", pages=drafts, options={"needs": [review], "compensate": undo})
    f.output({"url": published.url})
    return f


def test_toml_json_and_python_give_the_same_spec() -> None:
    flow, _ = read_text(NOTES.replace('doc = "Notes of a release."\n', ""))
    assert flow_of(document(flow)) == flow
    assert read_text(canonical(flow).decode())[0] == flow and hash_of(read_text(canonical(flow).decode())[0]) == hash_of(flow)
    assert canonical(built().flow()) == canonical(flow)
    assert hash_of(read_text(NOTES)[0]) != hash_of(flow), "a doc is part of what was agreed on"


def test_what_is_built_wrongly_is_told_where_it_stands() -> None:
    f = mesh.flow("f")
    a = f.step("a", "x.y")
    with pytest.raises(UsageError, match="only when the flow runs"):
        list(a.rows)
    with pytest.raises(UsageError, match="only when the flow runs"):
        assert a.ok
    with pytest.raises(UsageError, match="'uses' is given twice"):
        f.step("b", "x.y", options={"uses": "x.z"})
    f.step("c", "x.y", over=a["no id"]['b"c'], options={"when": "$steps.zz.ok"})
    with pytest.raises(FlowError, match="step 'c', when: there is no step 'zz'"):
        f.document()
