"""Who may connect to our ROUTER, and who is connected: the ZAP handler's table and the guard's connections, kept in step.

    admit(key, node) --> ZAP lets `key` in with a ticket --> meet: its first message --> a Connection known to be that node's
    expel(node), retire(key) --> no key, no ticket, no message of theirs any more, and their connections are cut

Invariant: what is known as a node's connection came in under a key admitted for that node, and still admitted. Tables are bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import zmq

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.sockets.curve import KEY_BYTES
from mesh.runtime.sockets.guard import Connection, Guard, GuardStatistics
from mesh.runtime.sockets.zap import Zap, ZapStatistics, number_in


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """`refused_keys`: keys that were not admitted, by reason."""

    zap: ZapStatistics
    guard: GuardStatistics
    refused_keys: dict[str, int]


class Gate:
    """`raw`: a ROUTER bound at `zap.ENDPOINT`, closed with the gate. `catch_up` lets the guard hear of all connections accepted so far."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, catch_up: Callable[[], None]) -> None:
        self.guard = Guard(limits)
        self._raw = raw
        self._zap = Zap(raw, limits, self.guard.number, catch_up)
        self._refused_keys: Counter[str] = Counter()

    def ask_before(self, may_come: Callable[[NodeId], bool]) -> None:
        """Let `may_come` decide about each connection of an admitted node."""
        self._zap.may_come = may_come

    async def run(self) -> None:
        """Answer handshakes and watch connections, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._zap.run)
            tasks.start_soon(self.guard.run)

    def meet(self, user: str, routing_id: bytes, fd: int) -> Connection | None:
        """The connection of a first message, by what libzmq says of it (`fd` -1: not told); None if whoever sent it has been cut off."""
        ticket = self._zap.claim(user)
        if ticket is None:
            self.guard.refuse(fd, number_in(user))
            return None
        return self.guard.claim(ticket, routing_id, fd)

    def admit(self, key: bytes, node: NodeId) -> bool:
        """From now on `key` opens our ROUTER in the name of `node`, beside its other keys. False if not: see `refused_keys`.

        A key that another node has claimed, but does not use, changes hands: who holds its secret half shows only when he connects. Of a
        node with too many keys the oldest is retired; where there is no room, whoever was admitted first and is not connected has to go.
        """
        holder = self._zap.holder(key)
        reason = "" if len(key) == KEY_BYTES else "no_key"
        if holder not in ("", node):
            if self.guard.has(holder, key):
                reason = "key_in_use"
            else:
                self.retire(key)
        if not reason and self._zap.full(node):
            idle = next((one for one in self._zap.nodes() if not self.guard.has(one)), "")
            if idle:
                self.expel(idle)
            else:
                reason = "table_full"
        if reason:
            self._refused_keys[reason] += 1
            return False
        if too_many := self._zap.admit(key, node):
            self.retire(too_many)
        return True

    def expel(self, node: NodeId) -> bool:
        """No key of `node` opens our ROUTER any more, its live connections are cut now, and nothing they have sent is taken.

        False if one could not be cut because nobody knows which it is: then all have to go.
        """
        self._zap.expel(node)
        return self.guard.expel(node)

    def retire(self, key: bytes) -> bool:
        """The same for one key of a node; its connections under other keys go on."""
        node = self._zap.holder(key)
        self._zap.retire(key)
        return not node or self.guard.expel(node, key)

    def statistics(self) -> GateStatistics:
        return GateStatistics(self._zap.statistics(), self.guard.statistics(), dict(self._refused_keys))

    def close(self) -> None:
        self._raw.close(0)
        self.guard.close()
