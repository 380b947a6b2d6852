"""Events and schedules, for programs: publish to a topic, and say what is to be done when. `Mesh`, `LocalMesh` and handlers share it.

    publish("file.created", path=...) --subscribers?--> the node --> one keyed submit each: on/TOPIC/CAPABILITY/EVENT

Nothing lies between publisher and tasks: no queue, no broker. An event is published when all its tasks are kept; a publisher that died
midway does it again under the same event id, and each task is there once.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mesh import values
from mesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from mesh.client import Mesh
    from mesh.context import TaskInfo
    from mesh.files import Shelf
    from mesh.ids import Baggage
    from mesh.runs import Run

Document = dict[str, Any]
Ask = Callable[[str, Document], Awaitable[Document]]

EVENT_CHARACTERS_MAX = 64


async def publish(ask: Ask, shelf: Shelf | None, topic: str, event_id: str, given: Document, by: str, baggage: Baggage = ()) -> Document:
    """One task for each capability that subscribes. Raises UsageError, NoNode; what a submit raises stands in its row."""
    from mesh.schedules import checked_topic

    checked_topic(topic)
    if not isinstance(event_id, str) or len(event_id) > EVENT_CHARACTERS_MAX or not event_id.isprintable():
        raise UsageError(f"{event_id!r} is no id of an event", fix=f"give a text of at most {EVENT_CHARACTERS_MAX} characters, or none")
    event = event_id or uuid.uuid4().hex
    whole = given | {"topic": topic, "event_id": event}
    tasks: list[Document] = []
    for subscriber in (await ask("subscribers", {"topic": topic}))["subscribers"]:
        capability, takes = subscriber["capability"], subscriber["takes"]
        wanted = whole if takes is None else {name: value for name, value in whole.items() if name in takes}
        try:
            data, files = await values.encode(wanted, ask, shelf)
            work = {"capability": capability, "input": data, "files": files, "timeout_ms": 0, "retries": -1}
            work["baggage"] = [list(one) for one in baggage]
            body = await ask("submit", work | {"by": by, "key": f"on/{topic}/{capability}/{event}"})
        except MeshError as error:
            tasks.append({"capability": capability, "error": error.body()})
        else:
            tasks.append({"capability": capability, "task": body["task"], "survives": body["survives"]})
    return {"schema": "mesh.publish/1", "topic": topic, "event": event, "subscribers": len(tasks), "tasks": tasks}


class Triggering:
    """What a mesh has of this. `_any` is the client that asks."""

    def _any(self) -> Mesh:
        raise NotImplementedError

    async def publish(self, topic: str, /, *, event_id: str = "", **values: Any) -> Document:
        """Tell everybody who subscribes to `topic`: each gets one durable task, with those of the values that it takes.

        The same `event_id` (of this topic) is the same event, however often and from whichever node it is published, until its tasks'
        records are forgotten; without one each call is an event of its own. Returns ``{"event", "subscribers", "tasks": [{"capability",
        "task"}]}``; nobody subscribes: none, which is no error. What could not be submitted has an ``"error"`` in its row instead.
        Raises UsageError, NoNode.
        """
        from mesh.client import _who

        connection = self._any()._connection
        return await publish(connection.ask, getattr(connection, "shelf", None), topic, event_id, values, _who())

    async def schedules(self) -> Document:
        """``{"action", "schedules": [{"name", "capability", "next_ms", "last_ms", "task", "paused", ...}]}``: agents' and people's."""
        return {"schema": "mesh.schedule/1", "action": "list", **await self._schedule("list")}

    async def add_schedule(
        self, name: str, when: str, capability: str, /, *, arguments: Document | None = None, **options: Any
    ) -> Document:
        """A schedule that needs no code: durable, mesh-wide, acted on by any node. `when` and `options` are those of ``@agent.every``.

        Raises UsageError; Refused if there is another schedule of that name.
        """
        from mesh.schedules import plan_of

        plan = plan_of(name, capability, when, arguments=arguments, **options)
        return {"schema": "mesh.schedule/1", "action": "add", **await self._schedule("add", name, list(dataclasses.astuple(plan)))}

    async def change_schedule(self, action: str, name: str, /) -> Document:
        """``"pause"``, ``"resume"`` (ticks that passed meanwhile are nobody's) or ``"remove"`` one. Raises Refused, UsageError."""
        if action not in ("pause", "resume", "remove"):
            raise UsageError(f"{action!r} is nothing to do with a schedule", fix="pause, resume or remove it")
        return {"schema": "mesh.schedule/1", "action": action, **await self._schedule(action, name)}

    async def _schedule(self, action: str, name: str = "", plan: list[Any] | None = None) -> Document:
        params = {"action": action, "name": name, "plan": plan or []}
        return await self._any()._connection.ask("schedule", params, timeout_s=10.0, what=f"schedule {action}")


class Publishes:
    """What a runner has of this, for its handlers."""

    shelf: Shelf | None

    def _living(self, task: TaskInfo) -> Run:
        raise NotImplementedError

    async def _ask_for(self, run: Run, verb: str, params: Document) -> Document:
        raise NotImplementedError

    async def publish(self, task: TaskInfo, topic: str, event_id: str, given: Document) -> Document:
        async def ask(verb: str, params: Document) -> Document:
            return await self._ask_for(self._living(task), verb, params)

        return await publish(ask, self.shelf, topic, event_id, given, f"task {task.id}", task.baggage)
