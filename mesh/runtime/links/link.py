"""One peer, as the links see it: our connection to it, the session it gave us, what waits to leave, and what came too early.

    opening --(both sessions stand, DEALER connected)--> up --(disconnected)--> down, and opened again by a new HELLO

Invariant: `up` only while this DEALER is connected and each side has given the other a session of the same life. Decides nothing:
`runtime/links/meeting.py` moves it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import zmq

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.links.outgoing import Outgoing
from mesh.runtime.links.sessions import Greeting
from mesh.runtime.sockets.sockets import Sender

ENVELOPES_PER_FLUSH = 16
"""Of one peer; the rest follows as soon as libzmq takes more, so one full queue does not hold up the turn."""


class Link:
    """Fields only `Links` and `Meeting` change. `ready` is set when the link comes up or is given up: look at `up` then."""

    __slots__ = (
        "alive",
        "connected",
        "curve_key",
        "dialled_key",
        "dirty",
        "door",
        "early",
        "given",
        "greeted",
        "greetings",
        "heard",
        "hello_no",
        "incarnation",
        "moved",
        "next_seq",
        "node",
        "queue",
        "ready",
        "rehello",
        "router",
        "sender",
        "session",
        "stamp_ms",
        "stuck",
        "tasks",
        "unsent",
        "up",
        "waited_for",
    )

    def __init__(self, greeting: Greeting, limits: LinkLimits, dropped: Counter[str]) -> None:
        self.node: NodeId = greeting.peer
        self.queue = Outgoing(limits, dropped)
        self.unsent: deque[list[bytes]] = deque()
        """Sealed envelopes that libzmq did not take yet."""
        self.early: deque[tuple[NodeId, Any]] = deque(maxlen=limits.batch_messages_max * 8)
        """Verified inputs from before our own LinkUp; told right after it."""
        self.ready = anyio.Event()
        self.greetings = 0
        self.given = self.heard = b""
        """The session we gave the peer last, and the one under which it sent last."""
        self.moved = anyio.Event()
        """Set when one of these has changed, or the connection."""
        self.sender: Sender | None = None
        self.tasks: anyio.abc.TaskGroup | None = None
        self.session = self.dialled_key = b""
        self.next_seq = 1
        self.hello_no = 0
        self.connected = self.greeted = self.up = self.dirty = self.rehello = self.stuck = False
        self.waited_for: Sender | None = None
        """The connection for which a task waits until it takes more."""
        self.stamp_ms = 0
        """Newest stamp heard in this life of the peer, on its clock."""
        self.learn(greeting)

    def learn(self, greeting: Greeting) -> None:
        """Take over what the peer says of itself."""
        self.alive, self.incarnation = greeting.alive, greeting.incarnation
        self.door, self.router = greeting.door, greeting.router
        self.curve_key = greeting.curve_key

    def open(self, sender: Sender, tasks: anyio.abc.TaskGroup, on_event: Callable[[Link, Sender, zmq.Event], None]) -> None:
        """Use this DEALER from now on, in place of an older one. It is stuck until it is connected; its monitor is watched until `shut`."""
        if self.tasks is not None:
            self.tasks.cancel_scope.cancel()
            self.tasks = None
        self.sender, self.connected, self.stuck, self.dialled_key = sender, False, True, self.curve_key
        tasks.start_soon(self._live, sender, on_event)

    async def _live(self, sender: Sender, on_event: Callable[[Link, Sender, zmq.Event], None]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                if self.sender is not sender:  # shut before it began
                    return
                self.tasks = tasks
                await sender.watch(lambda event, _value: on_event(self, sender, event))
        finally:
            sender.close()

    def shut(self) -> int:
        """Close the connection and forget its session; returns how many messages were waiting. The link may be opened again."""
        lost = self.queue.clear() + len(self.unsent)
        self.unsent.clear()
        self.session, self.connected, self.up, self.stuck = b"", False, False, False
        self.sender = None
        if self.tasks is not None:
            self.tasks.cancel_scope.cancel()
            self.tasks = None
        self.ready.set()
        self.moved.set()
        return lost

    def send(self, frames: list[bytes]) -> bool:
        """Send, or keep for later. False if it was kept."""
        if not self.unsent and self.sender is not None and self.sender.send(frames):
            return True
        self.unsent.append(frames)
        return False

    def send_kept(self) -> bool:
        """Send what was kept, in order. True if nothing is left."""
        while self.unsent and self.sender is not None and self.sender.send(self.unsent[0]):
            self.unsent.popleft()
        return not self.unsent
