"""A model as people write it, in TOML. Every table is read by one function; what is wrong is refused with its line.

gate = "2m"                                             how long people take to answer
[[nodes]]       count, name, slots, speed, offers, labels, resources
[capability."llm.draft"]   service, fails, retries, idempotent, limit, rate, needs, timeout
[overheads]     network, jitter, sync, turn, driver
[[fault]]       kill, at, back
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mesh.errors import UsageError
from mesh.flows.fields import Fields, said
from mesh.flows.lines import Lines
from mesh.flows.problems import Bad, Place, place_of
from mesh.labels import amounts_of, labels_of
from mesh.rehearsal.model import NODES_MAX, SLOTS_MAX, Capability, Crew, Fault, Model, Node, Overheads
from mesh.rehearsal.service import seconds_of, service_of

T = TypeVar("T")
BYTES_MAX = 1024 * 1024
_RATES = {"s": 1000, "m": 60_000, "h": 3_600_000}


def read_model(path: str) -> Model:
    """Raises UsageError, with the line."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", fix="name a TOML file that holds a model: mesh sim --help") from error
    if len(data) > BYTES_MAX:
        raise UsageError(f"{path}: it has {len(data)} bytes", fix=f"a model has at most {BYTES_MAX}")
    try:
        return model_of(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is no UTF-8 text", fix="save it as UTF-8") from error


def model_of(text: str, name: str = "model") -> Model:
    """Raises UsageError."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: it is no TOML: {error}", fix="correct that line") from error
    try:
        return replace(_model(Fields(found, ())), came_from=name).checked()
    except Bad as bad:
        problem = bad.problem
        where = place_of(problem.where)
        line = Lines(text).of(problem.where)
        raise UsageError(f"{name}:{line}: {f'{where}: ' if where else ''}{problem.reason}", fix=problem.fix) from bad


def _model(fields: Fields) -> Model:
    nodes: list[Node] = []
    for table in _tables(fields, "nodes"):
        nodes += _nodes(table, len(nodes))
    if len(nodes) > NODES_MAX:
        raise Bad(("nodes",), f"there are {len(nodes)} nodes", f"give at most {NODES_MAX}")
    capabilities = fields.inner("capability")
    known = tuple(
        _capability(name, Fields(table, ("capability", name)))
        if isinstance(table, dict)
        else _not_a_table(("capability", name), table, f'write [capability."{name}"]')
        for name, table in (capabilities.table.items() if capabilities else ())
    )
    overheads = fields.inner("overheads")
    gate = _own(fields, "gate", lambda value: service_of(value, "gate"))
    faults = tuple(map(_fault, _tables(fields, "fault")))
    fields.end()
    return Model(tuple(nodes), known, _overheads(overheads) if overheads else Overheads(), faults, gate)


def _not_a_table(where: Place, value: Any, fix: str) -> Any:
    raise Bad(where, f"{said(value)} is no table", fix)


def _tables(fields: Fields, name: str) -> list[Fields]:
    found = fields.any(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Bad((name,), "it is no list of tables", f"write [[{name}]], in double brackets")
    return [Fields(one, (name, i)) for i, one in enumerate(found)]


def _own(fields: Fields, name: str, reading: Callable[[Any], T]) -> T | None:
    """A value read by a function that raises UsageError."""
    if not fields.has(name):
        return None
    try:
        return reading(fields.table[name])
    except UsageError as error:
        raise Bad((*fields.where, name), error.message.removeprefix(f"{name}: "), error.fix) from error


def _real(fields: Fields, name: str, default: float, least: float, most: float) -> float:
    value = fields.any(name, default)
    if type(value) not in (int, float) or not least <= value <= most:
        fields.bad(name, f"{said(value)} is no number from {least:g} to {most:g}", f"write {name} = {default:g}")
    return float(value)


def _nodes(fields: Fields, before: int) -> list[Node]:
    count = fields.number("count", 1, 1, NODES_MAX) or 1
    name = fields.text("name", max=60)
    crew = Crew(
        agent="crew",
        slots=fields.number("slots", 8, 1, SLOTS_MAX) or 8,
        speed=_real(fields, "speed", 1.0, 0.001, 1000.0),
        offers=fields.words("offers", most=256),
        labels=_own(fields, "labels", labels_of) or (),
        resources=_own(fields, "resources", amounts_of) or (),
    )
    fields.end()
    if name and count == 1:
        return [Node(name, (crew,))]
    return [Node(f"{name or 'n'}{before + 1 + number}", (crew,)) for number in range(count)]


def _capability(name: str, fields: Fields) -> Capability:
    rate, rate_ms = _rate(fields)
    timeout_s = _own(fields, "timeout", lambda value: seconds_of(value, "timeout")) or 0.0
    found = Capability(
        name,
        service=_own(fields, "service", lambda value: service_of(value, "service")),
        fails=_real(fields, "fails", 0.0, 0.0, 1.0),
        retries=fields.number("retries", 0, 0, 1000) or 0,
        idempotent=fields.any("idempotent", True) is not False,
        limit=fields.number("limit", 0, 1, 100_000) or 0,
        rate=rate,
        rate_ms=rate_ms,
        needs=_own(fields, "needs", amounts_of) or (),
        timeout_ms=round(1000 * timeout_s),
    )
    fields.end()
    return found


def _rate(fields: Fields) -> tuple[int, int]:
    text = fields.text("rate")
    count, _, unit = text.partition("/")
    if not text:
        return 0, 0
    if not count.isdecimal() or not 1 <= int(count) <= 1_000_000 or unit not in _RATES:
        fields.bad("rate", f"{said(text)} is no rate", 'write "10/s", "100/m" or "5/h"')
    return int(count), _RATES[unit]


def _overheads(fields: Fields) -> Overheads:
    usual = Overheads()

    def time(name: str, default_s: float) -> float:
        found = _own(fields, name, lambda value: seconds_of(value, name))
        return default_s if found is None else found

    found = Overheads(
        time("network", usual.network_s),
        time("jitter", usual.jitter_s),
        time("sync", usual.sync_s),
        time("turn", usual.turn_s),
        time("driver", usual.driver_s),
    )
    fields.end()
    return found


def _fault(fields: Fields) -> Fault:
    node = fields.text("kill")
    if not node:
        fields.bad("kill", "it names no node", 'write kill = "n2"')
    at_s = _own(fields, "at", lambda value: seconds_of(value, "at")) or 0.0
    back_s = _own(fields, "back", lambda value: seconds_of(value, "back")) or 0.0
    fields.end()
    return Fault(at_s, node, back_s)


def fault_of(text: str) -> Fault:
    """``n2@3s``, or ``n2@3s+10s``: back ten seconds later. Raises UsageError."""
    node, at, times = text.rpartition("@")
    when, _, back = times.partition("+")
    if not at or not node:
        raise UsageError(f"--kill {text!r} names no node and time", fix="--kill n2@3s, or --kill n2@3s+10s")
    return Fault(seconds_of(when, f"--kill {text}"), node, seconds_of(back, f"--kill {text}") if back else 0.0)
