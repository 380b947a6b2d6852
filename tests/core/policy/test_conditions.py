"""A rule about arguments sees what a handler would read, however it is spelled."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.policy.rules import Condition


@pytest.mark.parametrize("given", [2000, 2000.0, "2000", "+2000", " 2000", "2_000", "2000.0", "nan", "Infinity"])
def test_text_that_stands_for_a_number_does_not_pass_by_a_rule(given: Any) -> None:
    assert Condition(("amount",), "over", 1000).holds({"amount": given})


@pytest.mark.parametrize("given", [10, "10", "10.0", "ten", "", None, [2000], {"over": 2000}])
def test_what_is_no_such_number_is_not_over(given: Any) -> None:
    assert not Condition(("amount",), "over", 1000).holds({"amount": given})


READ_AS = [(5, "5"), (5, 5.0), (5, " 5"), (True, "yes"), (True, 1), (True, "TRUE"), (False, "off"), (False, 0), (1, True)]
OTHERS = [(5, "6"), (5, None), (True, "no"), (True, 2), (True, None), (False, ""), ("5", 5), ("eu", "EU"), (None, False)]


@pytest.mark.parametrize(("value", "given"), READ_AS)
def test_is_and_in_compare_as_a_handler_reads(value: Any, given: Any) -> None:
    assert Condition(("x",), "is", value).holds({"x": given}) and Condition(("x",), "in", ["no such", value]).holds({"x": given})


@pytest.mark.parametrize(("value", "given"), OTHERS)
def test_what_is_another_value_stays_one(value: Any, given: Any) -> None:
    assert not Condition(("x",), "is", value).holds({"x": given})
