"""What the owner of a node asks it about the mesh's policy: which is in force, which were, another one, and what it says of some work.

Invariant: a policy that is set here has been read whole by the very code that will enforce it, and is kept on disk before anybody hears of
it. Only homes that hold the root's key or an issuer's may set one; everybody may look.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mesh.core.assembly import Assembly
from mesh.core.policy.document import canonical, rulebook
from mesh.core.policy.fields import Problem
from mesh.core.policy.register import Policies
from mesh.core.policy.rules import Rulebook, Ruling, Work
from mesh.errors import Refused, UsageError
from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.runtime.trust.authority import Authority
from mesh.runtime.trust.names import namer
from mesh.versions import split

if TYPE_CHECKING:
    from mesh.runtime.app import NodeProcess

Document = dict[str, Any]
NOTE_CHARACTERS_MAX = 200
PERSON_CHARACTERS_MAX = 100


class PolicyDesk:
    """`table` maps a verb of the local socket to the coroutine function that answers it."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self.table = {"policy": self.show, "policy_set": self.set, "policy_explain": self.explain}

    async def show(self, _: Document) -> Document:
        """The one in force, and all that are known, the newest first."""
        assembly = self._process.assembly
        return shown(assembly, namer(self._process.identity.keyring, assembly.directory.name_of))

    async def explain(self, params: Document) -> Document:
        """What the policy says of a capability with these arguments, asked for at this node (or `origin`)."""
        return explained(self._process.assembly, params)

    async def set(self, params: Document) -> Document:
        """Another one, or that of an earlier version again (`version`)."""
        identity, policies = self._process.identity, self._process.assembly.policies
        document, rules = wanted(policies, params)
        if identity.keyring.authorities.revocation_of((*identity.credentials.chain.subjects, identity.node)) is not None:
            raise Refused("this node was revoked: what it says counts nowhere", fix="mesh status", code="revoked")
        person, note = words_of(params)
        seq = next_version(policies)
        signed = await anyio.to_thread.run_sync(self._sign, canonical(document), seq, person, note)
        self._process.proclaim(signed)
        return {"schema": "mesh.policy/1", "version": seq, "rules": rules, "by": signed.author}

    def _sign(self, text: str, seq: int, person: str, note: str) -> Signed:
        with self._process.folder.home.lock():
            return Authority(self._process.fresh_credentials()).rule(text, seq, person, note)


# ---- shared with the simulated node of a test


def shown(assembly: Assembly, name_of: Callable[[NodeId], str]) -> Document:
    book, policies = assembly.directory.rulebook, assembly.policies
    return {
        "schema": "mesh.policy/1",
        "version": book.version,
        "document": json.loads(book.text) if book.text else None,
        "unread": policies.statistics().unread,
        "flags": list(book.flags),
        "rollouts": assembly.rolling.told(),
        "history": [_row(signed, book, name_of) for signed in policies.held()],
    }


def _row(signed: Signed, book: Rulebook, name_of: Callable[[NodeId], str]) -> Document:
    body = signed.body
    return {
        "version": body.seq,
        "in_force": (body.seq, body.text) == (book.version, book.text),
        "by": name_of(signed.author),
        "author": signed.author,
        "person": body.person,
        "note": body.note,
        "at_ms": body.at_ms,
        "document": json.loads(body.text),
    }


def explained(assembly: Assembly, params: Document) -> Document:
    """Raises UsageError."""
    directory = assembly.directory
    capability, data = params.get("capability"), params.get("input", b"{}")
    where, durable = params.get("where", []), params.get("durable", True)
    if type(capability) is not str or type(data) is not bytes or type(where) is not list or type(durable) is not bool:
        raise UsageError("a capability, and its arguments", fix="mesh policy explain CAPABILITY name=value")
    origin: NodeId = str(params.get("origin") or directory.me)
    name, wanted = split(capability)
    work = Work(name, data, (origin, directory.name_of(origin)), tuple(map(str, where)), durable)
    rollouts = [row for row in assembly.rolling.told() if row["capability"] == name and not wanted]
    return {"schema": "mesh.policy/1", "capability": capability, **said(directory.rulebook.ruling(work)), "rollouts": rollouts}


def said(ruling: Ruling) -> Document:
    """A ruling, as people and programs read it: only what it says something about."""
    rows = asdict(ruling)
    found: Document = {"version": rows.pop("version"), "rules": list(rows.pop("rules")), "decision": "allow"}
    if ruling.deny is not None:
        found["decision"] = "deny"
    elif ruling.gate is not None or ruling.admit is not None:
        found["decision"] = "approve"
    return found | {name: value for name, value in rows.items() if value not in (None, "", 0, -1, (), {})}


def wanted(policies: Policies, params: Document) -> tuple[Document, int]:
    """The document that is to be set, and how many rules it has. Raises UsageError."""
    document = _earlier(policies, params["version"]) if "version" in params else params.get("document")
    found = rulebook(document)
    if not isinstance(found, Rulebook):
        raise UsageError(_line(found[0]), fix=found[0].fix, code="bad_policy")
    assert isinstance(document, dict), "it was read"
    return document, len(found.rules)


def _earlier(policies: Policies, version: object) -> Any:
    for signed in policies.held():
        if signed.body.seq == version:
            return json.loads(signed.body.text)
    raise UsageError(f"no version {version!r} of the policy is known here", fix="mesh policy history", code="no_such_version")


def next_version(policies: Policies) -> int:
    return policies.next_version()


def words_of(params: Document) -> tuple[str, str]:
    """Who sets it, and what he says of it."""
    return str(params.get("person", ""))[:PERSON_CHARACTERS_MAX], str(params.get("note", ""))[:NOTE_CHARACTERS_MAX]


def _line(problem: Problem) -> str:
    return f"{'.'.join(map(str, problem.where))}: {problem.reason}" if problem.where else problem.reason
