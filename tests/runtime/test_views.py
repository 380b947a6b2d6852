"""Documents made of what peers say: a schema that is none hides nothing."""

from __future__ import annotations

import pytest

from mesh.core.directory import Row
from mesh.messages.membership import Offer, Variant
from mesh.runtime.caps import _schema, _signature, cap_of, disputes

NAMED = '{"properties": {"name": {"type": "string"}, "n": {"type": "integer", "default": 3}}, "required": ["name"]}'
FILE = '{"type": "object", "properties": {"$file": {}}}'


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        (NAMED, "(name: string, n: integer = 3)"),
        (f'{{"properties": {{"raw": {FILE}}}, "required": ["raw"]}}', "(raw: File)"),
        ("", "()"),
        ("no json", "()"),
        ("[1]", "()"),
        ("[" * 5000, "()"),
        ('{"properties": 7, "required": 7}', "()"),
        ('{"properties": {"a": 7}, "required": 7}', "(a: any = null)"),
    ],
)
def test_signatures(schema: str, shown: str) -> None:
    assert _signature(Offer("x", "agent", input_schema=schema)) == shown
    assert isinstance(_schema(schema), dict)


def test_those_who_disagree_about_the_arguments_of_one_version_are_named() -> None:
    told = NAMED.replace('"integer"', '"integer", "description": "how many"')
    rows = [Row(name, name) for name in "abcd"]
    rows[0].offers = {"x": Offer("x", "one", version="1", input_schema=NAMED), "mesh.flow": Offer("mesh.flow", "m", input_schema=NAMED)}
    rows[1].offers = {"x": Offer("x", "one", version="2", input_schema=FILE), "mesh.flow": Offer("mesh.flow", "m", input_schema=FILE)}
    rows[2].offers = {"x": Offer("x", "one", version="1", input_schema=told)}
    assert disputes(rows) == []
    rows[3].offers = {"x": Offer("x", "one", version="3", variants=(Variant("1", "two", input_schema=FILE),))}
    ((message, fix),) = disputes(rows)
    assert message == "those who offer x version 1 disagree about its arguments: a, c and d" and "x@^1" in fix
    cap = cap_of("x", [(row, row.offers["x"]) for row in rows])
    assert [(one["version"], one["offered_by"], one["disputed"]) for one in cap["versions"]] == [
        ("3", ["one@d"], False),
        ("2", ["one@b"], False),
        ("1", ["one@a", "one@c", "two@d"], True),
    ]
    assert cap["version"] == "3" and cap["offered_by"] == ["one@a", "one@b", "one@c", "one@d", "two@d"]
