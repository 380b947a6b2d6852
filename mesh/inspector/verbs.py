"""The table of verbs, and how a command line finds its verb: only the module of the verb that was asked for is imported."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
import typer.core
from typer.exceptions import TyperException

GROUPS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "demo",
        "run": "start",
        "up": "start",
        "init": "enrol",
        "invite": "enrol",
        "join": "enrol",
        "launch": "launch",
        "service": "service",
        "drain": "drain",
        "down": "start",
    },
    "Use": {
        "call": "use",
        "submit": "use",
        "result": "use",
        "cancel": "use",
        "retry": "use",
        "get": "use",
        "flow": "flow",
        "sim": "rehearse",
        "secret": "secrets",
        "approve": "gates",
        "deny": "gates",
        "signal": "gates",
        "policy": "policy",
        "update": "gates",
        "state": "states",
        "schedule": "triggers",
        "publish": "triggers",
    },
    "Watch": {
        "status": "watch",
        "nodes": "watch",
        "caps": "watch",
        "tasks": "watch",
        "task": "watch",
        "approvals": "gates",
        "coordinator": "coordinator",
        "why": "watch",
        "trace": "watch",
        "lineage": "watch",
        "blame": "watch",
        "logs": "logs",
        "audit": "audit",
    },
    "Trust": {"id": "enrol", "trust": "trust", "grant": "trust", "revoke": "trust", "rotate": "trust"},
    "Repair": {"doctor": "repair", "verify": "repair", "backup": "backups", "restore": "backups"},
}
"""group -> verb -> the module beside this one that holds the function of the verb's name."""
MODULES = {verb: module for members in GROUPS.values() for verb, module in members.items()}

SEVERAL = {
    "flow": {
        "run": "flow",
        "check": "flow",
        "plan": "flow",
        "graph": "flow",
        "show": "flow",
        "list": "flow",
        "pause": "flow_control",
        "resume": "flow_control",
        "patch": "flow_control",
        "replay": "flow_control",
        "cancel": "flow",
    },
    "policy": dict.fromkeys(("show", "set", "check", "explain", "history", "rollback"), "policy"),
    "state": {"get": "states", "set": "states", "delete": "states", "list": "states"},
}
"""Verbs that are several, ``mesh flow run``: what follows them, and the module that holds its function (``list_``: a name was taken)."""

CHANGE_KEYS = ("init", "grant", "revoke", "rotate")
"""Verbs that are never guessed: to type one of these by mistake cannot be undone."""
NEAR = 0.7
"""How alike a mistyped verb must be to one that is proposed; 1: the same."""

WITH_REST = ("launch", "service")
"""Verbs that take another verb after ``--``."""
REST = "rest"
"""Where they find its words, in their context's `meta`."""


class Verb(typer.core.TyperCommand):
    """A verb, its arguments shown in its help as they are typed: without the library's braces and types."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        return re.sub(r" <(str|list\[str\])>", lambda found: " " * len(found[0]), super().get_help(ctx))


class WithRest(Verb):
    """A verb whose words after ``--`` are another verb's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[REST] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


def _command(module: str, name: str) -> Any:
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP)
    single.command(name, cls=WithRest if name in WITH_REST else Verb)(_function(module, name))
    return typer.main.get_command(single)


def _function(module: str, name: str) -> Any:
    found = importlib.import_module(f"mesh.inspector.{module}")
    return getattr(found, name, None) or getattr(found, f"{name}_")


class Several(typer.core.TyperGroup):
    """A verb that is several."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(SEVERAL[self.name or ""])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = SEVERAL[self.name or ""].get(cmd_name)
        return None if module is None else _command(module, cmd_name)


class Verbs(typer.core.TyperGroup):
    """`mesh` itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = MODULES.get(cmd_name)
        if module is None:
            return None
        if cmd_name not in SEVERAL:
            return _command(module, cmd_name)
        several = typer.Typer(
            cls=Several, name=cmd_name, help=_help(cmd_name, ""), rich_markup_mode=None, add_completion=False, context_settings=HELP
        )
        several.callback()(_mesh)
        return typer.main.get_command(several)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        described = {verb: _help(verb, "") for verb in MODULES}
        widest = max(map(len, described))
        for group, members in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(verb.ljust(widest), described[verb]) for verb in members])
        with formatter.section("First steps"):
            formatter.write_dl(
                [("mesh demo", "see it work"), ("mesh run FILE.py", "run your own agent"), ("mesh VERB --help", "the details")]
            )


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=Verbs,
    name="mesh",
    help="An agent mesh with no server.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


@app.callback()
def _mesh() -> None:
    """An agent mesh with no server."""


def parsed(verb: str, words: list[str]) -> dict[str, Any]:
    """The parameters that a command line gives a verb, which is not run. Raises as its use would."""
    command = typer.main.get_command(app).get_command(typer.Context(typer.main.get_command(app)), verb)  # type: ignore[attr-defined]
    return dict(command.make_context(f"mesh {verb}", list(words)).params)


def verbs() -> Iterator[tuple[str, str, str]]:
    """``(group, verb, its one-line help)`` of every verb, for the help, the docs and the test that walks them all."""
    for group, members in GROUPS.items():
        for verb in members:
            for part in SEVERAL.get(verb, ("",)):
                yield group, f"{verb} {part}".strip(), _help(verb, part)


def _help(verb: str, part: str) -> str:
    """Of a verb that is several, and no `part` of it: its module's first line."""
    module = importlib.import_module(f"mesh.inspector.{SEVERAL[verb][part] if part else MODULES[verb]}")
    about = module if verb in SEVERAL and not part else _function(module.__name__.rpartition(".")[2], part or verb)
    return (about.__doc__ or "").strip().split("\n")[0]


def dispatch(words: list[str]) -> int:
    """Run one command line; its exit code. Usage errors are told here, in JSON where JSON was asked for. Lets KeyboardInterrupt through."""
    from mesh.errors import UsageError
    from mesh.inspector.shell import tell

    try:
        if not words:
            print(typer.main.get_command(app).get_help(typer.Context(typer.main.get_command(app), info_name="mesh")), file=sys.stderr)
            return 2
        code = app(words, prog_name="mesh", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except TyperException as error:
        message, fix = _usage(error, words)
        return tell(UsageError(message, fix=fix), as_json="--json" in words)


def _usage(error: TyperException, words: list[str]) -> tuple[str, str]:
    """What was wrong with the command line, and the line to type instead."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["mesh", *words[: words[0] in MODULES]])
    message = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    if path == "mesh" and (unknown := re.fullmatch(r"No such command '(.*)'", message, re.DOTALL)):
        near = difflib.get_close_matches(unknown[1], [verb for verb in MODULES if verb not in CHANGE_KEYS], 1, NEAR)
        return f"there is no verb {unknown[1]!r}", f"mesh {near[0]}" if near else "mesh --help"
    name, possible = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if name is not None and message.startswith("No such option"):
        if path == "mesh":
            return f"mesh has no option {name} before the verb", f"mesh VERB {name}, or mesh --help"
        other = {"--name": "--node", "--node": "--name"}.get(name)
        if other and context and any(other in each.opts for each in context.command.params):
            return f"{path} has no option {name}", f"{path} {other} NAME"
        return f"{path} has no option {name}", f"{path} {sorted(possible)[0]}" if possible else f"{path} --help"
    return message[:1].lower() + message[1:], f"{path} --help"
