"""A policy as values: which work a rule is about, and what it says of it. Pure; where they come from is in `document.py`.

    Rulebook --ruling(Work)--> Ruling: what holds for this piece of work, and which rules say so

Invariant: a ruling is a function of the rulebook and of the work alone, so the manager who places it, the executor who runs it and whoever
looks at it later come to the same. The first rule that matches and says something decides a thing of which there can be one (deny, route,
gate); what can stand side by side (labels, patterns of output, limits) adds up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

OVER, UNDER, IS, IN, LIKE, HAS = "over", "under", "is", "in", "like", "has"
OPERATORS = (OVER, UNDER, IS, IN, LIKE, HAS)
ABSENT = object()
TRUE_TEXTS = ("true", "1", "1.0", "t", "yes", "y", "on")
FALSE_TEXTS = ("false", "0", "0.0", "-0.0", "f", "no", "n", "off")
"""What is read as a truth where a truth is expected."""


def like(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern`, or begins as it does up to a final ``*``."""
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


@dataclass(frozen=True, slots=True)
class Condition:
    """One about the arguments: what stands at `path` compared with `value`. Of what is not there only ``has = false`` is true."""

    path: tuple[str, ...]
    operator: str
    value: Any

    def holds(self, arguments: Any) -> bool:
        found = arguments
        for part in self.path:
            found = found.get(part, ABSENT) if isinstance(found, dict) else ABSENT
        if self.operator == HAS:
            return (found is not ABSENT) == bool(self.value)
        if found is ABSENT:
            return False
        match self.operator:
            case "over" | "under":
                number = _number(found)
                if number is None:
                    return False
                return bool(number > self.value if self.operator == OVER else number < self.value) or number != number
            case "in":
                return any(_same(found, one) for one in self.value)
            case "like":
                return isinstance(found, str) and like(self.value, found)
        return _same(found, self.value)


def _number(found: Any) -> int | float | None:
    """As a handler whose hint is a number would read it: text, too (``amount=2000`` of a command line is text)."""
    if isinstance(found, int | float):
        return found
    try:
        return float(found) if isinstance(found, str) else None
    except ValueError:
        return None


def _same(found: Any, value: Any) -> bool:
    """Equal as a handler would read it that expects what `value` is: who spells a number as text does not pass by the rule."""
    if isinstance(value, bool):
        return isinstance(found, int | float | str) and str(found).strip().lower() in (TRUE_TEXTS if value else FALSE_TEXTS)
    return bool((_number(found) if isinstance(value, int | float) else found) == value)


@dataclass(slots=True)
class Work:
    """What is to be ruled about. `origin`: names of the node where it was asked for, by its manager's view; empty: not known here."""

    capability: str
    input: bytes
    origin: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    durable: bool = True
    _arguments: Any = ABSENT

    @property
    def arguments(self) -> Any:
        """Read only if a rule asks for them."""
        if self._arguments is ABSENT:
            try:
                self._arguments = json.loads(self.input)
            except (ValueError, RecursionError):
                self._arguments = None
        return self._arguments


@dataclass(frozen=True, slots=True)
class Match:
    """All of it has to be so. Patterns end in ``*``, or are whole names."""

    capability: tuple[str, ...] = ("*",)
    origin: tuple[str, ...] = ()
    input: tuple[Condition, ...] = ()
    labels: tuple[str, ...] = ()
    """The work asks for these labels itself."""
    bytes_over: int = -1
    durable: bool | None = None

    def fits(self, work: Work) -> bool:
        if not any(like(pattern, work.capability) for pattern in self.capability):
            return False
        if self.origin and not any(like(pattern, name) for pattern in self.origin for name in work.origin):
            return False
        if self.durable not in (None, work.durable) or len(work.input) <= self.bytes_over:
            return False
        if any(label not in work.where for label in self.labels):
            return False
        return all(condition.holds(work.arguments) for condition in self.input)


@dataclass(frozen=True, slots=True)
class EffectRule:
    """Of effects whose keys fit: they are refused, or wait for people (`gate` as in `Rule`)."""

    keys: tuple[str, ...]
    deny: str = ""
    gate: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What a result may not hold, and how it has to look."""

    patterns: tuple[tuple[str, str], ...] = ()
    """Name and regular expression of what must not leave."""
    bytes_max: int = 0
    schema: dict[str, Any] | None = None


DECENTRALIZED, HYBRID, CENTRAL = "decentralized", "hybrid", "central"


@dataclass(frozen=True, slots=True)
class Admit:
    """Such work starts only when the mesh's coordinator has said so."""

    absent: str
    """What happens while there is none: ``closed`` (it waits), ``cached`` (as he decided last), ``open`` (it starts)."""
    after_ms: int = 0
    """Of ``open``: once there has been none for so long."""
    cached_ms: int = 0
    """Of ``cached``: his last decision for this rule and capability holds so long."""
    limit: int = 0
    """He admits so many at once."""
    rate: tuple[int, int] = (0, 0)
    """So many in so many milliseconds."""
    total: int = 0
    """So many ever."""

    def terms(self) -> dict[str, Any]:
        """What he counts by."""
        found = {"limit": self.limit, "rate": list(self.rate) if self.rate[0] else 0, "total": self.total}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Mode:
    """What a coordinator counts for. Under `central` his node manages all work; without one everybody does after `after_ms` (0: nobody)."""

    name: str = DECENTRALIZED
    after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """One of a policy's rules, in the order of the document."""

    id: str
    match: Match
    deny: str = ""
    """Why such work is refused."""
    require: tuple[str, ...] = ()
    """Labels that whoever runs it must have; ``!name=value`` must not have."""
    down: bool = True
    """Whether the labels hold for everything it asks for in turn."""
    route: str = ""
    """The capability that does it instead."""
    fallback: str = ""
    """The capability that does it instead, if nobody offers it."""
    gate: dict[str, Any] | None = None
    """The options of a gate (``question``, ``quorum``, ``approvers``, ``separate``, ``expires_ms``, ...) that people have to pass first."""
    effects: tuple[EffectRule, ...] = ()
    output: OutputRule | None = None
    secrets: tuple[str, ...] | None = None
    """The only secrets that it is told; None: as each secret says itself."""
    limit: int = 0
    """So many run at once over the whole mesh, of each capability that matches."""
    rate: tuple[int, int] = (0, 0)
    """So many start in so many milliseconds, likewise."""
    timeout_ms: int = 0
    """At most so long."""
    retries: int = -1
    """At most so many; -1: no such bound."""
    budget: tuple[tuple[str, int], ...] = ()
    """At most so much, in thousandths."""
    admit: Admit | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a rulebook says of one piece of work. `rules`: the ids of those that say it. ``()``: nothing is said of it."""

    version: int = 0
    rules: tuple[str, ...] = ()
    deny: tuple[str, str] | None = None
    """Rule and reason."""
    require: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    route: str = ""
    fallback: str = ""
    gate: tuple[str, dict[str, Any]] | None = None
    effects: tuple[tuple[str, EffectRule], ...] = ()
    outputs: tuple[tuple[str, OutputRule], ...] = ()
    secrets: tuple[str, tuple[str, ...]] | None = None
    timeout_ms: int = 0
    retries: int = -1
    budget: tuple[tuple[str, int], ...] = ()
    admit: tuple[str, Admit] | None = None

    def said(self) -> str:
        """For people and records: ``policy 3: eu-only, payout``."""
        return f"policy {self.version}: {', '.join(self.rules)}" if self.rules else ""


FREE = Ruling()
"""Nothing is ruled."""


@dataclass(frozen=True, slots=True)
class Rulebook:
    """A policy that was read. Version 0: none was ever set."""

    version: int = 0
    name: str = ""
    rules: tuple[Rule, ...] = ()
    flags: tuple[dict[str, Any], ...] = ()
    """As they stand in the document, checked: `flags.py` reads them."""
    rollouts: tuple[dict[str, Any], ...] = ()
    text: str = field(default="", repr=False)
    """Of the document: which policy exactly it is."""
    mode: Mode = Mode()
    _by_capability: dict[str, tuple[Rule, ...]] = field(default_factory=dict, compare=False)

    def rules_for(self, capability: str) -> tuple[Rule, ...]:
        """Those that may be about it, whatever else they ask for; remembered, since most work is about few capabilities."""
        found = self._by_capability.get(capability)
        if found is None:
            if len(self._by_capability) >= CAPABILITIES_REMEMBERED:
                self._by_capability.clear()
            fit = [rule for rule in self.rules if any(like(pattern, capability) for pattern in rule.match.capability)]
            found = self._by_capability[capability] = tuple(fit)
        return found

    def ruling(self, work: Work) -> Ruling:
        rules = [rule for rule in self.rules_for(work.capability) if rule.match.fits(work)]
        return _sum(self.version, rules) if rules else FREE

    def effect(self, ruling: Ruling, key: str) -> tuple[str, EffectRule] | None:
        """The first rule about effects of that key, with its id."""
        return next(((rule, one) for rule, one in ruling.effects if any(like(pattern, key) for pattern in one.keys)), None)

    def bounds(self, capability: str) -> tuple[int, int, int]:
        """`limit`, `rate` and `rate_ms` for a capability as a whole: the least there is; 0: none. Rules that look at more than its name
        bound nothing here."""
        rules = [rule for rule in self.rules_for(capability) if rule.match == Match(rule.match.capability)]
        limits = [rule.limit for rule in rules if rule.limit]
        rates = sorted((rule.rate for rule in rules if rule.rate[0]), key=lambda rate: rate[0] / rate[1])
        rate, rate_ms = rates[0] if rates else (0, 0)
        return min(limits, default=0), rate, rate_ms


CAPABILITIES_REMEMBERED = 1000


def _sum(version: int, rules: Sequence[Rule]) -> Ruling:
    first = _First(rules)
    secrets = first.of("secrets", None)
    deny, gate, admit = first.of("deny"), first.of("gate", None), first.of("admit", None)
    amounts: dict[str, int] = {}
    for name, amount in (pair for rule in rules for pair in rule.budget):
        amounts[name] = min(amount, amounts.get(name, amount))
    return Ruling(
        version,
        tuple(rule.id for rule in rules),
        (deny.id, deny.deny) if deny else None,
        _union(rule.require for rule in rules),
        _union(rule.require for rule in rules if rule.down),
        route.route if (route := first.of("route")) else "",
        fallback.fallback if (fallback := first.of("fallback")) else "",
        (gate.id, gate.gate) if gate and gate.gate is not None else None,
        tuple((rule.id, effect) for rule in rules for effect in rule.effects),
        tuple((rule.id, rule.output) for rule in rules if rule.output is not None),
        (secrets.id, secrets.secrets) if secrets and secrets.secrets is not None else None,
        min((rule.timeout_ms for rule in rules if rule.timeout_ms), default=0),
        min((rule.retries for rule in rules if rule.retries >= 0), default=-1),
        tuple(sorted(amounts.items())),
        (admit.id, admit.admit) if admit and admit.admit is not None else None,
    )


class _First:
    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def of(self, name: str, nothing: Any = "") -> Rule | None:
        return next((rule for rule in self._rules if getattr(rule, name) != nothing), None)


def _union(labels: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for some in labels for label in some))
