"""`mesh secret`: its text comes from stdin or the terminal and goes nowhere but into the sealed home."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLI = (sys.executable, "-m", "mesh.inspector.cli")
TEXT = "hunter2-canary"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """What the next command line finds on its stdin."""

    def on_stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return on_stdin


def test_set_list_remove(mesh: Callable[..., Any], say: Callable[[bytes], None], tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    assert mesh("secret", "list", *home).out.startswith("this home keeps no secrets")
    say(f"{TEXT}\n".encode())
    ran = mesh("secret", "set", "db", "--for", "report.*", "--for", "audit", *home, "--json")
    assert ran.document == {
        "schema": "mesh.secret/1",
        "action": "set",
        "name": "db",
        "scope": ["report.*", "audit"],
        "reference": "secret://db",
    }
    say(b"two\nlines\n\n")
    assert mesh("secret", "set", "other", *home).out == "secret://other is kept, for *\n"
    (db, other) = mesh("secret", "list", *home, "--json").document["secrets"]
    assert (db["name"], db["scope"], other["scope"]) == ("db", ["report.*", "audit"], ["*"]) and db["age_ms"] < 60_000
    shown = mesh("secret", "list", *home)
    assert "report.*, audit" in shown.out and TEXT not in shown.out + shown.err
    assert mesh("secret", "remove", "db", *home).code == 0
    gone = mesh("secret", "remove", "db", *home, "--json")
    assert (gone.code, gone.document["code"], gone.document["fix"]) == (5, "no_such_secret", "mesh secret list")
    for path in (tmp_path / "home").rglob("*"):
        assert path.is_dir() or TEXT.encode() not in path.read_bytes()
    from mesh.runtime.disk.secrets import Secrets
    from mesh.runtime.disk.vault import open_vault
    from mesh.runtime.home import Home

    where = Home(tmp_path / "home")
    assert Secrets(where, lambda: open_vault(where)).read("other").text == "two\nlines\n", "one line break at the end is the shell's"


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        ("secret", b"", "missing argument"),
        ("secret show db", b"", "show"),
        ("secret set", b"x", "wants a name"),
        ("secret set a/b", b"x", "cannot name a secret"),
        ("secret set db", b"", "1 to 32768 bytes"),
        ("secret set db", b"\xff\xfe", "not UTF-8"),
        ("secret set db", b"x" * 40_000, "1 to 32768 bytes"),
        ("secret set db --for a*b", b"x", "--for 'a*b'"),
        ("secret set db hunter2", b"x", "hunter2"),
        ("secret list db", b"", "takes no name"),
        ("secret list --for x", b"", "goes with set only"),
        ("secret remove", b"", "wants a name"),
    ],
)
def test_misuse(words: str, data: bytes, says: str, mesh: Callable[..., Any], say: Callable[[bytes], None], tmp_path: Path) -> None:
    say(data)
    ran = mesh(*words.split(), "--home", str(tmp_path / "home"))
    assert ran.code == 2 and says in ran.err.lower() + ran.err and "try:  " in ran.err
    assert not (tmp_path / "home" / "mesh" / "secrets").exists() or not list((tmp_path / "home" / "mesh" / "secrets").iterdir())


def test_on_a_terminal_it_is_asked_for_and_not_echoed(tmp_path: Path) -> None:
    main, side = pty.openpty()
    words = [*CLI, "secret", "set", "db", "--home", str(tmp_path / "home")]
    process = subprocess.Popen(words, stdin=side, stdout=side, stderr=side, start_new_session=True, preexec_fn=_own_terminal)
    os.close(side)
    seen = b""
    while b"text of db: " not in seen:
        seen += os.read(main, 1024)
    os.write(main, f"{TEXT}\n".encode())
    try:
        while b"is kept" not in seen:
            seen += os.read(main, 1024)
    finally:
        process.wait(30)
        os.close(main)
    assert process.returncode == 0 and TEXT.encode() not in seen


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
