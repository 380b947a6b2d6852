"""The ready-made data agents as plain functions: their decorators return them unchanged. Real data, and what people's files look like."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from mesh_agents.collector import collect
from mesh_agents.quality import quality
from mesh_agents.report import render
from mesh_agents.tables import read_table
from mesh_agents.transform import transform

from mesh import File
from mesh.files import sha256_of

WEATHER = Path(__file__).parent.parent.parent / "agents" / "data" / "weather.csv"


class Progress:
    """Stands for a Context."""

    def __init__(self) -> None:
        self.said: list[float] = []

    def progress(self, fraction: float, note: str = "") -> None:
        self.said.append(fraction)


def collected(path: Path) -> Any:
    return collect(File.of(path))


def test_the_data_is_what_its_page_says() -> None:
    assert sha256_of(WEATHER) in (WEATHER.parent / "SOURCE.md").read_text()
    found = collected(WEATHER)
    assert (found.rows, found.columns[0], len(found.columns)) == (2922, "location", 7)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"a;b\r\n1;2\r\n3;4\r\n", [["1", "2"], ["3", "4"]]),
        (b"a\tb\n1\t2\n3\t4\n", [["1", "2"], ["3", "4"]]),
        ("\ufeffa,b\n1,2\n".encode(), [["1", "2"]]),
        ("a,b\n1,2\n".encode("utf-16"), [["1", "2"]]),
        ("a,b\nJ\u00fcrgen,2\n".encode("latin-1"), [["J\u00fcrgen", "2"]]),
        (b'a,b\n"x,\ny",2\n\n \n', [["x,\ny", "2"]]),
        (b"a,b\n1\n1,2,3\n", [["1", ""], ["1", "2"]]),
    ],
)
def test_dialects(data: bytes, rows: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    assert read_table(collected(path).table.path) == (["a", "b"], rows)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "fewer than two columns"),
        (b"a,b\n", "no rows"),
        (b"one\n1\n", "fewer than two columns"),
        (b"\x7fELF\0\0\0", "not a text file"),
    ],
)
def test_files_that_are_no_table(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        collected(path)


def test_header_cells_get_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("a,,a\n1,2,3\n")
    assert collected(path).columns == ["a", "column_2", "a_3"]


def _table(folder: Path, header: list[str], rows: list[list[str]]) -> File:
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return File.of(path)


def test_quality_sets_rows_aside_and_says_why(tmp_path: Path) -> None:
    good = [[f"2024-01-{day:02}", str(day), str(day + 5)] for day in range(1, 21)]
    bad = [good[0], ["2024-02-01", "9", "1"], ["2024-02-02", "inf", "1"], ["someday", "1", "2"], ["2024-02-03", "", "n/a"]]
    checked = quality(_table(tmp_path, ["day", "temp_min", "temp_max"], good + bad))
    assert checked.rejected == {
        "duplicate": 1,
        "minimum above maximum": 1,
        "not a number": 1,
        "not a date": 1,
        "no value in any number column": 1,
    }
    assert checked.rows == 20 and read_table(checked.good.path)[1] == good
    day, low, _ = checked.columns
    assert (day.kind, low.kind, low.low, low.high, low.mean) == ("date", "number", "1", "20", 10.5)


def test_quality_refuses_a_table_without_a_good_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="passed"):
        quality(_table(tmp_path, ["a_min", "a_max"], [["2", "1"], ["3", "1"]]))


def test_the_same_table_gives_the_same_intervals_everywhere(tmp_path: Path) -> None:
    table = quality(collected(WEATHER).table).good
    context = Progress()
    one, two = transform(context, table, resamples=20), transform(Progress(), table, resamples=20)
    assert one.summary.path.read_bytes() == two.summary.path.read_bytes()
    assert (one.rows, one.period, one.group) == (384, "date", "location")
    assert context.said == sorted(context.said) and 0 < context.said[0] < context.said[-1] <= 1
    for _, _, _, n, mean, low, high in read_table(one.summary.path)[1]:
        assert int(n) >= 28 and float(low) <= float(mean) <= float(high)


def test_transform_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column of numbers"):
        transform(Progress(), _table(tmp_path, ["a", "b"], [["x", "y"], ["z", "y"]]))
    with pytest.raises(ValueError, match="between 10 and 100000"):
        transform(Progress(), _table(tmp_path, ["a", "b"], [["x", "1"]]), resamples=5)


def test_a_report_needs_nothing_from_elsewhere_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evil = '<script>alert("x")</script>'
    summary = _table(
        tmp_path,
        ["period", "group", "measure", "n", "mean", "low", "high"],
        [[period, evil, "m$\\frac$", "9", "2", "1", "3"] for period in ("2024-01", "2024-02")],
    )
    page = render(summary, evil, {evil: evil}, [{"name": evil, "kind": "text"}])
    text = page.html.path.read_text()
    assert "<script" not in text and text.count("<svg") == page.charts == 1
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert page.png.path.read_bytes().startswith(b"\x89PNG")
