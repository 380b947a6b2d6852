"""Whose an id is, in words: of nodes, homes, issuers' keys, roots, and whom was revoked.

    id --names--> "otter"   "desk"   "desk (issuer)"   "root"   the id itself, where nobody here knows

For what people read. No right is ever taken from a name.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.ids import NodeId
from mesh.messages.trust import ISSUER, Revocation
from mesh.wire.keyring import Keyring


def namer(keyring: Keyring, node_name: Callable[[NodeId], str]) -> Callable[[NodeId], str]:
    """A function that names ids as they are known now. `node_name`: a node's name, or its id again where there is none."""
    known = dict.fromkeys(keyring.authorities.root_ids, "root")
    for signed in keyring.authorities.statements():
        if isinstance(signed.body, Revocation):
            known[signed.body.target] = _with_level(signed.body.name, signed.body.level)
    for member in keyring.members():
        known[member.issuer] = _with_level(member.issuer_name, ISSUER)
        known[member.home] = member.home_name

    def name_of(who: NodeId) -> str:
        name = node_name(who)
        return known.get(who, who) if name == who else name

    return name_of


def _with_level(name: str, level: str) -> str:
    return f"{name} (issuer)" if level == ISSUER else name
