"""Collector: reads a CSV file, whatever its dialect and encoding, into one plain table (UTF-8, commas, one header line)."""

from __future__ import annotations

import csv
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mesh_agents.tables import write_table

from mesh import Agent, File

agent = Agent("collector", tags=["data"])

ROWS_MAX = 2_000_000


@dataclass
class Collected:
    """`table` is the plain table; `source_sha256` names the bytes it was read from."""

    table: File
    rows: int
    columns: list[str]
    dialect: str
    source_sha256: str


def _decode(data: bytes) -> str:
    for encoding in ("utf-8-sig", "utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "latin-1"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError("the file is neither UTF-8, UTF-16 nor Latin-1 text")


def _columns(header: list[str]) -> list[str]:
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = cell.strip() or f"column_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


@agent.capability(name="data.collect", idempotent=True, timeout_s=120)
def collect(source: File) -> Collected:
    """Read a CSV file into a plain table. Rows of another width than the header are padded or cut."""
    data = source.path.read_bytes()
    if b"\0" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{source.name} is not a text file: give a CSV file")
    text = _decode(data)
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text[:16384], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    reader = csv.reader(io.StringIO(text), dialect)
    header = _columns(next(reader, []))
    if len(header) < 2:
        raise ValueError(f"{source.name} has fewer than two columns: give a CSV file with a header line")
    rows = [(row + [""] * len(header))[: len(header)] for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError(f"{source.name} has a header and no rows")
    if len(rows) > ROWS_MAX:
        raise ValueError(f"{source.name} has {len(rows)} rows; more than {ROWS_MAX} want another tool")
    table = write_table(Path(tempfile.mkdtemp(prefix="mesh-collect-")) / "table.csv", header, rows)
    return Collected(File.of(table), len(rows), header, f"delimiter {dialect.delimiter!r}", source.sha256)


if __name__ == "__main__":
    agent.run()
