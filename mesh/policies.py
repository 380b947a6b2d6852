"""The mesh's policy, for programs and the command line: read a file of rules, set it, look at it, ask what it says of some work.

    [[rule]] in TOML --read_policy--> document --set_policy--> signed by this home, told to every node, enforced by manager and executor

Nothing here decides anything: the rules are read by the code that enforces them (`core/policy`).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.core.policy.document import DOCUMENT_BYTES_MAX, rulebook
from mesh.core.policy.fields import Problem
from mesh.core.policy.rules import Rulebook, Work
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.client import Mesh

Document = dict[str, Any]
FILE_BYTES_MAX = 8 * DOCUMENT_BYTES_MAX
"""Comments and blanks are not counted among the document's own bytes."""


class PolicyError(UsageError):
    """A policy that cannot be set. `problems` are all that is wrong with it."""

    code = "bad_policy"

    def __init__(self, lines: Sequence[str], fix: str) -> None:
        super().__init__(lines[0] if len(lines) == 1 else f"{len(lines)} problems, the first: {lines[0]}", fix=fix)
        self.problems = tuple(lines)
        self.details = "\n".join(lines) if len(lines) > 1 else ""


def read_policy(path: str | os.PathLike[str]) -> Document:
    """The document in a file, TOML or JSON, checked. Raises PolicyError with file, line, reason and what to write."""
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PolicyError([f"{name}: {error.strerror or error}"], "name a TOML file of rules") from error
    if len(data) > FILE_BYTES_MAX:
        raise PolicyError([f"{name} has {len(data)} bytes, and a policy at most {FILE_BYTES_MAX}"], "make several rules one")
    try:
        text = data.decode("utf-8-sig")
        document = json.loads(text) if text.lstrip()[:1] == "{" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyError([f"{name}: it is neither TOML nor JSON: {error}"], "write [[rule]] tables") from error
    if not document:
        why = f"{name}: it is empty: set so, it would end every rule"
        raise PolicyError([why], 'write [[rule]] tables; if that is meant: policy = "no rules"')
    _checked(document, name, text)
    return document


def _checked(document: Any, name: str = "policy", text: str = "") -> None:
    try:
        found = rulebook(document)
    except (TypeError, ValueError) as error:  # what JSON has not: a date, a number that is none
        raise PolicyError([f"{name}: {error}"], "write texts, whole numbers, lists and tables") from None
    if not isinstance(found, Rulebook):
        raise PolicyError([_said(problem, document, name, text) for problem in found], found[0].fix)


def _said(problem: Problem, document: Any, name: str, text: str) -> str:
    """``rules.toml:4: rule 'eu', require: ...; write ...``."""
    from mesh.flows.lines import Lines

    line = Lines(text).of(problem.where) if text and text.lstrip()[:1] != "{" else 0
    rest, words = problem.where, []
    if len(rest) > 1 and isinstance(rest[1], int):
        words.append(_row(rest[0], document[rest[0]][rest[1]], rest[1]))
        rest = rest[2:]
    if rest:
        words.append(".".join(map(str, rest)))
    return f"{name}{f':{line}' if line else ''}: {', '.join(words)}{': ' if words else ''}{problem.reason}; {problem.fix}"


def _row(kind: str | int, row: Any, number: int) -> str:
    name = (row.get("id") or row.get("name")) if isinstance(row, dict) else None
    return f"{kind} {name!r}" if name else f"{kind} {number + 1}"


class Governing:
    """What a mesh has of this. `_any` is the client that asks."""

    def _any(self) -> Mesh:
        raise NotImplementedError

    async def policy(self) -> Document:
        """``{"version", "document", "history": [{"version", "in_force", "by", "person", "note", "at_ms", "document"}], ...}``.
        ``"flags"`` and ``"rollouts"`` are those in force.

        `rollouts`: how far each has come, ``{"capability", "from", "to", "stages", "stage", "share", "stopped", "by", "runs", "failed",
        "took_ms"}``; of the last three the old version's figure and the new one's.
        Version 0: none was ever set. Of a document whose keys are of a later version of this software, `unread` names the version.
        """
        return await self._any()._view("policy")

    async def set_policy(self, policy: str | os.PathLike[str] | Document, *, note: str = "") -> Document:
        """Another policy for the whole mesh: a file, or its document. Returns ``{"version", "rules", "by"}``.

        Raises PolicyError; Refused where this home may not set one: it holds neither the root's key nor an issuer's.
        """
        from mesh.client import _who

        if not isinstance(policy, dict):
            policy = read_policy(policy)
        else:
            _checked(policy)
        return await self._any()._view("policy_set", {"document": policy, "person": _who(), "note": note})

    async def rollback_policy(self, version: int, *, note: str = "") -> Document:
        """That of an earlier version again, as a new one. Raises UsageError if it is not known; Refused as `set_policy`."""
        from mesh.client import _who

        return await self._any()._view("policy_set", {"version": version, "person": _who(), "note": note or f"back to version {version}"})

    async def explain_policy(self, capability: str, /, **arguments: Any) -> Document:
        """What the policy in force says of this work: ``{"decision": "allow" | "approve" | "deny", "rules", ...}``."""
        from mesh.options import versioned

        data = json.dumps(arguments, ensure_ascii=False, separators=(",", ":")).encode()
        name, how = versioned(capability, {})
        where = how.get("placement", {}).get("where", [])
        return await self._any()._view("policy_explain", {"capability": name, "input": data, "where": where})


def would_change(document: Document, before: Document | None, tasks: Sequence[Document]) -> list[Document]:
    """A dry run: of these recorded tasks (``{"task", "capability", "arguments", ...}``) those that `document` rules otherwise than
    `before` (None: no policy), with both rulings in words. Raises PolicyError."""
    _checked(document)
    new, old = rulebook(document), rulebook(before) if before is not None else Rulebook()
    assert isinstance(new, Rulebook) and isinstance(old, Rulebook)
    found = []
    for task in tasks:
        data = json.dumps(task.get("arguments") or {}, ensure_ascii=False, separators=(",", ":")).encode()
        work = Work(str(task.get("capability", "")), data, tuple(task.get("origin") or ()), tuple(task.get("where") or ()))
        then, now = old.ruling(work), new.ruling(work)
        if _said_of(then) != _said_of(now):
            found.append({"task": task.get("task"), "capability": task.get("capability"), "before": in_words(then), "after": in_words(now)})
    return found


def _said_of(ruling: Any) -> tuple[Any, ...]:
    return ruling.rules, ruling.deny, ruling.gate, ruling.require, ruling.route, ruling.admit


def in_words(ruling: Any) -> str:
    """``deny (no-shell)``; ``allow`` where nothing is said."""
    what = []
    if ruling.deny is not None:
        return f"deny ({ruling.deny[0]})"
    if ruling.gate is not None:
        what.append(f"approve ({ruling.gate[0]})")
    if ruling.require:
        what.append(f"require {', '.join(ruling.require)}")
    if ruling.admit is not None:
        what.append(f"admission ({ruling.admit[0]})")
    if ruling.route:
        what.append(f"route to {ruling.route}")
    rest = [rule for rule in ruling.rules if not what]
    return "; ".join(what) or (f"allow ({', '.join(rest)})" if rest else "allow")
