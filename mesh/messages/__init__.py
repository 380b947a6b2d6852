"""Everything on the wire: the protocol's table of contents. `KINDS` numbers never change; new kinds are added at the end."""

from __future__ import annotations

from mesh.messages import enrol, keeping, membership, records, session, slots, trust, work

KINDS: dict[int, type] = {
    1: session.Stale,
    10: membership.Ping,
    11: membership.Ack,
    12: membership.PingRequest,
    13: membership.PingReport,
    14: membership.Rumours,
    15: membership.Digest,
    16: membership.Load,
    17: trust.Trust,
    18: trust.RenewAsk,
    19: trust.Granted,
    30: records.Heads,
    31: records.Fork,
    32: records.Witnessed,
    33: keeping.Ship,
    34: keeping.Shipped,
    35: keeping.VoteAsk,
    36: keeping.Vote,
    37: keeping.Took,
    40: work.Cfp,
    41: work.Bid,
    42: work.Refuse,
    43: work.Award,
    44: work.Accept,
    45: work.Decline,
    46: work.Beat,
    47: work.Renew,
    48: work.Result,
    49: work.Failure,
    50: work.ResultAck,
    51: work.Superseded,
    52: work.Release,
    53: work.Revoke,
    54: work.Revoked,
    55: work.Cancel,
    56: work.Cancelled,
    57: work.Reclaim,
    58: work.Reclaimed,
    59: work.StepAsk,
    60: work.StepSeen,
    61: work.StepDone,
    62: work.Ask,
    63: work.Answer,
    64: work.FileAsk,
    65: work.FilePart,
    66: work.Pull,
    67: work.Backlog,
    70: work.CheckpointAsk,
    71: work.Items,
    72: work.Taken,
    80: work.EffectAsk,
    81: work.EffectDone,
    82: work.EffectAnswer,
    90: slots.SlotAsk,
    91: slots.SlotGrant,
}

SIGNED: dict[str, type] = {
    "alive": membership.Alive,
    "suspect": membership.Suspect,
    "left": membership.Left,
    "commit": records.Commit,
    "witness": records.Witness,
    "yield": keeping.Yield,
    "ballot": keeping.Ballot,
    "certificate": trust.Certificate,
    "deed": trust.Deed,
    "binding": trust.Binding,
    "revocation": trust.Revocation,
    "amendment": trust.Amendment,
    "join": enrol.Join,
    "ask": enrol.Ask,
    "renewal": enrol.Renewal,
    "hello": session.Hello,
    "welcome": session.Welcome,
}
"""Tag of each kind of signed object. The tag is inside the signed bytes: one kind can never be passed off as another."""

CONTROL = (
    trust.Trust,
    membership.Ping,
    membership.Ack,
    membership.PingRequest,
    membership.PingReport,
    work.Beat,
    work.Renew,
    session.Stale,
)
"""Sent before all else."""

BULK = (work.FilePart,)
"""Sent when nothing else waits."""
