"""Which role may say what. Denied by default, and checked by every receiver for every message.

    kind of message --needs--> right <--has-- role, from the sender's certificate

Invariant: a kind that is not in `NEEDS` is refused from everybody, so a new message is useless until somebody has thought about it here.
Does not check that the sender is party to the task it speaks of: only the machine that holds the task can. `as_markdown` is the source of
the table in the documentation.
"""

from __future__ import annotations

from mesh.messages import KINDS, membership, records, session, work

BELONG, OFFER, REQUEST, OBSERVE = "belong", "offer", "request", "observe"

RIGHTS: dict[str, str] = {
    BELONG: "take part in membership, and answer what was asked",
    OFFER: "offer capabilities, and run awarded work",
    REQUEST: "ask for work, and manage it",
    OBSERVE: "ask about nodes, tasks and records, and read files by hash",
}

ROLES: dict[str, frozenset[str]] = {
    "member": frozenset((BELONG, OFFER, REQUEST, OBSERVE)),
}

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
        records.Heads,
        records.Fork,
        work.Answer,
        work.FilePart,
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
    ),
    REQUEST: (
        work.Cfp,
        work.Award,
        work.Renew,
        work.ResultAck,
        work.Superseded,
        work.Revoke,
        work.Cancel,
        work.Reclaim,
        work.StepSeen,
        work.StepDone,
    ),
    OBSERVE: (work.Ask, work.FileAsk),
}

NEEDS: dict[type, str] = {cls: right for right, classes in _BY_RIGHT.items() for cls in classes}
"""The right that the sender of each kind needs."""

_ALLOWED: dict[str, frozenset[int]] = {
    role: frozenset(kind for kind, cls in KINDS.items() if NEEDS.get(cls) in rights) for role, rights in ROLES.items()
}


def may_say(role: str, kind: int) -> bool:
    """Whether a node of this role may send messages of this kind. Unknown roles and kinds: no."""
    allowed = _ALLOWED.get(role)
    return allowed is not None and kind in allowed


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
    return "\n".join(lines) + "\n"
