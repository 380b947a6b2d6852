"""systemd's user services: the text of a unit, and putting it in and out of service. The standard library only: `mesh launch` runs this
on machines where nothing is installed yet.

    mesh.service            the home's first node        mesh-node-NAME.service     another of its nodes
    mesh-run-NAME.service   a worker and its agents

Invariant: a unit that we did not write is never touched. Does not know what launchd is. Source: systemd.service(5), systemd.syntax(7).
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import MeshError, Refused, UsageError

MARK = "# Written by mesh. `mesh service remove` takes it away; a change made here is lost with the next install."
ANSWER_S = 120.0
"""A start waits until the node answers or the agent is attached; systemd itself gives up after 90 s."""
LINGER = Path("/var/lib/systemd/linger")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+,-]+")


@dataclass(frozen=True, slots=True)
class Unit:
    """One service of `home`. `words`: what is run, the program's absolute path first. `after`: another unit of ours that it wants."""

    name: str
    home: Path
    description: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    after: str = ""
    stamp: str = ""
    """What else it is made of, such as its code's hash: another stamp is another unit, and restarts it."""

    @property
    def path(self) -> Path:
        return folder() / self.name

    def text(self) -> str:
        """Raises UsageError for words that systemd cannot take."""
        lines = [
            MARK,
            f"# Home: {self.home}",
            *([f"# {self.stamp}"] if self.stamp else []),
            "[Unit]",
            f"Description={_line(self.description)}",
        ]
        lines += [f"Wants={self.after}", f"After={self.after}"] if self.after else []
        lines += ["", "[Service]", "Type=notify", f"ExecStart={' '.join(map(quote, self.words))}"]
        lines += [f"Environment={quote(f'{name}={value}', dollars=False)}" for name, value in sorted(self.environment.items())]
        lines += [f"WorkingDirectory={_path(self.directory)}"] if self.directory else []
        return "\n".join(lines) + AS_ALWAYS


AS_ALWAYS = """
Restart=on-failure
RestartSec=3
# 2: what was asked for is wrong; another try changes nothing.
RestartPreventExitStatus=2
KillMode=mixed
TimeoutStopSec=30
NoNewPrivileges=yes
UMask=0077
# A secret by systemd's own means, to be read in $CREDENTIALS_DIRECTORY (systemd-creds encrypt --user --name=NAME - FILE):
#LoadCredentialEncrypted=NAME:FILE

[Install]
WantedBy=default.target
"""


def node_unit(name: str) -> str:
    """The unit of the node `name`; "": of the home's first."""
    return f"mesh-node-{name}.service" if name else "mesh.service"


def agent_unit(name: str) -> str:
    return f"mesh-run-{name}.service"


def agent_name(targets: list[str]) -> str:
    """What the service of a worker with these targets is called: after its files, modules or agents."""
    stems = [Path(target).stem if target.endswith(".py") else target.partition(":")[0] for target in targets]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(stems)).strip("-.")[:64] or "agent"


def quote(word: str, *, dollars: bool = True) -> str:
    """`word` as systemd reads exactly that word. `dollars`: where it replaces variables, as in ExecStart. Raises UsageError."""
    if _PLAIN.fullmatch(word):
        return word
    if any(each == "\0" or "\ud800" <= each <= "\udfff" for each in word):
        raise UsageError(f"{word!r} cannot stand in a unit: it is not text", fix="rename it")
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    word = word.replace("$", "$$") if dollars else word
    return '"' + "".join(f"\\x{ord(each):02x}" if ord(each) < 32 or ord(each) == 127 else each for each in word) + '"'


def _path(text: str) -> str:
    """A path where systemd takes the rest of the line as it is. Raises UsageError for what would not be that path."""
    if not text.isprintable() or text != text.strip():
        raise UsageError(f"the folder {text!r} cannot stand in a unit", fix="rename it")
    return text.replace("%", "%%")


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text).replace("%", "%%").replace("\\", "/")


# ---- systemd


def folder() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path.home() / ".config") / "systemd" / "user"


def why_not() -> str:
    """Why this account's services cannot be managed here; "" if they can."""
    if sys.platform == "darwin":
        return "this is macOS, and mesh does not write launchd agents yet"
    answer = systemctl("show", "--property=Version")
    return "" if answer.returncode == 0 else f"systemctl --user does not answer: {_last_line(answer.stderr)}"


def account() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def lingers() -> bool:
    """Whether this account's services run without anybody logged in."""
    return (LINGER / account()).exists()


def linger() -> None:
    """Ask for that; where the machine wants an administrator for it, nothing happens: `lingers` tells."""
    _answer("loginctl", "--no-ask-password", "enable-linger")


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Never raises for what systemd answers."""
    return _answer("systemctl", "--user", "--no-pager", "--no-ask-password", *words)


def _answer(*command: str) -> subprocess.CompletedProcess[str]:
    """Over ssh the session's variables may be missing: they follow from the user id."""
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"} | os.environ
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER_S:g} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"there is no {command[0]} here")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def is_active(name: str) -> bool:
    return state(name) == "active"


def is_enabled(name: str) -> bool:
    return systemctl("is-enabled", name).stdout.strip() == "enabled"


def state(name: str) -> str:
    """systemd's word: active, failed, ...; "unknown" where it does not answer."""
    return systemctl("is-active", name).stdout.strip() or "unknown"


def pid_of(name: str) -> int:
    """The service's process, 0 if none runs."""
    pid = property_of(name, "MainPID")
    return int(pid) if pid.isdigit() else 0


def words_of(name: str) -> str:
    """What the unit runs, as its file has it."""
    lines = (folder() / name).read_text(errors="replace").splitlines()
    return next((line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")), "")


def property_of(name: str, what: str) -> str:
    return systemctl("show", "--value", f"--property={what}", name).stdout.strip()


def is_written(name: str) -> bool:
    return (folder() / name).exists()


def write(unit: Unit) -> bool:
    """Put the unit's file in place; False if it is there already, the same. Raises Refused for a file that we did not write."""
    text, path = unit.text(), unit.path
    found = path.read_text(errors="replace") if path.exists() else None
    if found == text:
        return False
    if found is not None and not found.startswith(MARK):
        raise Refused(f"{path} was not written by mesh", fix=f"mv {path} {path}.old")
    if found is not None and found.splitlines()[1] != text.splitlines()[1]:
        raise Refused(f"{path} serves another home", fix=f"another --name, or: systemctl --user disable --now {unit.name}; rm {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    os.replace(fresh, path)
    return True


def enable(name: str) -> None:
    """Read the units again, and let this one start with the account's services. Raises MeshError."""
    for words in (("daemon-reload",), ("enable", name)):
        answer = systemctl(*words)
        if answer.returncode != 0:
            raise MeshError(f"systemctl --user {' '.join(words)}: {_last_line(answer.stderr)}", fix=f"systemctl --user status {name}")


def restart(name: str) -> None:
    """Start the service, or start it again; returns once it is ready. Raises MeshError with its last words."""
    systemctl("reset-failed", name)
    answer = systemctl("restart", name)
    if answer.returncode != 0:
        words = property_of(name, "StatusText") or _last_line(answer.stderr)
        raise MeshError(f"the service {name} did not start: {words}", fix=f"journalctl --user -u {name}")


def remove(name: str) -> bool:
    """Stop it, disable it, remove its file; False if there was none. Raises Refused for a file that we did not write."""
    path = folder() / name
    if not path.exists():
        return False
    if not path.read_text(errors="replace").startswith(MARK):
        raise Refused(f"{path} was not written by mesh", fix=f"systemctl --user disable --now {name}")
    systemctl("disable", "--now", name)
    path.unlink()
    (folder() / "default.target.wants" / name).unlink(missing_ok=True)  # where systemd did not answer
    systemctl("daemon-reload")
    systemctl("reset-failed", name)
    return True


def ours() -> list[str]:
    """Every unit here that mesh wrote, by name."""
    return sorted(path.name for path in folder().glob("mesh*.service") if path.read_text(errors="replace").startswith(MARK))
