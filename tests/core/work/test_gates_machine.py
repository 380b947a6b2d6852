"""Gates of the policy as a state machine: people answer, rules change, the manager starts again; against a model of a few lines."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from manager_bench import Bench

from mesh.core.inputs import Submit
from mesh.core.policy.document import canonical, read
from mesh.core.policy.inputs import PolicyChanged
from mesh.core.policy.rules import Rulebook
from mesh.core.work.task import GATED, TERMINAL, WAITING, Task
from mesh.messages.membership import Offer
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict
from mesh.messages.work import Ask, Award

GATES: list[dict[str, Any]] = [
    {},
    {"approve": {}},
    {"approve": {"quorum": 2}},
    {"approve": {"quorum": 2, "approvers": ["B", "C"]}},
    {"approve": {"question": "Sure?", "approvers": ["C", "D"], "quorum": 1}},
    {"deny": "no"},
]
NODES = ("b", "c", "d")


def rulebook(number: int, version: int) -> Rulebook:
    rules = [{"id": "r", "match": {"capability": "pay"}} | GATES[number]] if GATES[number] else []
    found = read(canonical({"rule": rules}), version)
    assert isinstance(found, Rulebook)
    return found


class Gates(RuleBasedStateMachine):
    @initialize(number=st.sampled_from(range(len(GATES) - 1)))
    def begin(self, number: int) -> None:
        self.number, self.version, self.life = number, 1, 1
        self.said: dict[int, list[tuple[str, bool]]] = {}
        """Per gate as asked now: answers that count, in their order; anew when the question was another in between."""
        self.awards = 0
        self.bench = self.fresh()
        self.bench.start()
        self.give(Submit(1, "pay", b'{"amount":3}', 0, -1, ()))
        self.name = "me.1.1"

    def fresh(self) -> Bench:
        bench = Bench(incarnation=self.life)
        for node in NODES:
            bench.row(node, *([Offer("pay", "payer", idempotent=True)] if node == "b" else []), room=5)
        bench.directory.rulebook = rulebook(self.number, self.version)
        return bench

    def give(self, *items: Any, sender: str = "me") -> list[Any]:
        effects = [effect for item in items for effect in self.bench.give(item, sender)]
        self.count(effects)
        return effects

    def count(self, effects: list[Any]) -> None:
        for _, award in self.bench.sends(effects, Award):
            for item in award.items:
                if item.task == self.name_of():
                    self.awards += 1
                    assert self.may_run(), "it was awarded before its gate was passed"
                    if self.gate() is not None:
                        assert len({word.author for word in item.words if word.body.approve}) >= self.gate()["quorum"]

    def name_of(self) -> str:
        return getattr(self, "name", "me.1.1")

    def gate(self) -> dict[str, Any] | None:
        rules = self.bench.directory.rulebook.rules
        return rules[0].gate if rules else None

    def may_run(self) -> bool:
        if GATES[self.number].get("deny"):
            return False
        gate = self.gate()
        if gate is None:
            return True
        said = dict(self.said.get(self.number, []))
        return all(said.values()) and sum(said.values()) >= gate["quorum"]

    def task(self) -> Task:
        found = self.bench.manager.book.find(self.name)
        assert found is not None
        return found

    def open_gate(self) -> Task | None:
        return next((one for one in (self.task().children or {}).values() if one.state == WAITING), None)

    @rule(node=st.sampled_from(NODES), approve=st.booleans(), other=st.booleans())
    def answer(self, node: str, approve: bool, other: bool) -> None:
        asked = self.open_gate()
        if asked is None:
            return
        word = Signed(node, Verdict(asked.id, "0" * 64 if other else asked.input_hash, approve, node), b"signed")
        gate = self.gate()
        assert gate is not None
        may = not gate["approvers"] or node.upper() in gate["approvers"]
        if may and not other:
            said = self.said.setdefault(self.number, [])
            if (node, approve) not in said:
                said.append((node, approve))
        self.give(Ask(9, "answer", asked.id, b"{}", (word,)), sender=node)

    @rule(number=st.sampled_from(range(len(GATES))))
    def another_policy(self, number: int) -> None:
        if self.task().state in TERMINAL:
            return
        if GATES[self.number].get("approve") is not None and number != self.number and not self.is_settled(self.number):
            self.said.pop(self.number, None)  # its gate ends: another question takes its place, or none
        self.number, self.version = number, self.version + 1
        self.bench.directory.rulebook = rulebook(number, self.version)
        self.give(PolicyChanged(self.version))

    def is_settled(self, number: int) -> bool:
        said = self.said.get(number, [])
        quorum = GATES[number]["approve"].get("quorum", 1)
        return any(not approve for _, approve in said) or len({node for node, approve in said if approve}) >= quorum

    @rule()
    def start_again(self) -> None:
        self.life += 1
        journal, bodies = self.bench.journal, self.bench.bodies
        self.bench = self.fresh()
        self.count(self.bench.start(*journal, bodies=bodies))
        self.bench.journal = [*journal, *self.bench.journal]
        self.bench.bodies = bodies | self.bench.bodies

    @invariant()
    def what_is_gated_may_not_run_and_what_may_not_run_is_gated(self) -> None:
        if not hasattr(self, "name"):
            return
        task = self.task()
        if task.state in TERMINAL:
            assert task.error is not None and task.error["code"] == "policy_denied"
        elif not self.may_run():
            assert task.state == GATED or task.attempts or self.awards, task.state
        else:
            assert task.state != GATED
        if task.state == GATED:
            assert self.open_gate() is not None, "people can answer"


TestGates = Gates.TestCase
TestGates.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
