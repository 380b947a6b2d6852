"""The `mesh` command's entry point. Nothing is imported before Ctrl-C is taken care of.

What the verbs are stands in `verbs.py`; what happens around each of them in `shell.py`.
"""

from __future__ import annotations

import json
import sys

from mesh.failures import leave_no_core
from mesh.inspector.hide import hide_tokens


def main() -> None:
    """Run one command line and end the process with its exit code: 2 for usage, 130 after Ctrl-C, else what `docs/operations.md` says."""
    try:
        hide_tokens()
        leave_no_core()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from mesh.inspector.verbs import dispatch

        code = dispatch(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    except Exception as bug:  # noqa: BLE001  the last stop: whatever comes here is a defect of ours, told whole, exit 1
        code = _confess(bug)
    sys.exit(code)


def _confess(bug: Exception) -> int:
    import traceback

    traceback.print_exception(bug)
    message = f"this is a defect of mesh itself: {type(bug).__name__}: {bug}"
    fix = "report it, with the traceback on stderr"
    if "--json" in sys.argv:
        print(json.dumps({"schema": "mesh.error/1", "code": "defect", "message": message, "fix": fix}))
    else:
        print(f"mesh: {message}\ntry:  {fix}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
