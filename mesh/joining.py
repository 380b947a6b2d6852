"""Belonging to a mesh, from this machine's side: make one, join one, and let the nodes that run here begin anew under it.

    make_mesh(home)                  `mesh init`
    join_by_token(home, text)        `mesh join TOKEN`: nothing is said before the door has shown the key that the token pins
    join_by_asking(home, address)    `mesh join --ask`: nothing is believed before a person has compared the code
    begin_anew(home)                 running nodes take the new credentials into use; they keep their ids, journals and workers

Invariant: whatever fails leaves the home as it was. A token is never shown, logged, or passed to a program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from mesh.client import connect
from mesh.errors import MeshError, NoNode, Refused, TimedOut, UsageError
from mesh.launch import last_words
from mesh.limits import LinkLimits
from mesh.messages.enrol import Admission, Ask, Join
from mesh.messages.session import Turned
from mesh.messages.signed import Signed
from mesh.runtime.home import Home, NodeFolder, host_name
from mesh.runtime.lan import interfaces
from mesh.runtime.lan.discovery import browse
from mesh.runtime.links.dialling import key_at, request
from mesh.runtime.links.frames import BadFrame
from mesh.runtime.links.sessions import read_turned
from mesh.runtime.trust.credentials import Credentials, Paths
from mesh.runtime.trust.founding import complete, enter, found, open_up
from mesh.runtime.trust.identity import folder_id, node_key
from mesh.runtime.trust.keyfiles import make_key, public_of
from mesh.wire.enrolment import read_admission
from mesh.wire.objects import Signer, node_id
from mesh.wire.packing import Refusal
from mesh.wire.token import Token, code, proof, read_token

Document = dict[str, Any]
DIAL_S = 5.0
ASK_EVERY_S = 1.0
RESTART_S = 15.0
LOOK_EVERY_S = 0.02
LIMITS = LinkLimits()
_SAID_NO = {
    "used": ("this invitation was used by another machine already", "mesh invite, there, for a new one"),
    "expired": ("this invitation has expired", "mesh invite, there, for a new one"),
    "unknown_invite": ("that mesh knows no such invitation (any more)", "mesh invite, there, for a new one"),
    "bad_proof": ("the token was changed on its way", "copy it again, whole: mesh join -"),
    "other_mesh": ("another mesh lives at that address now", "mesh invite, there, for a new one"),
    "revoked": ("this home was revoked in that mesh", "join from a new home: mesh join TOKEN --home DIR"),
    "no_issuer": ("that machine cannot admit members", "ask one that can: mesh trust, there"),
    "busy": ("that machine has too much to do", "try again in a moment"),
}


# ---- a mesh of one's own


def make_mesh(home: Home, mode: str, name: str) -> Credentials:
    """A mesh that other machines may join, with this home as its root. Raises Refused if the home belongs to such a mesh, HomeError."""
    home.make()
    with home.lock():
        complete(home)
        existed = Credentials.exist(home)
        known = found(home, mode, name)
        if known.mode == "open":
            return open_up(home, mode, name)
        if existed:
            raise Refused(
                f"this home belongs to the mesh {known.name} already (mode {known.mode})",
                fix="mesh up, then mesh invite (let others in); or choose another --home",
                code="member_already",
            )
        return known


# ---- joining another


async def join_by_token(home: Home, text: str, name: str = "", node: str = "") -> Credentials:
    """Join the mesh that the token in `text` is for. `name`: what the others shall call this home; `node`: its first node's name, if it
    has none yet. Raises Refused (expired, used, turned away), UsageError (no token), TimedOut."""
    try:
        token = read_token(text)
    except Refusal:
        fix = "mesh join -  (copy it again, whole; paste it, then Ctrl-D)"
        raise UsageError("this is no invitation: it is cut or mistyped", fix=fix, code="bad_token") from None
    if token.expires_ms < time.time_ns() // 1_000_000:
        raise _turned_away("expired")
    signer, issuer_key = _own_keys(home, token.mesh)
    body = Join(token.mesh, token.invite, signer.public_key, issuer_key, name or host_name(), os.urandom(16))

    def frame(door_key: bytes) -> bytes:
        body.proof = proof(token.secret, door_key, body)
        return signer.seal(Signed(signer.node, body))

    answer = await _request_any(token, frame)
    admission = _admission(answer)
    if isinstance(admission, Turned):
        raise _turned_away(admission.reason)
    return _enter(home, admission, node)


async def _request_any(token: Token, frame: Callable[[bytes], bytes]) -> bytes:
    problem: Exception = TimeoutError()
    for door in token.doors:
        try:
            with anyio.fail_after(DIAL_S):
                answer, _ = await request(door, frame, LIMITS, pinned=token.door_key)
                return answer
        except BadFrame as bad:
            if bad.reason == "wrong_key":
                raise Refused(
                    f"who answers at {door} is not who made the invitation; nothing was said to it",
                    fix="mesh invite, there, for a new one; if it says the same again, somebody stands between",
                    code="wrong_door",
                ) from None
            problem = bad
        except (OSError, ValueError, TimeoutError) as error:
            problem = error
    raise TimedOut(_unreachable(token.doors, problem), fix="is that node up (mesh status, there), and no firewall between? mesh doctor")


def _unreachable(doors: Sequence[str], problem: Exception) -> str:
    """What a person reads; the library's own words for a network that leads nowhere say nothing."""
    where = ", ".join(doors)
    if isinstance(problem, ConnectionRefusedError):
        return f"nobody listens at {where}"
    if isinstance(problem, TimeoutError):
        return f"{where} cannot be reached: no answer in time"
    said = getattr(problem, "strerror", None) if isinstance(problem, OSError) else str(problem)
    return f"{where} cannot be reached: {said or 'no way leads there'}"


async def join_by_asking(
    home: Home, address: str, on_code: Callable[[str], None], timeout_s: float, *, name: str = "", node: str = ""
) -> Credentials:
    """Ask at `address` until a person there admits this home by the code that `on_code` shows here. Raises Refused, TimedOut."""
    signer, issuer_key = _own_keys(home, "")
    body = Ask(signer.public_key, issuer_key, name or host_name(), os.urandom(16))
    frame = signer.seal(Signed(signer.node, body))
    pinned = b""
    deadline = anyio.current_time() + timeout_s
    while anyio.current_time() < deadline:
        answer, pinned = await _ask_once(address, frame, pinned, on_code, body)
        admission = _admission(answer)
        if isinstance(admission, Admission):
            return _enter(home, admission, node)
        if admission.reason != "wait":
            raise _turned_away(admission.reason)
        await anyio.sleep(ASK_EVERY_S)
    raise TimedOut(
        f"nobody let this machine in within {timeout_s:g} s", fix=f"mesh trust CODE, there; then again: mesh join --ask {address}"
    )


async def _ask_once(address: str, frame: bytes, pinned: bytes, on_code: Callable[[str], None], body: Ask) -> tuple[bytes, bytes]:
    def say(door_key: bytes) -> bytes:
        if not pinned:
            on_code(code(door_key, body.home_key, body.nonce))
        return frame

    try:
        with anyio.fail_after(DIAL_S):
            return await request(address, say, LIMITS, pinned=pinned)
    except BadFrame as bad:
        raise Refused(
            f"what answers at {address} is no door of a mesh ({bad.reason})", fix="mesh join --ask HOST:PORT", code="no_door"
        ) from None
    except (OSError, ValueError, TimeoutError) as error:
        raise TimedOut(_unreachable([address], error), fix="mesh status, there; mesh doctor, here") from None


def _not_member(home: Home, mesh: str) -> None:
    """A home is in one mesh. An open one, of its own, is left for the new one. With the home's lock held."""
    complete(home)
    if Credentials.exist(home):
        known = Credentials(home)
        if known.mode != "open" or known.mesh == mesh:
            raise Refused(
                f"this home belongs to the mesh {known.name} already", fix="mesh status; or choose another --home", code="member_already"
            )


def _own_keys(home: Home, mesh: str) -> tuple[Signer, bytes]:
    """The keys with which this home asks to be let in. Raises Refused if it is in such a mesh already."""
    home.make()
    with home.lock():
        _not_member(home, mesh)
        paths = Paths(home.mesh_path)
        seed = make_key(paths.home_key)
        issuer_key = public_of(make_key(paths.issuer_key))
    public = public_of(seed)
    return Signer(node_id(public), seed, mesh), issuer_key


def _admission(answer: bytes) -> Admission | Turned:
    try:
        found_one = read_admission(answer) or read_turned(answer)
    except Refusal:
        found_one = None
    return found_one or Turned(1, "malformed")


def _enter(home: Home, admission: Admission, node: str) -> Credentials:
    with home.lock():
        _not_member(home, "")
        credentials = enter(home, admission)
    for folder in home.nodes() or [home.node(node)]:
        folder.make().save_peers(list(admission.doors))
    return credentials


def _turned_away(reason: str) -> Refused:
    message, fix = _SAID_NO.get(reason, (f"the mesh did not let this machine in: {reason}", "mesh invite, there, for a new token"))
    return Refused(message, fix=fix, code=reason)


async def meshes_seen(bind: str, seconds: float = 1.0) -> list[Document]:
    """Which doors are announced on the LAN (the interface that a node here would use, or that of `bind`): what one could join.

    Raises UsageError if there is no interface, or no multicast on it.
    """
    choice = interfaces.find(bind)
    try:
        seen = await browse(choice.interface, seconds)
    except OSError as error:
        raise UsageError(f"multicast does not work on {choice.interface}: {error}", fix="mesh join --ask HOST:PORT") from error
    return [{"addr": one.address, "tag": one.tag, "node": one.node} for one in seen]


async def door_is_of(folder: NodeFolder, address: str) -> bool:
    """Whether the door at `address` proves itself with this node's own key. Raises OSError where nothing answers."""
    try:
        return await key_at(address) == node_key(folder)
    except BadFrame:
        return False


# ---- the nodes that run here


async def begin_anew(home: Home) -> list[str]:
    """Every running node of the home takes its new credentials into use, all at once; returns their names once they answer again.

    Raises TimedOut, or MeshError with the last words of one that did not start again.
    """
    folders = home.running()
    problems: list[MeshError] = []

    async def one(folder: NodeFolder) -> None:
        try:
            await _begin_one_anew(folder)
        except MeshError as error:
            problems.append(error)

    async with anyio.create_task_group() as tasks:
        for folder in folders:
            tasks.start_soon(one, folder)
    if problems:
        raise problems[0]
    return [folder.name for folder in folders]


async def _begin_one_anew(folder: NodeFolder) -> None:
    async with connect(folder.home.path, folder.name, RESTART_S) as mesh:
        before = await mesh.status()
        await mesh.office("restart")
    try:
        with anyio.fail_after(RESTART_S):
            while not await _answers_again(folder, before["incarnation"]):
                if not _is_alive(before["pid"]):
                    words = last_words(folder.log_path)
                    raise MeshError(f"node {folder.name} did not start again: {words}", fix=f"mesh up --name {folder.name}")
                await anyio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise TimedOut(f"node {folder.name} did not come back within {RESTART_S:g} s", fix=f"mesh up --name {folder.name}") from None


async def _answers_again(folder: NodeFolder, life: int) -> bool:
    try:
        async with connect(folder.home.path, folder.name, RESTART_S) as mesh:
            return bool((await mesh.status())["incarnation"] > life)
    except NoNode:
        return False


def _is_alive(pid: int) -> bool:
    """Also between two lives of its node: the process stays the same."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def describe(home: Home) -> Document:
    """Who this home is: its mesh, its own id and rights, and its nodes. Raises HomeError if it is in no mesh yet."""
    credentials = Credentials(home)
    nodes = [{"name": folder.name, "id": folder_id(folder), "running": folder.is_running()} for folder in home.nodes()]
    return document(credentials, "mesh.id/1") | {"nodes": nodes, "past": list(credentials.past)}


def document(credentials: Credentials, schema: str) -> Document:
    """What `init`, `join` and `id` say of a home."""
    last = credentials.chain.last
    return {
        "schema": schema,
        "mesh": credentials.mesh,
        "name": credentials.name,
        "mode": credentials.mode,
        "home": credentials.home_id,
        "roles": list(last.roles),
        "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(credentials.chain.expires_ms / 1000))
        if credentials.chain.expires_ms
        else "",
        "path": str(credentials.home.path),
    }
