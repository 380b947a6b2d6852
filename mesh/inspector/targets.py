"""What `mesh run` runs: a ``.py`` file, ``module:object``, or the name of a ready-made agent (entry points in group ``mesh.agents``)."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from mesh import Agent
from mesh.agent import loading
from mesh.errors import MeshError, UsageError
from mesh.failures import details


class BrokenTarget(UsageError):
    """The target's code raised while it was imported. `details`: where, the user's own frame first."""

    code = "target"

    def __init__(self, target: str, error: Exception) -> None:
        super().__init__(f"{target} cannot be loaded: {type(error).__name__}: {error}", fix=f"mend it, then: mesh run {target}")
        self.details = details(error)


@contextmanager
def _loading(target: str) -> Iterator[None]:
    before = loading.set(True)
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        raise BrokenTarget(target, error) from error
    finally:
        loading.reset(before)


def load_agents(targets: list[str]) -> list[Agent]:
    """The agents of every target, in order. Raises UsageError, naming what to write instead; the user's own import errors pass through."""
    agents = [agent for target in targets for agent in _load(target)]
    names = [agent.name for agent in agents]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two agents are called {name!r}", fix="give each agent a name of its own")
    return agents


def _load(target: str) -> list[Agent]:
    if target.endswith(".py"):
        return _agents_in(_from_file(Path(target)), target)
    if ":" in target:
        return [_from_module(target)]
    for point in entry_points(group="mesh.agents"):
        if point.name == target:
            with _loading(target):
                return [_checked(point.load(), target)]
    names = sorted(point.name for point in entry_points(group="mesh.agents"))
    near = difflib.get_close_matches(target, names, 1)
    fix = f"mesh run {near[0]}" if near else f"name a .py file, module:object, or one of: {', '.join(names)}"
    raise UsageError(f"there is no ready-made agent {target!r}", fix=fix)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", fix="mesh run FILE.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} cannot be imported", fix="name a Python file: mesh run FILE.py")
    sys.path.insert(0, str(path.parent.absolute()))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    with _loading(str(path)):
        spec.loader.exec_module(module)
    return module


def _from_module(target: str) -> Agent:
    name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    with _loading(target):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise
            raise UsageError(
                f"there is no module {name!r}", fix="run it from the folder that holds the module, or name a .py file"
            ) from None
    found = getattr(module, attribute, None)
    if found is None:
        raise UsageError(f"the module {name!r} has no {attribute!r}", fix=f"mesh run {name}:agent")
    return _checked(found, target)


def _checked(found: object, target: str) -> Agent:
    if not isinstance(found, Agent):
        raise UsageError(f"{target} is a {type(found).__name__}, not an Agent", fix='agent = Agent("name")')
    return found


def _agents_in(module: ModuleType, target: str) -> list[Agent]:
    agents: list[Agent] = []
    for value in vars(module).values():
        if isinstance(value, Agent) and value not in agents:
            agents.append(value)
    if not agents:
        raise UsageError(f"{target} defines no agent", fix='agent = Agent("name"), at the top level of the file')
    return agents


def _watched_files(targets: list[str]) -> Iterator[Path]:
    """The Python files beside each target's own: what `--reload` looks at."""
    for target in targets:
        if target.endswith(".py"):
            yield from sorted(Path(target).absolute().parent.glob("*.py"))
        else:
            name = target.partition(":")[0] if ":" in target else "mesh_agents"
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                yield from sorted(Path(spec.origin).parent.glob("*.py"))


def fingerprint(targets: list[str]) -> list[tuple[str, int]]:
    """Changes whenever a file does that the targets' agents come from."""
    found = []
    for path in _watched_files(targets):
        try:
            found.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found
