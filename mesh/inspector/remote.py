"""Carrying out a plan on another machine through the user's own OpenSSH: the near end of `landing.py`.

    ssh HOST sh  <-- stdin: a shell script that finds a Python 3.11, and the text of `stage.py` with the plan
                 --> lines: {"say"}, {"need": wheel | file | invitation}, at last {"end": report}
                 <-- the bytes that were asked for, and nothing else

Invariants: one connection per host, and it never asks anybody anything (a password, an unknown key), it fails and says what to type;
HOST is one argument and never an option; everything else travels by stdin, so no name needs quoting for a shell on the way.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import shlex
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mesh.errors import MeshError, UsageError
from mesh.inspector import stage
from mesh.inspector.render import clean

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=15",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "LogLevel=ERROR",
)
"""What the user's configuration may say otherwise for sessions of his own: prompts, forwardings, a command of its own, banners."""
LINE_BYTES_MAX = 1024 * 1024
STDERR_BYTES_MAX = 64 * 1024
ENDING_S = 2.0
STATES = ("ok", "unchanged", "down", "failed")
END = "MESH_LAUNCH_END"
PYTHONS = "python3 python3.14 python3.13 python3.12 python3.11"
SCRIPT = f"""\
PATH="$PATH:/usr/local/bin:/opt/homebrew/bin:$HOME/.local/bin"
export PATH
for module in ensurepip sys; do for python in {PYTHONS}; do
if "$python" -c "import sys, $module; sys.exit(sys.version_info < (3, 11))" </dev/null >/dev/null 2>&1; then
exec "$python" -I - 3<&0 <<'{END}'
%s
{END}
fi
done; done
has=
for manager in apt-get dnf zypper pacman apk brew; do command -v $manager >/dev/null 2>&1 && has="$has $manager"; done
echo '{stage.MARK}{{"no_python": "'"$has"'", "found": "'"$(python3 --version 2>/dev/null)"'"}}'
"""
"""First a Python that can make virtual environments, then any: `versions.py` says what that one lacks."""
MANAGERS = {
    "apt-get": "sudo apt-get install python3 python3-venv",
    "dnf": "sudo dnf install python3.11",
    "zypper": "sudo zypper install python311",
    "pacman": "sudo pacman -S python",
    "apk": "sudo apk add python3",
    "brew": "brew install python",
}
Answer = Callable[[str, str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one host. `state`: ok, unchanged, down or failed; `fix`: what to type, here or ("on HOST: ...") there."""

    host: str
    state: str
    changed: tuple[str, ...]
    node: str
    message: str
    fix: str


def check_host(host: str) -> str:
    """Raises UsageError for what ssh would not take as a host: above all for an option."""
    if not host or host.startswith("-") or not host.isprintable() or any(each.isspace() for each in host):
        raise UsageError(f"{host!r} is no host that ssh knows", fix="mesh launch HOST -- run FILE.py")
    return host


def ssh_command(text: str) -> tuple[str, ...]:
    """The words of ``--ssh``. Raises UsageError."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--ssh {text!r}: {error}", fix="--ssh 'ssh -F FILE'") from None
    if not words:
        raise UsageError("--ssh is empty", fix="--ssh 'ssh -F FILE'")
    return words


async def carry_out(
    ssh: Sequence[str], host: str, plan: dict[str, Any], answer: Answer, say: Callable[[str], None], timeout_s: float
) -> Report:
    """Never raises for what goes wrong on the way or over there: that is in the report. `answer(what, name)` gives what it asks for."""
    said = [""]

    def note(what: str) -> None:
        said.append(what)
        say(what)

    try:
        async with asyncio.timeout(timeout_s):
            return await _converse(ssh, host, plan, answer, note)
    except TimeoutError:
        where = f"; it was at: {said[-1].removeprefix(host).strip()}" if said[-1] else ""
        return failed(host, f"it was not done within {timeout_s:g} s{where}", f"mesh launch --timeout {2 * timeout_s:g} {host}")
    except MeshError as error:
        return failed(host, error.message, error.fix)
    except OSError as error:
        return failed(host, f"{ssh[0]} cannot be started: {error.strerror}", "install OpenSSH's client, or name it: --ssh /path/to/ssh")


def failed(host: str, message: str, fix: str) -> Report:
    return Report(host, "failed", (), "", message, fix)


async def _converse(ssh: Sequence[str], host: str, plan: dict[str, Any], answer: Answer, say: Callable[[str], None]) -> Report:
    options = [word for option in OPTIONS for word in ("-o", option)]
    process = await asyncio.create_subprocess_exec(
        *ssh, *options, "-T", "--", host, "sh",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    said = bytearray()
    listening = asyncio.ensure_future(_keep(process.stderr, said))
    try:
        await _send(process.stdin, script(plan).encode())
        report = await _listen(process.stdin, process.stdout, host, answer, say)
        if report is not None:
            return report
        code = await process.wait()
        await asyncio.wait([listening], timeout=ENDING_S)  # a shared connection's master would keep it open
        return explained(ssh, host, code, said.decode(errors="replace"))
    finally:
        process.stdin.close()  # the far end waits for nothing else, and goes
        await _end(process)
        listening.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Soon, by itself; else by a signal."""
    try:
        async with asyncio.timeout(ENDING_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def script(plan: dict[str, Any]) -> str:
    """What `sh` is given there. The plan is ASCII and on one line."""
    return SCRIPT % f"{inspect.getsource(stage)}\nmain({json.dumps(plan)!r})"


async def _listen(
    stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, host: str, answer: Answer, say: Callable[[str], None]
) -> Report | None:
    """Answer until the report comes; None if the connection ends before."""
    asked = set()
    try:
        while line := await stdout.readline():
            text = line.decode(errors="replace")
            if not text.startswith(stage.MARK):
                continue
            document = json.loads(text.removeprefix(stage.MARK))
            if "say" in document:
                say(f"{host}  {clean(document['say'])}")
            elif "need" in document:
                need = str(document["need"]), str(document["name"])
                if need in asked:
                    raise ValueError(need)
                asked.add(need)
                data = await answer(*need)
                await _send(stdin, b"%d\n" % len(data) + data)
            elif "no_python" in document:
                return _no_python(host, str(document["found"]), str(document["no_python"]).split())
            else:
                return _report(host, document["end"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return failed(host, "what runs there does not answer like mesh launch", "look at what sh and python3 are there")
    return None


async def _send(stdin: asyncio.StreamWriter, data: bytes) -> None:
    """If nobody reads it any more, what stdout and the exit code say explains why."""
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()


async def _keep(stream: asyncio.StreamReader, said: bytearray) -> None:
    """The last of it."""
    while data := await stream.read(4096):
        said += data
        del said[:-STDERR_BYTES_MAX]


def _report(host: str, end: dict[str, Any]) -> Report:
    """Raises KeyError, TypeError or ValueError for what is none."""
    fix = f"on {host}: {end['fix']}" if end["fix"] else ""
    if end["state"] not in STATES:
        raise ValueError(end["state"])
    return Report(host, end["state"], tuple(map(str, end["changed"])), str(end["node"]), str(end["message"]), fix)


def _no_python(host: str, found: str, managers: list[str]) -> Report:
    typed = MANAGERS[managers[0]] if managers else "install Python 3.11 or newer"
    has = f"its python3 is {found}, and mesh needs 3.11 or newer" if found else "there is no Python on its PATH; mesh needs 3.11 or newer"
    return failed(host, has, f"on {host}: {typed}")


def explained(ssh: Sequence[str], host: str, code: int, stderr: str) -> Report:
    """The connection ended without a report: why, in a line, from what ssh said."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"ssh ended with exit code {code} and said nothing"
    by_hand = shlex.join([*ssh, host])
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
        message = "its host key is not the one that ssh knows: somebody may be in between"
        return failed(host, message, f"find out why; then: ssh-keygen -R {host}")
    if "Host key verification failed" in last:
        return failed(host, "ssh does not know its host key yet", f"{by_hand} true, once, to compare and accept it")
    if "Permission denied" in last:
        return failed(host, f"ssh was not let in: {last}", f"ssh-copy-id {shlex.quote(host)}, or load your key: ssh-add")
    if code == 255:
        return failed(host, f"ssh does not get there: {last}", f"{by_hand} true")
    return failed(host, last, f"{by_hand} sh")
