"""What `mesh caps` says of one capability: its versions, who offers each, and whether they agree about its arguments.

Invariant: two that offer one version under different arguments are named; two versions may differ as they like. Descriptions do not count:
only what a caller must give, and may.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mesh.core.directory import ALIVE, Row
from mesh.core.work.offering import variants
from mesh.ids import OURS
from mesh.messages.membership import Offer, Variant
from mesh.versions import order

Document = dict[str, Any]
_WORDS = ("title", "description", "examples")
"""Of a schema: for people."""


def cap_of(name: str, offered: list[tuple[Row, Offer]]) -> Document:
    """One row of `mesh caps`. `versions`, newest first: each with who offers it, and its schemas."""
    offer = offered[0][1]
    measured = [row.load[name].service_ms for row, _ in offered if name in row.load and row.load[name].service_ms]
    by_version: dict[str, list[tuple[Row, Offer | Variant]]] = {}
    for row, one in offered:
        for variant in variants(one):
            by_version.setdefault(variant.version, []).append((row, variant))
    versions = [_version(name, version, by_version[version]) for version in sorted(by_version, key=order, reverse=True)]
    return {
        "capability": name,
        "doc": offer.doc.split("\n")[0],
        "idempotent": all(one.idempotent for each in by_version.values() for _, one in each),
        "retries": offer.retries,
        "timeout_ms": offer.timeout_ms,
        "limit": offer.limit,
        "rate": offer.rate,
        "rate_ms": offer.rate_ms,
        "labels": {row.name: [list(kind) for kind in one.labels] for row, one in offered if one.labels},
        "needs": {name: amount / 1000 for name, amount in offer.needs},
        "breakers": {row.name: load.breaker for row, _ in offered if (load := row.load.get(name)) is not None and load.breaker},
        "service_ms": min(measured, default=0),
        **versions[0],
        "offered_by": list(dict.fromkeys(f"{one.agent}@{row.name}" for row, each in offered for one in variants(each))),
        "nodes": [row.node for row, _ in offered],
        "versions": versions,
    }


def _version(name: str, version: str, offered: list[tuple[Row, Offer | Variant]]) -> Document:
    return {
        "version": version,
        "signature": _signature(offered[0][1]),
        "offered_by": [f"{one.agent}@{row.name}" for row, one in offered],
        "nodes": [row.node for row, _ in offered],
        "input_schema": _schema(offered[0][1].input_schema),
        "output_schema": _schema(offered[0][1].output_schema),
        "disputed": not name.startswith(OURS) and len({_bare(one.input_schema) for _, one in offered}) > 1,
    }


def disputes(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Capabilities of one name and version, and several signatures: a caller cannot know which he gets. A message and a fix for each."""
    seen: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        for name, offer in row.offers.items() if row.state == ALIVE else ():
            if name.startswith(OURS):
                continue  # its name cannot be changed; which version of us says what is ours to mind
            for one in variants(offer):
                seen.setdefault((name, one.version), {}).setdefault(_bare(one.input_schema), []).append(row.name)
    found = []
    for (name, version), by_schema in sorted(seen.items()):
        if len(by_schema) > 1:
            sides = " and ".join(", ".join(names) for names in by_schema.values())
            what = f"those who offer {name} version {version} disagree about its arguments: {sides}"
            found.append((what, f'give one a version of its own: @agent.capability(version="..."), and ask for {name}@^{version}'))
    return found


def _bare(text: str) -> str:
    """What a schema asks of a caller, whatever it says of it."""
    return json.dumps(_stripped(_schema(text)), sort_keys=True) if text else ""


def _stripped(schema: Any, names: bool = False) -> Any:
    if isinstance(schema, list):
        return [_stripped(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = schema.items() if names else ((key, value) for key, value in schema.items() if key not in _WORDS)
    return {key: _stripped(value, not names and key in ("properties", "$defs")) for key, value in kept}


def _schema(text: str) -> Document:
    """A schema as its peer wrote it; {} for what is none: a bad peer must not hide what the others offer."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _signature(offer: Offer | Variant) -> str:
    """``(name: string, n: integer = 3)``, from the JSON Schema."""
    schema = _schema(offer.input_schema)
    properties, required = schema.get("properties"), schema.get("required")
    parts = []
    for name, kind in properties.items() if isinstance(properties, dict) else ():
        kind = kind if isinstance(kind, dict) else {}
        type_name = "File" if "$file" in (kind.get("properties") or {}) else kind.get("type") or kind.get("title") or "any"
        type_name = "Secret" if kind.get("pattern") == "^secret://" else type_name
        is_required = isinstance(required, list) and name in required
        parts.append(f"{name}: {type_name}" + ("" if is_required else f" = {json.dumps(kind.get('default'))}"))
    return f"({', '.join(parts)})"
