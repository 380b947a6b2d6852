"""A node's answer to "tell me the story of this task", made readable: unpacked, every proof checked, authors by name.

Done in the node, which has the keys to check with; a client gets plain documents. A plain call has no entries of its own: what its manager
remembers of it is shown as such, unverified.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mesh.core.records.story import BadStory, verify_story
from mesh.errors import Refused
from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.wire.codec import Refusal, decode_entry


def story_decoder(
    open_signed: Callable[[bytes], Signed | None], name_of: Callable[[NodeId], str]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from the desk's ``{"story": bytes, "author"}`` to ``{"author", "entries": [...], "more"}``.

    `open_signed` verifies signed bytes; it may raise Refusal or ValueError. The function raises Refused for bytes that are no story.
    """

    def decode(body: dict[str, Any]) -> dict[str, Any]:
        data, author = bytes(body["story"]), str(body.get("author", ""))
        remembered = _remembered(data, author)
        if remembered is not None:
            rows, more = remembered, 0
        else:
            try:
                story = verify_story(data, open_signed, decode_entry, (ValueError, Refusal))
            except BadStory as error:
                raise Refused(
                    f"{name_of(author)} sent a story that cannot be read: {error}", fix="mesh doctor", code="bad_story"
                ) from error
            rows, more = story.rows(), story.more
        for row in rows:
            row["author_name"] = name_of(row["author"])
        return {"author": author, "entries": rows, "more": more}

    return decode


def _remembered(data: bytes, author: NodeId) -> list[dict[str, Any]] | None:
    """The entries that a plain call would have had, as its manager remembers them; None if `data` is something else."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    if not isinstance(found, dict) or "commits" in found or not isinstance(found.get("entries"), list):
        return None
    return [
        {**entry, "author": author, "incarnation": 0, "seq": 0, "wall_ms": 0, "verified": False}
        for entry in found["entries"]
        if isinstance(entry, dict)
    ]
