"""Secrets on disk, and who is told one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError, Refused, UsageError
from mesh.runtime.disk.sealing import is_sealed
from mesh.runtime.disk.secrets import SECRET_BYTES_MAX, SecretDesk, Secrets
from mesh.runtime.disk.vault import open_vault, secrets_path
from mesh.runtime.home import Home, HomeError

TEXT = "hunter2-canary"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def secrets(home: Home) -> Secrets:
    return Secrets(home, lambda: open_vault(home, "file", environ={}))


def refused(kind: type[MeshError], act: Callable[[], Any]) -> MeshError:
    with pytest.raises(kind) as caught:
        act()
    assert TEXT not in caught.value.message + caught.value.fix
    return caught.value


def test_set_list_read_replace_and_remove(secrets: Secrets, home: Home) -> None:
    assert secrets.names() == [] and list(secrets.all()) == [] and not home.path.exists(), "looking makes nothing"
    secrets.set("db", TEXT, ("report.*", "audit"))
    secrets.set("API_KEY.2", "löng\ntext\n")
    assert secrets.names() == ["API_KEY.2", "db"]
    kept = secrets.read("db")
    assert (kept.text, kept.scope, kept.made_ms > 0) == (TEXT, ("report.*", "audit"), True)
    assert [one.text for one in secrets.all()] == ["löng\ntext\n", TEXT]
    secrets.set("db", "another")
    assert secrets.read("db").text == "another" and secrets.read("db").scope == ("*",)
    secrets.remove("db")
    assert refused(Refused, lambda: secrets.read("db")).code == refused(Refused, lambda: secrets.remove("db")).code == "no_such_secret"


def test_what_is_on_disk_is_sealed_private_and_tied_to_its_name(secrets: Secrets, home: Home) -> None:
    secrets.set("db", TEXT)
    secrets.set("other", "something else")
    folder = secrets_path(home)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in home.path.rglob("*"):
        assert path.is_dir() or (stat.S_IMODE(path.stat().st_mode) == 0o600 and TEXT.encode() not in path.read_bytes())
    assert is_sealed((folder / "db").read_bytes()) and TEXT not in repr(secrets.read("db"))
    (folder / "other").write_bytes((folder / "db").read_bytes())
    assert refused(HomeError, lambda: secrets.read("other")).code == "secret_broken"
    (folder / "db").write_bytes(b"plain text put here by hand")
    assert "mesh secret set db" in refused(HomeError, lambda: secrets.read("db")).fix
    (folder / "db").chmod(0o644)
    assert "chmod 600" in refused(HomeError, lambda: secrets.read("db")).fix


def test_a_secret_of_another_home_does_not_open(secrets: Secrets, home: Home, tmp_path: Path) -> None:
    secrets.set("db", TEXT)
    other = Home(tmp_path / "other")
    theirs = Secrets(other, lambda: open_vault(other, "file", environ={}))
    theirs.set("db", "theirs")
    (secrets_path(other) / "db").write_bytes((secrets_path(home) / "db").read_bytes())
    assert refused(HomeError, lambda: theirs.read("db")).code == "secret_broken"


def test_a_key_that_came_later_is_said_so(home: Home) -> None:
    vault = open_vault(home, "file", environ={})
    running = Secrets(home, lambda: vault)
    open_vault(home, "file", environ={}).rotate_kek()
    newer = open_vault(home, "file", environ={})
    newer.rotate_dek()
    Secrets(home, lambda: newer).set("db", TEXT)
    assert "came after" in refused(HomeError, lambda: running.read("db")).message


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "x" * 65, "a b", "ä", "x\n", "x\0"])
def test_bad_names(name: str, secrets: Secrets) -> None:
    for act in (lambda: secrets.set(name, TEXT), lambda: secrets.read(name), lambda: secrets.remove(name)):
        refused(UsageError, act)


@pytest.mark.parametrize("scope", [("",), ("*.x",), ("a*b",), ("re port",), ("x",) * 65, ("**",)])
def test_bad_scopes(scope: tuple[str, ...], secrets: Secrets) -> None:
    refused(UsageError, lambda: secrets.set("db", TEXT, scope))


def test_bounds(secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.set("most", "x" * SECRET_BYTES_MAX)
    assert len(secrets.read("most").text) == SECRET_BYTES_MAX
    refused(UsageError, lambda: secrets.set("more", "x" * (SECRET_BYTES_MAX + 1)))
    refused(UsageError, lambda: secrets.set("none", ""))
    monkeypatch.setattr("mesh.runtime.disk.secrets.SECRETS_MAX", 1)
    secrets.set("most", "again")
    assert "1 secrets already" in refused(UsageError, lambda: secrets.set("second", TEXT)).message


@pytest.mark.parametrize(
    ("scope", "capability", "covered"),
    [
        (("*",), "anything", True),
        (("report.monthly",), "report.monthly", True),
        (("report.monthly",), "report.monthly2", False),
        (("report.*",), "report.monthly", True),
        (("report.*",), "report", False),
        (("report*",), "reports", True),
        (("a", "b"), "b", True),
        (("a", "b"), "c", False),
    ],
)
def test_scopes(scope: tuple[str, ...], capability: str, covered: bool, secrets: Secrets) -> None:
    assert secrets.set("db", TEXT, scope).covers(capability) is covered


def test_the_desk_tells_whoever_holds_the_task_and_nobody_else(secrets: Secrets) -> None:
    secrets.set("db", TEXT, ("report.*",))
    audited: list[dict[str, str]] = []
    noted: list[tuple[str, str]] = []
    holds = {(1, "t.1", 5): "report.monthly", (1, "t.2", 5): "mail.send"}
    desk = SecretDesk(secrets, lambda *who: holds.get(who, ""), lambda **record: audited.append(record), lambda *told: noted.append(told))
    assert desk.read(1, "db", "t.1", 5) == TEXT
    assert audited == [{"what": "secret_read", "about": "db", "by": "t.1", "note": "report.monthly"}]
    for worker, task, fence in ((2, "t.1", 5), (1, "t.1", 4), (1, "t.9", 5), (0, "", 0)):
        assert refused(Refused, lambda w=worker, t=task, f=fence: desk.read(w, "db", t, f)).code == "secret_not_held"  # type: ignore[misc]
    error = refused(Refused, lambda: desk.read(1, "db", "t.2", 5))
    assert error.code == "secret_out_of_scope" and "mail.send" in error.message and "report.*" in error.message
    for name in ("nothing", "../db", ""):
        assert refused(Refused, lambda n=name: desk.read(1, n, "t.1", 5)).code == "no_such_secret"  # type: ignore[misc]
    assert len(audited) == 1 and noted == [("secret_out_of_scope", "db")]
