"""D6: what is bounded stays bounded. Reads the sizes that components state themselves, and the size of what leaves."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.effects import Send
from mesh.limits import Limits
from mesh.messages.membership import Rumours
from mesh.messages.work import Beat, Renew, Result
from mesh.sim.history import Measured, Outward, Takes, Verdict

ITEMS_MAX = 65_536
"""Values in one message; the wire refuses more."""


class BoundsChecker:
    def __init__(self, limits: Limits) -> None:
        self._max = {
            "outbox": limits.links.queue_messages_max * 4,
            "rows": limits.membership.rows_max,
        }
        self._body_bytes_max = limits.work.body_bytes_max
        self.watches: tuple[type, ...] = (Rumours, Beat, Renew, Result)
        self.takes: Takes = {Measured: self._measured, Outward: self._outward}

    def _measured(self, record: Measured) -> Iterator[Verdict]:
        most = self._max.get(record.what)
        if most is not None and record.value > most:
            yield Verdict(record.at_s, "D6", f"{record.node}: {record.what} holds {record.value}, more than {most}")

    def _outward(self, record: Outward) -> Iterator[Verdict]:
        if type(record.effect) is not Send:
            return
        message = record.effect.message
        kind = type(message)
        if kind is Rumours:
            size = len(message.statements) + sum(len(dead.votes) for dead in message.deaths)
        elif kind is Beat or kind is Renew:
            size = len(message.items)
        elif kind is Result and len(message.output) > self._body_bytes_max:
            yield Verdict(record.at_s, "D6", f"{record.node} sends a result of {len(message.output)} bytes")
            return
        else:
            return
        if size > ITEMS_MAX:
            yield Verdict(record.at_s, "D6", f"{record.node} sends a {kind.__name__} of {size} items")
