"""What lies in the rows of a journal's tables: sealed values, or plain ones from before sealing.

    commit, replay, story --entry(seq, bytes)--> sealer (if any) --> row          the chain, all hashes and the wire know plain bytes only

Invariant: what is read back is what was written at this very row of this journal; else it is named, with the row. What was written without
a sealer stays readable with one; its hashes protect it as they always did. Rewrites nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mesh.ids import Hash
from mesh.runtime.disk.sealing import SealBroken, Sealer, is_sealed
from mesh.runtime.disk.store_file import broken, other_vault

_ENTRIES, _BODIES, _MEMORY, _SHELF = "entries/1", "bodies/1", "memory/1", "shelf/1"
"""Part of what a value is sealed to, with the version of its own format, which is not the file's: else no old value would open."""


class Rows:
    """Values going into one journal and coming out of it. Safe in any thread."""

    def __init__(self, path: Path, sealer: Sealer | None) -> None:
        self.path = path
        self.sealer = sealer

    @property
    def vault(self) -> str:
        """Which vault seals here; "" without one."""
        return self.sealer.vault if self.sealer is not None else ""

    def entry_in(self, seq: int, plain: bytes) -> bytes:
        return plain if self.sealer is None else self.sealer.seal(_ENTRIES, str(seq), plain)

    def entry_out(self, seq: int, stored: Any) -> Any:
        """The entry's bytes; what is no sealed value comes back as it is. Raises StoreError."""
        if type(stored) is not bytes or not is_sealed(stored):
            return stored
        try:
            return self._opened(_ENTRIES, str(seq), stored)
        except SealBroken as error:
            raise broken(self.path, f"entry {seq} does not open ({explain_seal(error)})") from None

    def body_in(self, name: Hash, plain: bytes) -> bytes:
        return plain if self.sealer is None else self.sealer.seal(_BODIES, name, plain)

    def body_out(self, name: Hash, stored: Any) -> Any:
        """As `entry_out`. Raises SealBroken: a body stands outside the chain, and its loss is not the journal's end."""
        if type(stored) is not bytes or not is_sealed(stored):
            return stored
        return self._opened(_BODIES, name, stored)

    def memory_in(self, row: str, plain: bytes) -> bytes:
        """What others signed: no secret, but its signature is not checked again when it is read. `row` names its table and key."""
        return plain if self.sealer is None else self.sealer.seal(_MEMORY, row, plain)

    def memory_out(self, row: str, stored: Any) -> Any:
        """As `entry_out`. Raises SealBroken."""
        if type(stored) is not bytes or not is_sealed(stored):
            return stored
        return self._opened(_MEMORY, row, stored)

    def shelf_in(self, place: str, plain: bytes) -> bytes:
        """What is kept of others' logs. `place` names the row."""
        return plain if self.sealer is None else self.sealer.seal(_SHELF, place, plain)

    def shelf_out(self, place: str, stored: Any) -> Any:
        """As `body_out`. Raises SealBroken."""
        if type(stored) is not bytes or not is_sealed(stored):
            return stored
        return self._opened(_SHELF, place, stored)

    def _opened(self, table: str, key: str, stored: bytes) -> bytes:
        if self.sealer is None:
            raise other_vault(self.path, "", "")
        if type(key) is not str:  # damage can make a number of a name
            raise SealBroken("not_authentic")
        return self.sealer.open(table, key, stored)


def explain_seal(error: SealBroken) -> str:
    """What a seal that does not open means, in words."""
    return {
        "not_authentic": "it was edited, moved from another row, or is another journal's",
        "unknown_generation": "this home's vault has no key of its generation: was an older vault.json put back?",
    }.get(error.reason, "it was cut or edited")
