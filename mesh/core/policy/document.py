"""A policy's document, read: JSON (or TOML, which says the same) -> `Rulebook`, or all that is wrong with it.

    {"policy": "house rules", "mode": "hybrid", "rule": [{"id", "match": {...}, "deny" | "approve" | ...}], "flag": [...], "rollout": [...]}

Invariant: what is read is understood whole. A key that is not known is a problem, never ignored: a rule that was half understood would be
worse than none. Every problem says where, why, and what to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from mesh.core.policy import flags, rollouts
from mesh.core.policy.central import admit_of, mode_of, unheard
from mesh.core.policy.fields import LIST_MAX, Bad, Fields, Place, Problem, milliseconds, near
from mesh.core.policy.output import KNOWN, expression_problem, schema_problem
from mesh.core.policy.rules import HAS, IN, IS, LIKE, OPERATORS, OVER, UNDER, Condition, EffectRule, Match, Mode, OutputRule, Rule, Rulebook
from mesh.core.work.gates import wait_of
from mesh.ids import AMOUNT_MAX, is_label, is_name

RULES_MAX = 200
DOCUMENT_BYTES_MAX = 32 * 1024

Table = dict[str, Any]

_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,9}(?:ms|s|m|h|d))")


Section = Callable[[list[Any]], tuple[Table, ...]]
SECTIONS: dict[str, Section] = {"flag": flags.section, "rollout": rollouts.section}
"""Other lists of tables that a document may hold, by key, with what checks them (raises Bad)."""


def canonical(document: Table) -> str:
    """The one text of a document."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(text: str, version: int = 0) -> Rulebook | list[Problem]:
    """The rulebook in a canonical text; or what is wrong with it, which is one problem at least."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [Problem((), f"it is no JSON: {error}", "mesh policy check FILE")]
    return rulebook(document, version, text)


def rulebook(document: Any, version: int = 0, text: str = "") -> Rulebook | list[Problem]:
    """As `read`, from the document itself."""
    if not isinstance(document, dict):
        return [Problem((), "a policy is a table", 'begin with: policy = "house rules"')]
    problems: list[Problem] = []
    try:
        size_bytes = len(canonical(document).encode())
    except (ValueError, TypeError, RecursionError) as error:
        return [Problem((), f"it cannot be kept as JSON: {error}", "write texts, finite numbers, lists and tables")]
    if size_bytes > DOCUMENT_BYTES_MAX:
        problems.append(Problem((), f"it is larger than {DOCUMENT_BYTES_MAX // 1024} KiB", "make several rules one, with lists of names"))
    name = _caught(problems, lambda: Fields(document, ()).name("policy", ""))
    known = ("policy", "mode", "rule", *SECTIONS)
    mode = _caught(problems, lambda: mode_of(Fields(document, ()))) or Mode()
    problems += [Problem((key,), "there is no such key", near(key, known)) for key in document if key not in known]
    rules = [_caught(problems, partial(_rule, row, ("rule", i))) for i, row in enumerate(_rows(document, "rule", problems))]
    ids = [rule.id for rule in rules if rule is not None]
    for number, id_ in enumerate(ids):
        if id_ in ids[:number]:
            problems.append(Problem(("rule", number, "id"), f"there are two rules {id_!r}", "give each a name of its own"))
    found: dict[str, tuple[Table, ...]] = {}
    for key, section in SECTIONS.items():
        found[key] = _caught(problems, partial(section, _rows(document, key, problems))) or ()
    problems += [Problem(*each) for each in unheard(mode, [rule for rule in rules if rule is not None])]
    if problems:
        return problems
    kept = tuple(rule for rule in rules if rule is not None)
    return Rulebook(version, name or "", kept, found.get("flag", ()), found.get("rollout", ()), text, mode)


def _rows(document: Table, key: str, problems: list[Problem]) -> list[Any]:
    rows = document.get(key, [])
    if not isinstance(rows, list) or len(rows) > RULES_MAX:
        problems.append(Problem((key,), f"{key} is a list of at most {RULES_MAX} tables", f"write [[{key}]]"))
        return []
    return rows


def _caught(problems: list[Problem], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Bad as bad:
        problems.append(bad.problem)
        return None


# ---- rules

ACTIONS = ("deny", "require", "route", "fallback", "approve", "effects", "output", "secrets", "limit", "rate", "at_most", "admit")


def _rule(row: Any, where: Place) -> Rule:
    fields = Fields(row, where)
    rule = fields.name("id", "")
    if not rule or len(rule) > 64 or not is_name(rule):
        fields.bad("id", f"{rule!r} is no name", "a rule has a name of its own: letters, digits and _.-")
    match = _match(Fields(fields.table.get("match", {}), (*where, "match"))) if fields.has("match") else Match()
    require, down = _require(fields)
    at_most = Fields(fields.table.get("at_most", {}), (*where, "at_most")) if fields.has("at_most") else Fields({}, where)
    admit = admit_of(fields, _rate)
    found = Rule(
        rule,
        match,
        fields.name("deny", ""),
        require,
        down,
        _capability(fields, "route"),
        _capability(fields, "fallback"),
        _gate(fields, "approve"),
        _effects(fields),
        _output(fields),
        _secrets(fields),
        fields.number("limit", 0, 1, 1_000_000),
        _rate(fields),
        at_most.duration_ms("timeout"),
        at_most.number("retries", -1, 0, 1000),
        _amounts(at_most),
        admit,
    )
    at_most.end()
    fields.end()
    if not any(action in fields.table for action in ACTIONS):
        raise Bad(where, f"rule {rule!r} says nothing", f"give it one of {', '.join(ACTIONS)}")
    if (found.limit or found.rate[0]) and match != Match(match.capability):
        raise Bad(where, "limit and rate hold for capabilities as a whole", "leave everything but capability out of its match")
    return found


def _capability(fields: Fields, key: str) -> str:
    name = fields.name(key, "")
    if name and not is_name(name):
        fields.bad(key, f"{name!r} is no capability's name", 'write it as `mesh caps` lists it: "report.render"')
    return name


def _match(fields: Fields) -> Match:
    table = fields.table.get("input", {}) if fields.has("input") else {}
    if not isinstance(table, dict):
        fields.bad("input", f"{table!r:.60} is no table", 'write input = { region = "eu" }')
    conditions = [one for path, value in table.items() for one in _conditions(str(path), value, (*fields.where, "input", str(path)))]
    found = Match(
        fields.patterns("capability", ("*",)),
        fields.patterns("from"),
        tuple(conditions),
        fields.words("labels", (), is_label, 'write labels = ["zone=eu"]'),
        fields.number("bytes_over", -1, 0, 2**40),
        fields.flag("durable", None),
    )
    fields.end()
    return found


def _conditions(path: str, value: Any, where: Place) -> list[Condition]:
    """``region = "eu"``, or ``amount = { over = 1000, under = 5000 }``."""
    parts = tuple(path.split("."))
    if not all(parts):
        raise Bad(where, f"{path!r} is no path into the arguments", 'write "a.b" for the b in a')
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise Bad(where, "a list", 'write { in = ["eu", "ch"] }')
        return [Condition(parts, IS, value)]
    for operator, operand in value.items():
        fits = {
            OVER: type(operand) in (int, float),
            UNDER: type(operand) in (int, float),
            IN: isinstance(operand, list) and len(operand) <= LIST_MAX,
            LIKE: isinstance(operand, str),
            HAS: isinstance(operand, bool),
            IS: not isinstance(operand, dict | list),
        }
        if not fits.get(str(operator), False):
            raise Bad((*where, str(operator)), f"{operand!r:.60} cannot stand here", f"there are {', '.join(OPERATORS)}: {{ over = 1000 }}")
    if not value:
        raise Bad(where, "an empty table", "write { over = 1000 }")
    return [Condition(parts, str(operator), operand) for operator, operand in value.items()]


def _require(fields: Fields) -> tuple[tuple[str, ...], bool]:
    down = fields.flag("down", True)
    value = fields.table.get("require") if fields.has("require") else None
    if isinstance(value, dict):
        value = [name if one is True else f"{name}={one}" for name, one in value.items()]
    if value is None:
        return (), bool(down)
    made = Fields({"require": value}, fields.where)
    words = made.words(
        "require", (), lambda word: is_label(word.removeprefix("!")), 'write require = { zone = "eu" }, or ["zone=eu", "!gpu"]'
    )
    return words, bool(down)


def _gate(fields: Fields, key: str) -> Table | None:
    """The arguments of a gate, but for what it is about."""
    if not fields.has(key):
        return None
    inner = Fields(fields.table[key], (*fields.where, key))
    approvers = inner.words("approvers", (), bool, 'write approvers = ["anna"]')
    gate: Table = {
        "question": inner.name("question", "May it run?"),
        "quorum": inner.number("quorum", 1, 1, LIST_MAX),
        "approvers": list(approvers),
        "separate": inner.flag("separate", None),
        "on_expire": inner.text("on_expire", "deny"),
        "escalate_to": list(inner.words("escalate_to", (), bool, 'write escalate_to = ["boss"]')),
    }
    expires_ms = inner.duration_ms("expires")
    inner.end()
    if isinstance(why := wait_of(json.dumps({"wait": "gate", "name": "policy"} | gate).encode()), str):
        fields.bad(key, why, 'write approve = { question = "Pay it out?", quorum = 2, approvers = ["anna", "ben"] }')
    return gate | {"expires_ms": expires_ms}


def _effects(fields: Fields) -> tuple[EffectRule, ...]:
    rows = fields.table.get("effects", []) if fields.has("effects") else []
    if not isinstance(rows, list) or len(rows) > LIST_MAX:
        fields.bad("effects", f"{rows!r:.60} is no list of tables", 'write effects = [{ keys = "pay/*", deny = "..." }]')
    found = []
    for number, row in enumerate(rows):
        one = Fields(row, (*fields.where, "effects", number))
        rule = EffectRule(one.words("keys", (), bool, 'write keys = "pay/*"'), one.name("deny", ""), _gate(one, "approve"))
        one.end()
        if not rule.keys or bool(rule.deny) == (rule.gate is not None):
            raise Bad(
                one.where, "it names no keys, or neither or both of deny and approve", 'write { keys = "pay/*", deny = "not by night" }'
            )
        found.append(rule)
    return tuple(found)


def _output(fields: Fields) -> OutputRule | None:
    if not fields.has("output"):
        return None
    inner = Fields(fields.table["output"], (*fields.where, "output"))
    patterns = []
    for word in inner.words("deny", (), bool, f"name one of {', '.join(KNOWN)}, or an expression between slashes: /AB[0-9]{{6}}/"):
        plain = len(word) > 2 and word[0] == word[-1] == "/"
        if not plain and word not in KNOWN:
            inner.bad("deny", f"there is no pattern {word!r:.60}", f"name one of {', '.join(KNOWN)}, or an expression between slashes")
        if plain and (why := expression_problem(word[1:-1])):
            inner.bad("deny", f"{word!r:.60}: {why}", "write what it begins with, and how many characters follow: /AB[0-9]{6}/")
        patterns.append((word, word[1:-1] if plain else KNOWN[word][0]))
    schema = inner.table.get("schema") if inner.has("schema") else None
    if schema is not None and (why := schema_problem(schema)):
        inner.bad("schema", why, 'write schema = { type = "object", required = ["url"] }')
    found = OutputRule(tuple(patterns), inner.number("bytes_max", 0, 1, 2**40), schema)
    inner.end()
    return found


def _secrets(fields: Fields) -> tuple[str, ...] | None:
    """Of an empty list: none at all."""
    if not fields.has("secrets"):
        return None
    return () if fields.table["secrets"] == [] else fields.patterns("secrets")


def _rate(fields: Fields) -> tuple[int, int]:
    if not fields.has("rate"):
        return 0, 0
    text = fields.text("rate")
    found = _RATE.fullmatch(text)
    window = found[2] if found else ""
    window_ms = milliseconds(window if window[:1].isdigit() else f"1{window}")
    if found is None or not int(found[1]) or not window_ms:
        fields.bad("rate", f"{text!r} is no rate", 'write how many start in how long: rate = "10/1m"')
    return int(found[1]), window_ms


def _amounts(at_most: Fields) -> tuple[tuple[str, int], ...]:
    table = at_most.table.get("budget", {}) if at_most.has("budget") else {}
    if not isinstance(table, dict) or len(table) > LIST_MAX:
        at_most.bad("budget", f"{table!r:.60} is no table of amounts", "write budget = { usd = 5 }")
    for name, amount in table.items():
        if not is_name(str(name)) or type(amount) not in (int, float) or not 0 <= amount <= AMOUNT_MAX / 1000:
            at_most.bad("budget", f"{name} = {amount!r:.60} is no amount", "write budget = { usd = 5 }")
    return tuple(sorted((str(name), round(1000 * amount)) for name, amount in table.items()))
