"""What mDNS says of a mesh that only its members can read: tags, made from the mesh's discovery key and the day.

    discovery key, day        --> mesh tag, 8 bytes          "this is our mesh"
    discovery key, day, name  --> capability tag, 4 bytes    "that is offered here"

Members recognize each other; who lacks the key learns that there is some mesh, cannot tell whether it is the one he saw on another day or
in another place, and cannot try out names. The day is UTC's. Clocks differ and announcements are old, so yesterday's and tomorrow's tags
hold too. A tag is a hint, not a proof: everybody on the LAN can repeat what he hears, so nothing is believed for its sake. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

KEY_BYTES = 32
DAY_MS = 24 * 60 * 60 * 1000
MESH_TAG_BYTES = 8
CAPABILITY_TAG_BYTES = 4
TEXT_BYTES_MAX = 240
"""One TXT string holds 255 bytes, its key and the equals sign included."""


def day_of(unix_ms: int) -> int:
    """The number of the UTC day."""
    return unix_ms // DAY_MS


class Blinding:
    """The tags of one mesh; all in hexadecimal digits."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 secret bytes that every member has. Raises ValueError for another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a discovery key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def mesh(self, day: int) -> str:
        """The mesh's tag of that day."""
        return self._tag("lanmesh/mdns/mesh/v1", day, b"", MESH_TAG_BYTES)

    def accepts(self, tag: str, today: int) -> bool:
        """True if `tag` is the mesh's, of yesterday, today or tomorrow."""
        return tag in (self.mesh(today), self.mesh(today - 1), self.mesh(today + 1))

    def capability(self, name: str, day: int) -> str:
        """The tag of one capability on that day."""
        return self._tag("lanmesh/mdns/capability/v1", day, name.encode(), CAPABILITY_TAG_BYTES)

    def capabilities(self, names: Iterable[str], day: int) -> str:
        """The tags of all, in order of the tags, so that the order tells nothing; as many as fit one TXT string."""
        tags = sorted({self.capability(name, day) for name in names})
        return "".join(tags[: TEXT_BYTES_MAX // (2 * CAPABILITY_TAG_BYTES)])

    def _tag(self, purpose: str, day: int, what: bytes, size: int) -> str:
        message = b"%s\0%d\0%s" % (purpose.encode(), day, what)
        return hashlib.blake2b(message, digest_size=size, key=self._key).hexdigest()


def in_clear(names: Iterable[str]) -> str:
    """The names themselves, for meshes that show them: sorted, comma between, as many as fit one TXT string.

    A name with a comma or beyond ASCII is left out.
    """
    fitting: list[str] = []
    room = TEXT_BYTES_MAX
    for name in sorted(set(names)):
        if name.isascii() and "," not in name and len(name) < room:
            fitting.append(name)
            room -= len(name) + 1
    return ",".join(fitting)
