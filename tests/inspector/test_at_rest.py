"""What the command line says of the key that seals a home, and how it asks for a passphrase."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.joining import make_mesh
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_newest import Newest
from mesh.runtime.disk.vault import kek_source, open_vault
from mesh.runtime.home import Home
from mesh.runtime.trust.identity import load_identity

CLI = (sys.executable, "-m", "mesh.inspector.cli")


def finding(mesh: Callable[..., Any], home: Path) -> dict[str, Any]:
    return findings(mesh, home, "at rest")[0]


def findings(mesh: Callable[..., Any], home: Path, check: str) -> list[dict[str, Any]]:
    found = mesh("doctor", "--home", str(home), "--json").document["findings"]
    return [one for one in found if one["check"] == check]


def test_a_key_in_a_file_is_reported_as_weak_and_is_no_failure(mesh: Callable[..., Any], node: Path, tmp_path: Path) -> None:
    status = mesh("status", "--home", str(node), "--json")
    assert (status.code, status.document["healthy"]) == (0, True)
    [note] = status.document["notes"]
    assert "is a file beside it" in note["message"] and 'kek = "passphrase"' in note["fix"]
    assert "note: the key that opens this home's vault" in mesh("status", "--home", str(node)).out
    weak = finding(mesh, node)
    assert (weak["state"], weak["fix"]) == ("warn", note["fix"])

    assert finding(mesh, tmp_path / "never")["state"] == "ok"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mesh-kek").write_bytes(os.urandom(32))
    strong = Home(tmp_path / "strong")
    open_vault(strong, "credential", environ={"CREDENTIALS_DIRECTORY": str(credentials)})
    assert "their key comes from the credential" in finding(mesh, strong.path)["message"]
    (strong.mesh_path / "vault.json").write_text("{")
    damaged = finding(mesh, strong.path)
    assert damaged["state"] == "fail" and "restore" in damaged["fix"]


def test_a_key_that_opens_nothing_is_told(mesh: Callable[..., Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    open_vault(home, "file")
    (kek,) = home.mesh_path.glob("kek.*")
    for damage in (lambda: kek.write_text("junk"), kek.unlink):
        damage()
        assert finding(mesh, home.path)["state"] == "fail"


@pytest.mark.parametrize("name", ["issuer.key", "root.key"])
def test_a_damaged_key_of_authority_is_told(name: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    make_mesh(home, "token", "lab")
    assert not findings(mesh, home.path, "authority")
    (home.mesh_path / name).write_text("junk")
    [told] = findings(mesh, home.path, "authority")
    assert told["state"] == "fail" and name in told["message"]
    (home.mesh_path / name).unlink()
    assert [one["state"] for one in findings(mesh, home.path, "authority")] == (["fail"] if name == "issuer.key" else [])


@pytest.mark.parametrize("how", ["empty", "junk", "gone"])
@pytest.mark.parametrize("name", ["identity.key", "transport.key", "deed", "incarnation.json", "journal.sqlite"])
def test_a_damaged_folder_of_a_node_that_is_down_is_told(name: str, how: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    folder = home.node("otter")
    identity = load_identity(folder)
    store = Store(folder.journal_path, identity.signer, lambda *_: None, newest=Newest(folder.incarnation_path))
    store.close()
    assert [one["state"] for one in findings(mesh, home.path, "node")] == ["warn"], "it does not run, and that is all"
    path = folder.path / name
    if how == "gone":
        path.unlink()
    else:
        path.write_text("" if how == "empty" else "junk")
    told = [one for one in findings(mesh, home.path, "node") if one["state"] == "fail"]
    if how == "gone" and name in ("transport.key", "deed", "incarnation.json"):
        assert not told, "made anew"
    else:
        assert len(told) == 1 and name in told[0]["message"] and told[0]["fix"], told


def test_a_genesis_that_is_gone_is_told(mesh: Callable[..., Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    make_mesh(home, "token", "lab")
    (home.mesh_path / "genesis.json").unlink()
    ran = mesh("id", "--home", str(home.path))
    assert ran.code == 2 and "genesis.json is gone" in ran.err and "every member has the same" in ran.err


def test_a_passphrase_is_asked_for_on_the_terminal_though_the_text_comes_on_stdin(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    home.config_path.write_text('kek = "passphrase"\n')
    main, side = pty.openpty()

    def own_terminal() -> None:
        import fcntl
        import termios

        fcntl.ioctl(side, termios.TIOCSCTTY, 0)

    words = [*CLI, "secret", "set", "db", "--home", str(home.path)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **streams, pass_fds=(side,), start_new_session=True, preexec_fn=own_terminal) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"the text\n")
        process.stdin.close()
        for question in (b"passphrase of this home: ", b"the same again: "):
            seen = b""
            while question not in seen:
                seen += os.read(main, 1024)
            os.write(main, b"correct horse battery\n")
        said = process.stdout.read()
    assert process.returncode == 0 and b"secret://db is kept" in said
    os.close(side)
    os.close(main)
    assert kek_source(home) == "passphrase"

    word = tmp_path / "word"
    word.write_text("correct horse battery")
    word.chmod(0o600)
    environ = {**os.environ, "MESH_PASSPHRASE_FILE": str(word)}
    words = [*CLI, "secret", "list", "--home", str(home.path)]
    listed = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    assert "db" in listed.stdout
    nobody = subprocess.run(words, capture_output=True, text=True, start_new_session=True, check=False)
    assert nobody.returncode == 2 and "MESH_PASSPHRASE_FILE" in nobody.stderr
