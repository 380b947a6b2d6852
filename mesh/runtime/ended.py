"""Why a node ended that nobody told to end: one note in its folder, for whoever asks later why nothing runs.

    a life ends with an error --> `note`        the next life works --> `clear`        `mesh status`, `mesh doctor` --> `last`

Invariant: a note stands for a node that does not run, or has not begun to work. What ended by a signal that cannot be caught leaves none.
"""

from __future__ import annotations

import contextlib
import json

from mesh.errors import MeshError, error_document, first_error
from mesh.runtime.home import HomeError, NodeFolder, read_private, write_atomic


def note(folder: NodeFolder, error: Exception) -> None:
    """Keep it. A folder that cannot be written, or is gone, keeps nothing: the process says the same as its last words."""
    told = first_error(error) or MeshError(f"a defect of mesh itself: {type(error).__name__}: {error}", fix=f"tail {folder.log_path}")
    with contextlib.suppress(HomeError):
        write_atomic(folder.ended_path, json.dumps(error_document(told)).encode())


def clear(folder: NodeFolder) -> None:
    """The node works. Raises OSError."""
    folder.ended_path.unlink(missing_ok=True)


def last(folder: NodeFolder) -> MeshError | None:
    """Why it ended; None if it runs, was told to end, or has not said why."""
    if folder.is_running():
        return None
    try:
        found = json.loads(read_private(folder.ended_path) or b"null")
    except (HomeError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    code, message, fix = (str(found.get(name) or "") for name in ("code", "message", "fix"))
    return MeshError(f"node {folder.name} ended by itself: {message}", fix=fix or f"tail {folder.log_path}", code=code or None)
