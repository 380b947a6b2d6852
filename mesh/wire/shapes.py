"""The shape of a message class, worked out once from its type hints: how to flatten it, how to check a row, how to build it again.

    class Bid: round: int; items: tuple[BidItem, ...]; ttl_ms: int
    packs as  [round, [[task, start_ms, service_ms, cost, agent], ...], ttl_ms]

Invariant: a row that passes `validate` has exactly the types, ranges and lengths of the class; fields that a newer version added at the end
are ignored, missing ones take the class's default. Nested dataclasses and tuples become arrays; a `Signed` travels as the bytes that were
signed. Does not read bytes. Validation is one pydantic-core schema per class, then the plain constructor (half the time of its dataclass
schemas).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from mesh.limits import RecordsLimits, TriggerLimits
from mesh.messages.signed import Signed
from mesh.wire.packing import BODY_BYTES_MAX, Refusal

Seal = Callable[[Signed], bytes]
"""Gives the signed bytes of a statement, signing it if that has not been done."""

OpenSigned = Callable[[bytes], Signed]
"""Gives the verified statement. Raises Refusal."""

Pack = Callable[[Any, Seal | None], Any]
Build = Callable[[Any, OpenSigned | None], Any]

TEXT_MAX = 64 * 1024
"""Schemas; whatever else has no smaller bound."""
NAME_MAX = 256
REASON_MAX = 1024
ROWS_MAX = 4096
_RECORDS = RecordsLimits()
_TRIGGERS = TriggerLimits()
_ROWS_MAX = {
    ("Ship", "blocks"): _RECORDS.ship_blocks_max,
    ("Ship", "chains"): _RECORDS.ship_blocks_max,
    ("Block", "entries"): _RECORDS.commit_entries_max,
    ("Block", "members"): _RECORDS.keepers_max,
    ("Vote", "ballot"): _RECORDS.keepers_max,
    ("Summed", "open"): _RECORDS.sum_open_max,
    ("Yield", "ballots"): _RECORDS.keepers_max,
    ("KeyRoster", "members"): _RECORDS.keepers_max,
    ("KeyRoster", "before"): _RECORDS.keepers_max,
    ("Choice", "members"): _RECORDS.keepers_max,
    ("Schedules", "rows"): _TRIGGERS.page_max,
    ("Schedules", "marks"): _TRIGGERS.page_max,
    ("Rollouts", "marks"): _TRIGGERS.page_max,
    ("Rollouts", "tallies"): _TRIGGERS.page_max,
}
"""Where fewer do: each of these costs whoever reads it a signature, a hash or a place in a table."""
SIGNED_MAX = 256 * 1024
INT_MAX = 2**63 - 1

# Identifiers reach file names, logs and terminals, so their alphabets are closed here. The simulator's short names fit too.
_NODE = core_schema.str_schema(strict=True, max_length=64, pattern=r"^[A-Za-z0-9_-]*$")
_TASK = core_schema.str_schema(strict=True, max_length=128, pattern=r"^[A-Za-z0-9_.-]*$")
_HASH = core_schema.str_schema(strict=True, max_length=64, pattern=r"^([0-9a-f]{64})?$")

_ALIASES: dict[str, Any] = {
    "NodeId": Annotated[str, _NODE],
    "TaskId": Annotated[str, _TASK],
    "Hash": Annotated[str, _HASH],
    "FileRef": tuple[Annotated[str, _HASH], int],
}
"""`mesh.ids` names plain strings; under these names the hints of a message are read with their alphabets."""

_TEXT_MAX = dict.fromkeys(
    (
        "name",
        "agent",
        "capability",
        "door",
        "router",
        "step",
        "kind",
        "state",
        "way",
        "outcome",
        "question",
        "version",
        "on_lost",
        "key",
        "near",
        "apart",
        "cron",
        "tz",
        "catch_up",
        "overlap",
        "topics",
        "pins",
    ),
    NAME_MAX,
)
_TEXT_MAX |= dict.fromkeys(("reason", "note", "items", "rows", "tags", "labels", "where"), REASON_MAX)
_TEXT_MAX |= {"message": 4 * 1024, "details": 32 * 1024, "breaker": NAME_MAX, "baggage": 2 * 1024}
"""Characters, by the field's name; in a tuple of plain values, each."""

_SIGNED_INTS = {"total": -1, "retries": -1}
"""The only integers that may be negative, with their least value."""

_EXACT_BYTES = {
    ("Certificate", "key"): 32,
    ("Deed", "first_key"): 32,
    ("Rekeyed", "old_key"): 32,
    ("Rekeyed", "new_key"): 32,
    ("Rekeyed", "proof"): 64,
    ("Join", "invite"): 8,
    ("Join", "home_key"): 32,
    ("Join", "nonce"): 16,
    ("Ask", "home_key"): 32,
    ("Ask", "nonce"): 16,
    ("Admission", "discovery_key"): 32,
    ("Renewal", "home_key"): 32,
    ("Binding", "curve_key"): 32,
    ("Witness", "head"): 32,
    ("Commit", "prev"): 32,
    ("Commit", "merkle_root"): 32,
    ("Hello", "nonce"): 16,
    ("Welcome", "nonce"): 16,
    ("Welcome", "session"): 16,
    ("Stale", "session"): 16,
}


def _pack_float(value: Any, seal: Seal | None) -> float:
    return float(value)  # a core that computes 0 and one that computes 0.0 must say the same bytes


def _pack_signed(value: Signed, seal: Seal | None) -> bytes:
    if value.raw:
        return value.raw
    if seal is None:
        raise ValueError("this message carries an unsigned statement: encode it with the node's signer")
    return seal(value)


def _build_signed(value: bytes, open_signed: OpenSigned | None) -> Signed:
    if open_signed is None:
        raise Refusal("unverifiable")
    return open_signed(value)


def _build_statements(raws: tuple[bytes, ...], open_signed: OpenSigned | None) -> tuple[Signed, ...]:
    """Statements stand alone: one by a stranger, or of a kind from a later version, is left out, and the others count.

    Who vouches for an author may come after him in the same list, so strangers get a second look. What opens them counts what it refuses.
    """
    opened: dict[int, Signed] = {}
    strangers: list[int] = []
    for index, raw in enumerate(raws):
        try:
            opened[index] = _build_signed(raw, open_signed)
        except Refusal as refusal:
            if refusal.reason == "unverifiable":
                raise
            if refusal.reason == "unknown_author":
                strangers.append(index)
    if opened:
        for index in strangers:
            with suppress(Refusal):
                opened[index] = _build_signed(raws[index], open_signed)
    return tuple([opened[index] for index in sorted(opened)])


class Shape:
    """How one dataclass travels. Made once per class, at import.

    `kept`: as a journal entry, whose texts are bounded only by the size of the whole: what was written must always be readable again.
    """

    __slots__ = ("_builds", "_packs", "_validate", "build", "cls", "count", "row", "schema")

    def __init__(self, cls: type, kept: bool = False) -> None:
        hints = get_type_hints(cls, localns=_ALIASES, include_extras=True)
        fields = dataclasses.fields(cls)
        names = [field.name for field in fields]
        self.cls = cls
        self.count = len(fields)
        items: list[CoreSchema] = []
        packs: list[tuple[int, Pack]] = []
        builds: list[tuple[int, Build]] = []
        for index, field in enumerate(fields):
            schema, pack, build = _plan(hints[field.name], cls.__name__, field.name, kept)
            items.append(_with_default(schema, field))
            if pack:
                packs.append((index, pack))
            if build:
                builds.append((index, build))
        items.append(core_schema.any_schema())
        self.schema = core_schema.tuple_schema(items, variadic_item_index=self.count, strict=True)
        self._validate = SchemaValidator(self.schema).validate_python
        self._packs, self._builds = packs, builds
        self.row: Pack = _flattener(names, packs)
        self.build: Build = _builder(cls, self.count, builds)

    def fits(self, row: Any) -> bool:
        """Whether `row`, of plain values and tuples, would be read."""
        try:
            self._validate(row)
        except ValidationError:
            return False
        return True

    def read(self, row: Any, open_signed: OpenSigned | None) -> Any:
        """The object that `row` describes. Raises Refusal ``malformed``, or what `open_signed` raises."""
        try:
            checked = self._validate(row)
        except ValidationError:
            raise Refusal("malformed") from None
        return self.build(checked, open_signed)


def _with_default(schema: CoreSchema, field: dataclasses.Field[Any]) -> CoreSchema:
    default = field.default
    if default is dataclasses.MISSING:
        return schema
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        default = dataclasses.astuple(default)  # it is built from a row, as one that came is
    return core_schema.with_default_schema(schema, default=default)


def _flattener(names: list[str], packs: list[tuple[int, Pack]]) -> Pack:
    """Field values in order, nested ones flattened."""
    if not names:
        return lambda value, seal: ()
    if len(names) == 1:  # attrgetter of one name gives no tuple
        only = attrgetter(names[0])
        if packs:
            pack_only = packs[0][1]
            return lambda value, seal: (pack_only(only(value), seal),)
        return lambda value, seal: (only(value),)
    get = attrgetter(*names)
    if not packs:
        return lambda value, seal: get(value)

    def flatten(value: Any, seal: Seal | None) -> list[Any]:
        row = list(get(value))
        for index, pack in packs:
            row[index] = pack(row[index], seal)
        return row

    return flatten


def _builder(cls: type, count: int, builds: list[tuple[int, Build]]) -> Build:
    """The constructor over a validated row, without the fields of newer versions."""
    if not builds:
        return lambda row, open_signed: cls(*row) if len(row) == count else cls(*row[:count])

    def make(row: tuple[Any, ...], open_signed: OpenSigned | None) -> Any:
        values = list(row[:count])
        for index, build in builds:
            values[index] = build(values[index], open_signed)
        return cls(*values)

    return make


def _plan(hint: Any, owner: str, name: str, kept: bool) -> tuple[CoreSchema, Pack | None, Build | None]:
    """Schema, flattener and builder for one field; None where the value travels as it is. Raises TypeError for other hints."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[1], None, None
    if hint is str:
        return core_schema.str_schema(strict=True, max_length=BODY_BYTES_MAX if kept else _TEXT_MAX.get(name, TEXT_MAX)), None, None
    if hint is bool:
        return core_schema.bool_schema(strict=True), None, None
    if hint is int:
        return core_schema.int_schema(strict=True, ge=_SIGNED_INTS.get(name, 0), le=INT_MAX), None, None
    if hint is float:
        return core_schema.float_schema(strict=True, allow_inf_nan=False), _pack_float, None
    if hint is bytes:
        exact = _EXACT_BYTES.get((owner, name))
        return core_schema.bytes_schema(strict=True, min_length=exact, max_length=exact or BODY_BYTES_MAX), None, None
    if hint is Signed:
        return core_schema.bytes_schema(strict=True, min_length=1, max_length=SIGNED_MAX), _pack_signed, _build_signed
    if get_origin(hint) is tuple:
        return _plan_tuple(get_args(hint), owner, name, kept)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        shape = shape_of(hint, kept)
        return shape.schema, shape.row, shape.build
    raise TypeError(f"{owner}.{name}: {hint!r} cannot travel")


def _plan_tuple(args: tuple[Any, ...], owner: str, name: str, kept: bool) -> tuple[CoreSchema, Pack | None, Build | None]:
    if len(args) == 2 and args[1] is Ellipsis:
        item, pack, build = _plan(args[0], owner, name, kept)
        schema = core_schema.tuple_schema([item], variadic_item_index=0, max_length=_ROWS_MAX.get((owner, name), ROWS_MAX), strict=True)
        pack_all: Pack | None = None
        build_all: Build | None = None
        if pack:
            each = pack
            pack_all = lambda values, seal: [each(value, seal) for value in values]  # noqa: E731
        if args[0] is Signed:
            build_all = _build_statements
        elif build:
            make = build
            build_all = lambda rows, open_signed: tuple([make(row, open_signed) for row in rows])  # noqa: E731
        return schema, pack_all, build_all
    plans = [_plan(arg, owner, name, kept) for arg in args]
    if any(pack or build for _, pack, build in plans):
        raise TypeError(f"{owner}.{name}: give the parts of this tuple a class of their own")
    return core_schema.tuple_schema([schema for schema, _, _ in plans], strict=True), None, None


_shapes: dict[tuple[type, bool], Shape] = {}


def shape_of(cls: type, kept: bool = False) -> Shape:
    """The shape of a dataclass, made at first use. Raises TypeError for a class that cannot travel."""
    shape = _shapes.get((cls, kept))
    if shape is None:
        shape = _shapes[cls, kept] = Shape(cls, kept)
    return shape
