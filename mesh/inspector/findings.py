"""One thing that `mesh doctor` looked at, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`state`: ok, warn or fail; `fix`: what to type, or empty."""

    check: str
    state: str
    message: str
    fix: str = ""
