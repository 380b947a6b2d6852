"""Options, config.toml, ports: what is taken, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import UsageError
from mesh.runtime.home import Home, HomeError
from mesh.runtime.settings import Settings, check_door, check_port, load_kek, load_settings, loopback, port_pairs, ports_taken


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_defaults_file_and_options(home: Home) -> None:
    assert load_settings(home) == Settings("127.0.0.1", 0, (), True, "auto")
    home.config_path.write_text(
        'port = 7800\njoin = ["127.0.0.1:7710", "localhost:7712", "[::1]:7714"]\nmdns = false\nbind = "::1"\nkek = "file"\n'
    )
    assert load_settings(home) == Settings("::1", 7800, ("127.0.0.1:7710", "127.0.0.1:7712", "[::1]:7714"), False, "file")
    assert load_kek(home) == "file"
    given = load_settings(home, bind="127.0.0.2", port=0, join=("127.0.0.1:9",), mdns=True)
    assert given == Settings("127.0.0.2", 0, ("127.0.0.1:9",), True, "file")


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
        (b"colour = 1", "field 'colour' is unknown", "known are bind, join, kek, mdns, port"),
        (b'port = "7710"', "port", "--port"),
        (b"port = true", "port", "--port"),
        (b"port = -1", "port", "--port"),
        (b"port = 65535", "port", "--port"),
        (b"port = 7.5", "port", "--port"),
        (b"port = nan", "port", "--port"),
        (b'kek = "memory"', "no source of a key: auto, keyring, passphrase", 'kek = "auto"'),
        (b"kek = 1", "kek", 'kek = "auto"'),
        (b'mdns = "no"', "mdns", "mdns = true"),
        (b"mdns = 0", "mdns", "mdns = true"),
        (b'join = "127.0.0.1:7710"', "join", "join = ["),
        (b"join = [7710]", "join", "--join"),
        (b'join = ["127.0.0.1"]', "join", "--join"),
        (b'bind = "0.0.0.0"', "bind", "mesh init"),
        (b"bind = 5", "bind", "mesh init"),
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


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_addresses(host: str) -> None:
    assert loopback(host) == host
    assert loopback("localhost") == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "otter.local", "127.1", "", "127.0.0.1 ", "localhost.evil", None, 5, "0x7f.0.0.1"]
)
def test_everything_else_stays_closed_and_says_when_it_comes(host: object) -> None:
    with pytest.raises(UsageError) as caught:
        loopback(host)
    assert "mesh init" in caught.value.fix and caught.value.code == "loopback_only"


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
        5,
    ],
)
def test_bad_doors(address: object) -> None:
    with pytest.raises(UsageError, match="--join"):
        check_door(address)


def test_doors_outside_this_machine_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--join 10\.0\.0\.5"):
        check_door("10.0.0.5:7710")


def test_ports() -> None:
    assert list(port_pairs(9000)) == [(9000, 9001)]
    pairs = list(port_pairs())
    assert pairs[:2] == [(7710, 7711), (7712, 7713)] and len(pairs) == 200
    assert check_port(0) == 0 and check_port(65534) == 65534
    assert "9001" in ports_taken(9000).message and "7710" in ports_taken(0).message and ports_taken(0).exit_code == 2
