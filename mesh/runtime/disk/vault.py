"""A home's vault: the data keys that seal its journals and secrets, each wrapped by the key-encryption key (`kek.py`).

    kek --unwraps--> data key of generation 1, 2, ... --> Sealer of one journal, of the home's secrets
    HOME/mesh/vault.json    {"id", "kek": {"source", "check", ...}, "generations": [{"generation", "cipher", "wrapped", ...}]}

A new key-encryption key rewraps the data keys and touches no row. A new generation seals what is written from then on; what older ones
sealed stays readable. Invariant: `vault.json` is replaced whole, after the new key is safe at its source and before the old one is removed,
so that a crash at any point leaves a vault that opens. Does not know what is sealed, and protects from nobody who runs as the same user.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from mesh.runtime.disk.kek import FILE, SOURCES, Kek, KekSources, Prompt
from mesh.runtime.disk.sealing import CIPHERS, KEY_BYTES, NONCE_BYTES, Aead, KeySealer, aead_of, best_cipher
from mesh.runtime.disk.store_file import StoreError, peek
from mesh.runtime.home import Home, HomeError, read_private, write_atomic
from mesh.wire.packing import pack

SCHEMA = "mesh.vault/1"
WEAK_KEK = "the key that opens this home's vault is a file beside it: who copies the home can read its journals and secrets"
WEAK_KEK_FIX = 'kek = "passphrase" (or keyring, credential) in config.toml, then start its nodes again'
_CHECK = b"lanmesh/kek-check/v1"
_WRAP = "lanmesh/data-key/v1"


@dataclass(frozen=True, slots=True)
class Generation:
    """One data key, wrapped."""

    number: int
    cipher: str
    wrapped: bytes
    made_ms: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What the file says."""

    id: str
    source: str
    check: str
    facts: dict[str, Any]
    generations: tuple[Generation, ...]

    def dump(self) -> bytes:
        generations = [
            {"generation": each.number, "cipher": each.cipher, "wrapped": each.wrapped.hex(), "made_ms": each.made_ms}
            for each in self.generations
        ]
        kek = {"source": self.source, "check": self.check, **self.facts}
        return json.dumps({"schema": SCHEMA, "id": self.id, "kek": kek, "generations": generations}, indent=1).encode()


class Vault:
    """Open: its data keys are in memory. Made by `open_vault`."""

    def __init__(self, path: Path, sources: KekSources, contents: Contents, kek: Kek) -> None:
        self._path, self._sources, self._contents, self._kek = path, sources, contents, kek
        self._aeads = _unwrapped(path, contents, kek)

    @property
    def id(self) -> str:
        return self._contents.id

    @property
    def source(self) -> str:
        """Where the key-encryption key comes from."""
        return self._contents.source

    @property
    def generation(self) -> int:
        """What is sealed now is sealed by this one."""
        return len(self._aeads)

    def sealer(self, *about: str) -> KeySealer:
        """For values that belong to `about`, such as a journal's mesh and author. Values of another do not open with it."""
        return KeySealer(self.id, about, self._aead, lambda: self.generation)

    def _aead(self, generation: int) -> Aead:
        """Another process of this home may have begun a generation since this one opened the vault. Raises KeyError."""
        if generation not in self._aeads:
            contents = _read(self._path)
            if contents is not None and contents.id == self.id and contents.check == self._contents.check:
                self._aeads = _unwrapped(self._path, contents, self._kek)
                self._contents = contents
        return self._aeads[generation]

    def rotate_kek(self, source: str = "") -> None:
        """Rewrap the data keys under a new key-encryption key, from the same source or another. Call under the home's lock.

        Where the source changes a new generation begins as well: a copy of the home from before may still hold the old key. Of a
        credential only the service manager can make a new one: rotate to another source, change the credential, rotate back.
        Raises HomeError.
        """
        old, moved = self._kek, bool(source) and source != self.source
        serial = old.facts.get("serial", 0) + 1
        new = self._sources.make(source or old.source, serial)
        contents = _wrapped(self._contents, _unwrap_all(self._path, self._contents, old), new)
        if moved:
            contents = _with_generation(contents, new)
        self._replace(contents, new)
        self._sources.forget(old)

    def rotate_dek(self) -> int:
        """Begin a new generation of data keys; its number. Older rows stay as they are, and readable. Call under the home's lock."""
        self._replace(_with_generation(self._contents, self._kek), self._kek)
        return self.generation

    def _replace(self, contents: Contents, kek: Kek) -> None:
        write_atomic(self._path, contents.dump())
        self._contents, self._kek = contents, kek
        self._aeads = _unwrapped(self._path, contents, kek)


def open_vault(home: Home, wanted: str = "auto", *, prompt: Prompt | None = None, environ: Mapping[str, str] = os.environ) -> Vault:
    """The home's vault; made where there is none. `wanted`: a source of the key-encryption key, or "auto".

    An existing vault opens with the key it was closed with, whatever "auto" would choose today; if another source is wanted by name, it is
    moved there. `prompt` asks for a passphrase. Raises HomeError: ``no_kek``, ``wrong_kek``, ``vault_damaged``, ``vault_lost``.
    """
    home.make()
    path = _vault_path(home)
    with home.lock():
        contents = _read(path)
        if contents is None:
            return _make(home, path, wanted, prompt, environ)
        sources = KekSources(home.mesh_path, contents.id, prompt=prompt, environ=environ)
        try:
            kek = sources.load(contents.source, contents.facts)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from None
        vault = Vault(path, sources, contents, kek)
        if wanted not in ("auto", contents.source):
            vault.rotate_kek(wanted)
        return vault


def kek_source(home: Home) -> str:
    """Where the key of the home's vault comes from, "" without a vault. Opens nothing. Raises HomeError for a damaged or lost file."""
    contents = _read(_vault_path(home))
    if contents is None:
        _refuse_if_lost(home)
    return contents.source if contents is not None else ""


def is_weak(source: str) -> bool:
    """A key that lies beside what it opens protects from nobody who copies the home."""
    return source == FILE


def secrets_path(home: Home) -> Path:
    """Where the home's sealed secrets lie (`secrets.py`)."""
    return home.mesh_path / "secrets"


def _vault_path(home: Home) -> Path:
    return home.mesh_path / "vault.json"


def _make(home: Home, path: Path, wanted: str, prompt: Prompt | None, environ: Mapping[str, str]) -> Vault:
    _refuse_if_lost(home)
    vault = os.urandom(16).hex()
    sources = KekSources(home.mesh_path, vault, prompt=prompt, environ=environ)
    kek = sources.make(sources.choose(wanted), 1)
    empty = Contents(vault, kek.source, _check(vault, kek.key), kek.facts, ())
    contents = _with_generation(empty, kek)
    write_atomic(path, contents.dump())
    return Vault(path, sources, contents, kek)


def _refuse_if_lost(home: Home) -> None:
    """A new vault in the place of one that is only missing would make what that one sealed unreadable for ever."""
    if (sealed := next(_sealed(home), None)) is not None:
        path = _vault_path(home)
        fix = f"restore {path} from a backup, or begin anew: mv {home.path} {home.path}.old"
        raise HomeError(f"{path} is gone, but {sealed} was sealed by it", fix=fix, code="vault_lost")


def _sealed(home: Home) -> Iterator[Path]:
    """What only the vault that this home once had can open."""
    yield from secrets_path(home).glob("*")
    for folder in home.nodes():
        with suppress(StoreError):  # what is damaged is told by whoever opens it
            if folder.journal_path.exists() and peek(folder.journal_path, "vault"):
                yield folder.journal_path


# ---- wrapping


def _check(vault: str, kek: bytes) -> str:
    """Tells a wrong key from a damaged file. Says no more about the key than the wrapped keys do."""
    return hashlib.blake2b(_CHECK + vault.encode(), key=kek, digest_size=16).hexdigest()


def _place(vault: str, number: int, cipher: str) -> bytes:
    return pack((_WRAP, vault, number, cipher))


def _wrap(vault: str, number: int, cipher: str, key: bytes, kek: Kek, made_ms: int) -> Generation:
    nonce = os.urandom(NONCE_BYTES)
    return Generation(number, cipher, nonce + ChaCha20Poly1305(kek.key).encrypt(nonce, key, _place(vault, number, cipher)), made_ms)


def _wrapped(contents: Contents, keys: list[bytes], kek: Kek) -> Contents:
    generations = tuple(
        _wrap(contents.id, old.number, old.cipher, key, kek, old.made_ms) for old, key in zip(contents.generations, keys, strict=True)
    )
    return Contents(contents.id, kek.source, _check(contents.id, kek.key), kek.facts, generations)


def _with_generation(contents: Contents, kek: Kek) -> Contents:
    number, cipher = len(contents.generations) + 1, best_cipher()
    new = _wrap(contents.id, number, cipher, os.urandom(KEY_BYTES), kek, time.time_ns() // 1_000_000)
    return Contents(contents.id, contents.source, contents.check, contents.facts, (*contents.generations, new))


def _unwrap_all(path: Path, contents: Contents, kek: Kek) -> list[bytes]:
    """The data keys. Raises HomeError: the key is another's, or the file was changed."""
    if not hmac.compare_digest(_check(contents.id, kek.key), contents.check):
        wrong = {
            "passphrase": ("the passphrase does not open this home's vault", "try again with the right one"),
            "credential": ("the service's credential does not open this home's vault", "give it the credential that made this home"),
        }
        message, fix = wrong.get(kek.source, (f"the key in the {kek.source} is not that of {path}", "restore both from one backup"))
        raise HomeError(message, fix=fix, code="wrong_kek")
    keys = []
    for each in contents.generations:
        nonce, sealed = each.wrapped[:NONCE_BYTES], each.wrapped[NONCE_BYTES:]
        try:
            keys.append(ChaCha20Poly1305(kek.key).decrypt(nonce, sealed, _place(contents.id, each.number, each.cipher)))
        except (InvalidTag, ValueError):
            raise _damaged(path, f"the data key of generation {each.number} does not open") from None
    return keys


def _unwrapped(path: Path, contents: Contents, kek: Kek) -> dict[int, Aead]:
    keys = _unwrap_all(path, contents, kek)
    try:
        return {each.number: aead_of(each.cipher, key) for each, key in zip(contents.generations, keys, strict=True)}
    except UnsupportedAlgorithm as error:
        raise HomeError(f"this machine's OpenSSL lacks the cipher of {path}: {error}", fix="pip install -U cryptography") from error


# ---- the file


def _damaged(path: Path, detail: str) -> HomeError:
    fix = f"restore {path} from a backup; without it, what this home has sealed cannot be read"
    return HomeError(f"{path} is damaged: {detail}", fix=fix, code="vault_damaged")


def _read(path: Path) -> Contents | None:
    """None if there is no vault. Raises HomeError."""
    raw = read_private(path)
    if raw is None:
        return None
    try:
        found = json.loads(raw)
        if found["schema"] != SCHEMA:
            raise HomeError(f"{path} is of another version: {found['schema']}", fix="pip install -U lanmesh", code="vault_damaged")
        kek = found["kek"]
        source, check = kek.pop("source"), kek.pop("check")
        generations = tuple(
            Generation(each["generation"], each["cipher"], bytes.fromhex(each["wrapped"]), each["made_ms"]) for each in found["generations"]
        )
        if source not in SOURCES or type(check) is not str or type(found["id"]) is not str:
            raise ValueError("its key's source")
        if [each.number for each in generations] != list(range(1, len(generations) + 1)) or not generations:
            raise ValueError("generations are missing")
        if not all(each.cipher in CIPHERS for each in generations):
            raise ValueError("a cipher that is not known")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from None
    return Contents(found["id"], source, check, kek, generations)
