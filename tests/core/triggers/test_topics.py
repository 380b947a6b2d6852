"""Topics and patterns: what fits what, against a page of regular expressions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.directory import DEAD, LEFT, Row
from mesh.core.triggers.topics import is_pattern, is_topic, matches, subscribers
from mesh.messages.membership import Offer

words = st.sampled_from(["a", "b", "c"])
topics = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.tuples(st.lists(words | st.just("*"), max_size=3), st.sampled_from(["a", "*", "**", ">"])).map(
    lambda parts: ".".join([*parts[0], parts[1]])
)


@given(patterns, topics)
def test_as_a_regular_expression_has_it(pattern: str, topic: str) -> None:
    parts = [{"*": "[^.]+", "**": ".+", ">": ".+"}.get(word, re.escape(word)) for word in pattern.split(".")]
    assert matches(pattern, topic) == bool(re.fullmatch(r"\.".join(parts), topic))
    assert is_pattern(pattern) and is_topic(topic)


@pytest.mark.parametrize(
    "text", ["", ".", "a.", "a..b", "a b", "**.a", ">.a", "a*", "a.**.b", "x" * 65, ".".join("abcdefghijklmnopq"), "ä"]
)
def test_what_is_no_pattern_is_no_topic_either(text: str) -> None:
    assert not is_pattern(text) and not is_topic(text)


def row(node: str, *offers: Offer, state: str = "alive", revoked: bool = False) -> Row:
    return Row(node, state=state, offers={offer.capability: offer for offer in offers}, revoked=revoked)


def test_each_capability_is_told_once_and_those_of_the_dead_too() -> None:
    closed = '{"properties": {"b": {}, "a": {}}, "additionalProperties": false}'
    load = Offer("load", "x", input_schema=closed, topics=("file.*", "file.created"))
    watch = Offer("watch", "x", input_schema="no schema", topics=(">",))
    other, gone, outlaw = (Offer(name, "x", topics=(">",)) for name in ("other", "gone", "outlaw"))
    rows = [row("1", load), row("2", load, watch), row("3", other, state=DEAD), row("4", gone, state=LEFT), row("5", outlaw, revoked=True)]
    assert subscribers(rows, "file.created") == [
        {"capability": "load", "takes": ["a", "b"]},
        {"capability": "other", "takes": None},
        {"capability": "watch", "takes": None},
    ]
    assert [one["capability"] for one in subscribers(rows, "order.paid")] == ["other", "watch"]
