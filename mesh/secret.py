"""A secret as a value: it travels as the reference ``secret://name``, and becomes text only in the worker that runs the handler.

    caller --"secret://db"--> arguments, journal, lineage --> worker --asks its own node--> Secret, whose `reveal` gives the text

Invariant: the text is in no repr, JSON, pickle, message or error that leaves the worker; whoever needs it says `reveal()`. `Redactor` takes
it out of what a task says: messages, tracebacks, notes. Does not keep a handler from giving the text away on purpose, in a file or in a
form that nobody foresaw.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NoReturn
from urllib.parse import quote

from mesh.errors import MeshError, UsageError
from mesh.ids import is_secret_name

PREFIX = "secret://"
PATTERN = f"^{PREFIX}"
"""What JSON Schema says of one."""
CHARACTERS_MIN = 4
"""Shorter texts are not looked for: they are in everything."""
_LEAVES = "a Secret stays where it was resolved; pass its reference on, secret.reference, and whoever runs that work resolves it himself"


class Secret:
    """A secret that this handler may use. `name` is what `mesh secret list` shows, `reveal` gives the text.

    A parameter annotated `Secret` gets one, and so does ``await ctx.secret("name")``.
    """

    __slots__ = ("_value", "name")

    def __init__(self, name: str, value: str | None = None) -> None:
        """Raises UsageError for what is no name."""
        if not isinstance(name, str) or not is_secret_name(name):
            raise UsageError(
                f"{name!r} cannot name a secret", fix="use letters, digits, '.', '-' and '_', at most 64: secret://db-password"
            )
        self.name = name
        self._value = value

    @property
    def reference(self) -> str:
        """The form in which it travels."""
        return PREFIX + self.name

    def reveal(self) -> str:
        """The text. Raises UsageError if it is not known here: while work is priced, or as a parameter's default."""
        if self._value is None:
            raise UsageError(f"the secret {self.name!r} is not resolved here", fix=f'pass "{self.reference}" as the argument')
        return self._value

    def resolve(self, value: str) -> None:
        """By the worker, before the handler gets it."""
        self._value = value

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(_LEAVES)

    # ---- pydantic

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.with_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(_refused)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": PATTERN}


def _validated(value: Any, info: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.startswith(PREFIX) or not is_secret_name(value.removeprefix(PREFIX)):
        raise ValueError(f"is no reference to a secret: write {PREFIX}NAME, with a name of `mesh secret list`")
    secret = Secret(value.removeprefix(PREFIX))
    if info.context is not None:
        info.context["secrets"].append(secret)
    return secret


def _refused(_value: Any) -> NoReturn:
    raise TypeError(_LEAVES)


def cannot_travel() -> TypeError:
    """For a Secret found where values leave the worker."""
    return TypeError(_LEAVES)


class Redactor:
    """Knows the secrets that one task has been given, and takes them out of what it says."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, name: str, value: str) -> None:
        self.values[name] = value
        for form in _forms(value):
            if len(form) >= CHARACTERS_MIN:
                self._forms.setdefault(form, name)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    @property
    def longest(self) -> int:
        """Characters of the longest form: what a cut through a stream may hide."""
        return max(map(len, self._forms), default=0)

    def text(self, text: str) -> str:
        """`text` with ``[secret NAME]`` wherever the text of a secret, or a usual encoding of it, was."""
        return text if self._pattern is None else self._pattern.sub(lambda found: f"[secret {self._forms[found[0]]}]", text)

    def error(self, error: dict[str, Any]) -> dict[str, Any]:
        """The same for all texts of a failure."""
        return {name: self.text(value) if isinstance(value, str) else value for name, value in error.items()}

    def check(self, what: str, data: bytes) -> None:
        """Raises MeshError if `data`, JSON that is about to leave, holds a secret: silently altered data would be worse."""
        if self._pattern is not None and (found := self._pattern.search(data.decode("utf-8", "replace"))):
            name = self._forms[found[0]]
            raise MeshError(
                f"{what} holds the text of the secret {name!r}, which must not leave this worker", fix=_LEAVES, code="secret_leaves"
            )


def _forms(value: str) -> list[str]:
    """The text itself, each longer line of it, and what usual encodings make of it."""
    data = value.encode()
    forms = [value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]]
    forms += [data.hex(), quote(value), quote(value, safe="")]
    forms += [line.strip() for line in value.splitlines() if len(line.strip()) >= 2 * CHARACTERS_MIN]
    # In base64 a text looks different at each of three offsets, as in "user:password".
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data).decode()
        inner = encoded[-(-offset * 4 // 3) : (offset + len(data)) * 4 // 3]
        forms += [inner, inner.replace("+", "-").replace("/", "_")]
    return forms
