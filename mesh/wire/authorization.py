"""Which role may say what. Denied by default, and checked by every receiver for every message.

    kind of message --needs--> right <--has-- role, from the sender's certificate
    capability it is about --within--> the certificate's patterns

Invariant: a kind that is not in `NEEDS` is refused from everybody, so a new message is useless until somebody has thought about it here.
Does not check that the sender is party to the task it speaks of: only the machine that holds the task can. `as_markdown` is the source of
the table in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mesh.ids import COORDINATE
from mesh.messages import KINDS, claims, keeping, membership, records, rollouts, scopes, session, slots, spending, triggers, trust, work
from mesh.messages.waits import WAIT
from mesh.wire.patterns import covers

BELONG, OFFER, REQUEST, OBSERVE, READ, APPROVE, ISSUE = "belong", "offer", "request", "observe", "read", "approve", "issue"

RIGHTS: dict[str, str] = {
    BELONG: "take part in membership, and answer what was asked",
    OFFER: "offer capabilities, and run awarded work",
    REQUEST: "ask for work, manage and cancel it",
    OBSERVE: "ask about nodes, tasks and records: who, when, why, by hash",
    READ: "read payloads: files, arguments and results",
    APPROVE: "answer gates: let waiting work go on, or deny it",
    ISSUE: "admit members, renew their certificates, revoke those it admitted",
}

ROLES: dict[str, frozenset[str]] = {
    "member": frozenset((BELONG, OFFER, REQUEST, OBSERVE, READ, APPROVE)),
    "worker": frozenset((BELONG, OFFER, READ)),
    "requester": frozenset((BELONG, REQUEST, OBSERVE, READ)),
    "observer": frozenset((BELONG, OBSERVE)),
    "approver": frozenset((BELONG, OBSERVE, READ, APPROVE)),
    "issuer": frozenset((ISSUE,)),
}
"""A member may do all that work needs; a worker runs what it is given; a requester has work done; an observer looks on and sees no payload;
an approver looks on, sees what it is about, and answers gates;
an issuer holds an issuer's key besides."""

QUESTIONS: dict[str, str] = {
    "task": OBSERVE,
    "tasks": OBSERVE,
    "story": OBSERVE,
    "hash": OBSERVE,
    "audit": OBSERVE,
    "kept": READ,
    "result": READ,
    "logs": READ,
    "body": READ,
    "cancel": REQUEST,
    "retry": REQUEST,
    "signal": REQUEST,
    "update": REQUEST,
    "read": READ,
    "write": REQUEST,
    "scopes": OBSERVE,
    "waits": READ,
    "answer": APPROVE,
    "admit": REQUEST,
    "admitted": OFFER,
    "manage": REQUEST,
    "unmanage": REQUEST,
}
"""What each question in an Ask needs, beside the kind itself."""

_BY_RIGHT: dict[str, tuple[type, ...]] = {
    BELONG: (
        session.Stale,
        membership.Ping,
        membership.Ack,
        membership.PingRequest,
        membership.PingReport,
        membership.Rumours,
        membership.Digest,
        membership.Load,
        trust.Trust,
        trust.RenewAsk,
        records.Heads,
        records.Fork,
        records.Witnessed,
        work.Answer,
        work.FilePart,
        work.Pull,
        claims.KeysNews,
    ),
    OFFER: (
        work.Bid,
        work.Refuse,
        work.Accept,
        work.Decline,
        work.Beat,
        work.Result,
        work.Failure,
        work.Release,
        work.Revoked,
        work.Cancelled,
        work.Reclaimed,
        work.StepAsk,
        work.CheckpointAsk,
        work.Items,
        work.EffectAsk,
        work.EffectDone,
        spending.SpendAsk,
        scopes.HandlerAsk,
        slots.SlotAsk,
        slots.SlotGrant,
    ),
    REQUEST: (
        keeping.Ship,
        keeping.Shipped,
        keeping.VoteAsk,
        keeping.Vote,
        keeping.Took,
        claims.ClaimAsk,
        claims.ClaimAnswer,
        claims.KeysAsk,
        claims.KeysTold,
        claims.KeysFree,
        triggers.Schedules,
        rollouts.Rollouts,
        work.Cfp,
        work.Backlog,
        work.Award,
        work.Renew,
        work.ResultAck,
        work.Superseded,
        work.Revoke,
        work.Cancel,
        work.Reclaim,
        work.StepSeen,
        work.StepDone,
        work.Taken,
        work.EffectAnswer,
    ),
    OBSERVE: (work.Ask,),
    READ: (work.FileAsk,),
    ISSUE: (trust.Granted,),
}

NEEDS: dict[type, str] = {cls: right for right, classes in _BY_RIGHT.items() for cls in classes}
"""The right that the sender of each kind needs."""

_ALLOWED: dict[str, frozenset[int]] = {
    role: frozenset(kind for kind, cls in KINDS.items() if NEEDS.get(cls) in rights) for role, rights in ROLES.items()
}


@dataclass(frozen=True, slots=True)
class Rights:
    """What a member may do: kinds of messages, questions, and patterns of capabilities it may offer and ask for."""

    roles: tuple[str, ...]
    rights: frozenset[str]
    kinds: frozenset[int]
    offers: tuple[str, ...]
    requests: tuple[str, ...]


def rights_of(roles: Iterable[str], offers: tuple[str, ...] = ("*",), requests: tuple[str, ...] = ("*",)) -> Rights:
    """The rights of somebody who has these roles. Unknown roles give nothing; patterns of offers are worth nothing without the right."""
    roles = tuple(roles)
    nothing: frozenset[str] = frozenset()
    none: frozenset[int] = frozenset()
    rights = nothing.union(*(ROLES.get(role, nothing) for role in roles))
    kinds = none.union(*(_ALLOWED.get(role, none) for role in roles))
    return Rights(roles, rights, kinds, offers if OFFER in rights else (), requests)


def may_say(role: str, kind: int) -> bool:
    """Whether a node of this role may send messages of this kind. Unknown roles and kinds: no."""
    return kind in rights_of((role,)).kinds


def _asks_within(rights: Rights, message: Any) -> bool:
    return rights.requests == ("*",) or all(covers(rights.requests, item.capability) for item in message.items)


def _steps_within(rights: Rights, message: work.StepAsk) -> bool:
    return message.capability == WAIT or covers(rights.requests, message.capability)


def _touches_within(rights: Rights, message: scopes.HandlerAsk) -> bool:
    """What is not about the handler's own task is about a shared state."""
    return message.about == message.task or covers(rights.requests, scopes.STATE)


def _may_ask(rights: Rights, message: work.Ask) -> bool:
    if message.question == "admitted" and not covers(rights.offers, COORDINATE):
        return False
    if message.question == "manage" and not covers(rights.requests, message.key):
        return False
    return QUESTIONS.get(message.question) in rights.rights


_WITHIN: dict[type, Callable[[Rights, Any], bool]] = {
    work.Cfp: _asks_within,
    work.Award: _asks_within,
    work.StepAsk: _steps_within,
    scopes.HandlerAsk: _touches_within,
    work.Ask: _may_ask,
}


def overreaches(rights: Rights, message: Any) -> bool:
    """Whether the message, of a kind its sender may send, is about something that was not granted to him."""
    within = _WITHIN.get(type(message))
    return within is not None and not within(rights, message)


def as_markdown() -> str:
    """The tables of rights and of kinds, for the documentation."""
    roles = sorted(ROLES)
    lines = ["| Right | Means | Roles |", "|---|---|---|"]
    for right, meaning in RIGHTS.items():
        lines.append(f"| {right} | {meaning} | {', '.join(role for role in roles if right in ROLES[role])} |")
    lines += ["", f"| Kind | Message | Needs | {' | '.join(roles)} |", "|---|---|---|" + "---|" * len(roles)]
    for kind, cls in sorted(KINDS.items()):
        cells = " | ".join("yes" if may_say(role, kind) else "no" for role in roles)
        lines.append(f"| {kind} | {cls.__name__} | {NEEDS.get(cls, 'nobody may')} | {cells} |")
    lines += ["", f"| Question | Needs | {' | '.join(roles)} |", "|---|---|" + "---|" * len(roles)]
    for question, right in QUESTIONS.items():
        cells = " | ".join("yes" if right in ROLES[role] else "no" for role in roles)
        lines.append(f"| Ask: {question} | {right} | {cells} |")
    return "\n".join(lines) + "\n"
