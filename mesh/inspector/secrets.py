"""Use: secret."""

from __future__ import annotations

import enum
import sys
import time
from typing import Annotated, Any

import typer

from mesh.errors import MeshError, Refused, UsageError
from mesh.inspector.render import clean, seconds, table
from mesh.inspector.shell import HomeOption, JsonOption, fail, filled, prompter, show_document

CAREFUL_BYTES_MAX = 1024 * 1024
"""Read from stdin before anything says how long a secret may be."""


class Action(enum.StrEnum):
    SET = "set"
    LIST = "list"
    REMOVE = "remove"


def secret(
    action: Annotated[Action, typer.Argument(show_default=False)],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Handlers get it as secret://NAME.", show_default=False)] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="CAPABILITY",
            help="Only this capability may read it; a beginning and * stand for several. May be repeated. [default: all]",
            show_default=False,
            callback=filled,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a secret for handlers: set, list, remove.

    Its text comes from stdin, or is asked for; it is never shown.
    """
    try:
        if scope and action is not Action.SET:
            raise UsageError("--for goes with set only", fix=f"mesh secret {action.value}")
        if action is Action.LIST:
            if name is not None:
                raise UsageError("list takes no name", fix="mesh secret list")
            show_document(_list(home), _show_list, as_json)
            return
        if name is None:
            raise UsageError(f"which one? {action.value} wants a name", fix=f"mesh secret {action.value} NAME")
        document = _set(home, name, scope) if action is Action.SET else _remove(home, name)
        show_document(document, _show_change, as_json)
    except MeshError as error:
        fail(error, as_json)


def _secrets(home: str | None) -> Any:
    from mesh.runtime.disk.secrets import Secrets
    from mesh.runtime.disk.vault import open_vault
    from mesh.runtime.home import Home
    from mesh.runtime.settings import load_kek

    where = Home.locate(home)
    return Secrets(where, lambda: open_vault(where, load_kek(where), prompt=prompter()))


def _set(home: str | None, name: str, scope: list[str] | None) -> dict[str, Any]:
    kept = _secrets(home).set(name, _text(name), tuple(scope) if scope else ("*",))
    return {"schema": "mesh.secret/1", "action": "set", "name": kept.name, "scope": list(kept.scope), "reference": f"secret://{kept.name}"}


def _remove(home: str | None, name: str) -> dict[str, Any]:
    try:
        _secrets(home).remove(name)
    except Refused as error:
        error.fix = "mesh secret list"  # who takes one away does not want to be told how to set it
        raise
    return {"schema": "mesh.secret/1", "action": "remove", "name": name}


def _list(home: str | None) -> dict[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    kept = [{"name": one.name, "scope": list(one.scope), "age_ms": max(0, now_ms - one.made_ms)} for one in _secrets(home).all()]
    return {"schema": "mesh.secret/1", "action": "list", "secrets": kept}


def _text(name: str) -> str:
    """From the terminal, unseen, or all of stdin without its last line break. Raises UsageError."""
    if sys.stdin is not None and sys.stdin.isatty():
        ask = prompter()
        return ask(f"text of {name}: ") if ask else ""
    data = sys.stdin.buffer.read(CAREFUL_BYTES_MAX) if sys.stdin is not None else b""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("what came on stdin is not UTF-8 text", fix=f"base64 FILE | mesh secret set {name}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _show_list(document: dict[str, Any]) -> str:
    rows = [(each["name"], ", ".join(each["scope"]), seconds(each["age_ms"])) for each in document["secrets"]]
    return table(("SECRET", "FOR", "AGE"), rows, empty="this home keeps no secrets; add one: mesh secret set NAME")


def _show_change(document: dict[str, Any]) -> str:
    if document["action"] == "remove":
        return f"{clean(document['name'])} is removed"
    return f"{clean(document['reference'])} is kept, for {', '.join(map(clean, document['scope']))}"
