"""What becomes of work when a node is not believed any more: as holder, bidder, manager, source, as the one asked, or this node itself."""

from __future__ import annotations

from typing import Any

import workbench
from manager_bench import Bench, started
from test_desk import ANNA, BASE, BERT, Hall, answer, error
from test_files import DATA, FILE, A, B, Shelf
from workbench import BOSS, ME, OTHER, entries, fence, of, sent, stopped, task_of

from mesh.core.inputs import Call, Enquire, FileFetched, HandlerEnded, MemberLinked, MemberRevoked, Step, Submit
from mesh.effects import Append, Refused, Reply, Send
from mesh.ids import content_hash
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Closed, Ended, Finished, Lost
from mesh.messages.work import Accept, Answer, Ask, Award, Bid, BidItem, Cancel, Cfp, FileAsk, Result, Revoke

GREET = Offer("greet", "greeter")
ONCE = Offer("greet", "greeter", idempotent=True)
NEVER_TWICE = Offer("greet", "greeter", on_lost="fail")


def revoke(bench: Any, node: str) -> list[Any]:
    """As membership does it: the row first, then the fact."""
    bench.directory.outlaw(node)
    row = bench.directory.ensure(node)
    row.state, row.linked = ("left" if node == bench.directory.me else "dead"), False
    effects: list[Any] = bench.give(MemberRevoked(node))
    return effects


def lost(effects: list[Any]) -> list[tuple[str, str]]:
    return [(e.entry.node, e.entry.reason) for e in effects if type(e) is Append and type(e.entry) is Lost]


# ---- the manager: a holder is revoked


def two_nodes(offer: Offer) -> tuple[Bench, Any]:
    """A task that `a` has accepted; then `b` comes, which could do it too."""
    bench = started()
    bench.row("a", offer, room=4)
    item = bench.held()
    bench.row("b", offer, room=4)
    return bench, item


def test_idempotent_work_goes_to_another_at_once_under_a_higher_fence() -> None:
    bench, item = two_nodes(ONCE)
    effects = revoke(bench, "a")
    node, again = bench.awarded(effects)
    assert node == "b" and again.task == item.task and again.fence > item.fence
    assert lost(effects) == [("a", "node_revoked")]
    assert [to for to, _ in bench.sends(effects)] == ["b"], "nothing is said to the revoked, not even REVOKE"


def test_other_work_waits_for_the_lease_and_the_margin_whatever_its_holder_says() -> None:
    bench, item = two_nodes(GREET)
    assert lost(revoke(bench, "a")) == []
    effects = bench.after(3.0, hear=("b",))
    assert lost(effects) == [] and bench.task(item.task).state == "held"
    effects = bench.after(0.6, hear=("b",))
    assert lost(effects) == [("a", "node_revoked")]
    node, again = bench.awarded(effects)
    assert node == "b" and again.fence > item.fence


def test_what_must_not_repeat_fails_with_the_reason() -> None:
    bench, item = two_nodes(NEVER_TWICE)
    revoke(bench, "a")
    effects = bench.after(3.6, hear=("b",))
    [end] = bench.entries(effects, Finished)
    assert end.state == "failed" and "node_revoked" in end.error and bench.task(item.task).ended


def test_an_award_that_had_not_left_yet_is_taken_back_at_once() -> None:
    """Decided in the same turn: it was never sent, so nothing can be running, whatever the work is."""
    bench = started()
    bench.row("b", GREET)  # its load is not known: an auction
    bench.row("a", GREET)
    asked = bench.sends(bench.submit(), Cfp)
    cfp, task = asked[0][1], asked[0][1].items[0].task
    bench.give(Bid(cfp.round, (BidItem(task, 0, 10, 5.0, "x"),), 5000), "b", end=False)
    assert bench.sends(bench.give(Bid(cfp.round, (BidItem(task, 0, 10, 0.0, "x"),), 5000), "a", end=False), Award) == []
    bench.load("b", 4)
    effects = revoke(bench, "a")
    assert lost(effects) == [("a", "declined:node_revoked")]
    node, again = bench.awarded(effects)
    assert (node, again.task) == ("b", task)


def test_a_bid_of_the_revoked_is_never_taken_and_the_record_says_why() -> None:
    bench = started()
    bench.row("b", GREET)
    bench.row("a", GREET)
    cfp = bench.sends(bench.submit(), Cfp)[0][1]
    task = cfp.items[0].task
    bench.give(Bid(cfp.round, (BidItem(task, 0, 10, 0.0, "x"),), 5000), "a")
    revoke(bench, "a")
    bench.give(Bid(cfp.round, (BidItem(task, 0, 10, 5.0, "x"),), 5000), "b")
    decided = bench.journal[-1]
    assert decided.winner == "b" and ("a", "A", "revoked") in decided.refusals


def test_the_revoked_is_never_asked_again() -> None:
    bench = started()
    revoke(bench, "a")
    bench.row("a", GREET, room=9, state="alive")  # should its row ever look well again
    effects = bench.submit()
    assert bench.sends(effects) == [] and bench.task("me.1.1").state == "parked"


def test_a_result_whose_files_were_still_coming_is_undone_and_the_work_goes_elsewhere() -> None:
    """Its handler has ended, so the work need not wait for a lease."""
    bench, item = two_nodes(GREET)
    bench.result(item, "a", files=((content_hash(b"f"), 1),))
    assert bench.task(item.task).state == "committing"
    effects = revoke(bench, "a")
    assert lost(effects) == [("a", "node_revoked")]
    node, again = bench.awarded(effects)
    assert node == "b" and bench.task(item.task).output is None and again.fence > item.fence


def test_what_was_committed_before_stays() -> None:
    bench, item = two_nodes(GREET)
    bench.result(item, "a")
    revoke(bench, "a")
    assert bench.task(item.task).state == "done" and bench.task(item.task).output == b'"hi"'


def test_nothing_is_kept_to_be_said_to_it() -> None:
    bench, _ = two_nodes(GREET)
    bench.after(3.6, hear=("b",))  # its lease is over: it would hear REVOKE when it is back
    revoke(bench, "a")
    assert bench.manager.book.holders["a"].ghosts == {}
    assert bench.sends(bench.give(MemberLinked("a")), Revoke) == []


# ---- this node itself


def test_a_manager_that_is_revoked_ends_its_work_and_takes_no_more() -> None:
    bench, item = two_nodes(GREET)
    bench.give(Call(7, "greet", b"{}"))
    effects = revoke(bench, "me")
    ends = bench.entries(effects, Finished)
    assert [(end.task, end.state) for end in ends] == [(item.task, "failed")] and "node_revoked" in ends[0].error
    [(ok, body)] = bench.replies(effects)
    assert ok and body["error"]["code"] == "node_revoked"
    for command in (Call(8, "greet", b"{}"), Submit(9, "greet", b"{}")):
        [(ok, body)] = bench.replies(bench.give(command))
        assert not ok and body["code"] == "node_revoked" and body["fix"]


def test_a_contractor_that_is_revoked_stops_all_and_declines() -> None:
    bench = workbench.Bench()
    bench.attach("greet", concurrency=2)
    bench.turn(bench.award(1, durable=True), BOSS)
    bench.turn(workbench.award_of(bench.now, workbench.item_of(2, author=OTHER)), OTHER)
    effects = revoke(bench, ME)
    assert stopped(effects) == [(task_of(1), fence(1)), (task_of(2, OTHER), fence(1))]
    bench.turn(bench.award(3), BOSS)
    assert bench.contractor.statistics().draining and bench.contractor.statistics().declined == 1


# ---- the contractor: a manager is revoked


def test_work_of_a_revoked_manager_stops_at_once_and_nothing_of_it_is_reported() -> None:
    bench = workbench.Bench()
    bench.attach("greet", concurrency=1)
    bench.turn(bench.award(1, durable=True), BOSS)
    bench.turn(bench.award(2, durable=True), BOSS)  # waits for the slot
    effects = revoke(bench, BOSS)
    assert stopped(effects) == [(task_of(1), fence(1))]
    assert entries(effects) == [Closed(task_of(1), fence(1)), Closed(task_of(2), fence(1))]
    assert of(effects, Send) == []
    ended = bench.turn(HandlerEnded(1, task_of(1), fence(1), "ok", b'"done all the same"'))
    assert of(ended, Send) == [] and entries(ended) == []
    assert bench.contractor.statistics().held == 0 and bench.contractor.statistics().busy == 0
    assert of(bench.at(bench.now + 60.0), Send) == []


def test_a_result_that_waits_for_its_acknowledgement_is_owed_no_more() -> None:
    bench = workbench.Bench()
    bench.attach("greet")
    bench.turn(bench.award(1, durable=True), BOSS)
    assert sent(bench.turn(HandlerEnded(1, task_of(1), fence(1), "ok", b'"hi"')), Result)
    assert entries(revoke(bench, BOSS)) == [Closed(task_of(1), fence(1))]
    assert of(bench.at(bench.now + 10.0), Send) == []


def test_what_was_promised_for_the_end_of_a_handler_is_not_said() -> None:
    bench = workbench.Bench()
    bench.attach("greet")
    bench.turn(bench.award(1, durable=True), BOSS)
    bench.turn(Cancel(((task_of(1), fence(1)),), "changed my mind"), BOSS)
    revoke(bench, BOSS)
    assert of(bench.turn(HandlerEnded(1, task_of(1), fence(1), "cancelled")), Send) == []


def test_work_of_the_others_goes_on() -> None:
    bench = workbench.Bench()
    bench.attach("greet", concurrency=2)
    bench.turn(bench.award(1, durable=True), BOSS)
    bench.turn(workbench.award_of(bench.now, workbench.item_of(2, author=OTHER, durable=True)), OTHER)
    revoke(bench, BOSS)
    effects = bench.turn(HandlerEnded(1, task_of(2, OTHER), fence(1), "ok", b'"hi"'))
    assert [type(entry) for entry in entries(effects)] == [Ended] and len(sent(effects, Result)) == 1


def test_an_accept_that_had_not_left_is_not_said() -> None:
    bench = workbench.Bench(WorkLimits())
    bench.attach("greet")
    bench.give(bench.award(1, durable=True), BOSS)
    revoke(bench, BOSS)
    assert sent(bench.at(bench.now + 5.0), Accept) == []


# ---- the desk and its errands


def test_questions_to_a_revoked_node_end_with_a_clear_error_even_a_wait_for_a_result() -> None:
    hall = Hall()
    hall.give(Enquire(1, "task", f"{ANNA}.1.1"))
    hall.give(Enquire(2, "result", f"{ANNA}.1.2"))
    hall.give(Enquire(3, "result", f"{BERT}.1.2"))
    effects = revoke(hall, ANNA)
    assert [(e.request, e.ok, e.body["code"]) for e in of(effects, Reply)] == [(1, False, "node_revoked"), (2, False, "node_revoked")]
    assert "anna was revoked" in of(effects, Reply)[0].body["message"]
    assert hall.desk.statistics().asking == 1
    assert error(hall.give(Enquire(4, "result", f"{ANNA}.1.2"))) == "node_revoked"


def test_steps_whose_parents_manager_is_revoked_end_too() -> None:
    hall = Hall()
    hall.give(Step(1, f"{ANNA}.1.1", 1, "load", "greet", b"{}"))
    [reply] = of(revoke(hall, ANNA), Reply)
    assert (reply.request, reply.ok, reply.body["code"]) == (1, False, "node_revoked")
    assert error(hall.give(Step(2, f"{ANNA}.1.1", 1, "load", "greet", b"{}"))) == "node_revoked"


def test_who_asks_all_does_not_miss_the_revoked() -> None:
    hall = Hall()
    revoke(hall, ANNA)
    hall.give(Enquire(1, "tasks"))
    [reply] = of(hall.later(1.1), Reply)
    assert reply.body["missing"] == ["bert", "carl", "me"]


def test_the_audit_is_asked_of_this_node_or_of_all_and_pages_come_back_as_they_are() -> None:
    hall = Hall()
    hall.give(Enquire(1, "audit"))
    assert hall.sink.caught == [Ask(BASE, "audit", "", b"{}")]
    assert hall.give(answer(b"packed"), ME) == [Reply(1, True, {"pages": [(ME, b"packed")], "missing": []})]
    asked = hall.give(Enquire(2, "audit", "bert", {"all": True}))
    ask = asked[0].message.ask
    assert [effect.to for effect in asked] == [ANNA, BERT] and asked[0].message.key == BERT, "a name becomes an id"
    hall.give(Answer(ask, True, b"his"), BERT)
    hall.give(Answer(ask, True, b"mine"), ME)
    [reply] = of(hall.later(1.1), Reply)
    assert reply.body == {"pages": [(BERT, b"his"), (ME, b"mine")], "missing": ["anna", "carl"]}


# ---- files


def test_a_file_goes_on_from_another_source_and_the_revoked_is_none_any_more() -> None:
    shelf = Shelf()
    assert {effect.to for effect in shelf.want()} == {A}
    effects = revoke(shelf, A)
    assert {effect.to for effect in of(effects, Send)} == {B} and len(sent(effects, FileAsk)) == 3
    assert of(shelf.later(60.0), Send) and shelf.told() == [(FILE, False)], "B stays silent, and A is not tried again"
    assert not shelf.sink.caught[0].ok and type(shelf.sink.caught[0]) is FileFetched


def test_a_file_that_only_the_revoked_has_is_not_to_be_had() -> None:
    shelf = Shelf()
    shelf.want(sources=(A,), size=len(DATA))
    assert revoke(shelf, A) == [] and shelf.told() == [(FILE, False)]


# ---- the gate


def test_no_message_of_a_revoked_node_reaches_any_machine() -> None:
    from mesh.core.deadlines import Deadlines
    from mesh.core.node import Node

    class Ear:
        def __init__(self) -> None:
            self.heard: list[Any] = []
            self.inputs: dict[type, Any] = {Ask: self._hear, MemberLinked: self._hear}

        def _hear(self, now_s: float, sender: str, item: Any) -> None:
            self.heard.append((sender, item))

    ear, outlaws = Ear(), {"r": None}
    node = Node("me", (ear,), Deadlines(), 0, outlaws)
    ask = Ask(1, "task", "")
    assert node.handle(1.0, "r", ask) == [Refused("revoked", "r")]
    assert node.handle(1.0, "b", ask) == [] and node.handle(1.0, "me", MemberLinked("r")) == []
    assert ear.heard == [("b", ask), ("me", MemberLinked("r"))]
    outlaws["b"] = None
    assert node.handle(1.0, "b", ask) == [Refused("revoked", "b")], "the table is the directory's, not a copy"
