"""Lines in, awards out: whoever waits for an award is looked at when the turn ends, first come first served.

    line of a capability --choice (market.py)--> AWARD from cached load
                                            '--> auction, of a lot --closed--> AWARD to the winners | parked
                                            '--> parked: no_capable, no_label (woken by offers), busy (woken by room, or asked again)

Invariant: of each award the decision is written (or remembered, for a plain call) before the AWARD leaves, under a fence that is new.
Does not bind anything: an AWARD is an offer until its ACCEPT (`leases.py`).
"""

from __future__ import annotations

from dataclasses import replace

from mesh.core.directory import Row
from mesh.core.work.auction import Auction, Curve
from mesh.core.work.book import CONDITIONAL, DURABLE, Book, Effects, GuardDue
from mesh.core.work.breaker import OPEN
from mesh.core.work.ending import Ending, no_such_capability, no_such_label, nobody_left, node_lost
from mesh.core.work.fitting import offered, unmet
from mesh.core.work.governor import Governor
from mesh.core.work.lines import Line
from mesh.core.work.market import ASK_ALL, BUSY, NOBODY, RULE, TAKE, Choice, Market, best, keenest, liked, nearest, sample
from mesh.core.work.offering import terms
from mesh.core.work.patience import Patience, out_of_reach
from mesh.core.work.task import ASK, AWARD, BIDDING, PARK, PARKED, PENDING, WAKE, Task
from mesh.core.work.waits import AuctionEnds, BacklogDue, GraceEnds, HedgeDue
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId, next_fence
from mesh.messages.membership import Load
from mesh.messages.records import Candidate, Decided, Parked
from mesh.messages.work import AwardItem, Backlog, Bid, Cfp, CfpItem, Pull, Refuse

YOUNG_S = 2.0
"""A node that runs for less than this may just not have met the others yet."""
GRACE_S = 0.5
"""What discovery gets before a caller hears that nobody offers it: within a second, the command line's own start included."""


HINTED_MS = 1000
"""A line that idle nodes pull from need not ask: only in case that they do not."""


class Placing:
    def __init__(self, book: Book, ending: Ending, governor: Governor) -> None:
        self._book, self._ending, self._governor = book, ending, governor
        self.market = self._market = Market(book)
        self.patience = Patience(book, ending)
        self._auctions: dict[int, Auction] = {}
        self._round = 0

    def __len__(self) -> int:
        return len(self._auctions)

    # ---- lines

    def drain(self, now_s: float) -> Effects:
        """Look at every line that something happened to."""
        book = self._book
        while book.woken:
            woken, book.woken = book.woken, {}
            for line in sorted(woken.values(), key=lambda line: -line.turns.height(now_s)):
                self.patience.begin(now_s, line)
                yield from self._drain(now_s, line)

    def _drain(self, now_s: float, line: Line) -> Effects:
        held = self._book.holds(now_s)
        if not held:
            self._book.deadlines.set(GuardDue(), now_s + self._book.limits.beat_s)
        while (task := line.first(now_s, plain=not held)) is not None:
            choice = self._market.choose(now_s, task, len(line), force=line.force)
            if choice.way == TAKE:
                self._book.dequeue(line, task)
                line.shown = False
                yield from self._award(now_s, task, choice, choice.by)
            elif choice.way == ASK_ALL:
                if line.quiet or not self._may_ask(line, choice):
                    return
                # Asked because it is time to: the answer to the first in line tells whether the others have a chance.
                line.quiet, line.force, line.shown = line.force, False, False
                self._book.dequeue(line, task)
                yield from self._ask(now_s, line, task, choice)
            else:
                yield from self._wait(now_s, line, task, choice)
                return
        line.fresh.clear()
        if not len(line) and not line.bidding and (line.where or not self._book.directory.offering(line.capability)):
            self._book.forget_line(line)

    def _wait(self, now_s: float, line: Line, head: Task, choice: Choice) -> Effects:
        if choice.way == BUSY:
            line.fresh.clear()
            line.shown = False
            yield from self._hint(line, choice.eligible)
            yield from self._park(now_s, head, "busy")
            self._ask_later(now_s, line, HINTED_MS if line.hinted else 0)
            return
        assert choice.way == NOBODY
        if any(reason == "not_heard" for _, _, reason in choice.refusals):
            # Linked, but without a stamp to grant a lease on: no fact will tell when it comes.
            self._ask_later(now_s, line, 0)
        whys = [why for _, _, why in choice.refusals]
        lacking = unmet(self._book.directory, line.capability, line.where)
        reason = f"no_label: {lacking}" if lacking else next((why for why in ("breaker_open", "draining") if why in whys), "no_capable")
        known = offered(self._book.directory, line.capability, line.where)
        waiting = line.fresh if line.shown else list(line.turns)
        line.fresh, line.shown = [], True
        for task in waiting:
            if not line.stands(task):
                continue
            yield from self._park(now_s, task, reason)
            if not known and not task.durable:
                if task.attempts or self._may_be_blind(now_s):
                    self._book.deadlines.set(GraceEnds(task.id), now_s + GRACE_S)
                else:
                    yield from self._nobody_offers(now_s, task)

    def _park(self, now_s: float, task: Task, reason: str) -> Effects:
        if task.state == PARKED and task.reason == reason:
            return
        told = task.parked_told
        if task.state != PARKED:
            task.move(PARK)
        task.reason = task.parked_told = reason
        task.declines = 0
        if task.durable and told != reason:
            yield Append(Parked(task.id, reason, int(now_s * 1000)))

    def _ask_later(self, now_s: float, line: Line, after_ms: int) -> None:
        if not line.backlog_due:
            line.backlog_due = True
            limits = self._book.limits
            wait_s = min(max(after_ms / 1000, limits.retry_min_s), limits.retry_max_s)
            self._book.deadlines.set(BacklogDue(line.name), now_s + wait_s)

    def expire_backlog(self, _now_s: float, _me: NodeId, due: BacklogDue) -> None:
        line = self._book.lines.get(due.line)
        if line is not None:
            line.backlog_due, line.quiet, line.force = False, False, True
            self._book.woken[line.name] = line

    def on_load(self, _now_s: float, node: NodeId, _load: Load) -> None:
        """Room where there was none wakes those who wait for it."""
        row = self._book.directory.get(node)
        if row is not None:
            self._book.holder(node).correction(row, "")
            self._book.wake(capability for capability, load in row.load.items() if load.room > 0)

    # ---- idle nodes

    def _hint(self, line: Line, rows: list[Row]) -> Effects:
        """Long work waits: a few nodes know it, and the first of them that falls idle pulls."""
        limits = self._book.limits
        long = [row for row in rows if (load := row.load.get(line.capability)) and load.service_ms >= limits.pull_service_ms_min]
        strangers = [row for row in long if row.node not in line.hinted]
        for row in sample(self._book.random, strangers, limits.hinted_max - (len(long) - len(strangers))):
            line.hinted[row.node] = None
            yield Send(row.node, Backlog(line.capability, len(line)), need=Need.FREE)

    def on_pull(self, now_s: float, sender: NodeId, pull: Pull) -> Effects:
        """An idle node gets the first in line, whatever its last load said, and hears whether there is more."""
        if pull.node != sender:
            return
        count = 0
        for line in sorted(self._book.lines_for(pull.capability), key=lambda line: -line.turns.height(now_s)):
            task = line.first(now_s, plain=not self._book.holds(now_s))
            choice = self._market.pulling(now_s, task, sender, pull.service_ms, len(line)) if task is not None else None
            if task is not None and choice is not None:
                self._book.dequeue(line, task)
                yield from self._award(now_s, task, choice, "pull")
                count = len(line)
            if not count:
                line.hinted.pop(sender, None)
            if choice is not None:
                break
        yield Send(sender, Backlog(pull.capability, count), need=Need.FREE)

    # ---- nobody offers it

    def _may_be_blind(self, now_s: float) -> bool:
        if now_s - self._book.started_at_s < YOUNG_S:
            return True
        return not any(row.linked and row.node != self._book.me for row in self._book.directory.rows())

    def _nobody_offers(self, now_s: float, task: Task) -> Effects:
        if task.attempts:
            yield from self._ending.fail(now_s, task, nobody_left(task))
            return
        if lacking := unmet(self._book.directory, task.capability, task.placement.where):
            yield from self._ending.fail(now_s, task, no_such_label(task.capability, lacking))
            return
        names = nearest(self._book.directory, task.capability)
        yield from self._ending.fail(now_s, task, no_such_capability(task.capability, names))

    def expire_grace(self, now_s: float, _me: NodeId, due: GraceEnds) -> Effects:
        task = self._book.tasks.get(due.task)
        if task is None or task.state != PARKED:
            return
        if not offered(self._book.directory, task.capability, task.placement.where):
            yield from self._nobody_offers(now_s, task)

    # ---- awards

    def _award(self, now_s: float, task: Task, choice: Choice, way: str) -> Effects:
        book = self._book
        fence = max(next_fence(task.fence), task.fence_min)
        winner = best(task.id, fence, choice.candidates)
        row = book.directory.get(winner.node)
        assert row is not None
        offer = terms(row.offers[task.capability], self._market.where(task))
        if task.lost and offer.on_lost == "fail":
            yield from self._ending.fail(now_s, task, node_lost(task, task.reason or "lost"))
            return
        task.move(AWARD)
        task.fence = fence
        task.idempotent, task.on_lost, task.offer_retries = offer.idempotent, offer.on_lost, offer.retries
        task.run_timeout_ms, task.excluded = task.bounds[1] or offer.timeout_ms, ""
        task.heartbeat_ms = task.bounds[2] or offer.heartbeat_ms
        book.queue_wheel.remove(task)
        task.agent = winner.agent
        book.meter.awarded(task.account)
        task.offered_at_s, task.promised_ms = now_s, (winner.start_ms, winner.service_ms)
        book.line_of(task).took(now_s, book.shares, task, winner.service_ms)
        decided = Decided(task.id, fence, way, RULE, winner.node, tuple(choice.candidates), tuple(choice.refusals), int(now_s * 1000))
        if task.durable:
            yield Append(decided)
        elif task.decisions is None:
            task.decisions = [decided]
        else:
            task.decisions.append(decided)
            del task.decisions[:-8]
        if task.stream is not None:
            yield from task.stream.begin(task.attempts + 1, replays=offer.idempotent)
        if task.placement.hedge and offer.idempotent and (late_ms := book.latencies.late_ms(task.capability)) is not None:
            book.deadlines.set(HedgeDue(task.id, fence), now_s + late_ms / 1000)
        holder = book.give(task, winner.node)
        kind = (DURABLE if task.durable else 0) | (0 if way == "auction" else CONDITIONAL)
        pairs = holder.awards.get(kind)
        if pairs is None:
            pairs = holder.awards[kind] = []
        pairs.append((task, self._item(now_s, task)))

    def _item(self, now_s: float, task: Task) -> AwardItem:
        return AwardItem(
            task.id,
            task.fence,
            task.capability,
            task.input_hash,
            task.input,
            task.durable,
            task.run_timeout_ms,
            task.attempts + 1,
            task.parent,
            task.files,
            task.sources,
            task.checkpoint,
            task.stream is not None,
            task.stream.received if task.stream is not None else 0,
            task.left_ms(now_s),
            task.heartbeat_ms,
            self._market.where(task),
            self._book.limits.near_ms if task.favourite == task.holder else 0,
            rank=task.rank,
            aged=task.aged,
            origin=self._book.origins.told(task),
            down=task.down,
            words=self._governor.words(task),
            budgets=task.account.names() if task.account is not None else (),
            pins=task.pins,
            baggage=task.baggage,
        )

    # ---- auctions

    def _may_ask(self, line: Line, choice: Choice) -> bool:
        """Lots make room for many in one question; what an agent prices itself is asked about one by one."""
        limits = self._book.limits
        if choice.priced:
            return line.bidding < limits.auctions_max
        return line.bidding < min(limits.lots_max, limits.auctions_max) and len(line) > line.promised

    def _ask(self, now_s: float, line: Line, task: Task, choice: Choice) -> Effects:
        """One question about `task`, and about as many behind it as no open auction asks for."""
        book = self._book
        self._round += 1
        count = 1 if choice.priced else min(1 + max(0, len(line) - line.promised), book.limits.lot_max)
        most = book.limits.asked_most if choice.long else max(book.limits.asked_max, min(2 * count, book.limits.asked_most))
        asked = liked(task, sample(book.random, choice.eligible, most), choice.eligible)
        given = {row.node: book.holder(row.node).out.get(task.capability, 0) for row in asked}
        auction = self._auctions[self._round] = Auction(self._round, task, asked, choice.refusals, given, count)
        task.move(ASK)
        line.bidding += 1
        line.promised += count - 1
        size = len(task.input) + sum(ref[1] for ref in task.files)
        book.deadlines.set(AuctionEnds(self._round), now_s + book.limits.auction_timeout_s)
        for row in asked:
            data = task.input if row.offers[task.capability].priced else b""
            item = CfpItem(task.id, task.capability, task.input_hash, data, size, count, task.left_ms(now_s))
            yield Send(row.node, Cfp(auction.round, (item,)), need=Need.FREE)

    def on_bid(self, now_s: float, sender: NodeId, bid: Bid) -> Effects:
        auction = self._auctions.get(bid.round)
        if auction is None:
            yield Refused("late_bid", sender)
            return
        for item in bid.items:
            if reason := auction.bid(sender, item, now_s + bid.ttl_ms / 1000):
                yield Refused(reason, sender)
        if not auction.waiting:
            yield from self._close(now_s, auction)

    def on_refuse(self, now_s: float, sender: NodeId, refuse: Refuse) -> Effects:
        auction = self._auctions.get(refuse.round)
        if auction is None:
            return
        for task, reason in refuse.items:
            if task == auction.task.id:
                auction.refuse(sender, reason, refuse.retry_after_ms)
        if not auction.waiting:
            yield from self._close(now_s, auction)

    def expire_auction(self, now_s: float, _me: NodeId, due: AuctionEnds) -> Effects:
        auction = self._auctions.get(due.round)
        if auction is not None:
            auction.out_of_time()
            yield from self._close(now_s, auction)

    def gone(self, now_s: float, node: NodeId) -> Effects:
        """Whoever was asked and is gone need not be waited for."""
        for auction in [auction for auction in self._auctions.values() if node in auction.waiting]:
            auction.refuse(node, "gone")
            if not auction.waiting:
                yield from self._close(now_s, auction)

    def _close(self, now_s: float, auction: Auction) -> Effects:
        book, task = self._book, auction.task
        del self._auctions[auction.round]
        book.deadlines.clear(AuctionEnds(auction.round))
        line = book.line_of(task)
        line.bidding -= 1
        line.promised -= auction.count - 1
        book.woken[line.name] = line
        if not book.holds(now_s) and task.durable:
            if task.state == BIDDING:
                book.enqueue(self._unasked(task), urgent=task.lost)
            return
        curves = [curve for curve in auction.bids if self._standing(now_s, task, curve, auction)]
        if curves:
            line.quiet = False
            yield from self._share_out(now_s, line, auction, curves)
            return
        if task.state != BIDDING:
            return
        line.quiet = True
        if auction.out_of_reach():
            yield from self._ending.fail(now_s, task, out_of_reach(task, task.left_ms(now_s)))
            return
        reason = auction.parked_reason()
        yield from self._park(now_s, task, reason)
        if reason != "no_capable":
            self._ask_later(now_s, line, auction.retry_after_ms)
        # It keeps its place if nobody has room; if this very work is not wanted the next is asked about.
        line.turns.add(task.id, task, back=task.lost or reason not in ("declined", "deadline"))
        assert task.state != PENDING

    def _unasked(self, task: Task) -> Task:
        """Too few keepers follow: the bids are worth nothing when they do again."""
        task.move(PARK)
        task.move(WAKE)
        return task

    def expire_guard(self, _now_s: float, _me: NodeId, _due: GuardDue) -> None:
        self._book.wake(list(self._book.lines))

    def _share_out(self, now_s: float, line: Line, auction: Auction, curves: list[Curve]) -> Effects:
        """The task that was asked about, then those in line, each to the best of what is left of the curves."""
        held = self._book.holds(now_s)
        task: Task | None = auction.task if auction.task.state == BIDDING else line.first(now_s, plain=not held)
        for _ in range(auction.count):
            heads = {curve.bid.node: (curve, head) for curve in curves if (head := curve.head()) is not None}
            if task is None or not heads:
                return
            self._market.prefer(now_s, task)
            bids = [self._with_way(task, head) for _, head in heads.values() if head.node != task.barred]
            if not bids:
                return
            candidates = [bid for bid in bids if bid.node != task.excluded] or bids
            if task.state != BIDDING:
                self._book.dequeue(line, task)
            full = [(curve.bid.node, curve.bid.name, "full") for curve in curves if curve.bid.node not in heads]
            yield from self._award(now_s, task, Choice(TAKE, [], keenest(candidates), auction.refusals + full), "auction")
            if task.holder in heads:
                heads[task.holder][0].taken += 1
            task = line.first(now_s, plain=not held)

    def _with_way(self, task: Task, bid: Candidate) -> Candidate:
        return replace(bid, transfer_ms=self._book.way_ms(task, bid.node), version=self._market.version(task, bid.node))

    def _standing(self, now_s: float, task: Task, curve: Curve, auction: Auction) -> bool:
        """The bidder can still be awarded. What he was awarded since he was asked counts as taken: auctions side by side must not all pick
        the same node."""
        bid = curve.bid
        row = self._book.directory.get(bid.node)
        expired = now_s > auction.until_s[bid.node]
        load = row.load.get(task.capability) if row is not None else None
        open_since = load is not None and load.breaker == OPEN
        if row is None or not row.linked or task.capability not in row.offers or expired or open_since:
            gone = "revoked" if row is not None and row.revoked else "expired" if expired else "breaker_open" if open_since else "gone"
            auction.refusals.append((bid.node, bid.name, gone))
            return False
        since = self._book.holder(bid.node).out.get(task.capability, 0) - auction.given[bid.node]
        if since > 0:
            curve.skip(since, max(1, load.slots) if load is not None else 1)
        curve.bid = self._book.calibration.applied(now_s, task.capability, bid)
        return True
