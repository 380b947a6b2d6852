"""`mesh VERB`: the table of verbs. Each verb's module is imported when the command line is built; nothing here does any work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.exceptions import TyperException

from mesh.inspector import demo, repair, start, use, watch

GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Start": (demo.demo, start.run, start.up, start.down),
    "Use": (use.call, use.submit, use.result, use.cancel, use.get),
    "Watch": (watch.status, watch.nodes, watch.caps, watch.tasks, watch.task, watch.why, watch.lineage, watch.blame),
    "Repair": (repair.doctor, repair.verify),
}

app = typer.Typer(
    name="mesh",
    help="An agent mesh with no server. Start here: mesh demo",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _group, _verbs in GROUPS.items():
    for _verb in _verbs:
        app.command(_verb.__name__, rich_help_panel=_group)(_verb)


def verbs() -> Iterator[tuple[str, str, str]]:
    """``(group, verb, its one-line help)`` of every verb, for the docs and for the test that walks them all."""
    for group, members in GROUPS.items():
        for verb in members:
            yield group, verb.__name__, (verb.__doc__ or "").strip().split("\n")[0]


def main() -> None:
    """Entry point of the `mesh` command. Usage errors exit 2, in JSON too when JSON was asked for."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as end:
        code = end.exit_code
    except typer.Abort:
        code = 130
    except TyperException as error:
        code = _usage(error)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    verb = context.command_path if context else "mesh"
    fix = f"{verb} --help"
    if "--json" in sys.argv:
        print(json.dumps({"schema": "mesh.error/1", "code": "usage", "message": error.format_message(), "fix": fix}))
    else:
        print(f"mesh: {error.format_message()}\ntry:  {fix}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
