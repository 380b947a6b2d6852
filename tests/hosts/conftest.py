"""A LAN of its own for each test: machines are network namespaces, joined by a bridge in one more. This machine's own is not touched.

    otter [eth0 10.77.0.1] ---+
    heron [eth0 10.77.0.2] ---+--- br0 <--- capture(): every frame that passes, as a pcap file
    lynx  [eth0 10.77.0.3] ---+

A namespace lives as long as the process that holds it, and that one ends with this one: nothing has a name outside, so two runs cannot
collide and nothing is left behind. A machine has a host name, a HOME and a loopback of its own; clock, processes and files are shared. One
that is cut off keeps its link and hears nothing, as behind a failed switch. When a test is over, all that runs inside is killed by its pid.

Needs root and Linux; where they are missing these tests are skipped and say so.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from zmq.utils import z85

HERE = Path(__file__).parent
CLI = (sys.executable, "-m", "mesh.inspector.cli")
NAMES = ("otter", "heron", "lynx", "wren", "marten", "osprey")
LIMIT_S = 60.0
LOOK_EVERY_S = 0.02
LOG_TAIL = 6000
CLONE_NEWNET = 0x40000000
ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_MR_PROMISC = 263, 1, 6, 1
SO_RCVBUFFORCE = 33
CANARY_BYTES_MIN = 11
BUFFER_BYTES = 64 * 1024 * 1024
HOLD = 'hostname "$1" && ip link set lo up && exec cat'
"""What holds a namespace: answers each line with the same line, and ends when this process does."""


def until(done: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until that is so: for what tells nobody."""
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, f"gave up waiting for {what} after {limit_s:g} s"
        time.sleep(LOOK_EVERY_S)


class Namespace:
    """A network and a host name of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        words = ["unshare", "--net", "--uts", "sh", "-c", HOLD, "sh", name]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.path = f"/proc/{self._holder.pid}/ns/net"
        self.inside = ("nsenter", f"--net={self.path}", f"--uts=/proc/{self._holder.pid}/ns/uts")
        """Put before a command: it runs in here, under the pid that was started."""
        self._inode = 0

    @property
    def pid(self) -> int:
        return self._holder.pid

    def wait(self) -> None:
        """Until it is there. Raises OSError, which says why it cannot be."""
        assert self._holder.stdin and self._holder.stdout and self._holder.stderr
        self._holder.stdin.write(b"here\n")
        self._holder.stdin.flush()
        if self._holder.stdout.readline() != b"here\n":
            raise OSError(self._holder.stderr.read().decode().strip())
        self._inode = os.stat(self.path).st_ino

    def ip(self, *commands: str) -> None:
        """Commands of ip(8), all in one process."""
        done = subprocess.run(
            [*self.inside, "ip", "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}: {done.stderr}"

    def pids(self) -> list[int]:
        """Who runs in here, the holder left out."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino == self._inode:
                    found.append(int(entry))
            except OSError:  # it ended meanwhile
                continue
        return [pid for pid in found if pid != self.pid]

    def close(self) -> None:
        """Kill all inside, and whom they started meanwhile. Without processes the namespace is gone, and its interfaces with it."""
        if self._inode:
            until(self._is_killed, f"the processes in {self.name} to be gone")
        self._holder.communicate()

    def _is_killed(self) -> bool:
        pids = self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not pids


class Process:
    """A process in a machine. Its lines are read as they come; what it says on stderr is in `log`."""

    def __init__(self, words: Sequence[str], log: Path, environ: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        self._lines: list[str] = []
        self._taken = 0
        self._news = threading.Condition()
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environ, cwd=cwd, text=True, start_new_session=True
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._lines.append("")
            self._news.notify_all()

    def wait_line(self, pattern: str = "", limit_s: float = LIMIT_S) -> str:
        """The next line in which `pattern` is found; those before it are passed over."""
        end = time.monotonic() + limit_s
        with self._news:
            while True:
                while self._taken < len(self._lines):
                    line = self._lines[self._taken]
                    self._taken += 1
                    if line and re.search(pattern, line):
                        return line
                left_s = end - time.monotonic()
                assert left_s > 0, f"no line with {pattern!r} within {limit_s:g} s: {self.report()}"
                assert self._reader.is_alive(), f"it ended without a line with {pattern!r}: {self.report()}"
                self._news.wait(left_s)

    def say(self, line: str) -> None:
        """To its stdin."""
        assert self.popen.stdin
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def close(self) -> int:
        """SIGTERM, then SIGKILL. Its exit code."""
        self.popen.terminate()
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._reader.join()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe
            pipe.close()
        return self.popen.returncode

    def report(self) -> str:
        return "\n".join(self._lines)[-LOG_TAIL:] + "\n" + self.log.read_text(errors="replace")[-LOG_TAIL:]


class Machine:
    """One host. `address` is that of its eth0."""

    def __init__(self, namespace: Namespace, address: str, folder: Path) -> None:
        self.namespace, self.address = namespace, address
        self.name = namespace.name
        self.home = folder / self.name
        self.home.mkdir()
        self.processes: list[Process] = []

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", **more}

    def run(
        self, *words: str, says: str = "", environ: Mapping[str, str] | None = None, cwd: Path | None = None, limit_s: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """A command in here, to its end; `says` is its stdin. What it leaves running goes on."""
        return subprocess.run(
            [*self.namespace.inside, *words],
            input=says,
            capture_output=True,
            text=True,
            env=self._environ(environ or {}),
            cwd=cwd or self.home,
            timeout=limit_s,
            check=False,
        )

    def mesh(self, *words: str, says: str = "", limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """The command line, with this machine's own HOME."""
        return self.run(*CLI, *words, says=says, limit_s=limit_s)

    def spawn(self, *words: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Process:
        """A command in here that goes on; it is ended with the machine at the latest."""
        log = self.home / f"{len(self.processes)}.log"
        process = Process([*self.namespace.inside, *words], log, self._environ(environ or {}), cwd or self.home)
        self.processes.append(process)
        return process

    def ip(self, *commands: str) -> None:
        """Commands of ip(8) in here: more interfaces, routes."""
        self.namespace.ip(*commands)

    def close(self) -> None:
        self.namespace.close()
        for process in self.processes:
            process.close()


class Packets:
    """Frames that passed the bridge: the machine's clock, and the bytes."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, bytes]] = []

    def write(self, path: Path) -> None:
        """As a pcap file."""
        with path.open("wb") as out:
            out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, 1))
            for at_s, frame in self.frames:
                out.write(struct.pack("=IIII", int(at_s), int(at_s % 1 * 1e6), len(frame), len(frame)) + frame)

    def datagrams(self, port: int) -> list[tuple[str, bytes]]:
        """Sender's address and payload of each UDP datagram to that port."""
        found = []
        for _, frame in self.frames:
            if (packet := _ip_packet(frame)) and packet[0] == socket.IPPROTO_UDP:
                _, source, _, segment = packet
                if int.from_bytes(segment[2:4], "big") == port:
                    found.append((socket.inet_ntoa(source), segment[8:]))
        return found

    def streams(self) -> list[bytes]:
        """What each TCP connection carried, each way, in order."""
        flows: dict[bytes, tuple[int, bytearray]] = {}
        for _, frame in self.frames:
            if (packet := _ip_packet(frame)) and packet[0] == socket.IPPROTO_TCP:
                _, source, target, segment = packet
                data = segment[(segment[12] >> 4) * 4 :]
                if data:
                    seq = int.from_bytes(segment[4:8], "big")
                    first, stream = flows.setdefault(source + target + segment[:4], (seq, bytearray()))
                    at = (seq - first) % 2**32
                    if at < 2**31:  # else sent before what we saw first
                        stream.extend(bytes(max(0, at - len(stream))))
                        stream[at : at + len(data)] = data
        return [bytes(stream) for _, stream in flows.values()]

    def showing(self, secrets: Mapping[str, str]) -> list[str]:
        """Which secrets can be read on the wire, and how they were written: plain, hexadecimal, base64 or z85. `secrets`: name -> text."""
        wire = b"\0\0".join([*(frame for _, frame in self.frames), *self.streams()]).lower()
        return [
            f"{name} as {how}" for name, text in secrets.items() for how, written in _writings(text.encode()) if written.lower() in wire
        ]


def _ip_packet(frame: bytes) -> tuple[int, bytes, bytes, bytes] | None:
    """Protocol, source, target and payload; None for what is no IPv4."""
    if int.from_bytes(frame[12:14], "big") != ETH_P_IP:
        return None
    head = (frame[14] & 15) * 4
    total = int.from_bytes(frame[16:18], "big")
    return frame[23], frame[26:30], frame[30:34], frame[14 + head : 14 + total]


def _writings(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """Where a group of an encoding may begin at any byte, each beginning is one more writing."""
    yield "plain", secret
    yield "hex", secret.hex().encode()
    if len(secret) < CANARY_BYTES_MIN:  # too little would be left for it to mean anything
        return
    for shift in range(3):
        yield "base64", base64.b64encode(secret[shift : shift + (len(secret) - shift) // 3 * 3])
    for shift in range(4):
        yield "z85", z85.encode(secret[shift : shift + (len(secret) - shift) // 4 * 4])


class _Capture(threading.Thread):
    """Reads all that passes the bridge. Only this thread enters the namespace; it ends with the capture."""

    def __init__(self, namespace: Namespace, packets: Packets) -> None:
        super().__init__(daemon=True)
        self._namespace, self._packets = namespace, packets
        self.ready = threading.Event()
        self.over = threading.Event()
        self.failed: Exception | None = None
        self.lost = 0

    def run(self) -> None:
        try:
            self._enter()
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ear:
                self._open(ear)
                self.ready.set()
                self._read(ear)
                self.lost = struct.unpack("=II", ear.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        except OSError as error:
            self.failed = error
            self.ready.set()

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(self._namespace.path, "rb") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def _open(self, ear: socket.socket) -> None:
        ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        ear.bind(("br0", ETH_P_ALL))
        index = socket.if_nametoindex("br0")
        ear.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8s", index, PACKET_MR_PROMISC, 0, b""))
        ear.settimeout(0.05)

    def _read(self, ear: socket.socket) -> None:
        while True:
            ending = self.over.is_set()
            try:
                self._packets.frames.append((time.time(), ear.recv(0x40000)))
            except TimeoutError:
                if ending:
                    return


class Lan:
    """Machines on one bridge. Those cut off are on none."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self._bridge = Namespace("bridge")
        namespaces = [Namespace(name) for name in NAMES[:count]]
        self.machines = [Machine(each, f"10.77.0.{number}", folder) for number, each in enumerate(namespaces, 1)]
        self._captures = 0

    def start(self) -> None:
        """Raises OSError where there can be no namespaces."""
        for each in (self._bridge, *(machine.namespace for machine in self.machines)):
            each.wait()
        commands = ["link add br0 type bridge", "link set br0 up"]
        for number, machine in enumerate(self.machines):
            commands += [
                f"link add port{number} type veth peer name eth0 netns {machine.namespace.pid}",
                f"link set port{number} master br0 up",
            ]
        self._bridge.ip(*commands)
        for machine in self.machines:
            machine.ip(f"addr add {machine.address}/24 brd + dev eth0", "link set eth0 up")

    def cut(self, *machines: Machine) -> None:
        """From now on they neither hear nor are heard."""
        self._bridge.ip(*(f"link set port{self.machines.index(machine)} nomaster" for machine in machines))

    def heal(self, *machines: Machine) -> None:
        self._bridge.ip(*(f"link set port{self.machines.index(machine)} master br0" for machine in machines))

    @contextmanager
    def capture(self) -> Iterator[Packets]:
        """Every frame from here to the end of the block, which is also in the test's folder then. Nothing is lost, else AssertionError."""
        packets = Packets()
        thread = _Capture(self._bridge, packets)
        thread.start()
        thread.ready.wait()
        try:
            yield packets
        finally:
            thread.over.set()
            thread.join()
            self._captures += 1
            packets.write(self.folder / f"{self._captures}.pcap")
        assert thread.failed is None, thread.failed
        assert thread.lost == 0, f"{thread.lost} frames were not captured"

    def close(self) -> None:
        with ExitStack() as stack:
            for each in (self._bridge, *self.machines):
                stack.callback(each.close)

    def report(self) -> str:
        logs = [(machine.name, process) for machine in self.machines for process in machine.processes]
        return "\n".join(f"--- {name}: {process.popen.args!r}\n{process.report()}" for name, process in logs)


def _why_not() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "hostname") if shutil.which(tool) is None]
    return f"no {missing[0]} here" if missing else ""


@pytest.fixture
def make_lan(tmp_path: Path) -> Iterator[Callable[[int], Lan]]:
    """A LAN of so many machines. Skips, saying why, where that cannot be."""
    if why := _why_not():
        pytest.skip(f"NOTICE: {why}, so machines as network namespaces are not tested")
    made: list[Lan] = []

    def make(count: int) -> Lan:
        folder = tmp_path / f"lan{len(made)}"
        folder.mkdir()
        lan = Lan(folder, count)
        made.append(lan)
        try:
            lan.start()
        except OSError as error:
            pytest.skip(f"NOTICE: no network namespaces here: {error}")
        return lan

    try:
        yield make
    finally:
        for lan in made:
            lan.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """`until`, for tests."""
    return until


@pytest.fixture
def lan(make_lan: Callable[[int], Lan]) -> Lan:
    """Three machines: otter, heron, lynx."""
    return make_lan(3)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the processes said when a test fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    made = getattr(item, "funcargs", {}).get("lan")
    if report.failed and isinstance(made, Lan):
        report.sections.append((f"processes ({report.when})", made.report()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.hosts)
