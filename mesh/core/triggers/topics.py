"""Topics of events and patterns over them: words joined by dots. In a pattern ``*`` is one word, ``**`` at its end any number but none.

file.*  file.created, not file.created.now        file.**  both        (``>`` means what ``**`` means)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mesh.core.directory import LEFT, Row
from mesh.messages.membership import Offer

WORDS_MAX = 16
TOPIC_CHARACTERS_MAX = 64
REST = ("**", ">")
_WORD = re.compile(r"[A-Za-z0-9_-]+")


def is_topic(text: str) -> bool:
    """Whether `text` can be published to."""
    words = text.split(".")
    return len(text) <= TOPIC_CHARACTERS_MAX and len(words) <= WORDS_MAX and all(map(_WORD.fullmatch, words))


def is_pattern(text: str) -> bool:
    """Whether `text` can be subscribed to."""
    words = text.split(".")
    fit = len(text) <= TOPIC_CHARACTERS_MAX and len(words) <= WORDS_MAX
    return fit and all(_WORD.fullmatch(word) or word == "*" or (word in REST and at == len(words) - 1) for at, word in enumerate(words))


def matches(pattern: str, topic: str) -> bool:
    wanted, words = pattern.split("."), topic.split(".")
    if wanted[-1] in REST:
        wanted.pop()
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(one in ("*", word) for one, word in zip(wanted, words, strict=True))


def subscribers(rows: Iterable[Row], topic: str) -> list[dict[str, Any]]:
    """Each capability once, by name, with the arguments it takes (None: any). Also of nodes that are away: their events wait for them."""
    found: dict[str, Offer] = {}
    for row in rows:
        if row.state != LEFT and not row.revoked:
            found |= {offer.capability: offer for offer in _listening(row, topic)}
    return [{"capability": name, "takes": takes_of(found[name])} for name in sorted(found)]


def _listening(row: Row, topic: str) -> Iterator[Offer]:
    return (offer for offer in row.offers.values() if any(matches(pattern, topic) for pattern in offer.topics))


def takes_of(offer: Offer) -> list[str] | None:
    """By its schema, which a peer may have made up."""
    try:
        schema = json.loads(offer.input_schema)
    except ValueError:
        return None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return sorted(properties) if isinstance(properties, dict) and schema.get("additionalProperties") is False else None
