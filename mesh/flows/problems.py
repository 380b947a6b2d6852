"""What is wrong with a flow, as values: where, why, and what to do about it.

    Problem(("step", 2, "needs"), "there is no step 'fetsch'", "write 'fetch'") --FlowError--> flow.toml:14: step 'draft', needs: ...

Invariant: nothing about a flow is refused without all three. A place is the path of keys and positions in the flow's document; which line
that is, only `reading.py` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.errors import UsageError

Place = tuple[str | int, ...]
"""Keys and positions, from the outside in: ``("step", 0, "with", "url")``."""
PART_MAX = 60
"""Characters of a key that are shown."""
SHOWN_MAX = 20
"""Problems that one error spells out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`warning`: the flow may run all the same."""

    where: Place
    reason: str
    fix: str
    warning: bool = False


class Bad(Exception):
    """One problem, on its way out of a parser."""

    def __init__(self, where: Place, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.problem = Problem(where, reason, fix)


class FlowError(UsageError):
    """A flow that cannot be run. `problems` are all of them, `lines` where each stands in `file`, 0 where that is not known."""

    code = "bad_flow"

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        file: str = "flow",
        line_of: Callable[[Place], int] | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        self.problems = tuple(problems)
        self.file = file
        self.lines = tuple(line_of(problem.where) if line_of else 0 for problem in problems)
        said = [line_about(problem, file, line, ids) for problem, line in zip(self.problems[:SHOWN_MAX], self.lines)]
        if len(self.problems) > SHOWN_MAX:
            said.append(f"and {len(self.problems) - SHOWN_MAX} more")
        super().__init__("\n".join(said), fix=self.problems[0].fix)


def line_about(problem: Problem, file: str, line: int, ids: Sequence[str] = ()) -> str:
    """``flow.toml:14: step 'draft', needs: there is no step 'fetsch'; write 'fetch'``."""
    place = place_of(problem.where, ids)
    return f"{file}{f':{line}' if line else ''}: {f'{place}: ' if place else ''}{problem.reason}; {problem.fix}"


def place_of(where: Place, ids: Sequence[str] = ()) -> str:
    """For people: ``step 'draft', with.url``. `ids` are those of the steps, in their order."""
    rest = where
    words = []
    if len(where) > 1 and where[0] == "step" and isinstance(where[1], int):
        known = where[1] < len(ids) and ids[where[1]]
        words.append(f"step {ids[where[1]][:PART_MAX]!r}" if known else f"step {where[1] + 1}")
        rest = where[2:]
    if rest:
        words.append(".".join(_shown(str(part)) for part in rest))
    return ", ".join(words)


def _shown(part: str) -> str:
    """A key as a terminal may see it."""
    text = "".join(char if char.isprintable() else "?" for char in part[:PART_MAX])
    return text if len(part) <= PART_MAX else f"{text}..."
