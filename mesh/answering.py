"""What people and programs tell waiting work: signals, approvals. The client's side of `gates.py`.

Invariant: an answer names the gate and the hash of exactly what was looked at; if that has changed since, it is refused, not applied. Asked
again after a broken link, a signal is known by its event and counts once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.core.work.gates import output_bytes_max
from mesh.errors import NoSuchTask, TooBig, UsageError
from mesh.gates import checked_name
from mesh.state import State as State
from mesh.state import client_state
from mesh.updating import answer_in as answer_in

if TYPE_CHECKING:
    from mesh.client import Mesh

Document = dict[str, Any]
Ask = Callable[[str, str, Document], Coroutine[Any, Any, Document]]
"""``(question, key, args)``, to the mesh."""

KEEP = object()
"""What was asked about stays as it is."""


def _fits(what: str, data: bytes, size_bytes_max: int, fix: str) -> None:
    """Before it is sent: what no link carries would be waited for in vain. 0: not known. Raises TooBig."""
    if size_bytes_max and len(data) > size_bytes_max:
        raise TooBig(f"{what} is {len(data)} bytes as JSON, over the {size_bytes_max} that travel", fix=fix)


async def send_signal(ask: Ask, task: str, name: str, value: Any, event: str, by: str, size_bytes_max: int = 0) -> Document:
    """``{"task", "signal"}``. Raises UsageError, TooBig, NoSuchTask, Refused if the task has ended."""
    data, files = values.dump({"value": value})
    if files:
        raise UsageError("a signal carries no File: its bytes would not be kept", fix="send its hash, or a name")
    _fits("the signal", data, size_bytes_max, "send its hash, or a name")
    args = values.load(data, None) | {"name": checked_name("a signal", name), "event": event or uuid.uuid4().hex, "by": by}
    return await ask("signal", task, args)


async def waiting_gates(ask: Ask, about: str) -> Document:
    """The gates that wait, of the whole mesh, the newest first; `about`: of that gate, that task and its steps alone."""
    body = await ask("waits", "", {})
    rows = [row for row in body["tasks"] if not about or _is_about(row, about)]
    return {"gates": rows, "missing": body["missing"]}


def _is_about(row: Document, about: str) -> bool:
    author, _, rest = about.partition(".")
    return any(
        str(row.get(field, "")).startswith(author) and str(row.get(field, "")).partition(".")[2] == rest
        for field in ("task", "parent", "root")
    )


async def answer_gate(ask: Ask, gate: str, approve: bool, note: str, output: Any, by: str, size_bytes_max: int = 0) -> Document:
    """Approve or deny the one gate that `gate` names: its own id, or that of the task it belongs to, if only one waits there.

    Raises NoSuchTask if none waits, UsageError if several do, Refused by the gate's own rules.
    """
    found = await waiting_gates(ask, gate)
    rows = found["gates"]
    if not rows:
        away = f" (not asked: {', '.join(found['missing'])})" if found["missing"] else ""
        raise NoSuchTask(f"no gate of {gate} waits for an answer{away}", fix=f"mesh approvals; for one that is over: mesh why {gate}")
    if len(rows) > 1:
        names = ", ".join(row["task"] for row in rows[:5])
        raise UsageError(f"{len(rows)} gates of {gate} wait: {names}", fix="name the one you mean")
    row = rows[0]
    args: Document = {"approve": approve, "note": note, "person": by, "input": row["input"]}
    if output is not KEEP:
        data, files = values.dump({"value": output})
        if files:
            raise UsageError("what takes the place of a gate's subject is no File", fix="put its hash there")
        _fits("what is to stand in the subject's place", data, output_bytes_max(size_bytes_max), "put its hash there")
        args["output"] = values.load(data, None)["value"]
        args["edited"] = True
    return await ask("answer", row["task"], args)


class Answering:
    """What a mesh has of this. `_any` is the client that asks. Each returns the JSON document of the command line's verb of that name."""

    def _any(self) -> Mesh:
        raise NotImplementedError

    def _most(self) -> int:
        """Bytes of JSON that one message carries, as the node says."""
        return int(self._any()._connection.node.get("body_bytes_max") or 0)

    async def signal(self, task: str, name: str, value: Any = None, *, event: str = "") -> Document:
        """Tell a running task something that it waits for, or will: ``{"task", "signal"}``. Returns once that is safe.

        `event`: what the sender calls this signal; the same twice counts once. Raises NoSuchTask, Refused if the task has ended.
        """
        return {"schema": "mesh.signal/1", **await send_signal(self._any()._ask, task, name, value, event, _account(), self._most())}

    async def update(self, task: str, name: str, value: Any = None, *, event: str = "", timeout_s: float | None = None) -> Any:
        """Ask something of a running task, and return what its handler answers: a signal that is answered (``ctx.update(name)``).

        `event`: what the sender calls it; the same twice is one, and has one answer. `timeout_s` bounds the wait for the answer: the update
        itself stays. Raises Refused with the handler's words if it refuses, or ends without an answer; TimedOut, NoSuchTask, TooBig.
        """
        document = await self.send_update(task, name, value, event=event)
        return answer_in(await self._any().result(document["update"], timeout_s=timeout_s))

    async def send_update(self, task: str, name: str, value: Any = None, *, event: str = "") -> Document:
        """The same without the wait: ``{"task", "name", "update"}``; the answer is the result of the task `update`."""
        from mesh.updating import send_update

        return await send_update(self._any()._ask, task, name, value, event, _account(), self._most())

    def state(self, name: str = "", *, task: str = "") -> State:
        """Versioned values that outlive nodes: those shared by the mesh under `name`, or those of a running task and its steps.

        ``value, version = await m.state("prices").get("EUR")``; ``set(key, value, if_version=version)`` writes only over that version.
        """
        return client_state(self._any()._connection.ask, name, task, _account())

    async def states(self) -> Document:
        """``{"states": [{"name", "task", "keys", "bytes", "version", "manager"}], "missing": [...]}``: the shared ones, by name."""
        body = await self._any()._ask("scopes", "", {})
        rows = sorted(body["tasks"], key=lambda row: str(row.get("name")))
        return {"schema": "mesh.state-list/1", "states": rows, "missing": body["missing"]}

    async def approvals(self, about: str = "") -> Document:
        """``{"gates": [{"task", "question", "arguments", "root", ...}], "missing": [...]}``: what waits for somebody to approve it."""
        return {"schema": "mesh.approvals/1", **await waiting_gates(self._any()._ask, about)}

    async def approve(self, gate: str, *, note: str = "", output: Any = KEEP) -> Document:
        """Let a gate pass: ``{"task", "parent", "state", "said"}``. `output` takes the place of what was asked about.

        `gate`: its id, or that of the task it belongs to, if only one waits there. Raises NoSuchTask, Refused, UsageError.
        """
        return {"schema": "mesh.approve/1", **await answer_gate(self._any()._ask, gate, True, note, output, _account(), self._most())}

    async def deny(self, gate: str, *, note: str = "") -> Document:
        """Turn a gate down, as `approve` lets it pass."""
        return {"schema": "mesh.deny/1", **await answer_gate(self._any()._ask, gate, False, note, KEEP, _account())}


def _account() -> str:
    from mesh.client import _who

    return _who()
