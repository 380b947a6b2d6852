"""A recorded load: what a mesh was asked for, when, and how long each took. JSON, a line for each task, a header before them.

    {"schema": "mesh.load/1", "nodes": [...], "capabilities": [...]}          who was there: a model, so that the file stands alone
    {"task": "t1", "at_ms": 0.0, "capability": "ocr", "service_ms": 310.0, "manager": "n1", "parent": "", "step": "", ...}

Invariant: whatever the bytes are, what comes out is a Load or a UsageError with the line, the reason and what to write. What is left
out has its default; what is not known is refused by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mesh.errors import UsageError
from mesh.ids import is_label
from mesh.rehearsal.model import Capability, Crew, Model, Node
from mesh.rehearsal.service import SECONDS_MAX, Service

SCHEMA = "mesh.load/1"
JOBS_MAX = 200_000
BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """One task. `at_ms` since the load began; `service_ms` its handler alone, or of a parent whatever it took; `took_ms` from being asked
    for to its end, below 0: not known. `manager`: the name of the node that it was given to; "": whichever. `speed`: of the crew that ran
    it, so that its time can be carried over to others."""

    task: str
    at_ms: float
    capability: str
    service_ms: float
    took_ms: float = -1.0
    manager: str = ""
    node: str = ""
    state: str = "done"
    parent: str = ""
    step: str = ""
    priority: int = 0
    share: str = ""
    where: tuple[str, ...] = ()
    durable: bool = True
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    jobs: tuple[Job, ...]
    model: Model = Model()

    @property
    def makespan_s(self) -> float | None:
        """From the first being asked for to the last end, as it was recorded; None: that is not."""
        roots = [job for job in self.jobs if not job.parent]
        if not roots or any(job.took_ms < 0 for job in roots):
            return None
        return (max(job.at_ms + job.took_ms for job in roots) - min(job.at_ms for job in roots)) / 1000

    def faster(self, factor: float) -> Load:
        """The same work, asked for so many times as fast."""
        steps = {job.task for job in self.jobs if job.parent}
        jobs = [job if job.task in steps else replace(job, at_ms=job.at_ms / factor) for job in self.jobs]
        return replace(self, jobs=tuple(jobs))


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "float": (int, float), "int": (int,), "bool": (bool,), "tuple[str, ...]": (list,)}
_FIELDS = {one.name: _KINDS[str(one.type)] for one in fields(Job)}
_NEEDED = ("task", "at_ms", "capability", "service_ms")


def lines(load: Load) -> Iterator[str]:
    """As text, without line ends."""
    yield json.dumps({"schema": SCHEMA, **_model_document(load.model)})
    for job in load.jobs:
        defaults = {one.name: one.default for one in fields(Job)}
        yield json.dumps({name: value for name, value in asdict(job).items() if name in _NEEDED or value != defaults[name]})


def is_load(path: str) -> bool:
    """Whether a file looks like one: by its name, or by its first line."""
    if path.endswith(".jsonl"):
        return True
    try:
        with Path(path).open("rb") as file:
            return SCHEMA.encode() in file.readline(4096)
    except OSError:
        return False


def read_load(path: str) -> Load:
    """Raises UsageError."""
    try:
        if os.stat(path).st_size > BYTES_MAX:
            raise UsageError(f"{path}: it is larger than {BYTES_MAX >> 20} MiB", fix="cut it: each line stands for itself")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", fix="name a file that mesh sim --record has written") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is no UTF-8 text", fix="name a file that mesh sim --record has written") from error
    return load_of(text.splitlines(), path)


def load_of(texts: Iterable[str], name: str) -> Load:
    """Raises UsageError with the line."""
    jobs: list[Job] = []
    model = Model()
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad(name, number, f"it is no JSON: {error}", "write one JSON object on each line") from error
        if not isinstance(row, dict):
            raise _bad(name, number, "it is no table", "write one JSON object on each line")
        if "schema" in row:
            model = _model_of(row, name, number)
        else:
            jobs.append(_job(row, name, number))
        if len(jobs) > JOBS_MAX:
            raise _bad(name, number, f"there are more than {JOBS_MAX} tasks", "cut it: each line stands for itself")
    if not jobs:
        raise UsageError(f"{name}: there is no task in it", fix="mesh sim --record > load.jsonl, on a mesh that has done something")
    _check_parents(jobs, name)
    return Load(tuple(sorted(jobs, key=lambda job: job.at_ms)), model)


def _check_parents(jobs: list[Job], name: str) -> None:
    known: dict[str, None] = {}
    for job in jobs:
        if job.task in known:
            raise UsageError(f"{name}: the task {job.task!r} is there twice", fix="give each task its own name")
        known[job.task] = None
    parents = {job.task: job.parent for job in jobs}
    for job in jobs:
        above, steps = job.parent, 0
        while above:
            steps += 1
            if above not in parents or steps > 64:
                why = f"its parent {above!r} is not in the file" if above not in parents else "its parents go round in a ring"
                raise UsageError(f"{name}: the task {job.task!r}: {why}", fix='leave "parent" out, and it comes by itself')
            above = parents[above]


def _job(row: dict[str, Any], name: str, number: int) -> Job:
    for key, value in row.items():
        kinds = _FIELDS.get(key)
        if kinds is None:
            raise _bad(name, number, f"there is no field {key[:60]!r}", f"the fields are: {', '.join(_FIELDS)}")
        if type(value) not in kinds:
            raise _bad(name, number, f"{key} is {str(value)[:60]!r}", f"give {' or '.join(kind.__name__ for kind in kinds)}")
    for key in _NEEDED:
        if key not in row:
            raise _bad(name, number, f"{key!r} is missing", f"each task has at least {', '.join(_NEEDED)}")
    for key in ("at_ms", "service_ms", "took_ms"):
        if key in row and not -1.0 <= row[key] <= 1000 * SECONDS_MAX:
            raise _bad(name, number, f"{key} is {row[key]!r}", "give milliseconds, at most 30 days")
    where = row.get("where", [])
    if not all(isinstance(one, str) and is_label(one.removeprefix("!")) for one in where):
        raise _bad(name, number, f"where is {where!r}", 'give labels: ["zone=eu"]')
    if not row["task"] or not row["capability"]:
        raise _bad(name, number, "task and capability are no names", "give both a text")
    if not 0 <= row.get("priority", 0) <= 9:
        raise _bad(name, number, f"priority is {row['priority']}", "give 1 to 9, or leave it out")
    return Job(**{**row, "where": tuple(where)})


def _bad(name: str, number: int, reason: str, fix: str) -> UsageError:
    return UsageError(f"{name}:{number}: {reason}", fix=fix)


# ---- the model in the header


def _model_document(model: Model) -> dict[str, Any]:
    nodes = [
        {
            "name": node.name,
            "crews": [
                {
                    "agent": crew.agent,
                    "slots": crew.slots,
                    "speed": crew.speed,
                    "offers": list(crew.offers),
                    "labels": list(crew.labels),
                    "resources": [list(one) for one in crew.resources],
                }
                for crew in node.crews
            ],
        }
        for node in model.nodes
    ]
    capabilities = []
    for one in model.capabilities:
        found = asdict(replace(one, service=None))
        capabilities.append(found | {"service": [list(point) for point in one.service.points] if one.service else None})
    return {"nodes": nodes, "capabilities": capabilities, "alone_s": model.alone_s, "gap_s": model.gap_s}


def _model_of(row: dict[str, Any], name: str, number: int) -> Model:
    if row.get("schema") != SCHEMA:
        raise _bad(name, number, f"its schema is {str(row.get('schema'))[:60]!r}", f"name a file of schema {SCHEMA}")
    try:
        nodes = [Node(str(one["name"]), tuple(map(_crew, one["crews"]))) for one in row.get("nodes") or ()]
        capabilities = [_capability(one) for one in row.get("capabilities") or ()]
        alone_s, gap_s = float(row.get("alone_s") or 0.0), float(row.get("gap_s") or 0.0)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _bad(name, number, f"the header is not as it was written: {error}", "record the load again: mesh sim --record") from error
    return Model(tuple(nodes), tuple(capabilities), alone_s=alone_s, gap_s=gap_s, came_from=name)


def _crew(one: dict[str, Any]) -> Crew:
    slots, speed = int(one["slots"]), float(one["speed"])
    if slots < 1 or not 0 < speed < 1e6:
        raise ValueError(f"a crew of {slots} slots and speed {speed}")
    resources = tuple((str(what), int(amount)) for what, amount in one["resources"])
    return Crew(str(one["agent"]), slots, speed, tuple(map(str, one["offers"])), tuple(map(str, one["labels"])), resources)


def _capability(one: dict[str, Any]) -> Capability:
    points = one.get("service")
    service = Service(tuple((float(share), float(seconds)) for share, seconds in points)) if points else None
    needs = tuple((str(what), int(amount)) for what, amount in one["needs"])
    return Capability(**{**one, "service": service, "needs": needs})
