"""Documents made of what peers say: a schema that is none hides nothing."""

from __future__ import annotations

import pytest

from mesh.messages.membership import Offer
from mesh.runtime.views import _schema, _signature

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
