"""The executor's half of the mesh's policy: whatever a manager says, by this node's own rulebook and its own name.

    AWARD --denied, without a label that is required, or no answer for its gate--> declined, with the rule's name
    a result that a rule does not let out --> a failure in its place          an effect that is denied --> refused
    offers --> with the policy's limits and rates, so that the limits over the whole mesh hold them

Invariant: nothing begins here against the rules that are in force here. A manager who knows a newer or an older policy is told by which
rule he was turned down, and looks again. Decides nothing about who runs what else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mesh.core.directory import Directory
from mesh.core.policy.admission import asks, holds
from mesh.core.policy.gating import passes, question
from mesh.core.policy.rules import FREE, Ruling, Work
from mesh.core.work.fitting import fits_worker
from mesh.core.work.governor import DECLINED, OFFICIAL, denial, output_error
from mesh.core.work.holdings import Holding
from mesh.core.work.slots import Slots
from mesh.ids import NodeId, author_of, content_hash
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.work import AwardItem


class Enforcing:
    def __init__(self, directory: Directory, limits: WorkLimits, slots: Slots) -> None:
        self._directory, self._limits, self._slots = directory, limits, slots

    def _ruling(self, capability: str, data: bytes, origin: NodeId, where: tuple[str, ...], durable: bool) -> Ruling:
        names = (origin, self._directory.name_of(origin))
        return self._directory.rulebook.ruling(Work(capability, data, names, where, durable))

    # ---- before

    def refusal(self, item: AwardItem, manager: NodeId) -> str:
        """Why an award is declined; "" if the policy has nothing against it."""
        if not self._directory.rulebook.rules or item.capability in OFFICIAL:
            return ""
        origin = item.origin or author_of(item.parent or item.task)
        ruling = self._ruling(item.capability, item.input, origin, item.where, item.durable)
        if ruling.deny is not None:
            return DECLINED + ruling.deny[0]
        if ruling.require and not self._has(item.capability, ruling.require):
            return DECLINED + "labels"
        if ruling.gate is not None:
            rule, gate = ruling.gate
            asked = content_hash(question(rule, gate, item.capability, item.input))
            if not passes(gate, asked, item.words, self._directory.name_of, origin, separate=self._limits.separate_duties):
                return DECLINED + rule
        if ruling.admit is not None:
            rule, admit = ruling.admit
            asked = asks(rule, item.capability, item.input)
            if not holds(self._directory, rule, admit, item.capability, asked, item.words, manager):
                return DECLINED + rule
        return ""

    def _has(self, capability: str, labels: tuple[str, ...]) -> bool:
        return any(fits_worker(worker.labels, labels) for worker in self._slots.capability(capability).workers)

    def keep(self, item: AwardItem) -> None:
        """What it was accepted with, for what it asks for in turn."""
        if item.origin or item.down or item.parent:
            self._directory.origins[item.task] = item.origin or author_of(item.parent or item.task), item.down

    # ---- while it runs, and after

    def effect_error(self, holding: Holding, key: str) -> dict[str, Any] | None:
        """None, or why this node lets no such effect begin. (Those that wait for people wait at the manager.)"""
        ruling = self._of(holding)
        found = self._directory.rulebook.effect(ruling, key) if ruling.effects else None
        if found is None or not found[1].deny:
            return None
        return denial(found[0], ruling.version, found[1].deny, f"the effect {key!r} of {holding.capability}")

    def output_error(self, holding: Holding, output: bytes) -> dict[str, Any] | None:
        """None, or the error in place of its result."""
        return output_error(self._of(holding), holding.capability, output)

    def secret_error(self, holding: Holding, name: str) -> dict[str, Any] | None:
        """None, or why it is not told this secret."""
        ruling = self._of(holding)
        if ruling.secrets is None or any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in ruling.secrets[1]):
            return None
        what = f"the secret {name!r} for {holding.capability}"
        return denial(ruling.secrets[0], ruling.version, "it is not among those the rule names", what)

    def _of(self, holding: Holding) -> Ruling:
        if not self._directory.rulebook.rules:
            return FREE
        origin = self._directory.origins.get(holding.task, (author_of(holding.parent or holding.task), ()))[0]
        return self._ruling(holding.capability, holding.input, origin, holding.where, holding.durable)

    # ---- what is offered

    def bounded(self, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
        """The same, with no more at once and in a time than the policy has it."""
        if not self._directory.rulebook.rules:
            return offers
        return tuple(self._bounded(offer) for offer in offers)

    def _bounded(self, offer: Offer) -> Offer:
        limit, rate, rate_ms = self._directory.rulebook.bounds(offer.capability)
        least = min(limit, offer.limit) if limit and offer.limit else limit or offer.limit
        slower = rate and (not offer.rate or rate * offer.rate_ms < offer.rate * rate_ms)
        rates = (rate, rate_ms) if slower else (offer.rate, offer.rate_ms)
        if (least, *rates) == (offer.limit, offer.rate, offer.rate_ms):
            return offer
        return replace(offer, limit=least, rate=rates[0], rate_ms=rates[1])
