"""Responder: a reply to a message out of passages that were found: it quotes them, says where they stand, and adds nothing of its own.

Invariant: whatever the reply claims stands between quotation marks, word for word as in the document that its citation names. Without
passages it says that it has no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mesh import Agent

agent = Agent("responder", tags=["support"])

QUOTES_MAX = 3
QUOTE_CHARACTERS_MAX = 600
WORDS: dict[str, tuple[str, str, str]] = {
    "en": ("Hello,", "this is what our documents say about it:", "our documents do not answer this. A colleague will write to you."),
    "de": (
        "Guten Tag,",
        "dazu steht in unseren Unterlagen (auf Englisch):",
        "dazu steht nichts in unseren Unterlagen. Jemand aus dem Team schreibt Ihnen.",
    ),
    "fr": ("Bonjour,", "voici ce que disent nos documents (en anglais) :", "nos documents n'y répondent pas. Un collègue vous écrira."),
    "es": ("Hola:", "esto dicen nuestros documentos (en inglés):", "nuestros documentos no lo responden. Un colega le escribirá."),
}
"""Greeting, what stands before quotes, what stands there where are none: all that is not quoted."""


@dataclass
class Citation:
    """`quote` stands in `document`, whose bytes have this sha256, under `heading`."""

    number: int
    document: str
    heading: str
    sha256: str
    quote: str


@dataclass
class Reply:
    text: str
    citations: list[Citation]


def quoted(passage: str) -> str:
    """The passage, or its beginning up to the end of a sentence, as it stands."""
    if len(passage) <= QUOTE_CHARACTERS_MAX:
        return passage
    ends = [found.end() for found in re.finditer(r"[.!?:](?=\s)", passage[:QUOTE_CHARACTERS_MAX])]
    return passage[: ends[-1] if ends else passage.rfind(" ", 0, QUOTE_CHARACTERS_MAX)].rstrip()


@agent.capability(name="reply.draft", idempotent=True, timeout_s=30)
def draft(passages: list[dict[str, Any]], language: str = "en") -> Reply:
    """Write a reply that quotes these passages (of `kb.search`), the best first."""
    greeting, lead, nothing = WORDS.get(language, WORDS["en"])
    citations = [
        Citation(number, str(each["document"]), str(each["heading"]), str(each["sha256"]), quoted(str(each["text"])))
        for number, each in enumerate(passages[:QUOTES_MAX], 1)
    ]
    if not citations:
        return Reply(f"{greeting}\n\n{nothing}", [])
    quotes = [f'"{each.quote}" [{each.number}]' for each in citations]
    sources = [f"[{each.number}] {each.document}" + (f", {each.heading}" if each.heading else "") for each in citations]
    return Reply("\n\n".join([greeting, lead, *quotes, "\n".join(sources)]), citations)


if __name__ == "__main__":
    agent.run()
