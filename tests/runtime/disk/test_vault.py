"""The vault: every source of its key, rotation of both kinds of key, and what is said when key or file are wrong."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import keyring.backends.fail
import keyring.backends.null
import pytest

from mesh.runtime.disk import kek, sealing
from mesh.runtime.disk.sealing import CHACHA, GCM_SIV, OVERHEAD_BYTES, SealBroken, aead_of, best_cipher, is_sealed
from mesh.runtime.disk.store_file import open_writer, set_metas
from mesh.runtime.disk.vault import Vault, kek_source, open_vault, secrets_path
from mesh.runtime.home import Home, HomeError

CHEAP = {"memory_kib": 64, "iterations": 1, "lanes": 1}


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A real backend, of a test's length. `locked` refuses, as the desktop's does."""

    priority = 5  # type: ignore[assignment]  # as the package's own documentation does

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def _unlocked(self) -> None:
        if self.locked:
            raise keyring.errors.KeyringLocked("it is locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._unlocked()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._unlocked()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._unlocked()
        del self.entries[service, username]


@pytest.fixture(autouse=True)
def no_keyring() -> Iterator[None]:
    """Whatever this machine has: a test that wants a keyring brings one."""
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def desktop() -> MemoryKeyring:
    backend = MemoryKeyring()
    keyring.set_keyring(backend)
    return backend


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kek, "COSTS", CHEAP)


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture
def environs(tmp_path: Path) -> dict[str, dict[str, str]]:
    """For each source what a process has in its environment."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    private(credentials / "mesh-kek", os.urandom(32))
    word = private(tmp_path / "word", b"correct horse battery\n")
    return {
        "file": {},
        "keyring": {},
        "passphrase": {"MESH_PASSPHRASE_FILE": str(word)},
        "credential": {"CREDENTIALS_DIRECTORY": str(credentials)},
    }


def refused(act: Callable[[], Any]) -> HomeError:
    with pytest.raises(HomeError) as caught:
        act()
    assert caught.value.fix and caught.value.exit_code == 2
    return caught.value


# ---- sources


@pytest.mark.parametrize("source", kek.SOURCES)
@pytest.mark.usefixtures("cheap", "desktop")
def test_every_source_opens_what_it_closed(source: str, home: Home, environs: dict[str, dict[str, str]]) -> None:
    first = open_vault(home, source, environ=environs[source])
    sealed = first.sealer("journal", "m", "a").seal("t", "k", b"plain")
    assert first.source == source == kek_source(home)
    again = open_vault(home, environ=environs[source])
    assert (again.id, again.source, again.generation) == (first.id, source, 1)
    assert again.sealer("journal", "m", "a").open("t", "k", sealed) == b"plain"


@pytest.mark.usefixtures("cheap")
def test_auto_takes_the_first_that_is_there(tmp_path: Path, environs: dict[str, dict[str, str]]) -> None:
    both = environs["passphrase"] | environs["credential"]
    assert open_vault(Home(tmp_path / "1"), environ={}).source == "file"
    assert open_vault(Home(tmp_path / "2"), environ=environs["credential"]).source == "credential"
    assert open_vault(Home(tmp_path / "3"), environ=both).source == "passphrase"
    keyring.set_keyring(keyring.backends.null.Keyring())
    assert open_vault(Home(tmp_path / "4"), environ={}).source == "file", "a keyring that forgets is none"
    keyring.set_keyring(MemoryKeyring())
    assert open_vault(Home(tmp_path / "5"), environ=both).source == "keyring"
    assert open_vault(Home(tmp_path / "1"), environ=both).source == "file", "what is closed opens with what closed it"


def test_nothing_is_readable_by_others_and_no_key_is_in_the_vault_file(home: Home) -> None:
    vault = open_vault(home, environ={})
    for path in home.mesh_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    key = bytes.fromhex((home.mesh_path / "kek.1").read_text().split()[1])
    assert key.hex() not in (home.mesh_path / "vault.json").read_text()
    assert key.hex() not in repr(vault._kek) and str(key) not in repr(vault._kek)


@pytest.mark.usefixtures("cheap")
def test_a_passphrase_is_asked_for_on_the_terminal_twice_when_it_is_new(home: Home) -> None:
    asked: list[str] = []

    def prompt(*answers: str) -> kek.Prompt:
        left = list(answers)
        return lambda question: asked.append(question) or left.pop(0)  # type: ignore[func-returns-value]

    assert "differ" in refused(lambda: open_vault(home, "passphrase", prompt=prompt("one two three", "one two"), environ={})).message
    assert "8 characters" in refused(lambda: open_vault(home, "passphrase", prompt=prompt("short", "short"), environ={})).message
    assert not (home.mesh_path / "vault.json").exists()
    asked.clear()
    open_vault(home, "passphrase", prompt=prompt("one two three", "one two three"), environ={})
    assert len(asked) == 2
    open_vault(home, prompt=prompt("one two three"), environ={})
    assert len(asked) == 3
    wrong = refused(lambda: open_vault(home, prompt=prompt("one two four"), environ={}))
    assert wrong.code == "wrong_kek" and "passphrase" in wrong.message
    nobody = refused(lambda: open_vault(home, environ={}))
    assert nobody.code == "no_kek" and "MESH_PASSPHRASE_FILE" in nobody.fix


def test_argon2id_is_run_at_its_full_cost(home: Home, environs: dict[str, dict[str, str]]) -> None:
    open_vault(home, "passphrase", environ=environs["passphrase"])
    found = json.loads((home.mesh_path / "vault.json").read_text())["kek"]
    assert {name: found[name] for name in kek.COSTS} == kek.COSTS == {"memory_kib": 65536, "iterations": 3, "lanes": 4}
    assert len(bytes.fromhex(found["salt"])) == 16
    assert open_vault(home, environ=environs["passphrase"]).generation == 1


@pytest.mark.usefixtures("cheap")
def test_wrong_or_missing_keys_say_what_to_do(
    home: Home, tmp_path: Path, environs: dict[str, dict[str, str]], desktop: MemoryKeyring
) -> None:
    homes = {source: Home(tmp_path / source) for source in kek.SOURCES}
    for source, each in homes.items():
        open_vault(each, source, environ=environs[source])
    Path(environs["passphrase"]["MESH_PASSPHRASE_FILE"]).write_text("another one entirely")
    assert refused(lambda: open_vault(homes["passphrase"], environ=environs["passphrase"])).code == "wrong_kek"
    Path(environs["passphrase"]["MESH_PASSPHRASE_FILE"]).chmod(0o644)
    assert "chmod 600" in refused(lambda: open_vault(homes["passphrase"], environ=environs["passphrase"])).fix
    gone = {"MESH_PASSPHRASE_FILE": str(tmp_path / "nowhere")}
    assert refused(lambda: open_vault(homes["passphrase"], environ=gone)).code == "no_kek"

    credential = Path(environs["credential"]["CREDENTIALS_DIRECTORY"]) / "mesh-kek"
    credential.write_bytes(os.urandom(32))
    assert refused(lambda: open_vault(homes["credential"], environ=environs["credential"])).code == "wrong_kek"
    credential.write_bytes(b"short")
    assert "32 bytes" in refused(lambda: open_vault(homes["credential"], environ=environs["credential"])).message
    assert "LoadCredential" in refused(lambda: open_vault(homes["credential"], environ={})).fix

    desktop.locked = True
    assert "unlock" in refused(lambda: open_vault(homes["keyring"], environ={})).fix
    desktop.locked = False
    desktop.entries.clear()
    assert "no entry" in refused(lambda: open_vault(homes["keyring"], environ={})).message
    keyring.set_keyring(keyring.backends.fail.Keyring())
    assert "lanmesh[keyring]" in refused(lambda: open_vault(homes["keyring"], environ={})).fix

    file = homes["file"].mesh_path / "kek.1"
    file.write_text("kek " + bytes(32).hex())
    assert refused(lambda: open_vault(homes["file"], environ={})).code == "wrong_kek"
    file.write_text("something else")
    assert "holds no key" in refused(lambda: open_vault(homes["file"], environ={})).message
    file.unlink()
    assert "is gone" in refused(lambda: open_vault(homes["file"], environ={})).message


# ---- the file


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("id"),
        lambda found: found.pop("generations"),
        lambda found: found["generations"].clear(),
        lambda found: found["generations"].pop(0),
        lambda found: found["generations"][0].update(wrapped="zz"),
        lambda found: found["generations"][0].update(wrapped="00" * 60),
        lambda found: found["generations"][0].update(wrapped=found["generations"][1]["wrapped"]),
        lambda found: found["generations"][0].update(cipher="rot13"),
        lambda found: found["generations"][1].update(cipher=CHACHA if best_cipher() == GCM_SIV else GCM_SIV),
        lambda found: found["kek"].pop("check"),
        lambda found: found["kek"].update(source="memory"),
        lambda found: found["kek"].update(serial="1"),
        lambda found: found.update(schema="mesh.vault/9"),
    ],
)
def test_a_damaged_vault_is_named_and_left_alone(damage: Callable[[dict[str, Any]], Any], home: Home) -> None:
    open_vault(home, environ={}).rotate_dek()
    path = home.mesh_path / "vault.json"
    found = json.loads(path.read_text())
    damage(found)
    path.write_text(json.dumps(found))
    error = refused(lambda: open_vault(home, environ={}))
    assert error.code == "vault_damaged" and str(path) in error.message
    assert json.loads(path.read_text()) == found


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 20_000, b'{"schema": 1}'])
def test_what_is_no_vault_at_all(data: bytes, home: Home) -> None:
    open_vault(home, environ={})
    (home.mesh_path / "vault.json").write_bytes(data)
    assert refused(lambda: open_vault(home, environ={})).code == "vault_damaged"


def test_a_vault_file_that_asks_for_a_gigantic_argon2_is_refused(home: Home, environs: dict[str, dict[str, str]], cheap: None) -> None:
    open_vault(home, "passphrase", environ=environs["passphrase"])
    path = home.mesh_path / "vault.json"
    path.write_text(path.read_text().replace('"memory_kib": 64', '"memory_kib": 999999999'))
    assert "Argon2id" in refused(lambda: open_vault(home, environ=environs["passphrase"])).message


def test_a_lost_vault_is_not_replaced_while_its_secrets_are_there(home: Home) -> None:
    open_vault(home, environ={})
    (home.mesh_path / "vault.json").unlink()
    secrets_path(home).mkdir()
    (secrets_path(home) / "db").write_bytes(b"sealed")
    assert refused(lambda: open_vault(home, environ={})).code == "vault_lost"


def test_a_lost_vault_is_not_replaced_while_a_journal_is_sealed_by_it(home: Home) -> None:
    kept = open_vault(home, environ={})
    folder = home.node("otter").make()
    with closing(open_writer(folder.journal_path)) as journal:
        (home.mesh_path / "vault.json").unlink()
        assert kek_source(home) == "", "nothing is sealed in a plain journal"
        set_metas(journal, {"vault": kept.id.encode()})
    before = {path.name: path.read_bytes() for path in home.mesh_path.iterdir()}
    for use in (lambda: open_vault(home, environ={}), lambda: kek_source(home)):
        lost = refused(use)
        assert lost.code == "vault_lost" and "journal.sqlite" in lost.message
    assert before == {path.name: path.read_bytes() for path in home.mesh_path.iterdir()}, "the key of the lost one is still there"


# ---- rotation


def sealed_by(vault: Vault) -> bytes:
    return vault.sealer("journal", "m", "a").seal("t", "k", b"plain")


@pytest.mark.usefixtures("cheap", "desktop")
@pytest.mark.parametrize("to", kek.SOURCES)
@pytest.mark.parametrize("source", kek.SOURCES)
def test_a_new_kek_rewraps_and_touches_no_row(source: str, to: str, home: Home, environs: dict[str, dict[str, str]]) -> None:
    environ = {name: value for each in environs.values() for name, value in each.items()}
    vault = open_vault(home, source, environ=environ)
    row = sealed_by(vault)
    old = dict(vault._kek.facts), vault._kek.key
    vault.rotate_kek(to)
    assert vault.source == to and (vault._kek.key != old[1] or source == to == "credential")
    for opened in (vault, open_vault(home, environ=environ)):
        assert opened.source == to
        assert opened.sealer("journal", "m", "a").open("t", "k", row) == b"plain"
    assert vault.generation == (1 if to == source else 2), "who had the old key reads nothing of what comes after"
    left = sorted(path.name for path in home.mesh_path.glob("kek.*"))
    assert left == ([f"kek.{vault._kek.facts['serial']}"] if to == "file" else [])


def test_a_changed_setting_moves_the_key_at_the_next_start(home: Home, desktop: MemoryKeyring) -> None:
    row = sealed_by(open_vault(home, "file", environ={}))
    moved = open_vault(home, "keyring", environ={})
    assert moved.source == "keyring" and len(desktop.entries) == 1 and not list(home.mesh_path.glob("kek.*"))
    assert moved.sealer("journal", "m", "a").open("t", "k", row) == b"plain"
    back = open_vault(home, "file", environ={})
    assert back.source == "file" and not desktop.entries


def test_a_crash_before_the_vault_file_is_replaced_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = open_vault(home, environ={})
    row = sealed_by(vault)

    def power_cut(path: Path, data: bytes) -> None:
        raise SystemExit

    monkeypatch.setattr("mesh.runtime.disk.vault.write_atomic", power_cut)
    with pytest.raises(SystemExit):
        vault.rotate_kek()
    monkeypatch.undo()
    assert (home.mesh_path / "kek.2").exists()
    again = open_vault(home, environ={})
    assert again.sealer("journal", "m", "a").open("t", "k", row) == b"plain"
    again.rotate_kek()
    assert open_vault(home, environ={}).sealer("journal", "m", "a").open("t", "k", row) == b"plain"


def test_a_new_dek_seals_what_comes_and_old_rows_stay_readable(home: Home) -> None:
    vault, other = open_vault(home, environ={}), open_vault(home, environ={})
    sealer, beside = vault.sealer("s"), other.sealer("s")
    before = sealer.seal("t", "k", b"old")
    assert vault.rotate_dek() == 2
    after = sealer.seal("t", "k", b"new")
    assert (before[2:6], after[2:6]) == (b"\0\0\0\1", b"\0\0\0\2")
    for opened in (sealer, open_vault(home, environ={}).sealer("s"), beside):
        assert (opened.open("t", "k", before), opened.open("t", "k", after)) == (b"old", b"new")
    assert other.generation == 2, "another process has learned it from the file"


# ---- seals


@pytest.mark.parametrize("cipher", sealing.CIPHERS)
def test_a_seal_is_tied_to_its_place(cipher: str, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr("mesh.runtime.disk.vault.best_cipher", lambda: cipher)
    vault = open_vault(home, environ={})
    sealer = vault.sealer("journal", "mesh", "author")
    sealed = sealer.seal("entries/1", "7", b"plain")
    assert is_sealed(sealed) and b"plain" not in sealed and len(sealed) == 5 + OVERHEAD_BYTES
    assert sealer.seal("entries/1", "7", b"plain") != sealed, "a nonce of its own each time"
    assert sealer.open("entries/1", "7", sealed) == b"plain"
    moved = [("entries/1", "8"), ("entries/2", "7"), ("bodies/1", "7"), ("entries/", "17"), ("entries/17", "")]
    for table, key in moved:
        with pytest.raises(SealBroken, match="not_authentic"):
            sealer.open(table, key, sealed)
    for about in (("journal", "mesh", "another"), ("journal", "other", "author"), ("journal", "meshauthor", ""), ("journal", "mesh")):
        with pytest.raises(SealBroken, match="not_authentic"):
            vault.sealer(*about).open("entries/1", "7", sealed)
    with pytest.raises(SealBroken, match="not_authentic"):
        open_vault(Home(home.path / "twin"), environ={}).sealer("journal", "mesh", "author").open("entries/1", "7", sealed)


def test_every_flipped_bit_and_every_cut_is_seen(home: Home) -> None:
    sealer = open_vault(home, environ={}).sealer("s")
    sealed = sealer.seal("t", "k", b"plain")
    for place in range(len(sealed)):
        for bit in range(8):
            changed = sealed[:place] + bytes([sealed[place] ^ 1 << bit]) + sealed[place + 1 :]
            with pytest.raises(SealBroken) as caught:
                sealer.open("t", "k", changed)
            assert caught.value.reason == ("malformed" if place < 2 else "unknown_generation" if place < 6 else "not_authentic")
    for size in range(len(sealed)):
        with pytest.raises(SealBroken):
            sealer.open("t", "k", sealed[:size])


def test_the_better_cipher_is_taken_where_openssl_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_cipher() == GCM_SIV
    assert aead_of(CHACHA, bytes(32)).decrypt(bytes(12), aead_of(CHACHA, bytes(32)).encrypt(bytes(12), b"x", b"a"), b"a") == b"x"

    def lacking(key: bytes) -> Any:
        raise sealing.UnsupportedAlgorithm("no SIV")

    monkeypatch.setattr(sealing, "AESGCMSIV", lacking)
    assert best_cipher() == CHACHA
