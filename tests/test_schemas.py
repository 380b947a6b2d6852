"""Arguments in, results out: checked against the hints, files anywhere, errors that name the argument."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from mesh import Agent, File
from mesh.errors import InvalidArgument, MeshError
from mesh.schemas import Shape, shape_of

HASH = "ab" * 32
REF = {"$file": {"sha256": HASH, "size": 3, "name": "in.csv"}}


class Rules(BaseModel):
    limit: int = Field(ge=0)
    table: File | None = None


@dataclass
class Report:
    files: list[File]
    at: datetime.date


def work(rules: Rules, day: datetime.date, data: bytes = b"", free: dict[str, Any] | None = None, schema: str = "x") -> Report:
    """First
    line.

    Rest.
    """
    raise AssertionError("not called")


@pytest.fixture
def shape() -> Shape:
    return shape_of(work, "work", {})


def test_schema_defaults_and_doc(shape: Shape) -> None:
    schema = json.loads(shape.input_schema)
    assert schema["required"] == ["rules", "day"]
    assert schema["properties"]["schema"] == {"type": "string", "default": "x"}
    assert schema["properties"]["free"]["default"] is None
    assert shape.doc == "First line." and shape.parameters == ("rules", "day", "data", "free", "schema")


def test_arguments_become_the_declared_types_and_files_are_opened_everywhere(shape: Shape) -> None:
    found = shape.arguments(
        json.dumps({"rules": {"limit": "3", "table": REF}, "day": "2026-10-01", "data": "YWI=", "free": {"a": [REF]}}).encode(), None
    )
    assert found["rules"] == Rules(limit=3, table=found["rules"].table)
    assert found["day"] == datetime.date(2026, 10, 1) and found["data"] == b"ab"
    assert isinstance(found["rules"].table, File) and found["rules"].table.sha256 == HASH
    assert isinstance(found["free"]["a"][0], File), "also where the hint leaves the type open"
    assert "schema" not in found, "a default stays the function's own"


@pytest.mark.parametrize(
    ("data", "argument", "words"),
    [
        (b"{", "", "not one JSON object"),
        (b"[]", "", "not one JSON object"),
        (b'{"day": "2026-10-01", "rule": {}}', "rule", "did you mean 'rules'"),
        (b'{"day": "2026-10-01"}', "rules", "'rules' is missing"),
        (b'{"rules": {"limit": -1}, "day": "2026-10-01"}', "rules", "'rules.limit' is wrong"),
        (b'{"rules": {}, "day": "2026-10-01"}', "rules", "'rules.limit' is wrong: Field required"),
        (b'{"rules": {"limit": 1}, "day": "soon"}', "day", "'day' is wrong"),
        (b'{"rules": {"limit": 1}, "day": "2026-10-01", "dat": ""}', "dat", "did you mean 'data'"),
        (b'{"rules": {"limit": 1}, "day": "2026-10-01", "zzzzz": ""}', "zzzzz", "takes rules, day"),
        (b'{"rules": {"limit": 1, "table": {"$file": {"sha256": "x"}}}, "day": "2026-10-01"}', "rules", "name=@path"),
    ],
)
def test_a_wrong_argument_is_named(shape: Shape, data: bytes, argument: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        shape.arguments(data, None)
    assert caught.value.argument == argument


def test_a_result_that_is_no_number_is_refused_as_an_argument_is() -> None:
    """It used to arrive as null."""
    agent = Agent("a")

    @agent.capability
    def broken() -> dict[str, float]:
        return {"NaN is a fine name": 1.0}

    shape = agent.capabilities["broken"].shape
    assert shape.dump({"NaN is a fine name": 1.0})[0] == b'{"NaN is a fine name":1.0}'
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(MeshError, match="does not fit its return hint"):
            shape.dump({"x": wrong})


def test_results_fit_their_hint_or_say_so(shape: Shape, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    data, files = shape.dump(Report([File.of(path)], datetime.date(2026, 1, 2)))
    assert json.loads(data) == {"files": [{"$file": {"sha256": "", "size": 3, "name": "a.txt"}}], "at": "2026-01-02"}
    assert [file.name for file in files] == ["a.txt"]
    for wrong in ("text", Report(["no file"], datetime.date(2026, 1, 2)), None):  # type: ignore[list-item]
        with pytest.raises(MeshError, match="does not fit its return hint") as caught:
            shape.dump(wrong)
        assert caught.value.code == "invalid_result"


def test_open_results_carry_files_and_refuse_what_cannot_travel(tmp_path: Path) -> None:
    def anything() -> Any: ...

    shape = shape_of(anything, "anything", {})
    path = tmp_path / "a.txt"
    path.write_text("abc")
    data, files = shape.dump({"x": [File.of(path), {"y": (1, 2.5)}]})
    assert json.loads(data)["x"][1] == {"y": [1, 2.5]} and len(files) == 1
    with pytest.raises(MeshError, match="object cannot travel"):
        shape.dump({"x": object()})


def test_a_name_from_a_peer_cannot_leave_its_folder() -> None:
    for name, kept in (("../../etc/passwd", "passwd"), ("..", "file"), ("a\x00\x1bb/..", "file"), ("C:\\x\\y.csv", "y.csv"), ("", "file")):
        file = File.from_reference({"$file": {"sha256": HASH, "size": 1, "name": name}}, None)
        assert file is not None and file.name == kept
    long = File.from_reference({"$file": {"sha256": HASH, "size": 1, "name": "é" * 500 + ".csv"}}, None)
    assert long is not None and len(long.name.encode()) <= 200 and long.name.endswith(".csv")
    for bad in ({"$file": {"sha256": "x", "size": 1, "name": "a"}}, {"$file": {"sha256": HASH, "size": -1, "name": "a"}}, {"$file": 1}, 3):
        assert File.from_reference(bad, None) is None
