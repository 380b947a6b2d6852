"""Which policy is in force: of those held, the one of the greatest version whose author has not been revoked.

    Stated(policy | revocation) --another one counts--> directory.rulebook, PolicyChanged

Invariant: nodes that hold the same statements are under the same rulebook. A policy that this version cannot read leaves the one before it
in force, and `statistics` says so: a rule that was half understood would be worse. Does not judge who may set one (the wire does), and
rules about nothing (`work/governor.py` asks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.directory import Directory
from mesh.core.policy.document import read
from mesh.core.policy.fields import Problem
from mesh.core.policy.inputs import PolicyChanged, Stated
from mesh.core.policy.rules import Rulebook
from mesh.effects import Refused, Tell
from mesh.ids import NodeId
from mesh.limits import TrustLimits
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.trust import ISSUER, Revocation


@dataclass(frozen=True, slots=True)
class PolicyStatistics:
    version: int
    """In force; 0: none."""
    name: str
    rules: int
    held: int
    """Versions that are known here."""
    unread: int
    """The newest version that this node cannot read; 0: it can."""


class Policies:
    """One per node. Writes the directory's `rulebook`."""

    def __init__(self, directory: Directory, limits: TrustLimits) -> None:
        self._directory, self._limits = directory, limits
        self._held: list[Signed] = []
        self._revoked: dict[NodeId, None] = {}
        self._unread = 0
        self.inputs: dict[type, Any] = {Stated: self._on_stated}

    def _on_stated(self, _now_s: float, _me: NodeId, stated: Stated) -> Iterator[Any]:
        signed = stated.signed
        if type(signed.body) is Policy:
            self._held.append(signed)
            self._held.sort(key=lambda one: (one.body.seq, one.author, one.body.text))
            if len(self._held) > self._limits.policies_max:  # who was revoked shall not have pushed out the others for good
                self._held.remove(next((one for one in self._held if one.author in self._revoked), self._held[0]))
        elif type(signed.body) is Revocation and signed.body.level == ISSUER:
            self._revoked[signed.body.target] = None
        else:
            return
        yield from self._choose()

    def _choose(self) -> Iterator[Any]:
        self._unread, chosen = 0, Rulebook()
        for signed in reversed(self._held):
            if signed.author in self._revoked:
                continue
            known = self._directory.rulebook
            made = known if known.version and (known.version, known.text) == (signed.body.seq, signed.body.text) else self._read(signed)
            if made is None:
                self._unread = self._unread or signed.body.seq
                yield Refused("policy_not_understood", signed.author)
                continue
            chosen = made
            break
        if chosen is not self._directory.rulebook and chosen != self._directory.rulebook:
            self._directory.rulebook = chosen
            yield Tell(PolicyChanged(chosen.version))

    @staticmethod
    def _read(signed: Signed) -> Rulebook | None:
        made: Rulebook | list[Problem] = read(signed.body.text, signed.body.seq)
        return made if isinstance(made, Rulebook) else None

    # ---- for those who look

    def held(self) -> tuple[Signed, ...]:
        """All that are known here, the newest first; those of revoked authors, who count for nothing, too."""
        return tuple(reversed(self._held))

    def next_version(self) -> int:
        """Of another one. What a revoked author has numbered far beyond the others' does not count."""
        floor = max((one.body.seq for one in self._held if one.author not in self._revoked), default=0)
        return 1 + max((one.body.seq for one in self._held if one.body.seq <= floor + self._limits.policies_max), default=0)

    def statistics(self) -> PolicyStatistics:
        book = self._directory.rulebook
        return PolicyStatistics(book.version, book.name, len(book.rules), len(self._held), self._unread)
