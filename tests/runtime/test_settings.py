"""Options, config.toml, ports: what is taken, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import UsageError
from mesh.runtime.home import Home, HomeError
from mesh.runtime.lan import interfaces
from mesh.runtime.lan.interfaces import Choice, Interface, local
from mesh.runtime.settings import (
    Place,
    Settings,
    check_door,
    check_port,
    load_kek,
    load_settings,
    loopback,
    numeric,
    place,
    port_pairs,
    ports_taken,
    remember_bind,
)

LAN = Interface("eth0", "192.168.1.20", 24)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_defaults_file_and_options(home: Home) -> None:
    assert load_settings(home) == Settings("", 0, (), True, "", False, "auto")
    home.config_path.write_text(
        'port = 7800\njoin = ["127.0.0.1:7710", "localhost:7712", "[::1]:7714", "otter.local:7716"]\nmdns = false\nbind = "192.168.1.20"\n'
        'advertise = "public"\nplain = true\nkek = "file"\n'
    )
    doors = ("127.0.0.1:7710", "127.0.0.1:7712", "[::1]:7714", "otter.local:7716")
    assert load_settings(home) == Settings("192.168.1.20", 7800, doors, False, "public", True, "file")
    assert load_kek(home) == "file"
    given = load_settings(home, bind="localhost", port=0, join=("127.0.0.1:9",), mdns=True)
    assert given == Settings("127.0.0.1", 0, ("127.0.0.1:9",), True, "public", True, "file")


def test_an_address_is_remembered_and_the_rest_of_the_file_stays(home: Home) -> None:
    remember_bind(home, "127.0.0.1")
    assert load_settings(home) == Settings(bind="127.0.0.1")
    home.config_path.write_text('# mine\nport = 7800\nbind = "10.0.0.1"\nmdns = false\n')
    remember_bind(home, "localhost")
    assert home.config_path.read_text() == 'bind = "127.0.0.1"\n# mine\nport = 7800\nmdns = false\n'
    home.config_path.write_text('bind = """\n10.0.0.1"""\n')
    with pytest.raises(HomeError) as caught:
        remember_bind(home, "127.0.0.1")
    assert 'write bind = "127.0.0.1"' in caught.value.fix and "10.0.0.1" in home.config_path.read_text()


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbfport = 7800\n", b"port = 7800\r\n", b"# nothing\r\n"])
def test_files_as_editors_write_them(data: bytes, home: Home) -> None:
    home.config_path.write_bytes(data)
    assert load_settings(home).port == (7800 if b"port" in data else 0)


@pytest.mark.parametrize(
    ("data", "says", "fix"),
    [
        (b"\xff\xfep\0o\0", "not UTF-8", "correct or remove"),
        (b"\0\1\2", "not TOML", "correct or remove"),
        (b"port = ", "not TOML", "correct or remove"),
        (b"port = 1\nport = 2", "not TOML", "correct or remove"),
        (b"a = " + b"[" * 30_000, "not TOML", "correct or remove"),
        (b"#" * 70_000, "larger than 64 KiB", "move"),
        (b"prot = 7710", "field 'prot' is unknown", "write port"),
        (b"colour = 1", "field 'colour' is unknown", "known are advertise, bind, join, kek, mdns, notify, plain, port, role, stock"),
        (b'port = "7710"', "port", "--port"),
        (b"port = true", "port", "--port"),
        (b"port = -1", "port", "--port"),
        (b"port = 65535", "port", "--port"),
        (b"port = 7.5", "port", "--port"),
        (b"port = nan", "port", "--port"),
        (b'kek = "memory"', "no source of a key: auto, keyring, passphrase", 'kek = "auto"'),
        (b"kek = 1", "kek", 'kek = "auto"'),
        (b'notify = "say"', "a command is a list of words", 'notify = ["notify-send"'),
        (b"notify = [1]", "a command is a list of words", 'notify = ["notify-send"'),
        (b'mdns = "no"', "mdns", "mdns = true"),
        (b"mdns = 0", "mdns", "mdns = true"),
        (b'join = "127.0.0.1:7710"', "join", "join = ["),
        (b"join = [7710]", "join", 'join = ["192.168.1.20:7710"]'),
        (b'join = ["127.0.0.1"]', "join", 'join = ["192.168.1.20:7710"]'),
        (b'bind = "otter"', "bind: 'otter' is no address", "--bind 192.168.1.20"),
        (b"bind = 5", "bind", "--bind"),
        (b'advertise = "loud"', "neither public nor blinded", 'advertise = "blinded"'),
        (b"advertise = true", "advertise", "advertise ="),
        (b'plain = "yes"', "plain", "plain = true"),
        (b'stock = "no"', "stock", "stock = true"),
        (b"plain = 1", "plain", "plain = true"),
    ],
)
def test_every_error_names_the_file_the_field_and_the_fix(data: bytes, says: str, fix: str, home: Home) -> None:
    home.config_path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load_settings(home)
    assert str(home.config_path) in caught.value.message and says in caught.value.message and fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_a_folder_in_the_files_place_is_told(home: Home) -> None:
    home.config_path.mkdir()
    with pytest.raises(HomeError, match="cannot read"):
        load_settings(home)


@pytest.mark.parametrize(
    ("said", "meant"), [("", ""), ("localhost", "127.0.0.1"), ("127.8.9.1", "127.8.9.1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0")]
)
def test_addresses_to_listen_at(said: str, meant: str) -> None:
    assert numeric(said) == meant


@pytest.mark.parametrize("host", ["otter.local", "127.1", "127.0.0.1 ", "localhost.evil", "0x7f.0.0.1", "1.2.3.4:5", None, 5, True, []])
def test_names_are_not_looked_up_to_listen_at(host: object) -> None:
    with pytest.raises(UsageError, match="is no address") as caught:
        numeric(host)
    assert "--bind" in caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1"])
def test_an_open_mesh_stays_on_this_machine(host: str) -> None:
    assert loopback(host) == host
    assert place(Settings(bind=host), "open") == Place(host, "", local(host))
    assert place(Settings(), "open") == Place("127.0.0.1", "", local("127.0.0.1"))
    assert place(Settings(plain=True), "open").bind == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "8.8.8.8", "fe80::1"])
def test_beyond_this_machine_an_open_mesh_says_how_to_make_one_that_may(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        place(Settings(bind=host), "open")
    assert "mesh init" in caught.value.fix and "mesh join TOKEN" in caught.value.fix and caught.value.code == "loopback_only"


@pytest.mark.parametrize("mode", ["token", "ca"])
def test_a_guarded_mesh_listens_at_the_address_of_the_lan(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(bind: str = "") -> Choice:
        asked.append(bind)
        return Choice(LAN, (), "the only one")

    monkeypatch.setattr(interfaces, "find", find)
    assert place(Settings(), mode) == Place(LAN.address, LAN.address, LAN)
    assert place(Settings(bind=LAN.address), mode) == Place(LAN.address, LAN.address, LAN)
    assert place(Settings(bind="0.0.0.0"), mode) == Place("0.0.0.0", LAN.address, LAN), "all of them, and one that others are told"
    assert asked == ["", LAN.address, ""]
    assert place(Settings(bind="127.0.0.1"), mode) == Place("127.0.0.1", "", local("127.0.0.1")), "no interface is looked for"
    assert len(asked) == 3
    with pytest.raises(UsageError, match="plain = true is for open meshes"):
        place(Settings(plain=True, bind="127.0.0.1"), mode)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":1",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:x",
        "127.0.0.1:１",
        "127.0.0.1:-1",
        "127.0.0.1:9999999999",
        "a b:1",
        "a/b:1",
        "a\x1b[31m:1",
        "x" * 254 + ":1",
        5,
    ],
)
def test_bad_doors(address: object) -> None:
    with pytest.raises(UsageError, match="--join"):
        check_door(address)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("10.0.0.5:7710", "10.0.0.5:7710"),
        ("localhost:1", "127.0.0.1:1"),
        ("::1:7710", "[::1]:7710"),
        ("[fe80::1]:65535", "[fe80::1]:65535"),
        ("otter.local:07710", "otter.local:7710"),
    ],
)
def test_doors_of_the_lan(said: str, meant: str) -> None:
    assert check_door(said) == meant == check_door(meant)


def test_ports() -> None:
    assert list(port_pairs(9000)) == [(9000, 9001)]
    pairs = list(port_pairs())
    assert pairs[:2] == [(7710, 7711), (7712, 7713)] and len(pairs) == 200
    assert check_port(0) == 0 and check_port(65534) == 65534
    assert "9001" in ports_taken(9000).message and "7710" in ports_taken(0).message and ports_taken(0).exit_code == 2
