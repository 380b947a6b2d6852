"""What a result may not hold, and how it has to look: leak patterns, size, and a small part of JSON Schema.

    problem_of(rule, output) -> "" | "holds what looks like a private key"

Invariant: time grows with the size of the output alone, since every expression that is admitted (`expression_problem`) tries at most
`STEPS_MAX` ways at each place. Looks at the text of a result; not into files, which travel by their hash. Guards against accidents: who
wants to smuggle something out of his own handler can spell it otherwise.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from mesh.core.policy.rules import OutputRule

STEPS_MAX = 256
EXPRESSION_CHARACTERS_MAX = 200

KNOWN = {
    "private_key": (r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----", "a private key"),
    "aws_key": (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "an AWS access key"),
    "github_token": (r"\bgh[pousr]_[A-Za-z0-9]{36}", "a GitHub token"),
    "slack_token": (r"\bxox[abprs]-[0-9A-Za-z-]{10}", "a Slack token"),
    "api_key": (r"\bsk-[A-Za-z0-9_-]{20}", "an API key"),
    "jwt": (r"\beyJ[A-Za-z0-9_-]{10,200}\.eyJ", "a signed web token"),
    "email": (r"[A-Za-z0-9._%+-]@[A-Za-z0-9-]{1,63}\.[A-Za-z]{2}", "an e-mail address"),
    "iban": (r"\b[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){3,7}", "an IBAN"),
    "card": (r"\b[0-9](?:[ -]?[0-9]){12,18}\b", "a card number"),
}
"""Name -> expression, and what it is called. Ours, so they need not be as plain as a user's; a card's digits have to add up, too."""

_TOKEN = re.compile(
    r"""\\[dDwWsSbB.\\/^$*+?{}()\[\]|-]     # an escape that stands for a character or an edge
      | \[\^?(?:\\.|[^\]\\]){1,100}\]         # a class
      | \{[0-9]{1,3}(?:,[0-9]{1,3})?\} | \?   # how often
      | \(\?: | \( | \) | \|                  # groups
      | [^\\\[\](){}*+?|]                     # itself""",
    re.VERBOSE,
)


def expression_problem(text: str) -> str:
    """Why this is no expression that may be looked for in every result; "" if it is. Raises nothing."""
    if not 0 < len(text) <= EXPRESSION_CHARACTERS_MAX:
        return f"an expression has 1 to {EXPRESSION_CHARACTERS_MAX} characters"
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return f"{text[at]!r} cannot stand at character {at + 1}: repeat with {{m,n}}, never * or +"
        tokens.append(found.group())
        at = found.end()
    ways = 1
    for before, token in zip(["", *tokens], tokens):
        if token == "?" or token.startswith("{"):
            if before in ("", "(", "(?:", ")", "|", "?") or before.startswith("{"):
                return "what is repeated is one character or one class"
            least, _, most = token.strip("{}").partition(",")
            ways *= 2 if token == "?" else int(most or least) - int(least) + 1
        elif token == "|":
            ways += 1
    if not 0 < ways <= STEPS_MAX:
        return f"it can fit in more than {STEPS_MAX} ways at one place: make its repeats narrower"
    try:
        re.compile(text)
    except re.error as error:
        return f"it is no regular expression: {error}"
    return ""


@lru_cache(256)
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(text)


def problem_of(rule: OutputRule, output: bytes) -> str:
    """What is wrong with this result (JSON) by that rule; "" if nothing is. Never says what was found, only what kind of thing."""
    if rule.bytes_max and len(output) > rule.bytes_max:
        return f"has {len(output)} bytes, and {rule.bytes_max} are allowed"
    text = output.decode("utf-8", "replace") if rule.patterns else ""
    for name, expression in rule.patterns:
        if _finds(name, expression, text):
            return f"holds what looks like {KNOWN[name][1] if name in KNOWN else f'{name!r}'}"
    if rule.schema is None:
        return ""
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        return "is no JSON"
    return misfit(rule.schema, value)


def _finds(name: str, expression: str, text: str) -> bool:
    if name != "card":
        return _compiled(expression).search(text) is not None
    return any(_adds_up(found.group()) for found in _compiled(expression).finditer(text))


def _adds_up(text: str) -> bool:
    """By Luhn's formula, as the digits of a card do."""
    digits = [int(char) for char in text if char.isdigit()][::-1]
    return sum(sum(divmod(2 * digit, 10)) if odd % 2 else digit for odd, digit in enumerate(digits)) % 10 == 0


# ---- how it has to look

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NUMBERS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
_KEYS = ("type", "properties", "required", "enum", "items", "additionalProperties", "description", "title", *_NUMBERS)
DEPTH_MAX = 16


def schema_problem(schema: Any, depth: int = 0) -> str:
    """Why this is no schema that is understood here; "" if it is."""
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return "a schema is a table, with others in it"
    if unknown := next((key for key in schema if key not in _KEYS), ""):
        return f"{unknown!r} is not understood here; there are {', '.join(_KEYS)}"
    if not isinstance(kind := schema.get("type", "object"), str) or kind not in _TYPES:
        return f"there is no type {kind!r:.60}; there are {', '.join(_TYPES)}"
    if any(isinstance(schema[key], bool) or not isinstance(schema[key], int | float) for key in _NUMBERS if key in schema):
        return "bounds are numbers"
    required, inner = schema.get("required", []), schema.get("properties", {})
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required) or not isinstance(inner, dict):
        return "required is a list of names, properties a table of schemas"
    if not isinstance(schema.get("enum", []), list) or not isinstance(schema.get("additionalProperties", True), bool):
        return "enum is a list, additionalProperties true or false"
    below = [*inner.values(), *([schema["items"]] if "items" in schema else [])]
    return next((problem for one in below if (problem := schema_problem(one, depth + 1))), "")


def misfit(schema: dict[str, Any], value: Any, path: str = "") -> str:
    """Where and why `value` does not fit; "" if it does."""
    where = f"at {path} " if path else ""
    if "type" in schema and not _is_a(schema["type"], value):
        return f"{where}is no {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}is none of the values that are allowed"
    if problem := _out_of_bounds(schema, value):
        return f"{where}{problem}"
    if isinstance(value, dict):
        if lacking := next((name for name in schema.get("required", ()) if name not in value), ""):
            return f"{where}lacks {lacking!r}"
        inner = schema.get("properties", {})
        if schema.get("additionalProperties") is False and (extra := next((name for name in value if name not in inner), "")):
            return f"{where}has {extra!r}, which is not allowed"
        return next((bad for name, one in inner.items() if name in value and (bad := misfit(one, value[name], f"{path}.{name}"))), "")
    if isinstance(value, list) and "items" in schema:
        return next((bad for number, one in enumerate(value) if (bad := misfit(schema["items"], one, f"{path}[{number}]"))), "")
    return ""


def _is_a(kind: str, value: Any) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _out_of_bounds(schema: dict[str, Any], value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        least, most, what = schema.get("minimum"), schema.get("maximum"), value
    elif isinstance(value, str):
        least, most, what = schema.get("minLength"), schema.get("maxLength"), len(value)
    elif isinstance(value, list):
        least, most, what = schema.get("minItems"), schema.get("maxItems"), len(value)
    else:
        return ""
    if least is not None and what < least:
        return f"is below {least}"
    return f"is above {most}" if most is not None and what > most else ""
