"""Arguments of `call` and `submit`: ``name=Bob`` is text, ``n:=5`` is JSON, ``raw=@in.csv`` is a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mesh import File
from mesh.errors import UsageError

WHOLE_FORM = """-i '{"name": "Bob"}'"""
FORM = "write arguments as name=text, name:=JSON or name=@file"


def parse_arguments(words: list[str], whole: str | None = None) -> dict[str, Any]:
    """The arguments as a dictionary. `whole` is the value of ``-i``: a JSON object, or ``@file`` with one.

    Raises UsageError, naming the word and the form it should have.
    """
    arguments = _whole(whole) if whole is not None else {}
    for word in words:
        name, value = _one(word)
        if name in arguments:
            raise UsageError(f"the argument {name!r} is given twice", fix="give it once")
        arguments[name] = value
    return arguments


def _one(word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise UsageError(f"{word!r} is not an argument", fix=FORM)
    if name.endswith(":"):
        return _name(name[:-1], word), _json(text, word)
    if text.startswith("@"):
        return _name(name, word), _file(Path(text[1:]))
    return _name(name, word), text


def _name(name: str, word: str) -> str:
    if not name.isidentifier():
        raise UsageError(f"{word!r}: {name!r} cannot be the name of an argument", fix=FORM)
    return name


def _json(text: str, word: str) -> Any:
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{word!r}: what follows := is not JSON ({error})", fix="""write text as name=text, or JSON as name:='["a", 1]'"""
        ) from error


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is larger than any number")
    return number


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def _file(path: Path) -> File:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there" if not path.exists() else "is not a regular file"
        raise UsageError(f"the file {str(path)!r} {what}", fix="name a file that can be read: name=@path")
    try:
        return File.of(path)
    except OSError as error:
        raise UsageError(f"the file {str(path)!r} cannot be read: {error.strerror}", fix=f"ls -l {path}") from error


def _whole(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"-i {text}: cannot be read: {why}", fix="name a UTF-8 file with one JSON object") from error
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"what -i gives is not JSON ({error})", fix=WHOLE_FORM) from error
    if not isinstance(value, dict):
        raise UsageError("-i wants one JSON object, with an argument per key", fix=WHOLE_FORM)
    return value
