"""From ACCEPT to the end of the award: who holds what, until when, and what follows when he is silent.

    AWARD (echo, grant) --> holder's lease ends at echo + grant on his clock;
                            the granter counts grant from when that stamp arrived, and waits the margin on top

Invariant: work that is not idempotent goes to somebody else only after DECLINE, RELEASE, REVOKED, or lease + margin, whatever membership
says of its holder; idempotent work also at once when its holder is gone. An unanswered AWARD counts as held, and is sent again as it was.
A holder that does not hear us is not renewed. After a restart RECLAIM asks before anything is awarded again.
Source: Gray and Cheriton, Leases (1989), with the holder's own stamps in place of synchronized clocks.
"""

from __future__ import annotations

from collections import deque

from mesh.core.directory import DEAD, UNREACHABLE
from mesh.core.work.book import AwardsDue, Book, Effects, LeasesDue, PulseDue
from mesh.core.work.ending import Ending, node_lost
from mesh.core.work.fitting import fits
from mesh.core.work.holder import Holder
from mesh.core.work.offering import terms
from mesh.core.work.poison import is_back, is_poison, note_loss, poison
from mesh.core.work.rebinding import pulled
from mesh.core.work.task import ACCEPT, CANCELLING, COMMITTING, HELD, OFFERED, RETRY, Task
from mesh.core.work.waits import BackoffEnds, ReclaimsDue, backoff_s
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId
from mesh.messages.records import Bound, Lost
from mesh.messages.work import (
    Accept,
    Award,
    Beat,
    Cancelled,
    Decline,
    Reclaim,
    Reclaimed,
    Release,
    Revoke,
    Revoked,
)

NEVER_RAN = ("declined", "released")
"""Ends of an award in which no handler had started: not a loss."""
DECLINES_MAX = 4
"""In a row, until there is a pause."""
NOT_READY = "not_ready"
"""Why a node declines that was restarted and waits for its workers."""
NODE_REVOKED = "node_revoked"
"""Why an award is over whose holder is not believed any more. (``revoked``, without the node, is the holder's own word.)"""


class Leases:
    def __init__(self, book: Book, ending: Ending) -> None:
        self._book, self._ending = book, ending

    # ---- answers to AWARD

    def bind(self, now_s: float, task: Task) -> Effects:
        """ACCEPT, in whatever form it came."""
        task.move(ACCEPT)
        task.bound(task.holder)
        task.declines = 0
        if task.durable:
            yield Append(Bound(task.id, task.fence, int(now_s * 1000)), lazy=True)

    def on_accept(self, now_s: float, sender: NodeId, accept: Accept) -> Effects:
        tasks = self._book.tasks
        for name, fence in accept.items:
            task = tasks.get(name)
            if task is None or task.fence != fence or task.holder != sender:
                if task is None and not self._book.is_mine(name):
                    yield Refused("not_my_task", sender)
                    continue
                ended = self._book.ended.get(name)
                if ended is None or ended.fence != fence or ended.node != sender:
                    # Late: the award was given up. (An ACCEPT behind its own RESULT is merely old news.)
                    self._book.speak_to(sender).revokes.append((name, fence))
                    yield Refused("late_accept", sender)
            elif task.state == OFFERED:
                task.move(ACCEPT)
                task.bound(task.holder)
                task.declines = 0
                if task.durable:
                    yield Append(Bound(name, fence, int(now_s * 1000)), lazy=True)
            elif task.state == CANCELLING:
                self._book.stop(task, task.cancel_reason)

    def on_decline(self, now_s: float, sender: NodeId, decline: Decline) -> Effects:
        for name, fence, reason in decline.items:
            task = self._book.tasks.get(name)
            if task is None or task.fence != fence or task.holder != sender or task.state not in (OFFERED, CANCELLING):
                yield Refused("late_decline", sender)
                continue
            task.declines += 1
            self._book.turned_down(task, reason)
            if reason == "busy":
                self._full(sender, task)
            elif task.state == OFFERED:
                task.excluded = sender
            yield from self._over(now_s, task, f"declined:{reason}")
            if task.declines >= DECLINES_MAX and not task.ended:
                self._pause(now_s, task, reason)

    def _pause(self, now_s: float, task: Task, reason: str) -> None:
        """Bids that are followed by DECLINE, again and again: without a pause that is a storm. Who was restarted is ready in seconds."""
        self._book.unqueue(task)
        task.move(RETRY)
        pause_s = backoff_s(self._book.random, self._book.limits, 1 if reason == NOT_READY else task.declines)
        self._book.deadlines.set(BackoffEnds(task.id), now_s + pause_s)

    def _full(self, node: NodeId, task: Task) -> None:
        """Until it says otherwise: its cached load promised room that is not there."""
        row = self._book.directory.get(node)
        load = row.load.get(task.capability) if row is not None else None
        if row is not None and load is not None:
            holder = self._book.holder(node)
            holder.correction(row, task.capability)
            out = holder.out.get(task.capability, 0) - 1
            holder.base[task.capability] = min(holder.base.get(task.capability, 0), out - load.room)

    def on_release(self, now_s: float, sender: NodeId, release: Release) -> Effects:
        for name, fence, reason in release.items:
            task = self._book.tasks.get(name)
            if task is None or task.fence != fence or task.holder != sender or task.state == COMMITTING:
                yield Refused("late_release", sender)
                continue
            if release.to:
                task.pulled = pulled(self._book, task, sender, release)
            else:
                task.excluded = sender
            yield from self._over(now_s, task, f"released:{reason}")

    # ---- renewal

    def on_beat(self, now_s: float, sender: NodeId, beat: Beat) -> Effects:
        book = self._book
        holder = book.speak_to(sender)
        hears = self._hears_us(now_s, sender)
        if not hears:
            yield Refused("echo_old", sender)
        for item in beat.items:
            task = book.tasks.get(item.task)
            if task is None or task.fence != item.fence or task.holder != sender:
                if task is None and not book.is_mine(item.task):
                    yield Refused("not_my_task", sender)
                elif item.task not in book.ended or item.state != "ended":
                    # (An ended one's RESULT_ACK is on its way, and goes out again with each RESULT.)
                    holder.superseded.append((item.task, item.fence))
                    holder.ghosts.pop(item.task, None)
                continue
            if task.state == CANCELLING:
                book.stop(task, task.cancel_reason)
                continue
            if task.state == OFFERED:
                yield from self.bind(now_s, task)
            task.progress, task.note = item.fraction, item.note
            if item.state == "running":
                book.meter.runs(now_s, task.account)
            if hears and item.task not in holder.reclaims:  # it cannot tell yet whether that still runs
                holder.renewals.append((item.task, item.fence))

    def _hears_us(self, now_s: float, node: NodeId) -> bool:
        """Its newest echo of our stamps is young enough. With a one-way cut its lease lapses there, so it must lapse here."""
        if node == self._book.me:
            return True
        row = self._book.directory.get(node)
        patience_s = self._book.limits.lease_s + self._book.limits.margin_s
        if row is None or now_s - row.stamp_at_s > patience_s:
            return False
        tasks = self._book.holder(node).tasks
        since_s = max((task.offered_at_s for task in tasks.values()), default=now_s) if not row.echo_ms else row.echo_ms / 1000
        return now_s - since_s <= patience_s

    # ---- time

    def expire_awards(self, now_s: float, _me: NodeId, due: AwardsDue) -> Effects:
        """Unanswered ones are sent again under the same fence and the same lease: what was not answered counts as held."""
        book = self._book
        holder = book.holder(due.node)
        holder.award_due = False
        row = book.directory.get(due.node)
        linked = row is not None and row.linked
        for _ in range(len(holder.sent)):
            at_s, award = holder.sent[0]
            if at_s > now_s - book.limits.accept_timeout_s:
                break
            holder.sent.popleft()
            items = tuple(i for i in award.items if (t := holder.tasks.get(i.task)) and t.state == OFFERED and t.fence == i.fence)
            if not items:
                continue
            again = Award(items, award.grant_ms, award.echo_ms, award.conditional, award.keepers)
            holder.sent.append((now_s, again))
            if linked:
                book.count("awards_resent")
                durable = any(item.durable for item in items)
                yield Send(due.node, again, need=Need.KEPT if durable else Need.FREE)
        if holder.sent:
            holder.award_due = True
            book.deadlines.set(due, holder.sent[0][0] + book.limits.accept_timeout_s)

    def expire_leases(self, now_s: float, _me: NodeId, due: LeasesDue) -> Effects:
        book = self._book
        self._notice_absence(now_s)
        holder = book.holder(due.node)
        holder.lease_due = False
        margin_s = book.limits.margin_s
        row = book.directory.get(due.node)
        gone = f":{row.state}" if row is not None and row.state in (DEAD, UNREACHABLE) else ""
        reason = NODE_REVOKED if book.directory.revoked(due.node) else "lease_over" + gone
        held = book.holds(now_s)
        for task in list(holder.tasks.values()):
            if task.durable and not held:
                # Nobody may say that it is lost before a majority of the keepers follows again; then its holder has as long as ever.
                task.lease_end_s = max(task.lease_end_s, now_s + book.limits.lease_s)
            elif task.state != COMMITTING and task.lease_end_s + margin_s <= now_s:
                yield from self._over(now_s, task, reason)
        ends = [task.lease_end_s for task in holder.tasks.values() if task.state != COMMITTING]
        if ends:
            book.watch_lease(holder, min(ends))
        elif holder.tasks:
            book.watch_lease(holder, now_s + book.limits.lease_s)

    def expire_pulse(self, now_s: float, _me: NodeId, _due: PulseDue) -> Effects:
        book = self._book
        self._notice_absence(now_s)
        if book.away_at_s != now_s:
            book.patient = False
        book.pulse_at_s = 0.0
        if any(holder.tasks for holder in book.holders.values()):
            book.keep_pulse(now_s)
        else:
            book.patient = False
        return iter(())

    def _notice_absence(self, now_s: float) -> None:
        """A manager that was away, stopped or asleep, finds leases over whose beats wait unread: all get one lease more before they are
        judged, once in a row. (Waiting longer is safe: a holder never believes in more than its granter.)
        """
        book = self._book
        if not book.pulse_at_s or now_s - book.pulse_at_s <= book.limits.margin_s:
            return
        book.away_at_s = book.pulse_at_s = now_s
        if book.patient:
            return
        book.patient = True
        book.count("absences")
        for holder in book.holders.values():
            for task in holder.tasks.values():
                task.lease_end_s = max(task.lease_end_s, now_s + book.limits.lease_s)

    # ---- the end of an award without a result

    def _over(self, now_s: float, task: Task, reason: str) -> Effects:
        """DECLINE, RELEASE, REVOKED, a lease that is over, or a holder of idempotent work that is gone."""
        book = self._book
        never_ran = reason.startswith(NEVER_RAN)
        if not never_ran and reason not in ("revoked", "unknown"):
            book.haunt(task)
        book.count(reason.partition(":")[0])
        yield from book.meter.over(now_s, task.account, task.durable)
        if task.state == CANCELLING:
            yield from self._ending.stopped(now_s, task)
            return
        if task.durable:
            yield Append(Lost(task.id, task.fence, task.holder, reason, "", int(now_s * 1000)))
        if not never_ran:
            task.lost = True
            note_loss(task, task.holder, reason)
            if self.on_lost(task) == "fail" and (task.state == HELD or reason not in ("revoked", "unknown")):
                book.drop(task)
                yield from self._ending.fail(now_s, task, node_lost(task, reason))
                return
            if is_poison(task):
                book.drop(task)
                yield from self._ending.fail(now_s, task, poison(task, book.directory))
                return
        # Who declines because it is full has no room for the others either: if that woke them, they would go round for ever.
        book.free(task, room=reason != "declined:busy")
        task.reason = reason

    def on_lost(self, task: Task) -> str:
        """As its award said."""
        self._recall(task)
        return task.on_lost

    def _recall(self, task: Task) -> None:
        """What its award said and no journal does: after a restart or a take-over as anybody who offers it says. If nobody does, it is
        asked again at the next award.
        """
        if not task.on_lost:
            for row in self._book.directory.offering(task.capability):
                if fits(offer := row.offers[task.capability], task.placement.where):
                    said = terms(offer, task.placement.where)
                    task.on_lost, task.idempotent = said.on_lost, said.idempotent
                    break

    def on_revoked(self, now_s: float, sender: NodeId, revoked: Revoked) -> Effects:
        ghosts = self._book.holder(sender).ghosts
        for name, fence in revoked.items:
            if ghosts.get(name, fence + 1) <= fence:
                del ghosts[name]
            task = self._book.tasks.get(name)
            if task is not None and task.holder == sender and task.fence <= fence and task.state != COMMITTING:
                yield from self._over(now_s, task, "revoked")

    def on_cancelled(self, now_s: float, sender: NodeId, cancelled: Cancelled) -> Effects:
        ghosts = self._book.holder(sender).ghosts
        for name, fence in cancelled.items:
            if ghosts.get(name, fence + 1) <= fence:
                del ghosts[name]
            task = self._book.tasks.get(name)
            if task is None or task.holder != sender or task.fence != fence or task.state == COMMITTING:
                continue
            if task.state == CANCELLING:
                yield from self._ending.stopped(now_s, task)
            else:
                # Nobody here asked for that: no handler runs there any more, which is what REVOKED says.
                yield from self._over(now_s, task, "revoked")

    # ---- members

    def gone(self, now_s: float, node: NodeId, reason: str, only: str = "") -> Effects:
        """Membership says so. That is enough for idempotent work only; the rest waits for its lease. `only`: this capability."""
        holder = self._book.holders.get(node)
        if holder is None:
            return
        for task in [task for task in holder.tasks.values() if not only or task.capability == only]:
            self._recall(task)
            if task.idempotent and task.state in (OFFERED, HELD):
                yield from self._over(now_s, task, reason)

    def revoked(self, now_s: float, node: NodeId) -> Effects:
        """It is not heard any more. Its lease still counts: what must not run twice waits for its end, as with a dead holder."""
        holder = self._book.holders.get(node)
        if holder is None:
            return
        unsent = [task for pairs in holder.awards.values() for task, item in pairs if task.holder == node and task.fence == item.fence]
        for task in unsent:
            if task.state == OFFERED:
                yield from self._over(now_s, task, f"declined:{NODE_REVOKED}")
        holder.hush()
        yield from self.gone(now_s, node, NODE_REVOKED)

    def restarted(self, now_s: float, node: NodeId) -> Effects:
        """Its memory is gone, its journal is not: ask."""
        yield from self.gone(now_s, node, "restarted")
        holder = self._book.holders.get(node)
        if holder is None:
            return
        self._are_back(holder, as_it_was=False)
        # Never an old AWARD again: of a plain call the new life knows nothing, and would run it twice under one fence.
        holder.sent.clear()
        for task in holder.tasks.values():
            if task.state != COMMITTING:
                holder.reclaims[task.id] = task.fence
        holder.reborn = bool(holder.reclaims)
        yield from self._reclaim(now_s, holder)

    def _are_back(self, holder: Holder, *, as_it_was: bool) -> None:
        for name, fence in holder.ghosts.items():
            if (task := self._book.tasks.get(name)) is not None:
                is_back(task, fence, as_it_was=as_it_was)

    def linked(self, now_s: float, node: NodeId) -> Effects:
        """Messages can leave again: what it must know, and what we must know."""
        holder = self._book.holders.get(node)
        if holder is None:
            return
        if holder.ghosts:
            self._are_back(holder, as_it_was=True)
            yield Send(node, Revoke(tuple(holder.ghosts.items())))
        yield from self._reclaim(now_s, holder)
        if holder.sent and holder.sent[0][0] < now_s:
            # What the old link may have swallowed is sent again now; what left this very moment is not.
            long_ago_s = now_s - self._book.limits.accept_timeout_s
            holder.sent = deque((min(at_s, long_ago_s) if at_s < now_s else at_s, award) for at_s, award in holder.sent)
            holder.award_due = True
            self._book.deadlines.set(AwardsDue(node), now_s)

    # ---- after a restart

    def recover(self, now_s: float, task: Task) -> None:
        """A task of the journal whose award stood at the end. Its lease was granted before our start, so it ends within one from now."""
        node = task.holder
        holder = self._book.give(task, node)
        task.lease_end_s = task.offered_at_s = now_s
        task.promised_ms = None
        task.lease_end_s += self._book.limits.lease_s
        holder.reborn = holder.reborn and bool(holder.reclaims)
        holder.reclaims[task.id] = task.fence
        self._book.watch_lease(holder, task.lease_end_s)
        self._book.keep_pulse(now_s)

    def _reclaim(self, now_s: float, holder: Holder) -> Effects:
        """Ask for all that is open there, as soon as a lease can be granted, and again until it is answered.

        Who began a new life itself is granted nothing yet: its workers may be dead, and while it waits for them the old lease runs out.
        """
        row = self._book.directory.get(holder.node)
        if not holder.reclaims or row is None or not row.linked:
            return
        self._book.deadlines.set(ReclaimsDue(holder.node), now_s + self._book.limits.accept_timeout_s)
        echo_ms, stamp_at_s = self._book.stamp(now_s, holder.node)
        if not echo_ms or not self._hears_us(now_s, holder.node):
            return
        grant_s = self._book.grant_s(stamp_at_s)
        if grant_s <= 0:
            return
        if holder.reborn:
            grant_s = 0.0
        for name in holder.reclaims:
            task = holder.tasks[name]
            task.lease_end_s = max(task.lease_end_s, stamp_at_s + grant_s)
        yield Send(holder.node, Reclaim(tuple(holder.reclaims.items()), int(grant_s * 1000), echo_ms), need=Need.KEPT)

    def reclaim_all(self, now_s: float) -> Effects:
        """Of holders that are gone already no more news comes."""
        for holder in list(self._book.holders.values()):
            row = self._book.directory.get(holder.node)
            if row is not None and row.state in (DEAD, UNREACHABLE):
                yield from self.gone(now_s, holder.node, row.state)
            yield from self._reclaim(now_s, holder)

    def expire_reclaims(self, now_s: float, _me: NodeId, due: ReclaimsDue) -> Effects:
        yield from self._reclaim(now_s, self._book.holder(due.node))

    def on_reclaimed(self, now_s: float, sender: NodeId, reclaimed: Reclaimed) -> Effects:
        holder = self._book.holder(sender)
        for name, fence, status in reclaimed.items:
            if holder.reclaims.get(name) != fence:
                yield Refused("late_reclaimed", sender)
                continue
            del holder.reclaims[name]
            task = holder.tasks[name]
            if status == "unknown":
                if task.durable or task.idempotent:
                    # Its journal answers: it did not run under this fence, or does not any more.
                    yield from self._over(now_s, task, "unknown")
                continue
            if task.state == OFFERED:
                yield from self.bind(now_s, task)
            if holder.reborn and status == "running" and self._hears_us(now_s, sender):
                self._book.speak_to(sender).renewals.append((name, fence))
        if not holder.reclaims:
            holder.reborn = False
