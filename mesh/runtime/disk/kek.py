"""The key that opens a home's vault (the key-encryption key), and where it is kept.

    keyring      the operating system's keyring (extra `keyring`): a random key
    passphrase   Argon2id of the text in $MESH_PASSPHRASE_FILE, or of what the caller asks on the terminal
    credential   $CREDENTIALS_DIRECTORY/mesh-kek, handed over by the service manager (systemd)
    file         HOME/mesh/kek.N, 0600, a random key: whoever copies the home has it too. Allowed, and reported as weak

Invariant: a key leaves this module as bytes in memory only; it is never taken from a command line. Knows nothing of what it opens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mesh.runtime.home import HomeError, read_private, write_atomic

KEYRING, PASSPHRASE, CREDENTIAL, FILE = "keyring", "passphrase", "credential", "file"
SOURCES = (KEYRING, PASSPHRASE, CREDENTIAL, FILE)
"""In the order in which ``kek = "auto"`` tries them."""
KEK_BYTES = 32
PASSPHRASE_VARIABLE = "MESH_PASSPHRASE_FILE"
PASSPHRASE_CHARACTERS_MIN = 8
CREDENTIAL_NAME = "mesh-kek"
CREDENTIAL_BYTES_MIN = 32
SERVICE = "lanmesh"
"""Under this name the keyring shows our entries."""
COSTS = {"memory_kib": 64 * 1024, "iterations": 3, "lanes": 4}
"""Argon2id, the second choice of RFC 9106: a guess costs 64 MiB and about 0.2 s of a core. A start pays it once."""
COSTS_MAX = {"memory_kib": 1024 * 1024, "iterations": 64, "lanes": 16}
"""A vault file that asks for more was tampered with, and would stall the start."""

Prompt = Callable[[str], str]
"""Shows a question on the terminal and returns what was typed, unseen."""


@dataclass(frozen=True, slots=True)
class Kek:
    """One key. `facts` is what has to be known to get it again, and no secret."""

    source: str
    key: bytes = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict)


class KekSources:
    """All places where the key of the vault `vault` in `folder` may be. Methods raise HomeError, whose fix says how to get on."""

    def __init__(self, folder: Path, vault: str, *, prompt: Prompt | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._folder, self._vault, self._prompt, self._environ = folder, vault, prompt, environ

    def choose(self, wanted: str) -> str:
        """Which source a new vault takes: the one wanted; of "auto", the first that is there."""
        if wanted != "auto":
            return wanted
        if _keyring() is not None:
            return KEYRING
        if self._environ.get(PASSPHRASE_VARIABLE):
            return PASSPHRASE
        path = self._credential_path()
        return CREDENTIAL if path is not None and path.exists() else FILE

    def make(self, source: str, serial: int) -> Kek:
        """A new key, kept at its source. `serial` tells it from the one before, which is kept until the vault has been closed with this."""
        if source == PASSPHRASE:
            facts = {"salt": os.urandom(16).hex(), **COSTS}
            return Kek(source, self._stretched(self._passphrase(confirm=True), facts), facts)
        if source == CREDENTIAL:
            return Kek(source, self._credential())
        key = os.urandom(KEK_BYTES)
        if source == KEYRING:
            self._to_keyring(serial, key)
        else:
            write_atomic(self._file_path(serial), b"kek " + key.hex().encode() + b"\n")
        return Kek(source, key, {"serial": serial})

    def load(self, source: str, facts: dict[str, Any]) -> Kek:
        """The key that was made with these `facts`. That it is the right one is for the vault to say."""
        if source == PASSPHRASE:
            return Kek(source, self._stretched(self._passphrase(confirm=False), facts), facts)
        if source == CREDENTIAL:
            return Kek(source, self._credential(), facts)
        serial = facts.get("serial")
        if source not in (KEYRING, FILE) or type(serial) is not int:
            raise ValueError(f"the key's source {source!r} with {sorted(facts)}")
        return Kek(source, self._from_keyring(serial) if source == KEYRING else self._from_file(serial), facts)

    def forget(self, kek: Kek) -> None:
        """Remove a key that opens nothing any more, where it is ours to remove."""
        serial = kek.facts.get("serial", 0)
        if kek.source == FILE:
            self._file_path(serial).unlink(missing_ok=True)
        elif kek.source == KEYRING and (keyring := _keyring()) is not None:
            try:
                keyring.delete_password(SERVICE, self._entry(serial))
            except keyring.errors.KeyringError as error:
                raise HomeError(
                    f"the old key stays in the keyring: {error}", fix=f"remove the entry {self._entry(serial)} there"
                ) from error

    # ---- file

    def _file_path(self, serial: int) -> Path:
        return self._folder / f"kek.{serial}"

    def _from_file(self, serial: int) -> bytes:
        path = self._file_path(serial)
        data = read_private(path)
        fix = f"restore {path} from a backup; without it, what this home has sealed cannot be read"
        if data is None:
            raise HomeError(f"{path} is gone: it holds the key of this home's vault", fix=fix, code="no_kek")
        try:
            key = bytes.fromhex(data.removeprefix(b"kek ").decode("ascii"))
        except ValueError:
            key = b""
        if not data.startswith(b"kek ") or len(key) != KEK_BYTES:
            raise HomeError(f"{path} holds no key: expected 'kek' and {2 * KEK_BYTES} hexadecimal digits", fix=fix, code="no_kek")
        return key

    # ---- passphrase

    def _passphrase(self, *, confirm: bool) -> str:
        named = self._environ.get(PASSPHRASE_VARIABLE)
        if named:
            text = self._passphrase_in(Path(named))
        elif self._prompt is not None:
            text = self._prompt("passphrase of this home: ")
            if confirm and self._prompt("the same again: ") != text:
                raise HomeError("the two passphrases differ", fix="try again", code="no_kek")
        else:
            raise HomeError(
                "this home's vault opens with a passphrase, and there is no terminal to ask it on",
                fix=f"put it into a file of mode 600, and: export {PASSPHRASE_VARIABLE}=FILE",
                code="no_kek",
            )
        if confirm and len(text) < PASSPHRASE_CHARACTERS_MIN:
            raise HomeError(
                f"a passphrase has at least {PASSPHRASE_CHARACTERS_MIN} characters", fix="choose a longer one: five words", code="no_kek"
            )
        return text

    def _passphrase_in(self, path: Path) -> str:
        data = read_private(path)
        if data is None:
            fix = f"{PASSPHRASE_VARIABLE} must name a file of mode 600 that holds the passphrase"
            raise HomeError(f"there is no file {path}, which {PASSPHRASE_VARIABLE} names", fix=fix, code="no_kek")
        try:
            return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise HomeError(f"{path} is not UTF-8 text", fix="write the passphrase as plain text", code="no_kek") from None

    def _stretched(self, passphrase: str, facts: dict[str, Any]) -> bytes:
        salt = bytes.fromhex(facts["salt"])
        costs = {name: facts[name] for name in COSTS}
        if not all(type(cost) is int and 0 < cost <= COSTS_MAX[name] for name, cost in costs.items()):
            raise ValueError(f"costs of Argon2id: {costs}")
        memory, rounds, lanes = costs["memory_kib"], costs["iterations"], costs["lanes"]
        try:
            stretch = Argon2id(salt=salt, length=KEK_BYTES, iterations=rounds, lanes=lanes, memory_cost=memory)
        except UnsupportedAlgorithm as error:
            fix = 'kek = "file" in config.toml, or a newer OpenSSL'
            raise HomeError("this machine's OpenSSL has no Argon2id", fix=fix, code="no_kek") from error
        return stretch.derive(passphrase.encode())

    # ---- credential

    def _credential_path(self) -> Path | None:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        return Path(folder) / CREDENTIAL_NAME if folder else None

    def _credential(self) -> bytes:
        """Whatever bytes it is made of, all of them count."""
        path = self._credential_path()
        fix = f"LoadCredentialEncrypted={CREDENTIAL_NAME}:FILE in the unit; make FILE from 32 random bytes with systemd-creds encrypt"
        try:
            data = path.read_bytes() if path is not None else b""
        except OSError as error:
            raise HomeError(f"the credential {path} cannot be read: {error.strerror}", fix=fix, code="no_kek") from error
        if path is None:
            raise HomeError("the service manager gave this process no credentials ($CREDENTIALS_DIRECTORY)", fix=fix, code="no_kek")
        if len(data) < CREDENTIAL_BYTES_MIN:
            raise HomeError(f"the credential {path} has fewer than {CREDENTIAL_BYTES_MIN} bytes", fix=fix, code="no_kek")
        return hashlib.blake2b(data, digest_size=KEK_BYTES, person=b"lanmesh-kek").digest()

    # ---- keyring

    def _entry(self, serial: int) -> str:
        return f"{self._vault}/{serial}"

    def _to_keyring(self, serial: int, key: bytes) -> None:
        keyring = _keyring_or_explain()
        try:
            keyring.set_password(SERVICE, self._entry(serial), key.hex())
        except keyring.errors.KeyringError as error:
            raise HomeError(f"the keyring does not take the key: {error}", fix="unlock it, and try again", code="no_kek") from error

    def _from_keyring(self, serial: int) -> bytes:
        keyring = _keyring_or_explain()
        try:
            text = keyring.get_password(SERVICE, self._entry(serial))
        except keyring.errors.KeyringError as error:
            raise HomeError(f"the keyring does not give the key: {error}", fix="unlock it, and try again", code="no_kek") from error
        if text is None:
            what = f"the keyring has no entry {self._entry(serial)} of {SERVICE}: it holds the key of this home's vault"
            raise HomeError(what, fix="restore the keyring, or use the account that made this home", code="no_kek")
        key = bytes.fromhex(text)
        if len(key) != KEK_BYTES:
            raise ValueError("the keyring's entry")
        return key


def _keyring() -> Any:
    """The `keyring` package, if it is installed and has a backend that keeps things safe here; else None."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    backend = keyring.get_keyring()
    # Backends that fail, forget or write plain text say so by a priority below 1.
    return keyring if backend.priority >= 1 else None


def _keyring_or_explain() -> Any:
    keyring = _keyring()
    if keyring is None:
        raise HomeError(
            "this home's vault opens with a key in the system's keyring, and there is none here",
            fix="pip install 'lanmesh[keyring]', in a session that has a keyring",
            code="no_kek",
        )
    return keyring
