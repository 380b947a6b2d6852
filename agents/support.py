"""Support: an ordinary handler that drives the others: triage -> search -> reply, and a person where one is needed.

What triage finds risky and what the documents do not answer is sent only after somebody has approved it (`mesh approve`, at any node), who
may write another reply in its place. If the node that runs this dies, also while it waits for the person, the handler is run again
elsewhere; the finished steps and the answer are there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh import Agent, Context, File

agent = Agent("support", tags=["flow"])


@dataclass
class Answer:
    """`state`: sent, or withheld by a person. `escalated` says why a person was asked; `by` who answered: node, person, note each."""

    state: str
    reply: str
    citations: list[dict[str, Any]]
    triage: dict[str, Any]
    escalated: list[str]
    edited: bool
    by: list[dict[str, str]]


@agent.capability(name="support.answer", idempotent=True)
async def answer(ctx: Context, ticket: str, index: File) -> Answer:
    """Answer a message out of the documents in `index` (of `kb.ingest`); ask a person before anything risky is sent."""
    triage: dict[str, Any] = await ctx.step("triage", "triage.classify", text=ticket)
    found: dict[str, Any] = await ctx.step("search", "kb.search", index=index, query=ticket)
    passages = [each for each in found["passages"] if each["answers"]]
    reply: dict[str, Any] = await ctx.step("reply", "reply.draft", passages=passages, language=triage["language"])
    why = [*triage["risks"], *([] if passages else ["the documents do not answer it"])]
    if not why:
        return Answer("sent", reply["text"], reply["citations"], triage, why, False, [])
    decision = await ctx.approval("send this?", subject=reply["text"])
    text = str(decision.output)
    kept = [each for each in reply["citations"] if each["quote"] in text]
    state = "sent" if decision else "withheld"
    return Answer(state, text, kept, triage, why, decision.edited, list(decision.by))


if __name__ == "__main__":
    agent.run()
