"""What a person should know about this node's certificates and about who may admit others, each with what to type. Words only."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mesh.ids import NodeId
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority
from mesh.runtime.trust.identity import Identity

DAY_MS = 86_400_000


TURNED = {
    "revoked": ("this node was revoked", "mesh join TOKEN --home DIR, from a new home, if that is true: mesh trust, there"),
    "expired": ("this node's certificate has expired", "mesh status, on a machine that may renew: mesh trust"),
    "cut": ("this node was cut off for what it sent", "wait; mesh audit, there, says why"),
}
"""What doors say when they turn this node away. Not signed: a hint for people, and no more."""


def trust_findings(
    identity: Identity, renewal: str, turned_at: Mapping[str, str], is_up: Callable[[NodeId], bool], now_ms: int
) -> list[tuple[str, str]]:
    """``(what is wrong, what to type)``.

    `renewal`: why the last attempt to renew failed; `turned_at`: the doors that turned this node away, with their word; `is_up`: who is
    linked; `now_ms`: Unix time.
    """
    authorities = identity.keyring.authorities
    if authorities.mode == "open":
        return []
    members = identity.keyring.members()
    own = identity.credentials.home_id
    # Members of other homes would have brought the revocation itself, and hear nobody whom it concerns.
    believed = any(member.home != own and is_up(member.node) for member in members)
    words = {word: door for door, word in turned_at.items() if word in TURNED and not (word == "revoked" and believed)}
    found = [(f"the door at {door} says that {TURNED[word][0]}", TURNED[word][1]) for word, door in words.items()]
    if authorities.revocation_of(identity.credentials.chain.subjects) is not None:
        found.append(("this machine was revoked: nobody believes it any more", "mesh join TOKEN --home DIR, from a new home"))
    elif authorities.revocation_of((*identity.credentials.chain.subjects, identity.node)) is not None:
        other = "mesh down, then mesh up --name OTHER: this home may start other nodes"
        found.append(("this node was revoked: nobody believes it any more", other))
    issuers = {member.home for member in members if ISSUER_ROLE in member.rights.roles}
    homes = {member.home for member in members}
    if len(issuers) < 2 and len(homes) > 1:
        where = "" if Authority(identity.credentials).can_make_issuers else ", on the machine where the mesh was made"
        found.append(("only one machine can admit or renew members: if it is lost, nobody can", f"mesh grant issuer NODE{where}"))
    chain = identity.credentials.chain
    if chain.expires_ms and now_ms > chain.expires_ms:
        stays = "; members who know this node keep it" if authorities.mode != "ca" else ""
        found.append((f"this home's certificate has expired{stays}", "mesh status, on a machine that may renew; mesh doctor here"))
    elif chain.expires_ms and renewal and now_ms > (chain.begins_ms + chain.expires_ms) // 2:
        days = (chain.expires_ms - now_ms) / DAY_MS
        found.append((f"this home's certificate ends in {days:.1f} days and was not renewed: {renewal}", "mesh trust: who may renew it"))
    return found
