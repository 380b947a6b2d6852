"""Labels and resources as users write them: ``{"zone": "eu", "gpu": True}`` or ``["zone=eu", "gpu"]``, ``{"gpu": 1, "memory_gib": 0.5}``.

They travel as text (``zone=eu``, ``gpu``), and as thousandths. Raises UsageError for what is none, naming the form it should have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mesh.core.work.spending import CALLS
from mesh.errors import UsageError
from mesh.ids import AMOUNT_MAX, KEY_CHARACTERS_MAX, LABELS_MAX, is_label, is_name

if TYPE_CHECKING:
    from mesh.agent import Agent

Labels = Mapping[str, Any] | Iterable[str]
Amounts = tuple[tuple[str, int], ...]

_FORM = "write name=value, or name alone: letters, digits and _.:@+/- , at most 64 of each"


def labels_of(given: Labels | None, what: str = "labels") -> tuple[str, ...]:
    """In order, each name once. A value of True is the name alone."""
    if given is None:
        return ()
    if isinstance(given, str):
        raise UsageError(f"{what} is one text", fix=f"write {what}=[{given!r}]")
    words = [_word(name, value, what) for name, value in given.items()] if isinstance(given, Mapping) else list(given)
    for word in words:
        if not isinstance(word, str) or not is_label(word):
            raise UsageError(f"{what}: {word!r} is no label", fix=_FORM)
    if len(words) > LABELS_MAX:
        raise UsageError(f"{what}: {len(words)} of them", fix=f"give at most {LABELS_MAX}")
    names = [word.partition("=")[0] for word in words]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{what}: {name!r} is there twice", fix="give each name once")
    return tuple(sorted(words))


def placement_of(where: Labels | None, near: str, apart: str, hedge: bool) -> dict[str, Any]:
    """What a task asks for, as a client tells its node."""
    for name, key in (("near", near), ("apart", apart)):
        if not isinstance(key, str) or len(key) > KEY_CHARACTERS_MAX:
            raise UsageError(f"{name} is {key!r}", fix=f"give a text of at most {KEY_CHARACTERS_MAX} characters")
    found = {"where": list(labels_of(where, "where")), "near": near, "apart": apart, "hedge": bool(hedge)}
    return {name: value for name, value in found.items() if value}


def _word(name: Any, value: Any, what: str) -> str:
    if value is True:
        return str(name)
    if value is False or value is None:
        raise UsageError(f"{what}: {name!r} is {value!r}", fix="leave it out, or give it a text")
    return f"{name}={value}"


def amounts_of(given: Mapping[str, float] | None, what: str = "resources") -> Amounts:
    """Names and thousandths, by name."""
    found = []
    for name, amount in (given or {}).items():
        if not isinstance(name, str) or not is_name(name):
            raise UsageError(f"{what}: {name!r} is no name", fix="use letters, digits and _.-, at most 64")
        if type(amount) not in (int, float) or not 0.001 <= amount <= AMOUNT_MAX / 1000:
            raise UsageError(f"{what}: {name} is {amount!r}", fix=f"give a number from 0.001 to {AMOUNT_MAX / 1000:g}")
        found.append((name, round(1000 * amount)))
    if len(found) > LABELS_MAX:
        raise UsageError(f"{what}: {len(found)} of them", fix=f"give at most {LABELS_MAX}")
    return tuple(sorted(found))


def budget_of(given: Mapping[str, float] | None) -> list[list[Any]]:
    """``{"usd": 5, "calls": 100}`` as it travels. Raises UsageError."""
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"budget is {given!r}", fix='write budget={"usd": 5, "calls": 100}')
    found = amounts_of(given, "budget")
    for name, amount in found:
        if name == CALLS and amount % 1000:
            raise UsageError(f"budget: {amount / 1000:g} calls", fix="give a whole number: steps and calls are counted")
    return [list(pair) for pair in found]


def amounts_in(words: Iterable[str], what: str = "--resource") -> Amounts:
    """As the command line gives them: ``gpu=1``."""
    amounts: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            amounts[name] = float(text)
        except ValueError as error:
            raise UsageError(f"{what}: {word!r} is no amount", fix=f"{what} {'usd=5' if what == '--budget' else 'gpu=1'}") from error
    return amounts_of(amounts, what)


def state(agent: Agent, labels: tuple[str, ...], resources: Amounts) -> None:
    """What this machine adds to what the agent's code says: it knows better."""
    names = [word.partition("=")[0] for word in labels]
    kept = [word for word in agent.labels if word.partition("=")[0] not in names]
    agent.labels = labels_of([*kept, *labels])
    agent.resources = tuple(sorted((dict(agent.resources) | dict(resources)).items()))


def unmet(needs: Amounts, resources: Amounts) -> str:
    """What of `needs` there is not enough of, as ``gpu=2, and it has 1``; "" if there is."""
    has = dict(resources)
    for name, amount in needs:
        if amount > has.get(name, 0):
            return f"{name}={amount / 1000:g}, and it has {has.get(name, 0) / 1000:g}"
    return ""


def stated(agent: Agent) -> dict[str, Any]:
    """Of `agent`, as a worker tells it to its node."""
    needs = {capability.name: [list(row) for row in capability.needs] for capability in agent.capabilities.values() if capability.needs}
    return {"labels": list(agent.labels), "resources": [list(row) for row in agent.resources], "needs": needs}
