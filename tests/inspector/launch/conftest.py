"""Three machines behind a real sshd each, on loopback: `nas`, where systemd runs user services, `box`, where it does not, and `poor`,
which has no program of its own and a Python without ensurepip.

    ssh -F CONFIG nas  ->  127.0.0.1:PORT  sshd in a mount namespace of its own  ->  bash, sh, python, pip, and systemd --user, all real

Each has a HOME, a /run and a host key of its own. They share this machine's files and its loopback, and nothing else is reached: the index
that their pip installs from is a folder with what is installed here, packed again (``offline`` has none, ``stuck`` one that never answers).
A mount namespace needs root; sshd is Debian's openssh-server. Without either, the tests that need them are skipped, and say so.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from mesh.inspector.launch import carry_out, prepare
from mesh.inspector.wheel import pins
from mesh.launch import command_line, end

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
NAMES = ("nas", "box", "poor")
PYTHON = f"{sys.base_prefix}/bin/python3"
OLD_PYTHONS = sorted(Path(sys.base_prefix).parent.glob("3.[6-9].*/bin/python3")) + sorted(
    Path(sys.base_prefix).parent.glob("3.10.*/bin/python3")
)
POOR = {
    "pythonless": {"sh": "/bin/sh", "apt-get": "/usr/bin/apt-get"},
    "penniless": {"sh": "/bin/sh"},
    "venvless": {"sh": "/bin/sh", "apt-get": "/usr/bin/apt-get", "python3": PYTHON},
    "outdated": {"sh": "/bin/sh", "python3": str(OLD_PYTHONS[-1])} if OLD_PYTHONS else {"sh": "/bin/sh"},
}
"""Hosts on `poor`: what is on the PATH of each."""
PACKAGE = "sortedcontainers"
"""What an agent may need beside lanmesh: pure Python, and here because of hypothesis."""
WAIT_S = 30.0
LAUNCH_S = 500.0

SSHD_CONFIG = """\
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/../user_key.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
"""
SSH_CONFIG = """\
Host *
    HostName 127.0.0.1
    User root
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
if [ "$1" = poor ]; then
    mount -t tmpfs tmpfs /usr/local/bin
    echo 'raise ModuleNotFoundError("as Debian has it without python3-venv")' >$2/no_ensurepip.py
    mount --bind $2/no_ensurepip.py $4/ensurepip/__init__.py
fi
if [ "$1" = nas ]; then
    mkdir -p /run/systemd/system
    mount -t tmpfs tmpfs /var/lib/systemd
    mkdir /var/lib/systemd/linger
    touch /var/lib/systemd/linger/$(id -un)
    (
        for tree in $5; do mkdir $tree && echo 0 >$tree/cgroup.procs; done
        export XDG_RUNTIME_DIR=/run/user/$(id -u) HOME=$2/home
        exec setsid /lib/systemd/systemd --user >$2/systemd.log 2>&1
    ) &
    echo $! >$2/systemd.pid
fi
exec "$3" -D -e -f $2/sshd_config 2>$2/sshd.log
"""
"""A manager of user services believes that it is needed where /run/systemd/system is; that one exists in this namespace only. It gets a
control group of its own: otherwise it would sort every process of this machine into its own order."""


@dataclass(frozen=True)
class Machine:
    """One of them, looked at from outside."""

    name: str
    folder: Path
    ports: dict[str, int]
    """By the names under which ssh knows it: what a session's PATH is depends on the port it came in by."""
    sshd: int

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
        return {pid: line.decode(errors="replace").replace("\0", " ") for pid, line in lines.items() if wanted in line}

    def pids(self, verb: str) -> list[int]:
        """The processes of nodes (`up`) or workers (`run`) there."""
        return sorted(pid for pid, line in self.processes().items() if f"mesh.inspector.cli {verb} " in line)

    def await_idle(self) -> None:
        await_gone(self.processes)

    def inside(self, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there, as one who is logged in."""
        environment = os.environ | {"HOME": str(self.home), "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
        words = ["nsenter", f"--mount=/proc/{self.sshd}/ns/mnt", f"--wdns={more.pop('cwd', self.home)}", *command]
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False, **more)

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file that a repeated launch must not touch: name -> inode, time of change. A node's own folder changes by itself."""
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
    poor: Machine

    @property
    def ssh(self) -> tuple[str, ...]:
        return ("ssh", "-F", str(self.folder / "ssh_config"))

    def keep_installed(self, machine: Machine) -> None:
        """What pip has put there is kept for other tests: to install it takes longer than all that they do with it."""
        shutil.copytree(machine.launched / "versions", self.folder / "versions", symlinks=True)

    def install(self, machine: Machine) -> bool:
        """As an earlier launch would have left it, if a test has kept that."""
        if there := (self.folder / "versions").exists():
            shutil.copytree(self.folder / "versions", machine.launched / "versions", symlinks=True)
        return there

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
        names = {"nas": ["nas"], "box": ["box", "offline", "stuck"], "poor": list(POOR)}
        with socket.create_server(("127.0.0.1", 0)) as silent:
            indexes = _indexes(folder / "index", silent.getsockname()[1])
            machines = {name: _machine(folder / name, {each: indexes.get(each, {}) for each in names[name]}, running) for name in NAMES}
            found = Site(folder, **machines)
            _write_ssh_config(found)
            yield found
    finally:
        for name in NAMES:
            _stop(Machine(name, folder / name, {}, 0))
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
        shutil.rmtree(folder)


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _machine(folder: Path, names: dict[str, dict[str, object]], running: list[subprocess.Popen[bytes]]) -> Machine:
    folder.mkdir()
    (folder / "home").mkdir(mode=0o700)
    (folder / "home/.bashrc").write_text("echo a login script that talks\necho 'mesh-launched from here' >&2\n")
    _key(folder / "host_key")
    ports = {name: _free_port() for name in names}
    config = "".join(f"Port {port}\n" for port in ports.values()) + SSHD_CONFIG.format(folder=folder)
    for name, port in ports.items():
        environment = " ".join(f"{variable}={value}" for variable, value in (_environment(folder, name) | names[name]).items())
        config += f"Match LocalPort {port}\nSetEnv {environment}\n"
    (folder / "sshd_config").write_text(config)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh", folder.name, str(folder), str(SSHD)]
    groups = " ".join(map(str, _control_groups(folder)))
    process = subprocess.Popen([*command, sysconfig.get_path("stdlib"), groups], stdin=subprocess.DEVNULL)
    running.append(process)
    for port in ports.values():
        _await_banner(port, process, folder / "sshd.log")
    return Machine(folder.name, folder, ports, process.pid)


def _environment(folder: Path, name: str) -> dict[str, object]:
    """What is set in the sessions of the host `name`."""
    if name in POOR:
        return {"HOME": folder / "home", "PATH": _programs(folder / f"bin-{name}", POOR[name])}
    return {"HOME": folder / "home", "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin", "PIP_CONFIG_FILE": os.devnull}


def _control_groups(folder: Path) -> list[Path]:
    """A folder of ours in each tree that systemd puts its services into."""
    trees = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
    return [Path(tree) / folder.parent.name for tree in trees if os.access(f"{tree}/cgroup.procs", os.W_OK)]


def _indexes(folder: Path, silent: int) -> dict[str, dict[str, object]]:
    """Where the pip of each host finds packages; nobody answers at the port `silent`."""
    _pack_again(folder)
    full: dict[str, object] = {"PIP_NO_INDEX": 1, "PIP_FIND_LINKS": folder}
    return {"nas": full, "box": full, "offline": {"PIP_NO_INDEX": 1}, "stuck": {"PIP_INDEX_URL": f"http://127.0.0.1:{silent}"}}


def _pack_again(folder: Path) -> None:
    """A wheel of each package that lanmesh needs, and of PACKAGE, out of the files that pip put here."""
    folder.mkdir()
    for pin in pins([], [PACKAGE]):
        name, _, version = pin.partition("==")
        found = distribution(name)
        tags = re.findall("^Tag: (.+)-(.+)-(.+)$", found.read_text("WHEEL") or "", re.MULTILINE)
        tag = "-".join(".".join(sorted(set(part))) for part in zip(*tags, strict=True))
        with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-{tag}.whl", "w") as archive:
            for file in found.files or ():
                if ".." not in file.parts and file.name not in ("INSTALLER", "REQUESTED", "direct_url.json") and file.suffix != ".pyc":
                    archive.write(str(file.locate()), file.as_posix())


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

    def known(machine: Machine, host_key: Path) -> str:
        words = host_key.with_suffix(".pub").read_text().split()
        return "".join(f"[127.0.0.1]:{port} {words[0]} {words[1]}\n" for port in machine.ports.values())

    (folder / "known_hosts").write_text("".join(known(each, each.folder / "host_key") for each in (nas, box, site.poor)))
    (folder / "known_wrong").write_text(known(nas, box.folder / "host_key"))
    hosts = {name: [f"Port {port}"] for machine in (nas, box, site.poor) for name, port in machine.ports.items()}
    # ssh takes the first value it finds, so what differs stands before what all have.
    same = f"Port {nas.ports['nas']}"
    hosts |= {
        "impostor": [same, f"UserKnownHostsFile {folder}/known_wrong"],
        "unknown": [same, "UserKnownHostsFile /dev/null"],
        "locked": [same],
        "nobody": [f"Port {_free_port()}"],
        "forwarding": [same, "RemoteCommand date", "LocalForward 1 127.0.0.1:1", "ExitOnForwardFailure yes"],
    }
    for name, lines in hosts.items():
        lines.append(f"IdentityFile {folder}/{'other' if name == 'locked' else 'user'}_key")
    blocks = "".join(f"Host {name}\n" + "".join(f"    {line}\n" for line in lines) for name, lines in hosts.items())
    (folder / "ssh_config").write_text(blocks + SSH_CONFIG.format(folder=folder))


def _programs(folder: Path, programs: dict[str, str]) -> Path:
    """A folder with these programs alone: name -> what it is a link to."""
    folder.mkdir()
    for name, program in programs.items():
        (folder / name).symlink_to(program)
    return folder


def _stop(machine: Machine) -> None:
    """Whatever a test left there: its manager of services, then each process of ours by its pid."""
    pid_file = machine.folder / "systemd.pid"
    pids = [int(pid_file.read_text())] if pid_file.exists() else []
    for pid in pids:
        end(pid)
    await_gone(lambda: any(command_line(pid) for pid in pids))
    for pid in machine.processes():
        end(pid, signal.SIGKILL)
    await_gone(machine.processes)
    for group in _control_groups(machine.folder):
        for place in sorted(group.rglob("**/"), reverse=True):  # the deepest first
            place.rmdir()


def await_gone(some: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while some():
        assert time.monotonic() < until, "processes of a test do not end"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def manager(site: Site) -> Machine:
    """`nas`, once its manager of user services answers."""
    until = time.monotonic() + WAIT_S
    while site.nas.inside("systemctl", "--user", "show", "--property=Version").returncode != 0:
        if time.monotonic() > until:
            log = (site.nas.folder / "systemd.log").read_text().splitlines() or ["it says nothing"]
            pytest.skip(f"NOT TESTED: user services; systemd does not manage any in a namespace here: {log[-1]}")
    return site.nas


@pytest.fixture
def nas(site: Site, manager: Machine) -> Iterator[Machine]:
    """The machine with user services, as it was before anything was launched there."""
    yield from _clean(site, manager)


@pytest.fixture
def box(site: Site) -> Iterator[Machine]:
    """The machine without."""
    yield from _clean(site, site.box)


def _clean(site: Site, machine: Machine) -> Iterator[Machine]:
    yield machine
    (report,) = site.launch(machine.name, down=True, purge=True)
    assert report["state"] != "failed", report
    await_gone(machine.processes)
