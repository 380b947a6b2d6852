"""A home's secrets: kept sealed, one file each, and told to a worker only while it holds a task that may read them.

    mesh secret set db --for 'report.*'   --> HOME/mesh/secrets/db, sealed by the vault
    worker --secret, name, task, fence--> SecretDesk --does that worker hold it? does the scope cover its capability?--> the text

Invariant: a text leaves this module only towards a worker of this node, for a task which that worker runs under that fence at that moment;
each time is audited, each refusal is counted by who passes on the reply. Does not see that an older version of a secret was put back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mesh.errors import Refused, UsageError
from mesh.ids import Fence, TaskId, is_secret_name
from mesh.runtime.clock import wall_ms
from mesh.runtime.disk.sealing import SealBroken
from mesh.runtime.disk.vault import Vault, secrets_path
from mesh.runtime.home import Home, HomeError, make_private, read_private, write_atomic
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.patterns import is_pattern

SECRETS_MAX = 256
SECRET_BYTES_MAX = 32 * 1024
"""A key file or a certificate fits; what is larger is a file, not a secret."""
PATTERNS_MAX = 64
EVERY = "*"
_FORMAT = 1
_TABLE = "secrets/1"


class Audit(Protocol):
    """Puts on record what security depends on. Never gets a secret."""

    def __call__(self, *, what: str, about: str, by: str, note: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """One secret. `scope`: names of capabilities that may read it, or beginnings followed by ``*``."""

    name: str
    scope: tuple[str, ...]
    made_ms: int
    text: str = field(repr=False)

    def covers(self, capability: str) -> bool:
        return any(capability == each or (each.endswith("*") and capability.startswith(each[:-1])) for each in self.scope)


class Secrets:
    """The files. `vault` opens the home's vault when it is needed. Methods raise HomeError."""

    def __init__(self, home: Home, vault: Callable[[], Vault]) -> None:
        self._folder = secrets_path(home)
        self._vault = vault

    def set(self, name: str, text: str, scope: tuple[str, ...] = (EVERY,)) -> Kept:
        """Keep it, in place of an earlier one of that name. Raises UsageError for a bad name, pattern or size."""
        _check_name(name)
        for pattern in scope:
            if not is_pattern(pattern):
                raise UsageError(f"--for {pattern!r} is no capability's name, nor a beginning followed by *", fix="--for 'report.*'")
        if len(scope) > PATTERNS_MAX:
            raise UsageError(f"a secret has at most {PATTERNS_MAX} patterns", fix="--for 'report.*'")
        if not text:
            raise UsageError(f"a secret has 1 to {SECRET_BYTES_MAX} bytes, and this has none", fix=f"mesh secret set {name} <FILE")
        if len(text.encode()) > SECRET_BYTES_MAX:
            raise UsageError(f"a secret has 1 to {SECRET_BYTES_MAX} bytes", fix="pass larger data as File")
        vault = self._vault()
        make_private(self._folder)
        if name not in self.names() and len(self.names()) >= SECRETS_MAX:
            raise UsageError(f"this home keeps {SECRETS_MAX} secrets already", fix="mesh secret remove NAME")
        kept = Kept(name, scope, wall_ms(), text)
        plain = pack((_FORMAT, kept.made_ms, kept.scope, kept.text))
        write_atomic(self._folder / name, vault.sealer("secrets", vault.id).seal(_TABLE, name, plain))
        return kept

    def remove(self, name: str) -> None:
        """Raises Refused ``no_such_secret``."""
        _check_name(name)
        try:
            (self._folder / name).unlink()
        except FileNotFoundError:
            raise _no_such(name) from None

    def names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if is_secret_name(entry.name) and entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def all(self) -> Iterator[Kept]:
        """Every one, by name."""
        for name in self.names():
            with contextlib.suppress(Refused):  # removed by somebody else, just now
                yield self.read(name)

    def read(self, name: str) -> Kept:
        """Raises Refused ``no_such_secret``, HomeError for a file that does not open."""
        _check_name(name)
        sealed = read_private(self._folder / name)
        if sealed is None:
            raise _no_such(name)
        vault = self._vault()
        try:
            version, made_ms, scope, text = unpack_row(vault.sealer("secrets", vault.id).open(_TABLE, name, sealed))
        except SealBroken as error:
            if error.reason == "unknown_generation":
                what = f"the secret {name!r} was sealed with a key that came after this process opened the vault"
                raise HomeError(what, fix="mesh down, then mesh up", code="secret_broken") from None
            raise _broken(name, error) from None
        except (Refusal, ValueError) as error:
            raise _broken(name, error) from None
        if version != _FORMAT:
            raise HomeError(f"the secret {name!r} was kept by a newer version", fix="pip install -U lanmesh", code="secret_broken")
        return Kept(name, tuple(scope), made_ms, text)


class SecretDesk:
    """Answers workers. `held` says which capability a worker runs for a task under a fence now, "" if none; `noted(reason, secret)` is told
    of whom asks for a secret that is kept here, and not for him. `ruled`: why the policy lets a task not have one; None: it does."""

    def __init__(
        self,
        secrets: Secrets,
        held: Callable[[int, TaskId, Fence], str],
        audit: Audit,
        noted: Callable[[str, str], None],
        ruled: Callable[[TaskId, str], dict[str, Any] | None] = lambda task, name: None,
    ) -> None:
        self._secrets, self._held, self._audit, self._noted, self._ruled = secrets, held, audit, noted, ruled

    def read(self, worker: int, name: str, task: TaskId, fence: Fence) -> str:
        """The text, on record. Raises HomeError; Refused: ``secret_not_held``, ``policy_denied``, ``no_such_secret``,
        ``secret_out_of_scope``."""
        capability = self._held(worker, task, fence)
        if not capability:
            raise not_held(task)
        if not is_secret_name(name):
            raise _no_such(name)
        if (denied := self._ruled(task, name)) is not None:
            self._noted("policy_denied", name)
            raise Refused(str(denied["message"]), fix=str(denied["fix"]), code=str(denied["code"]))
        kept = self._secrets.read(name)
        if not kept.covers(capability):
            self._noted("secret_out_of_scope", name)
            raise Refused(
                f"the secret {name!r} is not for {capability}: its scope is {', '.join(kept.scope)}",
                fix=f"mesh secret set {name} --for {capability}",
                code="secret_out_of_scope",
            )
        self._audit(what="secret_read", about=name, by=task, note=capability)
        return kept.text


def not_held(task: TaskId) -> Refused:
    """The answer to whoever does not run that task, or not any more."""
    what = f"a secret is told only to the worker that runs the task it is for, while it runs it: {task or 'no task'} is not yours now"
    return Refused(what, fix="read secrets before the task's lease is over", code="secret_not_held")


def _no_such(name: str) -> Refused:
    return Refused(
        f"this home has no secret {name!r}", fix=f"mesh secret set {name}, on the machine whose worker needs it", code="no_such_secret"
    )


def _broken(name: str, error: Exception) -> HomeError:
    what = f"the secret {name!r} does not open: its file was edited, renamed or comes from another home ({error})"
    return HomeError(what, fix=f"mesh secret set {name}", code="secret_broken")


def _check_name(name: str) -> None:
    if not is_secret_name(name):
        raise UsageError(f"{name!r} cannot name a secret: 1 to 64 letters, digits, '.', '-' or '_'", fix="mesh secret set db-password")
