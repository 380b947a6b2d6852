"""Where an agent comes from, so that another process can load it again.

    origin_of(agent): the module and the name under which it lies there --> load(origin), elsewhere: the same agent

An agent is found by identity among the globals of loaded modules. A module is imported by name where its name leads back to its file, and
from its file where it was run as one (``python greeter.py``, ``mesh run greeter.py``). What lives only in a function, a notebook or an
interactive session has no origin.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mesh.agent import Agent, loading
from mesh.errors import DeclarationError

_FIX = "assign it at the top level of a .py file"


@dataclass(frozen=True, slots=True)
class Origin:
    """`module` is a name to import; where that is "", `path` is a file to load. `variable` is the agent's name in there."""

    module: str
    path: str
    variable: str


def origin_of(agent: Agent) -> Origin:
    """Raises DeclarationError if no other process could load this agent."""
    what = f'agent {agent.name!r}, which has a capability with isolation="process",'
    for module in _modules(agent):
        for variable, value in list(vars(module).items()):
            if value is agent:
                name, path = _way_to(module)
                if name or path:
                    return Origin(name, path, variable)
                raise DeclarationError(what, "was made in an interactive session or notebook, which a process of its own cannot load", _FIX)
    raise DeclarationError(what, "is no global of any module, so a process of its own cannot find it", _FIX)


def load(origin: Origin) -> Agent:
    """The agent, its module loaded. Raises whatever the module raises, and DeclarationError if the agent is not there."""
    loading.set(True)
    module = importlib.import_module(origin.module) if origin.module else _from_file(Path(origin.path))
    found = getattr(module, origin.variable, None)
    if not isinstance(found, Agent):
        place = origin.module or origin.path
        raise DeclarationError(f"the agent {origin.variable!r}", f"is not in {place} when that is loaded by another process", _FIX)
    return found


def _modules(agent: Agent) -> Iterator[ModuleType]:
    """The module in which it was made first: others may have imported it."""
    made_in = sys.modules.get(agent.made_in)
    if made_in is not None:
        yield made_in
    yield from [module for module in list(sys.modules.values()) if isinstance(module, ModuleType) and module is not made_in]


def _way_to(module: ModuleType) -> tuple[str, str]:
    """``(name to import, file to load)``, one of them "" or both."""
    spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    name = spec.name if spec is not None else module.__name__
    if name != "__main__" and _leads_back(name, path):
        return name, ""
    return "", str(Path(path).absolute()) if path and Path(path).is_file() else ""


def _leads_back(name: str, path: str | None) -> bool:
    """Whether a fresh process that imports `name` gets the same file. Asks the finders, not what is loaded here already."""
    top, dot, _ = name.partition(".")
    found = next((spec for finder in sys.meta_path if (spec := finder.find_spec(top, None)) is not None), None)
    return found is not None and (bool(dot) or (found.origin is not None and path is not None and Path(found.origin) == Path(path)))


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
