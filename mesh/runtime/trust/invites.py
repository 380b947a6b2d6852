"""Invitations of one home: which are open, which were used and by whom.

    invites.json   {"invites": [{"invite", "secret", "expires_ms", "roles", "offers", "requests", "issuer", "used_by", "chain",
    "own_issuer"}]}

Invariant: a use is on disk before the certificate leaves, under the home's lock, so that an invitation raced by two homes admits one; the
same home that asks again (its answer was lost) gets the same answer, for which its secret is kept as long as the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mesh.errors import Refused
from mesh.runtime.home import HomeError, read_private, write_atomic
from mesh.runtime.trust.authority import Grant
from mesh.runtime.trust.credentials import Paths
from mesh.wire.token import INVITE_BYTES, SECRET_BYTES

OPEN_MAX = 256
KEPT_USED_MS = 86_400_000
"""How long a used invitation is remembered, for homes whose answer was lost and for those who come second."""
FILE_BYTES_MAX = 4 * 1024 * 1024


@dataclass(slots=True)
class Invite:
    """One invitation. `issuer`: ``auto`` (the second home that is admitted becomes an issuer), ``yes`` or ``no``. Bytes as hexadecimal."""

    invite: str
    secret: str
    expires_ms: int
    roles: list[str]
    offers: list[str]
    requests: list[str]
    issuer: str = "auto"
    used_by: str = ""
    chain: str = ""
    own_issuer: str = ""

    @property
    def grant(self) -> Grant:
        return Grant(tuple(self.roles), tuple(self.offers), tuple(self.requests))


class Invites:
    """The file, read and written whole. Call with the home's lock held. Raises HomeError for a damaged file."""

    def __init__(self, paths: Paths, wall_ms: Callable[[], int]) -> None:
        self._path = paths.invites
        self._wall_ms = wall_ms

    def make(self, grant: Grant, life_ms: int, issuer: str) -> Invite:
        """A new invitation, kept. Raises Refused if too many are open."""
        invites = self._read()
        if self.counts()[0] >= OPEN_MAX:
            raise Refused(f"{OPEN_MAX} invitations are open already", fix="wait until some expire", code="too_many_invites")
        made = Invite(
            os.urandom(INVITE_BYTES).hex(),
            os.urandom(SECRET_BYTES).hex(),
            self._wall_ms() + life_ms,
            list(grant.roles),
            list(grant.offers),
            list(grant.requests),
            issuer,
        )
        self._write([*invites, made])
        return made

    def find(self, invite: bytes) -> Invite | None:
        """The invitation, used or expired though it may be; None if there is none."""
        return next((one for one in self._read() if one.invite == invite.hex()), None)

    def use(self, invite: Invite, home: str, chain: bytes, own_issuer: bytes) -> None:
        """Say who used it and what he got: on disk when this returns."""
        invite.used_by, invite.chain, invite.own_issuer, invite.secret = home, chain.hex(), own_issuer.hex(), ""
        self._write([invite if one.invite == invite.invite else one for one in self._read()])

    def counts(self) -> tuple[int, int]:
        """How many are open, and how many were used lately."""
        invites, now_ms = self._read(), self._wall_ms()
        return sum(not one.used_by and now_ms <= one.expires_ms for one in invites), sum(bool(one.used_by) for one in invites)

    def _read(self) -> list[Invite]:
        raw = read_private(self._path, FILE_BYTES_MAX)
        if raw is None:
            return []
        try:
            rows: list[dict[str, Any]] = json.loads(raw)["invites"]
            found = [Invite(**row) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            fix = f"remove {self._path}: open invitations are lost, members stay"
            raise HomeError(f"{self._path} is damaged: {error}", fix=fix) from None
        now_ms = self._wall_ms()
        return [one for one in found if now_ms <= one.expires_ms + KEPT_USED_MS]

    def _write(self, invites: list[Invite]) -> None:
        write_atomic(self._path, json.dumps({"invites": [asdict(one) for one in invites]}, indent=1).encode())
