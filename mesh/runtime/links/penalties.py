"""Peers that send too much, or too much that is refused: when to cut them, and how long they stay out.

    take(peer, bytes) -> may this envelope be looked at?        bad(peer, reason) -> was this the refusal too many?
    tax(peer, effort) -> has it made us work too much for nothing?
    punish(peer) --> out for penalty_s, twice as long each time

*Effort* is what a peer costs beside the work that it brings: gossip, questions, greetings, whatever is refused. One unit is about 10 us of
a processor. An envelope is free if it brings work that the core wants: whoever is busy is not cut, whoever floods with valid nonsense is.

Invariant: nothing here costs more than a few additions an envelope; an honest peer stays far below every limit. Decides; cuts nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages import membership, records, session, trust, work

MINUTE_S = 60.0
ENVELOPE_EFFORT = 50
"""One signature to check, and mostly one to make for the answer."""
EFFORT_BYTES = 256
"""So many bytes of an envelope that brings no work are one unit: rows have to be read and checked."""
STATEMENT_EFFORT = 15
"""Of others' signed words, passed on: one more signature to check, where they are new."""
REFUSED_EFFORT = 4
CONNECTION_EFFORT = 100
"""To the ROUTER: the handshake, and what is done at its beginning and its end."""
CFP_EFFORT = 4
"""Of each task. A busy manager auctions below 1000 a second; most work is awarded without."""
FILE_ASK_EFFORT = 2
"""Of 48 KiB: more than a network of 1 Gbit/s carries is too much for long."""
GREETING_EFFORT = 500
"""TLS, the HELLO, and one in return."""
_EFFORT: dict[type, int] = {
    session.Stale: 2,
    membership.Ping: 2,
    membership.Ack: 2,
    membership.PingRequest: 4,
    membership.PingReport: 2,
    membership.Rumours: 3,
    membership.Digest: 15,
    membership.Load: 4,
    trust.Trust: 10,
    trust.RenewAsk: 100,
    trust.Granted: 20,
    records.Heads: 3,
    records.Fork: 20,
    records.Witnessed: 20,
}
_QUESTIONS = {"result": 5}
"""Those who wait for results ask again and again; all else a person asks, and it may read the disk."""
_QUESTION_EFFORT = 100
HOSTILE = frozenset(
    (
        "frames",
        "too_big",
        "too_many_values",
        "too_many_messages",
        "malformed",
        "version",
        "other_mesh",
        "not_for_me",
        "wrong_link",
        "wrong_sender",
        "replayed",
        "payload_changed",
        "bad_proof",
        "bad_signature",
        "bad_framing",
        "not_allowed",
        "not_granted",
    )
)
"""Refusals that an honest peer never earns, however old or new it is: only these are held against the one who sent it."""


def effort_of(messages: list[Any], size_bytes: int) -> tuple[int, int]:
    """``(effort, price)`` of the messages of one envelope. Where there is work among them the price is due only if that is refused."""
    effort, brings_work = 0, False
    for message in messages:
        kind = type(message)
        if (units := _EFFORT.get(kind)) is not None:
            effort += units
            if kind is membership.Rumours:
                votes = sum(len(dead.votes) for dead in message.deaths)
                effort += STATEMENT_EFFORT * (len(message.statements) + votes)
            elif kind is records.Heads:
                effort += STATEMENT_EFFORT * len(message.heads)
        elif kind is work.Ask:
            effort += _QUESTIONS.get(message.question, _QUESTION_EFFORT)
        else:
            brings_work = True
            if kind is work.Cfp:  # answered whoever asks, and nothing may ever come of it
                effort += CFP_EFFORT * len(message.items)
            elif kind is work.FileAsk:
                effort += FILE_ASK_EFFORT
    price = ENVELOPE_EFFORT + size_bytes // EFFORT_BYTES
    return (effort, price) if brings_work else (effort + price, 0)


@dataclass(slots=True)
class _Account:
    """Of one peer. `envelopes`, `bytes` and `effort` are what it may still send and cost now, refilled by time."""

    at_s: float
    envelopes: float
    bytes: float
    effort: float
    effort_at_s: float
    bad: float = 0.0
    bad_at_s: float = 0.0
    cuts: int = 0
    out_until_s: float = 0.0


class Penalties:
    """All times are this machine's own clock, in seconds."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._accounts: OrderedDict[NodeId, _Account] = OrderedDict()

    def _account(self, peer: NodeId, now_s: float) -> _Account:
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = _Account(
                now_s, self._limits.envelopes_burst, self._limits.bytes_per_s, self._limits.effort_burst, now_s
            )
            if len(self._accounts) > self._limits.peers_max:
                self._accounts.popitem(last=False)
        return account

    def take(self, peer: NodeId, now_s: float, size_bytes: int) -> bool:
        """Whether the peer is within its rates with this envelope."""
        limits, account = self._limits, self._account(peer, now_s)
        passed_s = now_s - account.at_s
        account.at_s = now_s
        account.envelopes = min(limits.envelopes_burst, account.envelopes + passed_s * limits.envelopes_per_s) - 1.0
        account.bytes = min(limits.bytes_per_s, account.bytes + passed_s * limits.bytes_per_s) - size_bytes
        return account.envelopes >= 0.0 and account.bytes >= 0.0

    def tax(self, peer: NodeId, effort: float, now_s: float) -> bool:
        """Count effort that the peer has cost; True if it was too much."""
        limits, account = self._limits, self._account(peer, now_s)
        gained = (now_s - account.effort_at_s) * limits.effort_per_s
        account.effort = min(limits.effort_burst, account.effort + gained) - effort
        account.effort_at_s = now_s
        return account.effort < 0.0

    def bad(self, peer: NodeId, reason: str, now_s: float) -> bool:
        """Count one refusal of what the peer sent; True if it was one too many."""
        if reason not in HOSTILE:
            return False
        account = self._account(peer, now_s)
        kept = max(0.0, 1.0 - (now_s - account.bad_at_s) / MINUTE_S)
        account.bad, account.bad_at_s = account.bad * kept + 1.0, now_s
        return account.bad > self._limits.bad_per_minute

    def punish(self, peer: NodeId, now_s: float) -> None:
        """It is cut now: out for a while, and with a clean sheet afterwards."""
        account = self._account(peer, now_s)
        penalty_s = min(self._limits.penalty_max_s, self._limits.penalty_s * 2.0**account.cuts)
        account.cuts += 1
        account.out_until_s = now_s + penalty_s
        account.bad, account.envelopes, account.bytes = 0.0, self._limits.envelopes_burst, self._limits.bytes_per_s
        account.effort = self._limits.effort_burst

    def is_out(self, peer: NodeId, now_s: float) -> bool:
        account = self._accounts.get(peer)
        return account is not None and now_s < account.out_until_s

    def statistics(self) -> dict[str, int]:
        """How often each peer was cut."""
        return {peer: account.cuts for peer, account in self._accounts.items() if account.cuts}
