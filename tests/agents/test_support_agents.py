"""The help desk's agents: the parts as plain functions, the flow in a mesh of its own. Offline, over the handbook that ships with them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mesh_agents import knowledge, responder, support, triage
from mesh_agents.knowledge import ingest, passages_of, search
from mesh_agents.responder import QUOTE_CHARACTERS_MAX, draft, quoted
from mesh_agents.triage import classify

from mesh.files import sha256_of
from mesh.testing import LocalMesh

HANDBOOK = Path(__file__).parent.parent.parent / "agents" / "data" / "handbook"
ANSWERED = "How do I take a machine out for a repair without losing the work that runs on it?"
RISKY = "One of our machines was stolen. What can a thief read on its disk? Our lawyer wants to know."


@pytest.mark.parametrize(
    ("text", "queue", "urgency", "language", "risks"),
    [
        (ANSWERED, "operations", "normal", "en", []),
        (RISKY, "security", "high", "en", ["security incident", "legal"]),
        ("Was kostet eine Lizenz, und wie komme ich an die Rechnung?", "billing", "normal", "de", []),
        ("Je veux un remboursement, et vite : où est le formulaire de la demande ?", "general", "normal", "fr", ["money back"]),
        ("Mon noeud est en panne et je ne peux pas le relancer", "general", "normal", "fr", []),
        ("No hurry: the agent raises an exception in its handler, and it is in Python", "development", "low", "en", []),
        ("xyzzy", "general", "normal", "unknown", []),
        ("that was knowledgeable", "general", "normal", "unknown", []),
    ],
)
def test_triage_sorts_and_names_the_words(text: str, queue: str, urgency: str, language: str, risks: list[str]) -> None:
    found = classify(text)
    assert (found.queue, found.urgency, found.language, found.risks) == (queue, urgency, language, risks)
    assert all(word in text.lower() for words in found.because.values() for word in words)
    assert set(risks) <= set(found.because) and all(found.because[risk] for risk in risks)


@pytest.mark.parametrize("text", ["", "  \n", "x" * 20_001])
def test_triage_refuses_what_is_no_message(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 20000"):
        classify(text)


def test_passages_are_paragraphs_and_keep_their_code() -> None:
    text = "before\n\n# One\nfirst\nstill first\n\n## Two ##\nrun:\n```\na\n\n# no heading\n```\n\nlast"
    whole = "run:\n```\na\n\n# no heading\n```"
    assert list(passages_of(text)) == [("", "before"), ("One", "first\nstill first"), ("Two", whole), ("Two", "last")]
    assert all(passage in text for _, passage in passages_of(text))


def test_every_passage_found_stands_in_its_document() -> None:
    made = ingest(str(HANDBOOK))
    assert (made.documents, made.skipped) == (len(list(HANDBOOK.glob("*.md"))), [])
    found = search(made.index, ANSWERED, limit=5)
    best = found.passages[0]
    assert (best.document, best.answers, found.unknown) == ("taking-a-machine-away.md", True, [])
    assert "mesh drain" in best.text and best.snippet
    assert [each.score for each in found.passages] == sorted((each.score for each in found.passages), reverse=True)
    for each in found.passages:
        assert each.text in (HANDBOOK / each.document).read_text() and each.sha256 == sha256_of(HANDBOOK / each.document)


@pytest.mark.parametrize("query", ["Does it run on Windows with Kubernetes?", "what is it?", "", '" OR NEAR(', "Lizenz hundert Rechner"])
def test_what_the_documents_do_not_speak_of_is_no_answer(query: str) -> None:
    assert not any(each.answers for each in search(ingest(str(HANDBOOK)).index, query).passages)


def test_ingest_says_what_it_could_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no documents"):
        ingest(str(tmp_path))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good.md").write_text("A heron stands in water.\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "picture.png").write_bytes(b"PNG")
    made = ingest(str(tmp_path))
    assert (made.documents, made.passages, made.skipped) == (1, 1, ["bad.txt"])
    assert [each.document for each in search(made.index, "herons").passages] == ["deep/good.md"]
    with pytest.raises(ValueError, match="between 1 and 50"):
        search(made.index, "heron", limit=0)


def test_a_reply_is_quotes_and_where_they_stand_and_nothing_else() -> None:
    passages = [asdict(each) for each in search(ingest(str(HANDBOOK)).index, ANSWERED).passages]
    reply = draft(passages, "en")
    left = reply.text
    for citation in reply.citations:
        quote = f'"{citation.quote}" [{citation.number}]'
        assert quote in left and citation.quote in (HANDBOOK / citation.document).read_text()
        left = left.replace(quote, "").replace(f"[{citation.number}] {citation.document}, {citation.heading}", "")
    greeting, lead, nothing = responder.WORDS["en"]
    assert "".join(left.split()) == "".join(f"{greeting}{lead}".split())
    assert draft([], "de").citations == [] and "nichts" in draft([], "de").text and nothing in draft([], "tlh").text


def test_long_passages_are_cut_at_a_sentence_or_a_word() -> None:
    sentence = "One more sentence of words. "
    cut = quoted(sentence * 40)
    assert len(cut) <= QUOTE_CHARACTERS_MAX and cut.endswith("words.") and (sentence * 40).startswith(cut)
    words = quoted("word " * 400)
    assert words.endswith("word") and ("word " * 400).startswith(words)


def test_a_person_is_asked_where_it_is_risky_and_may_write_another_reply_whoever_dies_meanwhile() -> None:
    parts = [triage.agent, knowledge.agent, responder.agent]

    async def story() -> None:
        async with LocalMesh(nodes={"n1": parts, "n2": [support.agent], "n3": [support.agent], "n4": []}) as m:
            made = await m.submit("kb.ingest", folder=str(HANDBOOK))
            index = (await made.result())["index"]

            async def waiting(text: str) -> Any:
                task = await m.submit("support.answer", ticket=text, index=index)
                while not (found := (await m.at("n1").approvals(task.id))["gates"]):
                    await m.sleep(0.25)
                return task, found[0]

            sent = await (await m.submit("support.answer", ticket=ANSWERED, index=index)).result()
            assert (sent["state"], sent["escalated"], sent["edited"], sent["by"]) == ("sent", [], False, []) and sent["citations"]

            task, gate = await waiting(RISKY)
            m.kill((await m.at("n1").task(task.id))["owner"])
            await m.at("n4").approve(gate["task"], note="fine")
            answer = await task.result()
            assert answer["escalated"] == ["security incident", "legal"] and answer["reply"] == gate["arguments"]["subject"]
            assert (answer["state"], [one["node"] for one in answer["by"]]) == ("sent", ["n4"]) and answer["citations"]
            awards = [entry["task"] for entry in (await m.at("n1").story(task.id))["entries"] if entry["kind"] == "Decided"]
            assert awards.count(task.id) == 2
            steps = [award for award in awards if award.startswith("n1.") and award not in (task.id, made.id)]
            assert len(steps) == len(set(steps)) == 3, "no finished step ran again"

            task, gate = await waiting("Is there a version for Windows with Kubernetes?")
            await m.at("n4").approve(gate["task"], output="No.")
            answer = await task.result()
            assert (answer["reply"], answer["edited"], answer["citations"]) == ("No.", True, [])

            task, gate = await waiting(RISKY)
            await m.at("n4").deny(gate["task"])
            assert (await task.result())["state"] == "withheld"

    asyncio.run(asyncio.wait_for(story(), 30))
