"""The mesh's staged rollouts: how far each has come, what all nodes together have seen of it, and its end when a declared limit is broken.

    PolicyChanged --> directory.steering: flags, rollouts, marks              Ran (a run that this node manages ended) --> own tally
    a limit is broken --> Mark with a reason: Rolled, Audited, ROLLOUTS to all --> the same there: new work goes to the old version
    `hold` is over, enough ran, no limit broken --> Mark of the next stage, likewise        now and then --> ROLLOUTS: own tallies

Invariant: a mark only grows (a greater stage; then, for good, its end), and everybody passes on what is news, so all nodes come to the same
one; it outlives restarts, and other versions of the policy that name the same rollout. Figures are sums over lives of nodes, of which each
only grows, so order and repetition do not matter. Places no work (`steering.py` says what is new work's, once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mesh.core.audit import audited
from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import Audit, MemberLinked, Replay
from mesh.core.policy.flags import flags_of
from mesh.core.policy.inputs import PolicyChanged, Ran
from mesh.core.policy.rollouts import Figures, Rollout, broken, rollouts_of
from mesh.core.policy.steering import Steering
from mesh.effects import Append, Need, Send
from mesh.ids import NodeId
from mesh.limits import Limits
from mesh.messages.records import Rolled
from mesh.messages.rollouts import Mark, Rollouts, Seen, Tally
from mesh.versions import matches

STOPPED, WIDENED = "rollout_stopped", "rollout_widened"
"""`what` of the entries."""

Effects = Iterator[Any]
Life = tuple[NodeId, int]


@dataclass(frozen=True, slots=True)
class StagesDue:
    """Some rollout may go on to its next stage."""


@dataclass(frozen=True, slots=True)
class TalliesDue:
    """The others have not heard yet what this node has seen."""


@dataclass(slots=True)
class _Rollout:
    """One that the policy in force names."""

    rollout: Rollout
    mark: Mark
    since_s: float
    """When this node learned of its stage."""
    runs: int = 0
    """Of the new version, when that was."""
    tallies: dict[Life, Tally] | None = None
    unsaid: bool = False


class Rolling:
    """One per node. Writes the directory's `steering`."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: Limits, incarnation: int) -> None:
        self._directory, self._deadlines, self._limits = directory, deadlines, limits.triggers
        self._records_limits = limits.records
        self._me: Life = (directory.me, incarnation)
        self._marks: dict[tuple[int, str], Mark] = {}
        """Also of rollouts that the policy in force does not name: they may come, or come back from the disk, before it does."""
        self._live: dict[str, _Rollout] = {}
        self.inputs: dict[type, Callable[..., Any]] = {
            Replay: self._do_replay,
            PolicyChanged: self._on_policy_changed,
            Ran: self._on_ran,
            MemberLinked: self._on_member_linked,
            Rollouts: self._on_rollouts,
            StagesDue: self._expire_stages,
            TalliesDue: self._expire_tallies,
        }

    # ---- what is in force

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        if type(replay.entry) is Rolled:
            self._keep(replay.entry.mark)

    def _on_policy_changed(self, now_s: float, _me: NodeId, _changed: PolicyChanged) -> Effects:
        book = self._directory.rulebook
        before, self._live, steering = self._live, {}, Steering(flags_of(book.flags))
        for name, rollout in rollouts_of(book.rollouts).items():
            known = before.get(name)
            if known is None or known.rollout != rollout:
                mark = self._marks.get((rollout.edition, name), Mark(rollout.edition, name))
                known = _Rollout(rollout, mark, now_s)
            self._live[name] = known
            steering.rollouts[name], steering.marks[name] = rollout, known.mark
        self._directory.steering = steering
        self._look_later(now_s)
        yield from ()

    def _keep(self, mark: Mark) -> bool:
        """True: it is news. Of those that the policy does not name the oldest make room."""
        key = (mark.edition, mark.capability)
        mine = self._marks.get(key)
        if mine is not None and rank(mine) >= rank(mark):
            return False
        self._marks[key] = mark
        if len(self._marks) > self._limits.rollout_marks_max:
            gone = next((one for one, kept in self._marks.items() if self._named(kept) is None), key)
            del self._marks[gone]
            return gone != key
        return True

    def _named(self, said: Mark | Tally) -> _Rollout | None:
        """The rollout that this is about, if the policy in force names it."""
        known = self._live.get(said.capability)
        return known if known is not None and known.rollout.edition == said.edition else None

    def _take(self, now_s: float, mark: Mark, but: NodeId = "") -> Effects:
        """It counts from now on, here, and is told on."""
        if not self._keep(mark):
            return
        yield Append(Rolled(mark, int(now_s * 1000)))
        known = self._named(mark)
        if known is not None:
            known.mark, known.since_s, known.runs = mark, now_s, self.figures(known).new.runs
            self._directory.steering.marks[mark.capability] = mark
            self._look_later(now_s)
        yield from self._tell(Rollouts((mark,)), Need.SYNCED, but)

    # ---- what was seen

    def _on_ran(self, now_s: float, _me: NodeId, ran: Ran) -> Effects:
        known = self._live.get(ran.capability)
        if known is None or not ran.version:
            return
        rollout = known.rollout
        is_new = matches(ran.version, rollout.new)
        if not is_new and not matches(ran.version, rollout.old):
            return
        mine = (known.tallies or {}).get(self._me) or Tally(rollout.edition, ran.capability, *self._me, Seen(), Seen())
        seen = mine.new if is_new else mine.old
        more = Seen(seen.runs + 1, seen.failed + ran.failed, seen.took_ms + (0 if ran.failed else ran.service_ms))
        self._note(known, replace(mine, new=more) if is_new else replace(mine, old=more))
        known.unsaid = True
        if not self._deadlines.when(TalliesDue()):
            self._deadlines.set(TalliesDue(), now_s + self._limits.rollout_tell_s)
        yield from self._judge(now_s, known)

    def _note(self, known: _Rollout, tally: Tally) -> None:
        if known.tallies is None:
            known.tallies = {}
        life = (tally.node, tally.incarnation)
        mine = known.tallies.get(life)
        if mine is None and len(known.tallies) >= self._limits.rollout_tallies_max and life != self._me:
            return
        if mine is None or _runs(tally) > _runs(mine):
            known.tallies[life] = tally

    def figures(self, known: _Rollout) -> Figures:
        tallies = (known.tallies or {}).values()
        return Figures(_sum([tally.new for tally in tallies]), _sum([tally.old for tally in tallies]))

    def _judge(self, now_s: float, known: _Rollout) -> Effects:
        if known.mark.reason:
            return
        self._look_later(now_s)
        figures = self.figures(known)
        why = broken(known.rollout, figures)
        if why:
            mark = replace(known.mark, reason=f"{why}: {figures.said()}", by=self._directory.me)
            yield self._audited(now_s, STOPPED, mark)
            yield from self._take(now_s, mark)

    def _audited(self, now_s: float, what: str, mark: Mark) -> Append:
        rollout = self._live[mark.capability].rollout
        share = f"to {rollout.new} at {rollout.share(replace(mark, reason=''))} %"
        note = f"policy {self._directory.rulebook.version}, from {rollout.old} {share}" + (f": {mark.reason}" if mark.reason else "")
        return Append(audited(Audit(what, mark.capability, self._directory.me, note), int(now_s * 1000), self._records_limits))

    # ---- stages

    def _look_later(self, now_s: float) -> None:
        due = [at_s for known in self._live.values() if (at_s := self._due_s(known)) is not None]
        if due:
            self._deadlines.set(StagesDue(), max(min(due), now_s))
        else:
            self._deadlines.clear(StagesDue())

    def _due_s(self, known: _Rollout) -> float | None:
        """When it may go on; None: it is over, as far as it goes, or too little was seen yet."""
        if known.mark.reason or known.mark.stage >= len(known.rollout.stages) - 1:
            return None
        if self.figures(known).new.runs - known.runs < known.rollout.runs_min:
            return None
        return known.since_s + known.rollout.hold_ms / 1000

    def _expire_stages(self, now_s: float, _me: NodeId, _due: StagesDue) -> Effects:
        for known in self._live.values():
            at_s = self._due_s(known)
            if at_s is None or at_s > now_s:
                continue
            mark = replace(known.mark, stage=known.mark.stage + 1, by=self._directory.me)
            yield self._audited(now_s, WIDENED, mark)
            yield from self._take(now_s, mark)
        self._look_later(now_s)

    # ---- others

    def _on_rollouts(self, now_s: float, sender: NodeId, news: Rollouts) -> Effects:
        for mark in news.marks:
            yield from self._take(now_s, mark, but=sender)
        for tally in news.tallies:
            known = self._named(tally)
            if known is not None and (tally.node, tally.incarnation) != self._me:
                self._note(known, tally)
                yield from self._judge(now_s, known)

    def _expire_tallies(self, _now_s: float, _me: NodeId, _due: TalliesDue) -> Effects:
        fresh = [known for known in self._live.values() if known.unsaid]
        for known in fresh:
            known.unsaid = False
        told = tuple(known.tallies[self._me] for known in fresh if known.tallies is not None)
        yield from self._tell(Rollouts((), told), Need.FREE)

    def _on_member_linked(self, _now_s: float, _me: NodeId, linked: MemberLinked) -> Effects:
        """All that is known, in pages: also what this node knows of others, which they may have forgotten."""
        if not self._may():
            return
        marks = [mark for mark in self._marks.values() if self._named(mark) is not None]
        tallies = [tally for known in self._live.values() for tally in (known.tallies or {}).values()]
        most = self._limits.page_max
        for at in range(0, max(len(marks), len(tallies)), most):
            yield Send(linked.node, Rollouts(tuple(marks[at : at + most]), tuple(tallies[at : at + most])))

    def _tell(self, news: Rollouts, need: Need, but: NodeId = "") -> Effects:
        for row in self._directory.rows() if self._may() else ():
            if row.linked and row.node not in (self._directory.me, but):
                yield Send(row.node, news, need=need)

    def _may(self) -> bool:
        """Whether this node's certificate lets it manage work: else nobody would hear it."""
        row = self._directory.get(self._directory.me)
        return row is not None and row.keeps

    # ---- for those who look

    def told(self) -> list[dict[str, Any]]:
        """What `mesh policy` shows of each rollout."""
        rows = []
        for name, known in self._live.items():
            rollout, figures = known.rollout, self.figures(known)
            rows.append(
                {
                    "capability": name,
                    "from": rollout.old,
                    "to": rollout.new,
                    "stages": list(rollout.stages),
                    "stage": known.mark.stage,
                    "share": rollout.share(known.mark),
                    "stopped": known.mark.reason,
                    "by": self._directory.name_of(known.mark.by) if known.mark.by else "",
                    "runs": [figures.old.runs, figures.new.runs],
                    "failed": [figures.old.failed, figures.new.failed],
                    "took_ms": [_mean_ms(figures.old), _mean_ms(figures.new)],
                }
            )
        return rows


def rank(mark: Mark) -> tuple[bool, int, str, str]:
    """Which of two marks counts: the greater."""
    return bool(mark.reason), mark.stage, mark.by, mark.reason


def _runs(tally: Tally) -> int:
    return tally.new.runs + tally.old.runs


def _sum(seen: list[Seen]) -> Seen:
    return Seen(sum(one.runs for one in seen), sum(one.failed for one in seen), sum(one.took_ms for one in seen))


def _mean_ms(seen: Seen) -> int:
    good = seen.runs - seen.failed
    return round(seen.took_ms / good) if good else 0
