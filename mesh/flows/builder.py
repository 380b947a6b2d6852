"""A flow written in Python: the same spec as TOML gives, without text in between.

    from mesh import flow

    f = flow("notes", range="string")
    log = f.step("log", "vcs.log", range=f.input.range)
    parts = f.step("parts", "text.split", text=log.text, options={"retry": 3})
    drafts = f.map("drafts", "llm.draft", over=parts.parts, part=f.item)
    f.step("publish", "site.publish", pages=drafts, options={"compensate": "site.unpublish"})
    await m.submit("mesh.flow", spec=f.document(), input={"range": "v1..v2"})

Arguments of the work are keywords; everything else about a step is in `options`, under the names that TOML has. A step that is given
another's result needs it. Misuse raises here, where it stands. What is built is checked when it is asked for, as a file is when it is read.
"""

from __future__ import annotations

from typing import Any

from mesh.errors import UsageError
from mesh.flows.checks import checked
from mesh.flows.reading import flow_from
from mesh.flows.spec import Document, Flow, document


class Ref:
    """A value that will be there when the flow runs: an input, a step's result, or a part of one: ``log.rows[0].name``."""

    def __init__(self, path: str, needs: tuple[str, ...] = ()) -> None:
        self._path, self._needs = path, needs

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("_"):
            raise AttributeError(name)
        return Ref(f"{self._path}.{name}", self._needs)

    def __getitem__(self, key: int | str) -> Ref:
        return Ref(f"{self._path}[{key}]" if isinstance(key, int) else f"{self._path}[{_quoted(key)}]", self._needs)

    def __iter__(self) -> Any:
        raise UsageError("a result is there only when the flow runs", fix='f.map("each", "a.capability", over=...) runs a step for each')

    def __bool__(self) -> bool:
        raise UsageError("a result is there only when the flow runs", fix='write options={"when": "$steps.a.ok"}')

    def __str__(self) -> str:
        return f"${self._path}"

    def __repr__(self) -> str:
        return f"Ref({self})"


class StepRef(Ref):
    """A step, and what it will give."""

    def __init__(self, id: str) -> None:
        super().__init__(f"steps.{id}", (id,))


class FlowBuilder:
    """Made by `flow`."""

    def __init__(self, name: str, inputs: Document) -> None:
        self._document: Document = {"flow": name, "step": []}
        if inputs:
            self._document["input"] = inputs
        self.input = Ref("input")
        """What it is started with: ``f.input.range``."""
        self.item = Ref("item")
        """In the arguments of `map`: the item. Of a loop: what the last turn gave."""
        self.index = Ref("index")

    def step(self, id: str, uses: str, /, *, options: Document | None = None, **arguments: Any) -> StepRef:
        """One step: `uses` with `arguments`, in which results of others stand as they are. Raises UsageError.

        `options`: `needs` (more than the arguments say), `when`, `join`, `loop`, `retry`, `timeouts`, `gate`, `compensate`, `fallback`,
        `cache`, `hedge`, `labels`, ... as in TOML.
        """
        return self._add(id, {"uses": uses, "with": arguments}, options)

    def map(
        self, id: str, uses: str, /, *, over: Any, max_parallel: int | None = None, options: Document | None = None, **arguments: Any
    ) -> StepRef:
        """One step for each item of `over`, `max_parallel` at once; its result is the list of theirs."""
        width = {} if max_parallel is None else {"max_parallel": max_parallel}
        return self._add(id, {"uses": uses, "with": arguments, "map": over, **width}, options)

    def gate(self, id: str, question: str, /, *, options: Document | None = None, **how: Any) -> StepRef:
        """A question to people: `approvers`, `quorum`, `expires`."""
        return self._add(id, {"gate": {"question": question, **how}}, options)

    def budget(self, **amounts: float) -> None:
        """What all of it may spend. Whoever submits it says so: ``m.options(budget=f.document()["budget"])``."""
        self._document["budget"] = amounts

    def output(self, value: Any) -> None:
        """What the flow gives; else the results of the steps that nothing needs."""
        self._document["output"] = _plain(value, {})

    def flow(self) -> Flow:
        """What was built. Raises FlowError with all that is wrong."""
        return checked(flow_from(self._document))

    def document(self) -> Document:
        """The same as plain JSON values: the `spec` of ``mesh.flow``. Raises FlowError."""
        return document(self.flow())

    def _add(self, id: str, table: Document, options: Document | None) -> StepRef:
        needs: dict[str, None] = {}
        given = dict(options or {})
        twice = table.keys() & given.keys()
        if twice:
            raise UsageError(f"step {id!r}: {sorted(twice)[0]!r} is given twice", fix="give it once")
        said = given.pop("needs", ())
        for need in [said] if isinstance(said, str | Ref) else said:
            needs[need._needs[0] if isinstance(need, StepRef) else str(need)] = None
        found = {key: _plain(value, needs) for key, value in (table | given).items()}
        if not found.get("with", True):
            del found["with"]
        self._document["step"].append({"id": id, **found} | ({"needs": list(needs)} if needs else {}))
        return StepRef(id)


def flow(name: str, /, **inputs: Any) -> FlowBuilder:
    """Begin a flow. `inputs` say what it is started with: ``range="string"``, or ``{"type": "integer", "default": 3}``."""
    return FlowBuilder(name, inputs)


def _plain(value: Any, needs: dict[str, None]) -> Any:
    """With expressions for what will be there, whose steps are added to `needs`."""
    if isinstance(value, Ref):
        needs.update(dict.fromkeys(value._needs))
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(one, needs) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, needs) for one in value]
    return value


def _quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
