"""What `mesh doctor` looks at where machines meet: certificates, the door as others see it, firewalls. Each finding with what to type."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mesh.errors import MeshError
from mesh.inspector.findings import FAIL, OK, WARN, Finding
from mesh.joining import describe, door_is_of
from mesh.runtime.condition import damaged_authority, is_member
from mesh.runtime.home import Home, NodeFolder
from mesh.runtime.settings import load_settings, place

DOOR_S = 2.0
UFW, FIREWALLD = Path("/etc/ufw/ufw.conf"), Path("/run/firewalld")
DAY_S = 86400.0


def certificates(home: Home) -> list[Finding]:
    """Whether the home's membership holds, and for how long."""
    if not (home.mesh_path / "membership").exists():
        return [
            Finding("certificates", OK, "this home is in no mesh yet; its own begins with the first node", "mesh init, or mesh join TOKEN")
        ]
    try:
        who = describe(home)
    except MeshError as error:
        return [Finding("certificates", FAIL, error.message, error.fix)]
    if not who["expires"]:
        return [Finding("certificates", OK, f"open mesh {who['name']}: this machine only; its certificates do not expire")]
    left_s = time.mktime(time.strptime(who["expires"], "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(time.gmtime())
    if left_s <= 0:
        return [
            Finding(
                "certificates",
                FAIL,
                f"this home's certificate ended on {who['expires']}",
                "start a node where members are admitted: mesh trust",
            )
        ]
    kind = WARN if left_s < 3 * DAY_S else OK
    fix = "mesh trust: is a machine that admits members up?" if kind == WARN else ""
    return [
        Finding(
            "certificates", kind, f"member of {who['name']} (mode {who['mode']}) until {who['expires']}, as {', '.join(who['roles'])}", fix
        )
    ]


def authority(home: Home) -> list[Finding]:
    """Whether what lies here to admit others with can be used. Nothing is said where nothing lies here."""
    try:
        return [Finding("authority", FAIL, error.message, error.fix) for error in damaged_authority(home)]
    except MeshError:
        return []  # told by `certificates`


def address(home: Home) -> str:
    """Where a node of this home listens; loopback where that cannot be told, which `port` or `certificates` explain."""
    try:
        mode = describe(home)["mode"] if is_member(home) else "open"
        found = place(load_settings(home), mode)
    except MeshError:
        return "127.0.0.1"
    return found.address or found.bind


def door(folder: NodeFolder) -> Finding:
    """Dial the node's own door at the address that others are told."""
    info = folder.info() or {}
    address = str(info.get("door", ""))
    try:
        is_own = asyncio.run(asyncio.wait_for(door_is_of(folder, address), DOOR_S))
    except (OSError, ValueError, MeshError) as error:
        why = str(error) or "no answer in time"
        what = f"the door of {folder.name} at {address} does not open: {why}"
        return Finding("door", FAIL, what, f"mesh down --node {folder.name}; mesh up")
    if not is_own:
        return Finding("door", FAIL, f"what answers at {address} is not node {folder.name}", f"mesh up --name {folder.name} --port OTHER")
    return Finding("door", OK, f"the door of {folder.name} opens at {address}")


def firewall(ports: list[int]) -> list[Finding]:
    """Firewalls that this system is known to run: whether they let others in, only a look at their rules would tell."""
    span = f"{min(ports)}:{max(ports)}" if ports else "7710:7711"
    found = []
    try:
        if "ENABLED=yes" in UFW.read_text():
            fix = f"sudo ufw allow {span}/tcp; sudo ufw allow 5353/udp"
            found.append(Finding("firewall", WARN, "ufw is on: other machines get in only where it lets them", fix))
    except OSError:
        pass  # not there: nothing to say
    if FIREWALLD.exists():
        dashed = span.replace(":", "-")
        fix = f"sudo firewall-cmd --permanent --add-port={dashed}/tcp --add-service=mdns; sudo firewall-cmd --reload"
        found.append(Finding("firewall", WARN, "firewalld is on: other machines get in only where it lets them", fix))
    return found or [Finding("firewall", OK, "neither ufw nor firewalld is on here")]
