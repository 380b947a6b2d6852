"""A node whose own row is full of control characters: a member, signed and certified like any other.

python hostile_node.py HOME JOIN
"""

import sys
from pathlib import Path
from typing import Any

import anyio

from mesh.messages.membership import Alive, Offer
from mesh.runtime import app

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202eevil\u2028\x00"

NO_SCHEMAS = (
    "{",
    "[]",
    "7",
    '"x"',
    "null",
    '{"properties": []}',
    '{"properties": {"a": 7}, "required": 7}',
    "[" * 2000,
    '{"properties": {"a": {"default": NaN}}}',
)


def nasty_row(**row: Any) -> Alive:
    offers = [
        Offer(f"cap{NASTY}", f"agent{NASTY}", doc=f"doc{NASTY}", input_schema='{"properties": {"a\\u001b[2J": {"type": "x\\u0007"}}}')
    ]
    offers += [Offer(f"schema-{i}", "liar", input_schema=schema, output_schema=schema) for i, schema in enumerate(NO_SCHEMAS)]
    return Alive(**(row | {"name": f"name{NASTY}", "offers": tuple(offers)}))


app.Alive = nasty_row  # type: ignore[assignment,misc]
options = app.NodeOptions(Path(sys.argv[1]), name="hostile", join=(sys.argv[2],), mdns=False)
anyio.run(app.serve, options, lambda info: print(info["pid"], flush=True))
