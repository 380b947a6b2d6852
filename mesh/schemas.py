"""Type hints and docstring -> JSON Schema 2020-12; JSON -> checked arguments; results -> checked JSON. All by pydantic.

    def f(ctx: Context, table: File, n: int = 3) -> Report:
          ^ injected    ^----------------------^     ^
                        one closed object schema     output schema

Invariant: what `Shape.arguments` returns can be passed to the function as keywords; what it refuses has started nothing. Checking is
pydantic's lax mode for JSON: "3" is an int where an int is asked for, so arguments typed in a shell work. Not a number (NaN) in a result
is null, as JSON has no such thing. Does not know capabilities, agents or tasks.
"""

from __future__ import annotations

import difflib
import inspect
import json
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from mesh.blocking import BlockingContext
from mesh.context import Context
from mesh.errors import DeclarationError, InvalidArgument, MeshError
from mesh.files import File, Shelf
from mesh.secret import PATTERN, Secret, cannot_travel
from mesh.values import with_files

_CONFIG = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")
_YIELDS = (AsyncIterator, AsyncGenerator, AsyncIterable, Iterator, Generator, Iterable)
_PATHS = ("path", "file-path", "directory-path")
_TRAVELS = "use numbers, text, lists, dicts, a dataclass or a pydantic model, and File for data in a file"


class _Plain(GenerateJsonSchema):
    """Without a title for each field: they repeat the names, and schemas are gossiped."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Shape:
    """What a function takes and gives, checked. `context` names the injected parameter, or is ""; `blocking`: it is the blocking one."""

    name: str
    parameters: tuple[str, ...]
    context: str
    blocking: bool
    streams: bool
    """It is a generator: `dump` is for each of its items."""
    doc: str
    input_schema: str
    output_schema: str
    _takes: TypeAdapter[Any]
    _gives: TypeAdapter[Any]

    def arguments(self, data: bytes, shelf: Shelf | None, secrets: list[Secret] | None = None) -> dict[str, Any]:
        """Keyword arguments from their JSON. Every Secret met is added to `secrets`, not resolved. Raises InvalidArgument, naming it."""
        has_files = b'"$file"' in data
        try:
            context = {"shelf": shelf, "secrets": [] if secrets is None else secrets}
            kept: dict[str, Any] = self._takes.validator.validate_json(data, context=context)
        except ValidationError as error:
            raise self._refusal(error) from None
        if has_files:
            return {name: with_files(value, shelf) for name, value in kept.items()}
        return kept

    def dump(self, result: Any) -> tuple[bytes, list[File]]:
        """A result as JSON, and the files in it (those not stored yet have an empty hash). Raises MeshError if it does not fit the hint."""
        files: list[File] = []
        try:
            value = self._gives.validator.validate_python(result)
            data = self._gives.serializer.to_json(value, context={"files": files}, fallback=_collector(files), warnings="error")
            if b"NaN" in data or b"Infinity" in data:
                json.loads(data, parse_constant=_no_number)
            return data, files
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{first['msg']}{' at ' + where if where else ''}"
        except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
            problem = str(error)
        raise MeshError(
            f"{self.name} returned {type(result).__name__}, which does not fit its return hint: {problem}",
            fix="correct the hint or the value",
            code="invalid_result",
        )

    def _refusal(self, error: ValidationError) -> InvalidArgument:
        # A misspelt argument is also a missing one: what was written is the better thing to name.
        found = error.errors(include_url=False, include_context=False)
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        name = str(first["loc"][0]) if first["loc"] else ""
        takes = f"{self.name} takes {', '.join(self.parameters) or 'no arguments'}"
        match first["type"]:
            case "missing" if len(first["loc"]) == 1:
                message = f"{self.name}: the argument {name!r} is missing"
            case "extra_forbidden" if len(first["loc"]) == 1:
                near = difflib.get_close_matches(name, self.parameters, 1)
                message = f"{self.name} has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; {takes}")
            case _ if name:
                where = ".".join(map(str, first["loc"]))
                message = f"{self.name}: the argument {where!r} is wrong: {first['msg']}"
            case _:
                message = f"{self.name}: the arguments are not one JSON object: {first['msg']}"
        return InvalidArgument(message, name, fix=takes)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _collector(files: list[File]) -> Callable[[Any], Any]:
    def fallback(value: Any) -> Any:
        if isinstance(value, Secret):
            raise cannot_travel()
        if not isinstance(value, File):
            raise TypeError(f"{type(value).__name__} cannot travel between machines: {_TRAVELS}")
        files.append(value)
        return value.reference()

    return fallback


def shape_of(function: Callable[..., Any], name: str, names_at_declaration: dict[str, Any]) -> Shape:
    """Read `function`'s hints and docstring. Raises DeclarationError with what is wrong and how to put it right.

    `names_at_declaration` are the local names where the function stands, so that types declared inside a function are found.
    """
    what = f"capability {name!r} ({function.__qualname__})"
    streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
    hints = _hints(function, what, names_at_declaration)
    context, blocking, fields, defaults = "", False, {}, {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise DeclarationError(what, f"the parameter {parameter} cannot be passed by name", "give each parameter a name of its own")
        if parameter.name not in hints:
            raise DeclarationError(
                what, f"the parameter {parameter.name!r} has no type hint", f"write {parameter.name}: str, or what it is"
            )
        hint = hints[parameter.name]
        if _is_context(hint):
            if context:
                raise DeclarationError(what, "has two Context parameters", "one is enough")
            context, blocking = parameter.name, _is_context(hint, BlockingContext)
            continue
        optional = parameter.default is not parameter.empty
        fields[parameter.name] = NotRequired[hint] if optional else hint
        if optional:
            defaults[parameter.name] = parameter.default
    if blocking and (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise DeclarationError(what, "is async, but its Context blocks", "from mesh import Context")
    if "return" not in hints:
        raise DeclarationError(what, "has no return hint", "write -> str, or what it gives; -> None for nothing")
    takes = _adapter(_closed(name, fields), what, "its parameters")
    gives = _adapter(_item(hints["return"], what) if streams else hints["return"], what, "its result")
    output_schema = _schema(gives, what, "its result", "serialization")
    if streams:
        output_schema = {"type": "array", "items": output_schema}
    if _names(output_schema, "pattern", (PATTERN,)):
        raise DeclarationError(what, "returns a Secret, which stays where it was resolved", "return what was made with it")
    return Shape(
        name=name,
        parameters=tuple(fields),
        context=context,
        blocking=blocking,
        streams=streams,
        doc=_doc(function),
        input_schema=_input_schema(takes, what, defaults),
        output_schema=_text(output_schema),
        _takes=takes,
        _gives=gives,
    )


def _item(hint: Any, what: str) -> Any:
    """What a generator yields, by its return hint."""
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin not in _YIELDS or not kinds:
        raise DeclarationError(
            what, "is a generator, and does not say what it yields", "write -> AsyncIterator[str], or what its items are"
        )
    return kinds[0]


def _hints(function: Callable[..., Any], what: str, local: dict[str, Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns=local, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            what, f"a type hint names {error.name!r}, which is not known here", "import it, not only under TYPE_CHECKING"
        ) from error
    except TypeError as error:
        raise DeclarationError(what, f"a type hint cannot be read ({error})", "write hints that Python can evaluate") from error


def _is_context(hint: Any, *wanted: type) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return any(isinstance(kind, type) and issubclass(kind, wanted or (Context, BlockingContext)) for kind in kinds)


def _closed(name: str, fields: dict[str, Any]) -> Any:
    make: Any = TypedDict  # made from a run-time table, which type checkers cannot follow
    arguments = make(name, fields)
    arguments.__pydantic_config__ = _CONFIG
    return arguments


def _adapter(kind: Any, what: str, part: str) -> TypeAdapter[Any]:
    try:
        try:
            return TypeAdapter(kind, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"))
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            return TypeAdapter(kind)
    except PydanticSchemaGenerationError as error:
        raise DeclarationError(what, f"{part}: {_culprit(error)} cannot travel between machines", _TRAVELS) from error
    except PydanticUndefinedAnnotation as error:
        raise DeclarationError(what, f"{part}: the type {error.name!r} is not known here", "define it before the function") from error
    except PydanticUserError as error:
        raise DeclarationError(what, f"{part}: {str(error).splitlines()[0]}", _TRAVELS) from error


def _culprit(error: Exception) -> str:
    """pydantic names the type inside its sentence: ``... pydantic-core schema for <class 'x.Y'>. Set ...``."""
    return str(error).partition(" for ")[2].partition(". ")[0] or "a type"


def _schema(adapter: TypeAdapter[Any], what: str, part: str, mode: typing.Literal["validation", "serialization"]) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(mode=mode, schema_generator=_Plain)
    except PydanticInvalidForJsonSchema as error:
        raise DeclarationError(what, f"{part}: {str(error).splitlines()[0]}", _TRAVELS) from error
    if _names(schema, "format", _PATHS):
        raise DeclarationError(what, f"{part}: a path means nothing on another machine", "use File, and its .path inside the function")
    return schema


def _names(schema: Any, field: str, wanted: tuple[str, ...]) -> bool:
    """Whether a text anywhere in `schema` is of that kind."""
    if isinstance(schema, dict):
        return (schema.get("type") == "string" and schema.get(field) in wanted) or any(
            _names(each, field, wanted) for each in schema.values()
        )
    return isinstance(schema, list) and any(_names(each, field, wanted) for each in schema)


def _input_schema(takes: TypeAdapter[Any], what: str, defaults: dict[str, Any]) -> str:
    schema = _schema(takes, what, "its parameters", "validation")
    for name, default in defaults.items():
        try:
            value = json.loads(takes.serializer.to_json({name: default}, context={"files": []}, warnings="none"))[name]
        except (PydanticSerializationError, ValueError, KeyError, TypeError):
            continue  # a default that JSON cannot show stays the function's own affair
        schema["properties"][name] = {**schema["properties"][name], "default": value}
    schema.pop("title", None)
    return _text(schema)


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _doc(function: Callable[..., Any]) -> str:
    """The docstring's first paragraph, on one line, at most 300 characters."""
    whole = inspect.cleandoc(function.__doc__ or "")
    return " ".join(whole.partition("\n\n")[0].split())[:300]
