"""How long a handler takes: quantiles, drawn from by chance.

    "300ms"                                      always that
    "200ms..400ms"                               anything between
    { p50 = "200ms", p90 = "400ms", p99 = "1s" } between its quantiles as straight lines; below the least of them: that one
    { mean = "300ms", spread = 0.5 }             log-normal; `spread` is the deviation of its logarithm
    [0.28, 0.31, ...]                            as measured

Invariant: a draw is a function of the service and of one number from 0 to 1; no clock and no chance in here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp
from statistics import NormalDist
from typing import Any

from mesh.errors import UsageError

POINTS_MAX = 512
"""Of a measured distribution: more say no more."""
SECONDS_MAX = 30 * 86_400.0
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s|m|h|d)")
_UNITS = {"us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_FORM = 'write "300ms", "200ms..400ms", { p50 = "200ms", p90 = "400ms" } or { mean = "300ms", spread = 0.5 }'


@dataclass(frozen=True, slots=True)
class Service:
    """`points`: ``(share, seconds)``, both rising: that share of all runs takes at most so long."""

    points: tuple[tuple[float, float], ...]

    def draw(self, share: float) -> float:
        """Seconds. `share`: from 0 to 1."""
        at = bisect_right(self.points, (share, float("inf")))
        if not at:
            return self.points[0][1]
        if at == len(self.points):
            return self.points[-1][1]
        (low, low_s), (high, high_s) = self.points[at - 1], self.points[at]
        return low_s + (high_s - low_s) * (share - low) / (high - low)

    def mean_s(self) -> float:
        draws = 200
        return sum(self.draw((number + 0.5) / draws) for number in range(draws)) / draws if len(self.points) > 1 else self.points[0][1]

    def times(self, factor: float) -> Service:
        return Service(tuple((share, seconds * factor) for share, seconds in self.points))


def always(seconds: float) -> Service:
    return Service(((0.0, seconds),))


def measured(samples_s: Iterable[float]) -> Service:
    """Raises ValueError if there are none."""
    ordered = sorted(samples_s)
    if not ordered:
        raise ValueError("no samples")
    if len(ordered) > POINTS_MAX:
        ordered = [ordered[round(i * (len(ordered) - 1) / (POINTS_MAX - 1))] for i in range(POINTS_MAX)]
    if len(ordered) == 1:
        return always(ordered[0])
    return Service(tuple((i / (len(ordered) - 1), seconds) for i, seconds in enumerate(ordered)))


def lognormal(mean_s: float, spread: float) -> Service:
    steps, normal = 99, NormalDist()
    points = [(i / (steps + 1), mean_s * exp(spread * normal.inv_cdf(i / (steps + 1)) - spread * spread / 2)) for i in range(1, steps + 1)]
    return Service(tuple(points))


def seconds_of(text: Any, what: str) -> float:
    """A time with its unit. Raises UsageError."""
    found = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if not 0.0 <= seconds <= SECONDS_MAX:
        raise UsageError(f"{what}: {str(text)[:60]!r} is no time", fix='write a time with its unit: "200ms", "30s", "2m", "3h"')
    return seconds


def service_of(value: Any, what: str) -> Service:
    """As it is written in a model or after ``--service``. Raises UsageError."""
    if isinstance(value, str):
        low, dots, high = value.partition("..")
        if not dots:
            return always(seconds_of(value, what))
        least, most = seconds_of(low, what), seconds_of(high, what)
        if most < least:
            raise UsageError(f"{what}: {value!r} ends before it begins", fix=f"write {high}..{low}")
        return Service(((0.0, least), (1.0, most))) if most > least else always(least)
    if isinstance(value, list) and value and all(type(one) in (int, float) and 0 <= one <= SECONDS_MAX for one in value):
        return measured(map(float, value))
    if isinstance(value, dict) and set(value) == {"mean", "spread"}:
        spread = value["spread"]
        if type(spread) not in (int, float) or not 0 <= spread <= 3:
            raise UsageError(f"{what}: spread is {spread!r}", fix="give a number from 0 to 3: 0.5 is much")
        mean_s = seconds_of(value["mean"], what)
        return lognormal(mean_s, float(spread)) if spread else always(mean_s)
    if isinstance(value, dict) and value and all(re.fullmatch(r"p[0-9]{1,3}", name) and int(name[1:]) <= 100 for name in value):
        points = sorted((int(name[1:]) / 100, seconds_of(text, what)) for name, text in value.items())
        if [seconds for _, seconds in points] != sorted(seconds for _, seconds in points):
            raise UsageError(f"{what}: a higher quantile is shorter than a lower one", fix='write { p50 = "200ms", p90 = "400ms" }')
        return Service(tuple(points))
    raise UsageError(f"{what}: {str(value)[:60]} says no time", fix=_FORM)
