"""What a node is told when it starts: command line first, then ``config.toml`` in its home, then defaults.

    port = 7710                     # the door; the ROUTER takes the next one
    join = ["127.0.0.1:7712"]       # doors to dial, for ever
    mdns = false
    bind = "192.168.1.20"           # which of this machine's addresses; else chosen (`interfaces.py`), and loopback in an open mesh
    advertise = "public"            # mDNS: names, not only tags
    stock = false                   # do not run what nodes run by themselves: flows (`stock.py`)
    role = ["coordinator"]          # what it offers to be besides: the mesh's coordinator (docs/operations.md, With a coordinator)
    notify = ["notify-send"]        # run when a gate begins to wait at this node (`notices.py`)
    kek = "auto"                    # what opens the vault: keyring, passphrase, credential, file, or the first of these that is there

Every error names the file, the field and what to write. Invariant: in an open mesh nothing listens beyond loopback: its keys are
throw-away. Does not read keys.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.errors import UsageError
from mesh.runtime.disk.kek import SOURCES
from mesh.runtime.home import Home, HomeError, write_atomic
from mesh.runtime.lan import interfaces

PORT = 7710
ROLES = ("coordinator",)
PAIRS_MAX = 200
"""Port pairs tried beginning at PORT: more nodes than anybody runs on one machine by hand."""
CONFIG_BYTES_MAX = 64 * 1024
JOIN_MAX = 64
_BIND_LINE = re.compile(r"\s*[\"']?bind[\"']?\s*=")
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


@dataclass(frozen=True, slots=True)
class Settings:
    """`bind` "": by the mesh's mode. `port` 0: the first free pair from 7710. `join`: doors as ``host:port``. `kek`: see `kek.py`."""

    bind: str = ""
    port: int = 0
    join: tuple[str, ...] = ()
    mdns: bool = True
    advertise: str = ""
    """What mDNS records show: ``public`` (names) or ``blinded`` (tags for members only); "": public in an open mesh, else blinded."""
    plain: bool = False
    """No encryption: for benchmarks, on loopback, in an open mesh."""
    kek: str = "auto"
    stock: bool = True
    """Offer what every node offers by itself."""
    notify: tuple[str, ...] = ()
    """A command, in words, that is run when a gate begins to wait here (`notices.py`)."""
    role: tuple[str, ...] = ()
    """What it offers to be besides a node like any other, of `ROLES`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node listens (`bind`), and the address it tells others."""

    bind: str
    address: str
    interface: interfaces.Interface


def load_settings(
    home: Home,
    *,
    bind: str | None = None,
    port: int | None = None,
    join: tuple[str, ...] = (),
    mdns: bool | None = None,
    role: tuple[str, ...] = (),
) -> Settings:
    """Options given on the command line win over the file. Raises UsageError, or HomeError for the file."""
    found = _read(home.config_path)
    where = f"{home.config_path}: "
    chosen_bind = numeric(bind, "--bind") if bind is not None else numeric(found.get("bind", ""), where + "bind")
    chosen_port = check_port(port, "--port") if port is not None else check_port(found.get("port", 0), where + "port")
    doors = _doors(join, "--join") if join else _doors(found.get("join", []), where + "join")
    chosen_mdns = mdns if mdns is not None else found.get("mdns", True)
    advertise = found.get("advertise", "")
    if advertise not in ("", "public", "blinded"):
        raise HomeError(f"{where}advertise: {advertise!r} is neither public nor blinded", fix='advertise = "blinded"')
    stock = found.get("stock", True)
    for name, value in (("mdns", chosen_mdns), ("plain", found.get("plain", False)), ("stock", stock)):
        if not isinstance(value, bool):
            raise HomeError(f"{where}{name}: {value!r} is neither true nor false", fix=f"{name} = true")
    kek, notify = _kek(found.get("kek", "auto"), where + "kek"), _words(found.get("notify", []), where + "notify")
    chosen_role = check_roles(role, "--role") if role else check_roles(found.get("role", []), where + "role")
    return Settings(chosen_bind, chosen_port, doors, chosen_mdns, advertise, found.get("plain", False), kek, stock, notify, chosen_role)


def remember_bind(home: Home, bind: str) -> None:
    """Write the address into the file, for every later start in this home; the rest of it stays as it is. Raises HomeError, UsageError."""
    path, bind = home.config_path, numeric(bind)
    before = _read(path)
    if before.get("bind") == bind:
        return
    text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    kept = [line for line in text.splitlines(keepends=True) if not _BIND_LINE.match(line)]
    text = f'bind = "{bind}"\n{"".join(kept)}'
    try:
        ok = tomllib.loads(text) == before | {"bind": bind}
    except tomllib.TOMLDecodeError:
        ok = False
    if not ok:
        raise HomeError(f"{path} cannot be changed by this: it says bind in a way of its own", fix=f'write bind = "{bind}" into {path}')
    write_atomic(path, text.encode())


def numeric(host: Any, option: str = "--bind") -> str:
    """`host` as a numeric address; "" stays. Raises UsageError: names are not looked up to listen at."""
    if host in ("", "localhost"):
        return "127.0.0.1" if host else ""
    try:
        if isinstance(host, str):
            return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    raise UsageError(f"{option}: {host!r} is no address", fix="--bind 192.168.1.20, one of this machine's own: ip -brief address")


def place(settings: Settings, mode: str) -> Place:
    """Where a node of a mesh in this mode listens. Raises UsageError: an open mesh stays on its machine; no address fits."""
    if mode == "open":
        host = loopback(settings.bind or "127.0.0.1")
        return Place(host, "", interfaces.local(host))
    if settings.plain:
        raise UsageError(f"plain = true is for open meshes; this one is in mode {mode}", fix="remove plain from config.toml")
    if settings.bind and ipaddress.ip_address(settings.bind).is_loopback:
        return Place(settings.bind, "", interfaces.local(settings.bind))
    choice = interfaces.find("" if settings.bind == "0.0.0.0" else settings.bind)
    return Place(settings.bind or choice.address, choice.address, choice.interface)


def loopback(host: str, option: str = "--bind") -> str:
    """`host`, a loopback address. Raises UsageError for anything else: a node of an open mesh stays on its machine."""
    if host and ipaddress.ip_address(host).is_loopback:
        return host
    raise not_on_a_lan(host, option=option)


def not_on_a_lan(host: str, more: str = "", fix: str = "", *, option: str = "--bind") -> UsageError:
    """The error for whoever wants an open mesh beyond its machine."""
    return UsageError(
        f"{option} {host}: this mesh is open (throw-away keys, for this machine only), so its nodes listen on this machine only{more}",
        fix=fix or "mesh init (a mesh of your own on the LAN), or mesh join TOKEN (from `mesh invite` on a machine of another)",
        code="loopback_only",
    )


def check_port(port: Any, option: str = "--port") -> int:
    """A door's port; 0: the first free pair. The ROUTER takes the next one. Raises UsageError."""
    if isinstance(port, bool) or not isinstance(port, int) or not (port == 0 or 1 <= port <= 65534):
        raise UsageError(
            f"{option}: {port!r} is no port for a pair: 1 to 65534, or 0 for the first free pair from {PORT}", fix=f"--port {PORT}"
        )
    return port


def check_door(address: Any, option: str = "--join") -> str:
    """A door's address ``host:port``: numeric, or a name of the LAN. Raises UsageError."""
    host, colon, digits = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    host = host.removeprefix("[").removesuffix("]")
    fix = f"{option} 192.168.1.20:{PORT}" if option.startswith("--") else f'join = ["192.168.1.20:{PORT}"]'
    if not colon or not host or not digits.isascii() or not digits.isdigit() or not 0 < int(digits[:6]) < 65536:
        raise UsageError(f"{option}: {address!r} is no HOST:PORT", fix=fix)
    if host == "localhost":
        host = "127.0.0.1"
    if not _HOST.fullmatch(host):
        raise UsageError(f"{option}: {host!r} is no name of a host", fix=fix)
    return f"[{host}]:{int(digits)}" if ":" in host else f"{host}:{int(digits)}"


def port_pairs(port: int = 0) -> Iterator[tuple[int, int]]:
    """``(door, router)`` ports to try to bind, in order: the given pair only, or 7710 and 7711, 7712 and 7713, ..."""
    if port:
        yield port, port + 1
        return
    for first in range(PORT, PORT + 2 * PAIRS_MAX, 2):
        yield first, first + 1


def ports_taken(port: int) -> UsageError:
    """The error for when no pair could be bound."""
    if port:
        return UsageError(f"port {port} or {port + 1} is taken", fix="leave --port out: the next free pair is taken", code="port_taken")
    last = PORT + 2 * PAIRS_MAX - 1
    return UsageError(
        f"no free pair of ports from {PORT} to {last}", fix="mesh nodes, then mesh down for those not needed", code="port_taken"
    )


def load_kek(home: Home) -> str:
    """The configured source of the vault's key alone, for those who need no ports. Raises HomeError."""
    return _kek(_read(home.config_path).get("kek", "auto"), f"{home.config_path}: kek")


def _kek(source: Any, where: str) -> str:
    if source not in ("auto", *SOURCES):
        raise HomeError(f"{where}: {source!r} is no source of a key: auto, {', '.join(SOURCES)}", fix='kek = "auto"')
    return str(source)


def check_roles(roles: Any, option: str = "--role") -> tuple[str, ...]:
    """What a node offers to be besides. Raises UsageError."""
    wanted = [roles] if isinstance(roles, str) else roles
    if not isinstance(wanted, list | tuple):
        raise UsageError(f"{option}: a list of roles is wanted", fix='role = ["coordinator"]')
    for one in wanted:
        if one not in ROLES:
            raise UsageError(f"{option}: there is no role {one!r} for a node; there is {', '.join(ROLES)}", fix=f"--role {ROLES[0]}")
    return tuple(dict.fromkeys(wanted))


def _words(command: Any, where: str) -> tuple[str, ...]:
    if not isinstance(command, list) or not all(isinstance(word, str) and word and "\0" not in word for word in command):
        raise HomeError(f"{where}: a command is a list of words", fix='notify = ["notify-send", "mesh"]')
    return tuple(command)


def _doors(addresses: Any, option: str) -> tuple[str, ...]:
    if not isinstance(addresses, list | tuple) or len(addresses) > JOIN_MAX:
        raise UsageError(f"{option}: a list of at most {JOIN_MAX} addresses is wanted", fix=f'join = ["127.0.0.1:{PORT}"]')
    return tuple(check_door(address, option) for address in addresses)


def _read(path: Path) -> dict[str, Any]:
    """The file's table, {} where there is no file. Raises HomeError."""
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HomeError(f"cannot read {path}: {error.strerror}", fix=f"chmod u+r {path}, or remove it") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise HomeError(f"{path} is larger than {CONFIG_BYTES_MAX // 1024} KiB: this is no configuration", fix=f"move {path} away")
    try:
        table = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        problem = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is not TOML: {error}"
        raise HomeError(f"{path} {problem}", fix=f"correct or remove {path}") from None
    known = Settings.__slots__
    for field in table:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1)
            hint = f"write {near[0]}" if near else f"remove it; known are {', '.join(sorted(known))}"
            raise HomeError(f"{path}: field {field!r} is unknown", fix=hint)
    return table
