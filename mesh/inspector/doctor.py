"""What `mesh doctor` looks at, each check on its own: multicast, ports, clock, permissions, what is sealed, disk, this home's nodes.

Works with and without a running node. Each finding says what is wrong in words, and what to type. Changes nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh.client import connect
from mesh.errors import MeshError
from mesh.inspector import doctor_trust
from mesh.inspector.findings import FAIL, OK, WARN, Finding
from mesh.runtime import ended
from mesh.runtime.condition import stoppers
from mesh.runtime.disk.vault import WEAK_KEK, WEAK_KEK_FIX, is_weak, kek_source, open_vault
from mesh.runtime.home import Home, NodeFolder
from mesh.runtime.settings import PORT, load_settings, port_pairs

DISK_BYTES_MIN = 256 * 1024 * 1024
MULTICAST_S = 0.5
GROUP = "224.0.0.251"


def examine(home: Home, timeout_s: float) -> list[Finding]:
    """Every finding, the good ones too, in a fixed order. A node that does not answer within `timeout_s` seconds hangs."""
    running, address = home.running(), doctor_trust.address(home)
    ports = [int(port) for folder in running for port in _ports(folder)]
    return [
        multicast(address),
        port(home, address),
        clock(),
        *permissions(home),
        at_rest(home),
        disk(home),
        *doctor_trust.certificates(home),
        *doctor_trust.authority(home),
        *(doctor_trust.firewall(ports) if _on_the_lan(home) else []),
        *nodes(home, timeout_s),
        *resting(home),
        *map(doctor_trust.door, running),
    ]


def _ports(folder: NodeFolder) -> list[str]:
    info = folder.info() or {}
    return [str(info[name]).rpartition(":")[2] for name in ("door", "router") if name in info]


def _on_the_lan(home: Home) -> bool:
    """Whether other machines are meant to get in: any node that runs here listens beyond loopback."""
    return any(not str((folder.info() or {}).get("door", "127.")).startswith(("127.", "[::1]")) for folder in home.running())


def multicast(interface: str) -> Finding:
    """Send one packet to a group where nodes here would listen, and hear it: what mDNS needs. It has a port of its own, so no responder
    hears it, and does not leave this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        try:
            ear.bind(("", 0))
            member = socket.inet_aton(GROUP) + socket.inet_aton(interface)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            ear.settimeout(MULTICAST_S)
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            mouth.sendto(b"mesh doctor", (GROUP, ear.getsockname()[1]))
            ear.recv(64)
        except OSError as error:
            return Finding(
                "multicast",
                WARN,
                f"multicast does not work on {interface} ({error}): nodes do not find each other",
                f"mesh up --join 127.0.0.1:{PORT}",
            )
    return Finding("multicast", OK, f"multicast works on {interface}")


def port(home: Home, address: str) -> Finding:
    """Whether a pair of ports is free at that address, as the settings ask for it."""
    try:
        settings = load_settings(home)
    except MeshError as error:
        return Finding("port", FAIL, error.message, error.fix)
    for door, router in port_pairs(settings.port):
        if _is_free(address, door) and _is_free(address, router):
            return Finding("port", OK, f"ports {door} and {router} at {address} are free for the next node")
    if settings.port and home.running():
        return Finding("port", OK, f"port {settings.port} is in use by this home's node")
    return Finding(
        "port",
        FAIL,
        f"port {settings.port or PORT} and its neighbour are taken",
        "leave port out of config.toml, or name another: --port 7910",
    )


def _is_free(host: str, number: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
    return True


def clock() -> Finding:
    """The wall clock must at least be after this release; leases never depend on it."""
    if time.time() < 1_760_000_000:
        return Finding(
            "clock",
            WARN,
            f"the wall clock says {time.strftime('%Y-%m-%d')}: times in the record will be wrong",
            "sudo timedatectl set-ntp true",
        )
    if not hasattr(time, "CLOCK_BOOTTIME") and time.get_clock_info("monotonic").adjustable:
        return Finding("clock", WARN, "this system's monotonic clock can be set", "use a system whose monotonic clock cannot")
    return Finding("clock", OK, f"the wall clock says {time.strftime('%Y-%m-%d %H:%M:%S')}; leases use the machine's own clock")


def permissions(home: Home) -> list[Finding]:
    """Keys and folders must be their owner's alone."""
    findings = []
    paths = [home.path, home.mesh_path]
    for folder in (home.mesh_path, *(node.path for node in home.nodes())):
        paths += [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    for path in paths:
        loose = _looseness(path, writable_only=path == home.path)
        if loose:
            findings.append(Finding("permissions", FAIL, f"others may {loose} {path}", f"chmod {700 if path.is_dir() else 600} {path}"))
    if not findings:
        what = (
            f"the keys in {home.path} are yours alone"
            if home.path.exists()
            else f"{home.path} does not exist yet; it is made when it is needed"
        )
        findings.append(Finding("permissions", OK, what))
    return findings


def _looseness(path: Path, *, writable_only: bool) -> str:
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return ""
    if mode & 0o022:
        return "write to"
    secret = path.suffix in (".key", ".json", ".sqlite", "") or path.name.startswith("kek.")
    return "read" if mode & 0o044 and not writable_only and secret and path.is_file() else ""


def at_rest(home: Home) -> Finding:
    """Where the key is kept that opens the home's vault, and whether it does where that can be tried in silence."""
    try:
        source = kek_source(home)
    except MeshError as error:
        return Finding("at rest", FAIL, error.message, error.fix)
    if not source:
        return Finding("at rest", OK, "nothing is sealed yet; the vault is made when it is needed")
    if is_weak(source):  # the only source that asks nobody and nothing for the key
        try:
            open_vault(home).sealer("doctor")
        except MeshError as error:
            return Finding("at rest", FAIL, error.message, error.fix)
        return Finding("at rest", WARN, WEAK_KEK, WEAK_KEK_FIX)
    return Finding("at rest", OK, f"journals and secrets are sealed; their key comes from the {source}")


def disk(home: Home) -> Finding:
    place = next(path for path in (home.path, *home.path.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES_MIN:
        return Finding(
            "disk", FAIL, f"only {free // 2**20} MiB are free at {place}: a node stops when its disk is full", f"free space at {place}"
        )
    return Finding("disk", OK, f"{free // 2**30} GiB free at {place}")


def nodes(home: Home, timeout_s: float) -> list[Finding]:
    running = [finding for folder in home.running() for finding in _node(folder, timeout_s)]
    return running or [Finding("node", WARN, "no node of this home runs", "mesh up")]


def resting(home: Home) -> list[Finding]:
    """What would stop the nodes that do not run, and what has."""
    resting = [folder for folder in home.nodes() if not folder.is_running()]
    return [finding for folder in resting for finding in _resting(folder)]


def _resting(folder: NodeFolder) -> list[Finding]:
    """What would stop its start; or else why it ended, if nobody told it to."""
    found = [Finding("node", FAIL, f"node {folder.name} cannot start: {error.message}", error.fix) for error in stoppers(folder)]
    why = None if found else ended.last(folder)
    return [Finding("node", FAIL, why.message, why.fix)] if why else found


def _node(folder: NodeFolder, timeout_s: float) -> list[Finding]:
    """Whether it answers, and what it complains of itself."""
    info = folder.info()
    if info is None:
        what = f"node {folder.name} holds its lock but has not said where it is: it is starting, or it hangs"
        return [Finding("node", WARN, what, f"tail {folder.log_path}")]
    try:
        status = asyncio.run(_status(folder, timeout_s))
    except (MeshError, TimeoutError) as error:
        why = error.message if isinstance(error, MeshError) else f"it said nothing for {timeout_s:g} s"
        return [
            Finding("node", FAIL, f"node {folder.name}, process {info['pid']}, does not answer: {why}", f"kill {info['pid']}, then mesh up")
        ]
    linked = sum(count for state, count in status["nodes"].items() if state == "alive")
    found = [Finding("node", OK, f"node {folder.name} answers: process {info['pid']}, door {info['door']}, {linked} alive in its mesh")]
    return found + [Finding("node", FAIL, f"node {folder.name}: {each['message']}", each["fix"]) for each in status["findings"]]


async def _status(folder: NodeFolder, timeout_s: float) -> dict[str, Any]:
    async with asyncio.timeout(timeout_s), connect(folder.home.path, folder.name, timeout_s) as mesh:
        return await mesh.status()


def document(findings: list[Finding]) -> dict[str, object]:
    return {
        "schema": "mesh.doctor/1",
        "healthy": all(finding.state != FAIL for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
