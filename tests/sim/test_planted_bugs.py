"""Each checker is proven: a bug is planted, and the checker named beside it must catch it within a few seeds (H2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mesh.core import node as node_module
from mesh.core.directory import Directory
from mesh.core.inputs import Enquire, HandlerEnded, MemberRevoked, Outlawed, Replay
from mesh.core.membership.trust import Trust
from mesh.core.node import Node
from mesh.core.outbox import Outbox
from mesh.core.records import merkle, witness
from mesh.core.records.records import Records
from mesh.core.work import leases, market, placing, poison, retries
from mesh.core.work.acceptance import Acceptance
from mesh.core.work.auction import Curve
from mesh.core.work.breaker import Breaker
from mesh.core.work.budget import RetryBudget
from mesh.core.work.contractor import Contractor
from mesh.core.work.ending import Ending
from mesh.core.work.holdings import Holdings
from mesh.core.work.leases import Leases
from mesh.effects import Append, Dial, Execute, HangUp, Need, Reply, Send
from mesh.limits import Limits, LinkLimits, WorkLimits
from mesh.messages.membership import Alive, Digest, Load, LoadRow, Rumours, Suspect
from mesh.messages.records import Candidate, Decided, Finished, Opened, Submitted
from mesh.messages.signed import Signed
from mesh.messages.work import Accept, Award, Decline, Renew, Result, ResultAck
from mesh.sim import scenario
from mesh.sim.checkers.market import MarketChecker
from mesh.sim.checkers.trust import TrustChecker
from mesh.sim.disk import Disk
from mesh.sim.faults import Fault
from mesh.sim.history import Appended, Delivered, SyncFailed, Verdict
from mesh.sim.host import Host
from mesh.sim.labour import Sink, Worker
from mesh.sim.scenario import Outcome, Plan, Scenario

Patch = pytest.MonkeyPatch
SEEDS = 6
WORK = ("quick", "count", "effect", "priced", "long")


class Caught(Exception):
    """Ends a run in which what was looked for has been found: the rest would prove nothing."""


class Looking(list[Verdict]):
    """The verdicts of a run, up to the first of one invariant."""

    def __init__(self, invariant: str) -> None:
        super().__init__()
        self._invariant = invariant

    def append(self, verdict: Verdict) -> None:
        super().append(verdict)
        if verdict.invariant == self._invariant:
            raise Caught


def run(
    seed: int,
    kinds: tuple[str, ...],
    *,
    capabilities: tuple[str, ...] = WORK,
    limits: Limits | None = None,
    until_s: float = 25.0,
    looking: str = "",
) -> Outcome:
    return played(Scenario(Plan(4, seed, kinds, until_s, rate=4.0, capabilities=capabilities), limits=limits), looking)


def played(scenario: Scenario, looking: str) -> Outcome:
    """Its outcome; `looking` for one invariant, it ends with the first verdict on it."""
    scenario.history.verdicts = Looking(looking)
    return scenario.run()


def twist_effects(patch: Patch, change: Callable[[Node, Any], Iterable[Any]]) -> None:
    """Every effect that a machine makes goes through `change` first."""
    before = Node._sort

    def sort(self: Node, made: Iterable[Any], effects: list[Any], todo: Any) -> None:
        before(self, [twisted for effect in made for twisted in change(self, effect)], effects, todo)

    patch.setattr(Node, "_sort", sort)


def twist_inputs(patch: Patch, change: Callable[[Node, str, Any], Any]) -> None:
    """Every input of a node goes through `change` first; None: it is lost."""
    before = Node.handle

    def handle(self: Node, now_s: float, sender: str, body: Any = None) -> list[Any]:
        if body is not None:
            body = change(self, sender, body)
            if body is None:
                return []
        return before(self, now_s, sender, body)

    patch.setattr(Node, "handle", handle)


# ---- durability and journal


def no_watermark(patch: Patch) -> None:
    patch.setattr(Outbox, "may_leave", lambda self, effect: True)


def accept_does_not_wait(patch: Patch) -> None:
    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Send and type(effect.message) is Accept:
            effect.need = Need.FREE
        yield effect

    twist_effects(patch, change)


def submit_is_answered_at_once(patch: Patch) -> None:
    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Reply and "survives" in effect.body:
            effect.need = Need.FREE
        yield effect

    twist_effects(patch, change)


def decision_is_not_written(patch: Patch) -> None:
    twist_effects(patch, lambda node, effect: () if type(effect) is Append and type(effect.entry) is Decided else (effect,))


def disk_forgets(patch: Patch) -> None:
    before = Disk.crash

    def crash(self: Disk, wall_ms: int, *, keep_written: bool) -> Any:
        kept = before(self, wall_ms, keep_written=keep_written)
        if len(self.groups) > 1:
            lost = self.groups.pop()
            del self.rows[-lost.signed.body.count :]
            self.head = self.groups[-1].hash
        return kept

    patch.setattr(Disk, "crash", crash)


def wrong_root(patch: Patch) -> None:
    before = merkle.root
    patch.setattr(merkle, "root", lambda leaves: before(leaves[::-1]) if len(leaves) > 1 else before(leaves))


def opening_cites_nothing(patch: Patch) -> None:
    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Append and type(effect.entry) is Opened:
            effect.entry.head = bytes(32)
        yield effect

    twist_effects(patch, change)


def own_number_of_entries_is_off(patch: Patch) -> None:
    before = Disk.add
    patch.setattr(Disk, "add", lambda self, entry, bodies: before(self, entry, bodies) + (self.waiting % 3 == 2))


# ---- ownership


def tasks_are_forgotten_at_restart(patch: Patch) -> None:
    def change(node: Node, sender: str, body: Any) -> Any:
        return None if type(body) is Replay and type(body.entry) is Submitted else body

    twist_inputs(patch, change)


def results_are_never_heard(patch: Patch) -> None:
    twist_inputs(patch, lambda node, sender, body: None if type(body) is Result else body)


def every_task_counts_as_idempotent(patch: Patch) -> None:
    """Re-award at once when membership suspects the holder, whatever the work is."""

    def gone(self: Leases, now_s: float, node: str, reason: str, only: str = "") -> Iterable[Any]:
        holder = self._book.holders.get(node)
        for task in list(holder.tasks.values()) if holder and not only else []:
            if task.state in ("offered", "held"):
                yield from self._over(now_s, task, reason)

    patch.setattr(Leases, "gone", gone)


def unfenced_sink(patch: Patch) -> None:
    every_task_counts_as_idempotent(patch)
    patch.setattr(Sink, "accept", lambda self, task, fence: True)


def fence_is_ignored_at_commit(patch: Patch) -> None:
    """A late result under an old fence is taken as the current one."""
    every_task_counts_as_idempotent(patch)

    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Append and type(effect.entry) is Finished and effect.entry.fence & 0xFFFFFFFF > 1:
            effect.entry = dataclasses.replace(effect.entry, fence=effect.entry.fence - 1)
        yield effect

    twist_effects(patch, change)


def fences_stand_still(patch: Patch) -> None:
    patch.setattr(placing, "next_fence", lambda fence: fence if fence & 0xFFFFFFFF else fence + 1)


def handlers_start_twice(patch: Patch) -> None:
    twist_effects(patch, lambda node, effect: (effect, dataclasses.replace(effect)) if type(effect) is Execute else (effect,))


def ends_are_written_twice(patch: Patch) -> None:
    def change(node: Node, effect: Any) -> Iterable[Any]:
        yield effect
        if type(effect) is Append and type(effect.entry) is Finished:
            yield Append(effect.entry)

    twist_effects(patch, change)


def worst_candidate_wins(patch: Patch) -> None:
    patch.setattr(
        placing, "best", lambda task, fence, candidates: max(candidates, key=lambda one: (one.start_ms + one.service_ms, one.node))
    )


def bids_are_made_up(patch: Patch) -> None:
    """Whoever refuses is taken for a bidder: a bid is put in his mouth."""

    before = placing.Placing._close

    def close(self: Any, now_s: float, auction: Any) -> Iterable[Any]:
        for other in list(auction.asked):
            if other not in [curve.bid.node for curve in auction.bids]:
                auction.until_s[other] = now_s + 10
                auction.bids.append(Curve(Candidate(other, other, 0, 0, 0.0, "agent"), ()))
        return before(self, now_s, auction)

    patch.setattr(placing.Placing, "_close", close)


def results_are_mixed_up(patch: Patch) -> None:
    def change(node: Node, sender: str, body: Any) -> Any:
        if type(body) is HandlerEnded and body.outcome == "ok":
            body.output = b'"something else"'
        return body

    twist_inputs(patch, change)


def replies_are_said_twice(patch: Patch) -> None:
    twist_effects(patch, lambda node, effect: (effect, effect) if type(effect) is Reply and "output" in effect.body else (effect,))


def leaves_at_once(kind: type) -> Callable[[Patch], None]:
    """Messages of this kind do not wait for the disk."""

    def plant(patch: Patch) -> None:
        def change(node: Node, effect: Any) -> Iterable[Any]:
            if type(effect) is Send and type(effect.message) is kind:
                effect.need = Need.FREE
            yield effect

        twist_effects(patch, change)

    plant.__name__ = f"{kind.__name__.lower()}_leaves_at_once"
    return plant


def submission_is_not_written(patch: Patch) -> None:
    twist_effects(patch, lambda node, effect: () if type(effect) is Append and type(effect.entry) is Submitted else (effect,))


def a_failed_sync_counts_as_done(patch: Patch) -> None:
    """Retry and forget: what was to be written is taken for written."""

    def step_down(self: Host) -> None:
        self.world.history.add(SyncFailed(self.world.now_s, self.name))
        self.disk.failing = ""
        self._synced(self.life)

    patch.setattr(Host, "_step_down", step_down)


def an_old_disk_keeps_quiet(patch: Patch) -> None:
    patch.setattr(Records, "_note_rolled_back", lambda self, why: None)


def replay_forgets(kind: type) -> Callable[[Patch], None]:
    """After a restart entries of this kind count for nothing."""

    def plant(patch: Patch) -> None:
        twist_inputs(patch, lambda node, sender, body: None if type(body) is Replay and type(body.entry) is kind else body)

    plant.__name__ = f"replay_forgets_{kind.__name__.lower()}"
    return plant


def renewals_grant_too_much(patch: Patch) -> None:
    def change(node: Node, sender: str, body: Any) -> Any:
        if type(body) in (Award, Renew) and sender != node.me:
            body = dataclasses.replace(body, grant_ms=10 * body.grant_ms)
        return body

    twist_inputs(patch, change)


def workers_ignore_their_leases(patch: Patch) -> None:
    before = Worker._execute

    def execute(self: Worker, effect: Execute) -> None:
        before(self, dataclasses.replace(effect, lease_end_ms=2**60))

    patch.setattr(Worker, "_execute", execute)


def the_sink_takes_everything(patch: Patch) -> None:
    patch.setattr(Sink, "accept", lambda self, task, fence: True)


def an_award_goes_to_two(patch: Patch) -> None:
    """Under one fence, and a lease for ever: as if with the other's newest stamp, which its own life had made."""
    patch.setattr(Acceptance, "start", lambda self, now_s: None)

    def change(node: Node, effect: Any) -> Iterable[Any]:
        yield effect
        if type(effect) is Send and type(effect.message) is Award:
            other = next(name for name in ("n1", "n2", "n3") if name not in (node.me, effect.to))
            yield Send(other, dataclasses.replace(effect.message, echo_ms=1, grant_ms=10**9))

    twist_effects(patch, change)


def fences_seen_are_forgotten(patch: Patch) -> None:
    patch.setattr(Holdings, "seen", lambda self, task: 0)


def lost_holders_are_waited_for(patch: Patch) -> None:
    patch.setattr(Leases, "gone", lambda self, now_s, node, reason: iter(()))
    patch.setattr(Leases, "expire_leases", lambda self, now_s, me, due: iter(()))


def everything_is_declined_and_awarded_again(patch: Patch) -> None:
    """Without the pauses that grow."""
    patch.setattr(leases, "backoff_s", lambda random, limits, failures: 0.2)

    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Send and type(effect.message) is Accept:
            effect = Send(effect.to, Decline(tuple((task, fence, "not_ready") for task, fence in effect.message.items), 0), need=Need.FREE)
        yield effect

    twist_effects(patch, change)


# ---- time and failure


def retries_cost_nothing(patch: Patch) -> None:
    patch.setattr(RetryBudget, "spend", lambda self, now_s, given: True)


def steps_outlive_their_parent(patch: Patch) -> None:
    patch.setattr(Ending, "_end_children", lambda self, now_s, task, reason: iter(()))


def poison_goes_round(patch: Patch) -> None:
    patch.setattr(poison, "NODES_MAX", 99)
    patch.setattr(retries, "FAULTS_MAX", 99)


def open_breakers_are_not_heeded(patch: Patch) -> None:
    """Neither by managers who hear of them, nor by the node itself, which would decline."""
    patch.setattr(market, "OPEN", "never")
    patch.setattr(placing, "OPEN", "never")
    patch.setattr(Breaker, "admits", lambda self: True)


# ---- membership


def the_dead_are_never_dialled(patch: Patch) -> None:
    """Once a link is lost nobody dials again, and hearsay is not asked for."""
    dialled: dict[tuple[int, str], int] = {}

    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Dial:
            key = (id(node), effect.address)
            dialled[key] = dialled.get(key, 0) + 1
            if dialled[key] > 1:
                return
        yield effect

    twist_effects(patch, change)


def anothers_version_is_raised(patch: Patch) -> None:
    def change(node: Node, sender: str, body: Any) -> Any:
        if type(body) is Rumours:
            forged = tuple(
                Signed(one.author, dataclasses.replace(one.body, version=one.body.version + 3)) if type(one.body) is Alive else one
                for one in body.statements
            )
            return Rumours(forged, body.deaths)
        return body

    twist_inputs(patch, change)


def nobody_votes(patch: Patch) -> None:
    """Suspicions are kept to oneself."""

    def change(node: Node, effect: Any) -> Iterable[Any]:
        if type(effect) is Send and type(effect.message) is Rumours:
            kept = tuple(one for one in effect.message.statements if type(one.body) is not Suspect)
            effect = Send(effect.to, Rumours(kept, ()), need=Need.FREE)
        yield effect

    twist_effects(patch, change)


def one_node_is_deaf_to_gossip(patch: Patch) -> None:
    def change(node: Node, sender: str, body: Any) -> Any:
        return None if node.me == "n1" and type(body) in (Rumours, Digest) else body

    twist_inputs(patch, change)


def offers_are_told_to_oneself_only(patch: Patch) -> None:
    """The row changes without a new version."""
    before = Directory.set_offers

    def set_offers(self: Directory, row: Any, offers: Any) -> bool:
        return before(self, row, offers if row.node == self.me else offers[:1])

    patch.setattr(Directory, "set_offers", set_offers)


# ---- trust


def a_revoked_holders_result_is_taken(patch: Patch) -> None:
    """The wire lets it in, the link stays up, the core's own gate is open; and the revoked node does not give in."""
    patch.setattr(Host, "refuses", lambda self, peer: False)
    patch.setattr(node_module, "MESSAGES", frozenset())
    twist_effects(patch, lambda node, effect: () if type(effect) is HangUp else (effect,))
    twist_inputs(patch, lambda node, sender, body: None if type(body) is Outlawed and body.node == node.me else body)


def trust_is_not_compared(patch: Patch) -> None:
    """Told once to those who are linked, and never to who comes later."""
    patch.setattr(Trust, "_differs", lambda self, now_s, sender: iter(()))


def the_revoked_are_asked_again(patch: Patch) -> None:
    """The runtime keeps the statement and forgets to enforce it."""
    patch.setattr(Host, "refuses", lambda self, peer: False)
    twist_inputs(patch, lambda node, sender, body: None if type(body) is Outlawed else body)


def work_for_a_revoked_manager_goes_on(patch: Patch) -> None:
    before = Contractor.__init__

    def init(self: Contractor, *arguments: Any) -> None:
        before(self, *arguments)
        del self.inputs[MemberRevoked]

    patch.setattr(Contractor, "__init__", init)


def heads_are_cosigned_that_never_were(patch: Patch) -> None:
    before = witness.seal_of
    patch.setattr(witness, "seal_of", lambda commit: before(commit)[::-1])


BUGS: list[tuple[Callable[[Patch], None], str, tuple[str, ...]]] = [
    (no_watermark, "D2", ()),
    (accept_does_not_wait, "D2", ()),
    (submit_is_answered_at_once, "D2", ()),
    (decision_is_not_written, "D2", ()),
    (disk_forgets, "D1", ("crash_lose_tail",)),
    (wrong_root, "L2", ()),
    (opening_cites_nothing, "L3", ("crash",)),
    (own_number_of_entries_is_off, "L1", ()),
    (results_are_never_heard, "O3", ()),
    (every_task_counts_as_idempotent, "O5", ("crash",)),
    (unfenced_sink, "O1", ("crash",)),
    (fence_is_ignored_at_commit, "O4", ("one_way", "partition", "pause", "crash")),
    (fences_stand_still, "O4", ("crash_lose_tail", "pause")),
    (handlers_start_twice, "O6a", ()),
    (ends_are_written_twice, "O4", ()),
    (worst_candidate_wins, "O6", ()),
    (bids_are_made_up, "O6", ()),
    (results_are_mixed_up, "RES", ()),
    (replies_are_said_twice, "O3", ()),
    (the_dead_are_never_dialled, "M1", ("crash", "partition")),
    (anothers_version_is_raised, "M4", ()),
    (nobody_votes, "M2", ()),
    (one_node_is_deaf_to_gossip, "M5", ("worker_crash",)),
    (offers_are_told_to_oneself_only, "M5", ()),
    (a_revoked_holders_result_is_taken, "R1", ("revoke",)),
    (the_revoked_are_asked_again, "R1", ("revoke",)),
    (heads_are_cosigned_that_never_were, "L4", ()),
]


CUT_OFF = (Fault(3.0, "partition", ("n3", "n4"), 8.0, 0.0),)
LATE = (Fault(2.0, "late_effect", ("n4",), 12.0, 8.0), Fault(3.0, "partition", ("n4",), 8.0, 0.0))
OF_OWNERSHIP: list[tuple[Callable[[Patch], None], str, tuple[str, ...] | tuple[Fault, ...]]] = [
    (leaves_at_once(Result), "D2", ()),
    (leaves_at_once(ResultAck), "D2", ()),
    (leaves_at_once(Award), "D2", ()),
    (submission_is_not_written, "D2", ()),
    (a_failed_sync_counts_as_done, "D4", ("sync_error",)),
    (an_old_disk_keeps_quiet, "L3", ("stale_disk",)),
    (replay_forgets(Finished), "O4", ("crash",)),
    (replay_forgets(Decided), "O4", ("crash",)),
    (renewals_grant_too_much, "O5", CUT_OFF),
    (workers_ignore_their_leases, "O5", CUT_OFF),
    (the_sink_takes_everything, "O1", LATE),
    (an_award_goes_to_two, "O6a", ()),
    (fences_seen_are_forgotten, "O6a", ("replay",)),
    (lost_holders_are_waited_for, "O3", ("crash_lose_tail",)),
    (tasks_are_forgotten_at_restart, "O2", ("crash",)),
]
"""With many faults of these kinds in little time, or with just these."""


@pytest.mark.parametrize(("plant", "invariant", "kinds"), BUGS, ids=[f"{bug[0].__name__}-{bug[1]}" for bug in BUGS])
def test_a_planted_bug_is_caught(monkeypatch: Patch, plant: Callable[[Patch], None], invariant: str, kinds: tuple[str, ...]) -> None:
    plant(monkeypatch)
    seen: dict[str, str] = {}
    for seed in range(1, SEEDS + 1):
        for verdict in run(seed, kinds, looking=invariant).verdicts:
            seen.setdefault(verdict.invariant, verdict.text)
        if invariant in seen:
            return
    pytest.fail(f"{plant.__name__} got past {invariant} in {SEEDS} seeds; caught: {seen}")


def storm(seed: int, faults: tuple[str, ...] | tuple[Fault, ...], looking: str) -> Outcome:
    """A short run full of faults."""
    plan = Plan(4, seed, (), 12.0, rate=6.0, capabilities=("count", "effect", "long"), farewell=False, hard=8.0)
    if faults in (CUT_OFF, LATE):
        work = ("long",) if faults is CUT_OFF else ("effect",)
        plan = dataclasses.replace(plan, rate=8.0, capabilities=work, schedule=faults)
    else:
        plan = dataclasses.replace(plan, kinds=faults)
    return played(Scenario(plan), looking)


@pytest.mark.parametrize(("plant", "invariant", "kinds"), OF_OWNERSHIP, ids=[f"{bug[0].__name__}-{bug[1]}" for bug in OF_OWNERSHIP])
def test_a_bug_of_ownership_is_caught(monkeypatch: Patch, plant: Callable[[Patch], None], invariant: str, kinds: Any) -> None:
    monkeypatch.setattr(scenario, "QUIET_MAX_S", 25.0)
    plant(monkeypatch)
    seen: dict[str, str] = {}
    for seed in range(1, SEEDS + 1):
        seen.update((verdict.invariant, verdict.text) for verdict in storm(seed, kinds, invariant).verdicts)
        if invariant in seen:
            return
    pytest.fail(f"{plant.__name__} got past {invariant} in {SEEDS} seeds; caught: {seen}")


def test_what_is_awarded_again_and_again_in_quiet_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(scenario, "QUIET_MAX_S", 10.0)
    everything_is_declined_and_awarded_again(monkeypatch)
    outcome = Scenario(Plan(3, 1, (), 3.0, rate=3.0, capabilities=("effect",), farewell=False)).run()
    assert "does not come to an end" in "".join(verdict.text for verdict in outcome.verdicts if verdict.invariant == "O3")


def test_the_bugs_cover_every_promise_of_ownership() -> None:
    planted = [bug[1] for bug in (*BUGS, *OF_OWNERSHIP)]
    assert {"O1", "O2", "O3", "O4", "O5", "O6", "O6a", "D1", "D2", "D4", "L3"} <= set(planted)
    assert sum(invariant[0] in "OD" for invariant in planted) >= 20


def test_a_retry_storm_is_caught(monkeypatch: Patch) -> None:
    """With a small budget, so that a short run is enough; and with it, but without the bug, nothing is caught."""
    limits = Limits(work=WorkLimits(retry_burst=1.0, retry_floor_per_s=0.2, retry_share=0.05))

    def caught() -> set[str]:
        return {verdict.invariant for verdict in run(1, (), capabilities=("brittle",), limits=limits).verdicts}

    assert caught() == set()
    retries_cost_nothing(monkeypatch)
    assert "F1" in caught()


def test_work_for_an_open_breaker_is_caught(monkeypatch: Patch) -> None:
    """One lost worker opens them here, and they stay open for long."""
    limits = Limits(work=WorkLimits(breaker_faults=1, breaker_open_s=20.0))
    crashes = tuple(Fault(6.0 + at, "worker_crash", (f"n{at + 1}",), 0.5, 0.5) for at in range(3))

    def caught() -> set[str]:
        plan = Plan(4, 1, (), 25.0, rate=6.0, capabilities=("long",), schedule=crashes)
        return {verdict.invariant for verdict in Scenario(plan, limits=limits).run().verdicts}

    assert caught() == set()
    open_breakers_are_not_heeded(monkeypatch)
    assert "F2" in caught()


def test_a_task_that_goes_on_after_three_nodes_is_caught(monkeypatch: Patch) -> None:
    """Workers die all the time; breakers that open would hide it."""
    limits = Limits(work=WorkLimits(breaker_faults=1000))
    crashes = tuple(Fault(3.0 + 0.45 * at, "worker_crash", (f"n{at % 4 + 1}",), 0.05, 0.0) for at in range(30))

    def caught() -> set[str]:
        plan = Plan(4, 3, (), 18.0, rate=2.0, capabilities=("long",), schedule=crashes, farewell=False)
        return {verdict.invariant for verdict in Scenario(plan, limits=limits).run().verdicts}

    assert caught() == set()
    poison_goes_round(monkeypatch)
    assert "F4" in caught()


def test_a_cancellation_that_stops_at_the_root_is_caught(monkeypatch: Patch) -> None:
    """The newest flow is cancelled ten times a second."""

    def caught() -> set[str]:
        scenario = Scenario(Plan(3, 1, (), 6.0, rate=6.0, capabilities=("flow",), farewell=False))
        world, acknowledged = scenario.world, scenario.clients.acknowledged

        def cancel() -> None:
            if acknowledged:
                task, wish = next(reversed(acknowledged.items()))
                world.ask(wish.node, lambda number: Enquire(number, "cancel", task))

        for tenth in range(20, 60):
            world.at(tenth / 10, cancel)
        return {verdict.invariant for verdict in scenario.run().verdicts}

    assert caught() == set()
    steps_outlive_their_parent(monkeypatch)
    assert "F3" in caught()


@pytest.mark.parametrize(
    ("plant", "says"),
    [(a_revoked_holders_result_is_taken, "commits a result for"), (work_for_a_revoked_manager_goes_on, "reports on")],
    ids=["result", "manager"],
)
def test_what_a_revoked_node_still_effects_is_caught_in_the_journal(monkeypatch: Patch, plant: Callable[[Patch], None], says: str) -> None:
    """Not only where a message comes in. Long work, so that some of it is under way when it happens."""
    plant(monkeypatch)
    monkeypatch.setattr(TrustChecker, "_delivered", lambda self, record: iter(()))
    texts: list[str] = []
    for seed in range(1, SEEDS + 1):
        texts += [verdict.text for verdict in run(seed, ("revoke",), capabilities=("long",), until_s=20.0).verdicts]
        if any(says in text for text in texts):
            return
    pytest.fail(f"nothing says {says!r} in {SEEDS} seeds: {texts}")


def test_a_trust_set_that_is_not_sent_on_link_up_is_caught(monkeypatch: Patch) -> None:
    """A node is down while another is revoked: it hears of it when it comes back, from whoever it links with."""
    down = (Fault(5.0, "crash", ("n3",), 6.0, 0.9), Fault(8.0, "revoke", ("n4", "n1"), 0.0, 0.0))

    def verdicts() -> dict[str, str]:
        outcome = Scenario(Plan(4, 1, (), 25.0, schedule=down)).run()
        return {verdict.invariant: verdict.text for verdict in outcome.verdicts}

    assert verdicts() == {}
    trust_is_not_compared(monkeypatch)
    assert verdicts()["R3"] == "n3 has not heard that n4 was revoked"


def test_a_queue_that_only_grows_is_caught(monkeypatch: Patch) -> None:
    limits = Limits(links=LinkLimits(queue_messages_max=4))
    monkeypatch.setattr(Outbox, "release", lambda self, synced: [])
    assert "D6" in {verdict.invariant for verdict in run(1, (), limits=limits, looking="D6").verdicts}


def test_without_a_bug_nothing_is_caught() -> None:
    for seed in (1, 2):
        outcome = run(seed, ("one_way", "partition", "pause", "crash", "crash_lose_tail", "worker_crash", "revoke"))
        assert outcome.verdicts == (), outcome.plan.command


def test_an_older_load_that_comes_behind_a_newer_one_is_not_held_against_an_award() -> None:
    checker = MarketChecker(Limits().work)

    def verdicts(*loads: Load) -> list[Any]:
        for load in loads:
            assert list(checker.takes[Delivered](Delivered(1.0, "m", "h", load))) == []
        decided = Decided("m.1.1", 1, "award", "least", "h", (Candidate("h", "h", 0, 0, 0.0),))
        return list(checker.takes[Appended](Appended(1.1, "m", 1, 2, decided)))

    assert list(checker.takes[Appended](Appended(1.0, "m", 1, 1, Submitted("m.1.1", "x", "", "", 0, 0)))) == []
    with_room, without = Load(2, (LoadRow("x", 1, 0, 0, 1, 5),)), Load(1, ())
    assert verdicts(with_room, without) == []
    assert "had told of no room for x" in verdicts(Load(3, ()))[0].text
