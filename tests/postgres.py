"""A PostgreSQL server of our own for tests, from what is installed: in a temporary folder, on a Unix socket only, never as root."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = "ready to accept connections"


def programs() -> Path | None:
    """The newest installed server's folder of programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def _account() -> str:
    """Who runs it: a server refuses to be root."""
    if os.geteuid():
        return getpass.getuser()
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"


@contextmanager
def server(bin: Path) -> Iterator[str]:
    """Yields the folder of its socket, for ``asyncpg.connect(host=folder, user="tester", database="postgres")``."""
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="mesh-pg-"))
    become: dict[str, Any] = {}
    if not os.geteuid():
        shutil.chown(folder, account)
        entry = pwd.getpwnam(account)
        become = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    data = folder / "data"
    make = [bin / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"]
    options = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "log_min_messages=log", "shared_buffers=1MB")
    run = [bin / "postgres", "-D", data, *(word for option in options for word in ("-c", option))]
    try:
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **become)
        with subprocess.Popen(run, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, **become) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if READY in line:
                    break
            else:
                raise RuntimeError("".join(said))
            try:
                yield str(folder)
            finally:
                process.send_signal(2)  # a fast shutdown: open sessions are ended
                process.stderr.read()
    finally:
        shutil.rmtree(folder)
