"""Triage: which queue a message belongs to, how urgent it is, in which language, and what about it a person should see. By keywords.

Every verdict names the words that led to it, so that a wrong one can be mended in the tables below. A keyword stands for all words that
begin with it. What no rule knows goes to the queue `general`, at normal urgency.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh import Agent

agent = Agent("triage", tags=["support"])

CHARACTERS_MAX = 20_000

SECURITY = "security"
"""Comes before all other queues, however little speaks for it."""
QUEUES: dict[str, tuple[str, ...]] = {
    SECURITY: ("stolen", "breach", "hack", "leak", "revok", "intrud", "malware", "gestohlen", "gehackt", "einbruch"),
    "billing": ("invoice", "refund", "price", "pricing", "licen", "charge", "rechnung", "kost", "preis", "lizenz", "erstatt"),
    "operations": ("node", "machine", "repair", "restart", "disk", "backup", "crash", "drain", "rechner", "knoten", "absturz"),
    "development": ("agent", "handler", "python", "schema", "exception", "traceback", "library"),
}
RISKS: dict[str, tuple[str, ...]] = {
    "security incident": ("stolen", "breach", "hacked", "leaked", "intrud", "ransom", "gestohlen", "gehackt"),
    "legal": ("lawyer", "attorney", "lawsuit", "court", "gdpr", "anwalt", "gericht", "dsgvo", "avocat", "abogado"),
    "money back": ("refund", "chargeback", "compensat", "erstatt", "remboursement", "reembolso"),
    "harm": ("injur", "suicid", "violen", "verletz"),
}
URGENT = ("urgent", "immediately", "asap", "outage", "emergency", "stolen", "now", "dringend", "sofort", "notfall", "ausfall", "gestohlen")
PATIENT = ("whenever", "no hurry", "not urgent", "someday", "keine eile", "irgendwann")
LANGUAGES = {
    "en": "the a an is are and or of to in on for with how do does what i we my our it you can not",
    "de": "der die das ein eine ist sind und oder von zu in auf für mit wie was ich wir mein unser es sie kann nicht",
    "fr": "le la les un une est sont et ou de du à en sur pour avec comment que je nous mon notre il vous peut pas",
    "es": "el la los un una es son y o de del a en sobre para con como qué yo nosotros mi nuestro usted puede no",
}
"""The small words of each."""


@dataclass
class Triage:
    """`risks` names what a person should look at before anything is sent; `because` has the words behind each verdict."""

    queue: str
    urgency: str
    language: str
    risks: list[str]
    because: dict[str, list[str]]


def _found(text: str, keywords: tuple[str, ...]) -> list[str]:
    """The words of `text` that begin with a keyword, in order, each once."""
    pattern = r"\b(?:" + "|".join(map(re.escape, keywords)) + r")\w*"
    return list(dict.fromkeys(re.findall(pattern, text)))


def _language(text: str) -> str:
    """The language most of whose small words stand in `text`; "unknown" if no language has two, or none is ahead."""
    words = re.findall(r"\w+", text)
    known = {name: frozenset(small.split()) for name, small in LANGUAGES.items()}
    counts = sorted(((sum(word in small for word in words), name) for name, small in known.items()), reverse=True)
    (most, name), (second, _) = counts[0], counts[1]
    return name if most >= 2 and most > second else "unknown"


@agent.capability(name="triage.classify", idempotent=True, timeout_s=30)
def classify(text: str) -> Triage:
    """Sort a message: queue, urgency (low, normal, high), language, risks."""
    if not text.strip() or len(text) > CHARACTERS_MAX:
        raise ValueError(f"give a message of 1 to {CHARACTERS_MAX} characters, not {len(text)}")
    lower = text.lower()
    by_queue = {queue: found for queue, words in QUEUES.items() if (found := _found(lower, words))}
    queue = SECURITY if SECURITY in by_queue else max(by_queue, key=lambda name: len(by_queue[name]), default="general")
    risks = {risk: found for risk, words in RISKS.items() if (found := _found(lower, words))}
    patient, urgent = _found(lower, PATIENT), _found(lower, URGENT)
    urgency = "low" if patient else "high" if urgent or "harm" in risks else "normal"
    because = {"queue": by_queue.get(queue, []), "urgency": patient or urgent, **risks}
    return Triage(queue, urgency, _language(lower), list(risks), because)


if __name__ == "__main__":
    agent.run()
