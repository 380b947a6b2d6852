"""Meshes on paper of `scripts/attacks/world.py` for every test here; homes on disk that join each other without a network; and crashes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from mesh.messages.enrol import Admission, Ask, Join
from mesh.messages.signed import Signed
from mesh.runtime.clock import wall_ms
from mesh.runtime.home import Home
from mesh.runtime.trust.authority import Grant
from mesh.runtime.trust.credentials import Credentials, Paths
from mesh.runtime.trust.founding import enter, found
from mesh.runtime.trust.keyfiles import make_key, public_of
from mesh.runtime.trust.registrar import Registrar
from mesh.wire.enrolment import read_admission
from mesh.wire.objects import Signer, node_id
from mesh.wire.token import Token, proof, read_token

DOOR_KEY = public_of(b"d" * 32)
DOORS = ("192.0.2.7:7710",)


class Office:
    """A node that admits, without the node: its registrar, with a clock that the test moves."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.now_ms = wall_ms()
        self.audited: list[tuple[str, str, str]] = []
        self.registrar = self.anew()

    def anew(self) -> Registrar:
        """As after a restart."""
        self.registrar = Registrar(
            lambda: Credentials(self.home), lambda: DOOR_KEY, lambda: DOORS, lambda: self.now_ms, lambda *told: self.audited.append(told)
        )
        return self.registrar

    def invite(self, grant: Grant | None = None, life_ms: int = 900_000, issuer: str = "auto") -> Token:
        return read_token(self.registrar.invite(grant or Grant(), life_ms, issuer)[0])


class Homes:
    """Homes in one temporary folder."""

    Office = Office
    DOORS, DOOR_KEY = DOORS, DOOR_KEY

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def home(self, name: str) -> Home:
        return Home(self._folder / name)

    def founded(self, name: str, mode: str = "token") -> Home:
        home = self.home(name).make()
        with home.lock():
            found(home, mode, name)
        return home

    @staticmethod
    def keys(home: Home) -> tuple[Signer, bytes]:
        """The home's signer and its issuer's public key, made if there are none."""
        paths = Paths(home.make().mesh_path)
        seed = make_key(paths.home_key)
        return Signer(node_id(public_of(seed)), seed, ""), public_of(make_key(paths.issuer_key))

    def asks(self, home: Home, token: Token, **changes: Any) -> bytes:
        """The home's request to be let in with that token; `changes` are made before it proves that it knows the secret."""
        signer, issuer_key = self.keys(home)
        signer.mesh = token.mesh
        join = Join(token.mesh, token.invite, signer.public_key, issuer_key, home.path.name, os.urandom(16))
        join = replace(join, **changes)
        join.proof = proof(token.secret, token.door_key, join)
        return signer.seal(Signed(signer.node, join))

    def asks_without(self, home: Home, nonce: bytes = b"n" * 16) -> bytes:
        """The same without a token."""
        signer, issuer_key = self.keys(home)
        return signer.seal(Signed(signer.node, Ask(signer.public_key, issuer_key, home.path.name, nonce)))

    def admitted(self, office: Office, home: Home, token: Token | None = None) -> Admission:
        admission = read_admission(office.registrar.answer(self.asks(home, token or office.invite())))
        assert admission is not None
        return admission

    def joined(self, office: Office, name: str, token: Token | None = None) -> Home:
        home = self.home(name).make()
        admission = self.admitted(office, home, token)
        with home.lock():
            enter(home, admission)
        return home


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path)


class Crashed(BaseException):
    """The process is gone."""


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``crashing(prepare, act, look)``: for every n, `act` on what `prepare(n)` gave, dead at the n-th file put in place or taken away;
    then `look` at it. Returns how many steps there were. Nothing that a dead process would have tidied up is tidied up."""
    real = {name: getattr(os, name) for name in ("replace", "unlink")}

    def run(prepare: Callable[[int], Any], act: Callable[[Any], Any], look: Callable[[Any], Any]) -> int:
        for steps in count():
            what, left = prepare(steps), steps

            def guarded(name: str) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    if left <= 0:
                        left = -1
                        raise Crashed
                    left -= 1
                    return real[name](*args, **kwargs)

                return call

            with monkeypatch.context() as dying:
                for name in real:
                    dying.setattr(os, name, guarded(name))
                with suppress(Crashed):
                    act(what)
            look(what)
            if left >= 0:
                return steps
        raise AssertionError("never ends")

    return run
