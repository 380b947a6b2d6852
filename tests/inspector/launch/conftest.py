"""Two machines behind a real sshd each, on loopback: `nas`, where systemd runs user services, and `box`, where it does not.

    ssh -F CONFIG nas  ->  127.0.0.1:PORT  sshd in a mount namespace of its own  ->  bash, sh, python, pip, and systemd --user, all real

Each has a HOME, a /run and a host key of its own. They share this machine's files and its loopback, and nothing else is reached. A mount
namespace needs root; sshd is Debian's openssh-server. Without either, the tests that need them are skipped, and say so.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.inspector.launch import carry_out, prepare
from mesh.launch import command_line, end

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SYSTEMD = Path("/lib/systemd/systemd")
WAIT_S = 30.0
LAUNCH_S = 500.0

SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/../user_key.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
SetEnv {environment}
"""
SSH_CONFIG = """\
Host *
    HostName 127.0.0.1
    User root
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking ask
    ControlPath none
"""
INSIDE = """\
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/user/$(id -u)
chmod 700 /run/user/$(id -u)
if [ "$1" = systemd ]; then
    mkdir -p /run/systemd/system
    mount -t tmpfs tmpfs /var/lib/systemd
    mkdir /var/lib/systemd/linger
    touch /var/lib/systemd/linger/$(id -un)
    XDG_RUNTIME_DIR=/run/user/$(id -u) HOME=$2/home setsid /lib/systemd/systemd --user >$2/systemd.log 2>&1 &
    echo $! >$2/systemd.pid
fi
exec "$3" -D -e -f $2/sshd_config 2>$2/sshd.log
"""
"""A manager of user services believes that it is needed where /run/systemd/system is; that one exists in this namespace only."""


@dataclass(frozen=True)
class Machine:
    """One of them, looked at from outside."""

    name: str
    folder: Path
    port: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def launched(self) -> Path:
        return self.home / ".local/share/lanmesh/launch"

    def processes(self) -> dict[int, str]:
        """Those of ours that run for its home: pid -> command line."""
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        lines = {number: command_line(number) for number in numbers if number != os.getpid()}
        wanted = os.fsencode(self.home)
        return {pid: line.decode(errors="replace").replace("\0", " ") for pid, line in lines.items() if wanted in line and b"inspector" in line}

    def pids(self, verb: str) -> list[int]:
        """The processes of nodes (`up`) or workers (`run`) there."""
        return sorted(pid for pid, line in self.processes().items() if f"mesh.inspector.cli {verb} " in line)

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of its home that a repeated launch must not touch: name -> inode, time of change. Node folders change by themselves."""
        lanmesh = self.home / ".local/share/lanmesh"
        moving = (lanmesh / "node", lanmesh / "nodes", self.launched / "lock")
        return {
            str(path.relative_to(self.home)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and not any(path.is_relative_to(each) for each in moving) and "__pycache__" not in path.parts
        }


@dataclass(frozen=True)
class Site:
    """The machines, and the ssh configuration that leads to them."""

    folder: Path
    nas: Machine
    box: Machine

    @property
    def ssh(self) -> tuple[str, ...]:
        return ("ssh", "-F", str(self.folder / "ssh_config"))

    def launch(self, *hosts: str, words: str = "up --no-mdns", timeout_s: float = LAUNCH_S, **more: Any) -> list[dict[str, Any]]:
        """What `mesh launch HOSTS -- WORDS` does after it has found out which mesh to join: these join none. A document per host."""
        job = prepare(shlex.split(words), more.pop("extras", []), more.pop("packages", []), **more)
        document = asyncio.run(carry_out(job, self.ssh, list(hosts), timeout_s, quiet=True))
        assert document["schema"] == "mesh.launch/1"
        return list(document["hosts"])

    def one(self, host: str, words: str = "up --no-mdns", **more: Any) -> dict[str, Any]:
        (report,) = self.launch(host, words=words, **more)
        return report


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if SSHD is None:
        pytest.skip("NOT TESTED: launching over a real sshd; there is none here: apt-get install openssh-server")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("NOT TESTED: launching over a real sshd; it runs in a mount namespace, which needs root")
    folder = Path(tempfile.mkdtemp(prefix="mesh-launch-"))
    running: list[subprocess.Popen[bytes]] = []
    try:
        _key(folder / "user_key")
        _key(folder / "other_key")
        machines = {name: _machine(folder / name, systemd=name == "nas", running=running) for name in ("nas", "box")}
        found = Site(folder, **machines)
        _write_ssh_config(found)
        yield found
    finally:
        for name in ("nas", "box"):
            _stop(Machine(name, folder / name, 0))
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
        shutil.rmtree(folder)


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _machine(folder: Path, *, systemd: bool, running: list[subprocess.Popen[bytes]]) -> Machine:
    folder.mkdir()
    (folder / "home").mkdir(mode=0o700)
    (folder / "home/.bashrc").write_text("echo a login script that talks\necho 'mesh-launched from here' >&2\n")
    _key(folder / "host_key")
    environment = {
        "HOME": folder / "home",
        "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",
        "PIP_CACHE_DIR": folder.parent / "pip-cache",
        "PIP_CONFIG_FILE": _pip_config(folder.parent),
    }
    port = _free_port()
    assigned = " ".join(f"{name}={value}" for name, value in environment.items())
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder, environment=assigned))
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh", "systemd" if systemd else "bare", str(folder)]
    process = subprocess.Popen([*command, str(SSHD)], stdin=subprocess.DEVNULL)
    running.append(process)
    _await_banner(port, process, folder / "sshd.log")
    return Machine(folder.name, folder, port)


def _pip_config(folder: Path) -> Path:
    """This machine's pip settings, which pip finds by a HOME that is another one over there."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings = [line.removeprefix("global.").partition("=") for line in listed.splitlines() if line.startswith("global.")]
    path = folder / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{name} = {value.strip(chr(39))}\n" for name, _, value in settings))
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_banner(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as line:
                if line.recv(4) == b"SSH-":
                    return
        except OSError:
            continue
    raise AssertionError(f"sshd says nothing: {log.read_text()}")


def _write_ssh_config(site: Site) -> None:
    folder, nas, box = site.folder, site.nas, site.box

    def known(machine: Machine, key: Path) -> str:
        words = key.with_suffix(".pub").read_text().split()
        return f"[127.0.0.1]:{machine.port} {words[0]} {words[1]}\n"

    (folder / "known_hosts").write_text(known(nas, nas.folder / "host_key") + known(box, box.folder / "host_key"))
    (folder / "known_wrong").write_text(known(nas, box.folder / "host_key"))
    # ssh takes the first value it finds, so what differs stands before what all have.
    hosts = {
        "nas": [f"Port {nas.port}"],
        "box": [f"Port {box.port}"],
        "impostor": [f"Port {nas.port}", f"UserKnownHostsFile {folder}/known_wrong"],
        "unknown": [f"Port {nas.port}", "UserKnownHostsFile /dev/null"],
        "locked": [f"Port {nas.port}", f"IdentityFile {folder}/other_key"],
        "nobody": [f"Port {_free_port()}"],
        "forwarding": [f"Port {nas.port}", "RemoteCommand date", "LocalForward 1 127.0.0.1:1", "ExitOnForwardFailure yes"],
    }
    blocks = "".join(f"Host {name}\n" + "".join(f"    {line}\n" for line in lines) for name, lines in hosts.items())
    (folder / "ssh_config").write_text(blocks + SSH_CONFIG.format(folder=folder))


def _stop(machine: Machine) -> None:
    """Whatever a test left there: its manager of services, then each process of ours by its pid."""
    pid_file = machine.folder / "systemd.pid"
    pids = [int(pid_file.read_text())] if pid_file.exists() else []
    for pid in pids:
        end(pid)
    _await_gone(lambda: any(command_line(pid) for pid in pids))
    for pid in machine.processes():
        end(pid, signal.SIGKILL)
    _await_gone(machine.processes)


def _await_gone(some: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while some():
        assert time.monotonic() < until, "processes of a test do not end"
        time.sleep(0.02)


@pytest.fixture
def nas(site: Site) -> Iterator[Machine]:
    """The machine with user services, as it was before anything was launched there."""
    yield from _clean(site, site.nas)


@pytest.fixture
def box(site: Site) -> Iterator[Machine]:
    """The machine without."""
    yield from _clean(site, site.box)


def _clean(site: Site, machine: Machine) -> Iterator[Machine]:
    yield machine
    (report,) = site.launch(machine.name, down=True, purge=True)
    assert report["state"] != "failed", report
    _await_gone(machine.processes)
