"""A node put back from its backup, into an empty home or into the one it came from.

    backup --taken out beside the home, opened, checked whole--> moved into place: home (where there is none yet), node

Invariant: nothing that is there is overwritten or deleted: a node in its old place is moved aside, and only on request. The next life's
number is above every one that this node may have begun since the backup, so no task's id and no fence comes twice; and the journal is
marked as restored: the node writes nothing until others have said that they know nothing newer (`runtime/restored.py`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.errors import Refused, UsageError
from mesh.runtime.clock import wall_ms
from mesh.runtime.disk import archive, store_file
from mesh.runtime.disk.backup import TABLE, explained, look_into, sealer
from mesh.runtime.disk.sealing import SealBroken
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.store_newest import Newest
from mesh.runtime.disk.vault import Vault, open_vault
from mesh.runtime.home import Home, HomeError, NodeFolder, NodeRunning, make_private, sync_folder, write_atomic
from mesh.runtime.trust.credentials import Credentials

LIVES_AHEAD, LIVES_PER_S = 1_000_000, 10
"""A restored node skips a million lives, and ten for each second since the backup was made: a start takes longer than a tenth of a second,
so there were fewer, whatever the clocks say and however often the same backup comes back."""


def restore(
    path: Path, home: Home, *, replace: bool = False, prompt: Callable[[str], str] | None = None, now_ms: int | None = None
) -> dict[str, Any]:
    """Put the node in the backup `path` into `home`. `replace`: where it is there already, that one is moved aside.

    Answers ``{"node", "id", "home", "entries", "incarnation", "made_ms", "files", "moved_aside", "new_home"}``. Raises UsageError (no such
    file), Refused: ``not_a_backup``, ``backup_damaged``, ``other_mesh``, ``node_exists``, NodeRunning, HomeError, StoreError, MeshError
    ``disk_full``.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", fix="mesh restore FILE", code="no_such_file")
    with explained(home.path):
        facts = archive.read_facts(path)
        belongs = _belongs(home, facts)
        home.make()
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=home.path) as folder:  # 0700, and on the same disk
            stage = Path(folder)
            contents = archive.take_out(path, stage)
            vault = _vault(home, stage, belongs, prompt)
            _open_sealed(stage, vault, contents)
            files = _check_files(stage, contents)
            found = look_into(stage / "node/journal.sqlite", vault)
            if found["id"] != facts["id"] or found["entries"] != facts["entries"]:
                raise Refused(f"{path} is damaged: its journal is another", fix="take another copy of it", code="backup_damaged")
            return _put(stage, home, facts, belongs, replace, now_ms or wall_ms()) | {"files": files}


def _belongs(home: Home, facts: dict[str, Any]) -> bool:
    """Whether that is the home of the backup; False where there is no home yet. Raises Refused for another one."""
    if not Credentials.exist(home):
        return False
    credentials = Credentials.current(home)
    if facts["mesh"] not in (credentials.mesh, *credentials.past):
        what = f"the backup is of a node of the mesh {facts['mesh'][:8]}, and {home.path} belongs to {credentials.mesh[:8]}"
        raise Refused(what, fix="choose another home: --home DIR", code="other_mesh")
    return True


def _vault(home: Home, stage: Path, belongs: bool, prompt: Callable[[str], str] | None) -> Vault:
    """What opens the backup: this home's own vault, or the one that came along. Raises HomeError."""
    if belongs:
        return open_vault(home, prompt=prompt)
    staged = Home(stage / "home")
    for kek in home.mesh_path.glob("kek.*"):  # kept apart from the backup, and put here for it
        shutil.copy(kek, staged.mesh_path / kek.name)
    try:
        return open_vault(staged, prompt=prompt)
    except HomeError as error:
        if error.code == "no_kek" and error.message.startswith(str(staged.path)):
            name = error.message.split()[0].rpartition("/")[2]
            what = f"the backup was made without the key that opens it ({name})"
            raise HomeError(what, fix=f"put that file at {home.mesh_path / name}, then this again", code="no_kek") from None
        raise


def _open_sealed(stage: Path, vault: Vault, contents: list[archive.Content]) -> None:
    for one in contents:
        if one.sealed:
            path = stage / one.name
            try:
                data = sealer(vault).open(TABLE, one.name, path.read_bytes())
            except SealBroken as error:
                what = f"{one.name} in the backup does not open with this home's vault ({error.reason})"
                raise Refused(what, fix="choose an empty home: --home DIR", code="other_vault") from None
            write_atomic(path, data)


def _check_files(stage: Path, contents: list[archive.Content]) -> int:
    """The users' files have the hashes they are called by."""
    files = [one for one in contents if one.name.startswith("node/files/")]
    for one in files:
        if one.name.rpartition("/")[2] != one.sha256:
            raise Refused(f"{one.name} in the backup is not what its name says", fix="take another copy of it", code="backup_damaged")
        (stage / one.name).chmod(0o400)
    return len(files)


def _put(stage: Path, home: Home, facts: dict[str, Any], belongs: bool, replace: bool, now_ms: int) -> dict[str, Any]:
    place = home.node(facts["node"])
    with contextlib.ExitStack() as stack:
        before, aside = _before(place, facts["id"], replace, stack)
        life = max(facts["incarnation"], before) + LIVES_AHEAD + LIVES_PER_S * max(0, now_ms - facts["made_ms"]) // 1000
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(facts["made_ms"] / 1000))
        newest = Newest(stage / "node/incarnation.json")
        newest.restore(life, f"restored from a backup of {made} UTC, which ends with entry {facts['entries']}")
        if not belongs:
            _put_home(stage / "home", home)
        if aside is not None:
            os.rename(place.path, aside)
        if place.path.parent != home.path:
            make_private(place.path.parent)
        os.rename(stage / "node", place.path)
        sync_folder(place.path.parent)
    return {
        "node": place.name,
        "id": facts["id"],
        "home": str(home.path),
        "entries": facts["entries"],
        "incarnation": life + 1,
        "made_ms": facts["made_ms"],
        "moved_aside": str(aside or ""),
        "new_home": not belongs,
    }


def _before(place: NodeFolder, node: str, replace: bool, stack: contextlib.ExitStack) -> tuple[int, Path | None]:
    """The newest life known of the node that is in the way, and where that one is to go."""
    if place.is_running():
        raise NodeRunning(place.name, place.path, (place.info() or {}).get("pid", 0))
    if not place.path.exists():
        return 0, None
    if not replace:
        what = f"there is a node {place.name} in {place.home.path} already"
        raise Refused(what, fix="mesh restore FILE --replace (it is moved aside, not deleted)", code="node_exists")
    stack.enter_context(place.lock())
    newest, life = Newest(place.incarnation_path), 0
    with contextlib.suppress(StoreError):  # damaged is why it is to be replaced
        newest.read()
    with contextlib.suppress(StoreError, ValueError):
        if place.journal_path.exists() and store_file.peek(place.journal_path, "author").decode() == node:
            life = int(store_file.peek(place.journal_path, "incarnation") or b"0")
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return max(newest.incarnation, life), place.path.with_name(f".{place.path.name}.before-{stamp}")


def _put_home(stage: Path, home: Home) -> None:
    """File by file; what makes it a member comes last, so a crash in between leaves no half of a home that counts as one."""
    present = sorted(path.name for path in home.mesh_path.iterdir() if path.name != "lock" and not path.name.startswith("kek."))
    if present:
        what = f"{home.mesh_path} is not empty, and no membership of a mesh either: {', '.join(present[:3])}"
        raise Refused(what, fix="choose another home: --home DIR", code="home_in_use")
    found = sorted((stage / "mesh").iterdir(), key=lambda path: path.name == "membership")
    for path in found:
        if path.name != "lock":
            os.rename(path, home.mesh_path / path.name)
    sync_folder(home.mesh_path)
    if (config := stage / "config.toml").exists() and not home.config_path.exists():
        os.rename(config, home.config_path)
    sync_folder(home.path)
