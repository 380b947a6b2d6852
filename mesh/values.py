"""JSON at the edge of user code: Python values to bytes and back, files included. pydantic is imported only for values that need it."""

from __future__ import annotations

import json
import os
from typing import Any

from mesh.errors import InvalidArgument, task_error
from mesh.files import Ask, File, Shelf, check_files, put_all
from mesh.secret import Secret, cannot_travel

FILES_MAX = 256
"""Files named in one value."""

_plain_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_parse = json.JSONDecoder().decode


async def encode(arguments: dict[str, Any], ask: Ask, shelf: Shelf | None) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """Arguments as JSON bytes, and the files in them, whose bytes are in the local node's store when this returns.

    Raises InvalidArgument for a value that cannot travel, OSError for a file that cannot be read, MeshError if the node refuses it.
    """
    data, files = dump(arguments)
    if not files:
        return data, ()
    if await put_all(ask, files, shelf):
        data, files = dump(arguments)
    return data, check_files(files, FILES_MAX)


def dump(arguments: dict[str, Any]) -> tuple[bytes, list[File]]:
    """JSON, and every File met on the way. Raises InvalidArgument."""
    try:
        return _plain_json(arguments).encode(), []
    except (TypeError, ValueError, RecursionError):
        return _dump_rich(arguments)


def _dump_rich(arguments: dict[str, Any]) -> tuple[bytes, list[File]]:
    """The same for values that the plain encoder does not know."""
    files: list[File] = []

    def file_or_refuse(value: Any) -> Any:
        if isinstance(value, Secret):
            raise cannot_travel()
        if not isinstance(value, File):
            raise TypeError(f"{type(value).__name__} cannot travel between machines")
        files.append(value)
        return value.reference()

    def other(value: Any) -> Any:
        if isinstance(value, File | Secret):
            return file_or_refuse(value)
        if isinstance(value, os.PathLike) or hasattr(value, "read"):
            raise TypeError(f"a {type(value).__name__} means nothing on another machine: pass File.of(path)")
        if hasattr(value, "__next__"):
            raise TypeError(f"a {type(value).__name__} can be read only once: pass a list")
        from pydantic_core import PydanticSerializationError, to_jsonable_python

        try:
            return to_jsonable_python(value, bytes_mode="base64", fallback=file_or_refuse, context={"files": files})
        except PydanticSerializationError as error:
            raise TypeError(str(error)) from error

    try:
        return json.dumps(arguments, default=other, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(), files
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(_blame(arguments, other, error), fix=FIX) from error


FIX = "pass what JSON can carry, a dataclass, a pydantic model, or File.of(path)"


def _blame(arguments: dict[str, Any], other: Any, error: Exception) -> str:
    """Which argument it was: found by trying each alone, after the fact."""
    for name, value in arguments.items():
        try:
            json.dumps(value, default=other, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as found:
            return f"the argument {name!r} cannot travel: {found}"
    return f"the arguments cannot travel: {error}"


def load(data: bytes, shelf: Shelf | None) -> Any:
    """A result as plain Python values, with a File for every reference. Raises ValueError if it is not JSON."""
    if b'"$file"' not in data:
        return _parse(data.decode())

    def hook(found: dict[str, Any]) -> Any:
        return File.from_reference(found, shelf) or found

    return json.loads(data, object_hook=hook)


def with_files(value: Any, shelf: Shelf | None) -> Any:
    """A value that was JSON already, with a File for every reference in it."""
    if type(value) is dict:
        return File.from_reference(value, shelf) or {key: with_files(each, shelf) for key, each in value.items()}
    return [with_files(each, shelf) for each in value] if type(value) is list else value


def of_answer(reply: dict[str, Any], shelf: Shelf | None) -> Any:
    """The value in an answer to a call or a step. Raises the typed error of one that failed."""
    if reply.get("state") == "done":
        return load(bytes(reply.get("output") or b"null"), shelf)
    raise task_error(reply.get("error") or {}, str(reply.get("task") or ""), str(reply.get("state") or ""))
