"""The keys of keyed submits: who keeps them, and which task each stands for. Three nodes keep them all; any node may claim one.

    ClaimWanted --attempt: CLAIM_ASK to the keepers--> a majority accepts --> ClaimSettled           (`claims.py`: Paxos, one decree a key)
    a keeper is gone --> the keepers vote for the next roster --> its members pull from a majority of those before, who refuse the old one

Invariants: who keeps next is chosen by a majority of those who keep now, each of whom has all that was claimed before; a keeper answers
only under the newest roster that it knows, and only once it has all that a majority of the roster before had accepted; what it says is
kept, as its journal is, and it says nothing while it may have forgotten some of that. So a claim that was settled under any roster is found
under each later one, whoever has joined meanwhile. Two realms that began apart become one: the keepers of the greater name vote themselves
away, and its claims are repeated. Nothing happens here before the first key is asked for. Decides nothing about tasks (`work/claims.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import MemberLinked, MemberRevoked, Replay, Started
from mesh.core.keeping.claims import NEXT, NO_TURN, Attempt, accept, blank, merged, prepare
from mesh.core.keeping.custody import Custody
from mesh.core.keeping.inputs import ClaimDropped, ClaimSettled, ClaimWanted, KeysForgotten, KeysMoved
from mesh.core.keeping.timers import ClaimDue, KeysDue
from mesh.effects import Append, Later, Need, Refused, Send, Tell
from mesh.ids import NodeId
from mesh.limits import KeepingLimits
from mesh.messages.claims import Cell, Choice, ClaimAnswer, ClaimAsk, KeyRoster, KeysAsk, KeysFree, KeysNews, KeysTold
from mesh.messages.records import Freed, Rostered, Sworn

Effects = Iterator[Any]


class Keys:
    """See the module. `incarnation`: of this life; no turn of an earlier one is taken again."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: KeepingLimits, random: Random, *, incarnation: int) -> None:
        self._me, self._directory, self._deadlines, self._limits, self._random = directory.me, directory, deadlines, limits, random
        self._incarnation = incarnation
        self._custody = Custody(directory, limits)
        self._roster: KeyRoster | None = None
        self._complete = 0
        """All that was claimed before the roster of this number is here, or was when it was kept here."""
        self._elder: KeyRoster | None = None
        """Of another realm, into which this one is to go."""
        self._cells: dict[str, Cell] = {}
        self._attempts: dict[str, Attempt] = {}
        self._unknowing: dict[NodeId, None] = {}
        """Peers that have said that they know of no roster."""
        self._pulled: dict[NodeId, None] = {}
        self._asked = False
        """A peer has asked who keeps the keys."""
        self._turns = 0
        self.inputs: dict[type, Any] = {
            Replay: self._do_replay,
            Started: self._on_started,
            MemberLinked: self._on_member_linked,
            MemberRevoked: self._on_member_revoked,
            ClaimWanted: self._on_claim_wanted,
            ClaimDropped: self._on_claim_dropped,
            KeysForgotten: self._on_keys_forgotten,
            KeysNews: self._on_keys_news,
            ClaimAsk: self._on_claim_ask,
            ClaimAnswer: self._on_claim_answer,
            KeysAsk: self._on_keys_ask,
            KeysTold: self._on_keys_told,
            KeysFree: self._on_keys_free,
            KeysDue: self._expire_keys,
            ClaimDue: self._expire_claim,
        }

    # ---- the beginning of a life

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        entry = replay.entry
        if type(entry) is Sworn:
            self._cells[entry.cell.key] = entry.cell
        elif type(entry) is Rostered:
            self._enter(entry.roster, complete=entry.complete)
        elif type(entry) is Freed:
            self._free(entry.keys)

    def _on_started(self, now_s: float, _me: NodeId, _started: Started) -> None:
        self._custody.began(now_s)
        if self._roster is not None:
            self._look(now_s)

    def _look(self, now_s: float) -> None:
        """Soon, see who keeps the keys. Where no key was ever asked for, nobody looks."""
        at_s = now_s + self._limits.change_s * (1 + self._random.random())
        self._deadlines.set(KeysDue(), min(at_s, self._deadlines.when(KeysDue()) or at_s))

    # ---- rosters

    def _current(self) -> KeyRoster | None:
        """The roster that counts; None: this node knows of none."""
        return None if self._roster is None or self._custody.is_void(self._roster) else self._roster

    def _enter(self, roster: KeyRoster, *, complete: bool) -> bool:
        """From now on this roster counts here. True: it is of another realm than the one before."""
        before, self._roster = self._roster, roster
        self._pulled = {}
        moved = before is not None and before.realm != roster.realm
        if moved or (before != roster and self._me not in roster.before):
            self._cells, self._complete = {}, 0  # who needs it from here has it: the next roster was chosen by those
        if before != roster:
            self._cells.pop(NEXT, None)
        if complete or not roster.before:
            self._complete = roster.number
        self._directory.guard.key_keepers = roster.members
        return moved

    def _adopt(self, now_s: float, roster: KeyRoster) -> Effects:
        """A newer roster. Whoever claims begins anew under it; who is a member of it fetches what was claimed before."""
        moved = self._enter(roster, complete=False)
        yield Append(Rostered(roster, self._complete == roster.number, int(now_s * 1000)))
        self._look(now_s)
        if self._elder is not None and self._elder.realm >= roster.realm:
            self._elder = None
        self._attempts.pop(NEXT, None)
        if not roster.members:
            yield from self._depart(now_s)
            return
        if moved:
            yield Tell(KeysMoved())
        yield from self._pull(now_s)
        for attempt in list(self._attempts.values()):
            yield from self._begin(now_s, attempt)

    def _depart(self, now_s: float) -> Effects:
        """This realm has ended: its nodes follow the other one."""
        elder, self._elder = self._elder, None
        if elder is not None:
            yield from self._adopt(now_s, elder)
        yield from self._tell_all()

    def _tell_all(self) -> Effects:
        for row in self._directory.rows():
            if row.linked and row.node != self._me:
                yield Send(row.node, self._news())

    def _news(self) -> KeysNews:
        return KeysNews((self._roster,) if self._roster is not None else ())

    def _on_member_linked(self, now_s: float, _me: NodeId, fact: MemberLinked) -> Effects:
        self._unknowing.pop(fact.node, None)
        self._custody.linked(now_s, fact.node)
        if self._roster is not None:
            yield Send(fact.node, self._news())
        if self._attempts or (self._roster is not None and self._complete != self._roster.number):
            self._look(now_s)

    def _on_member_revoked(self, now_s: float, _me: NodeId, _fact: MemberRevoked) -> None:
        if self._roster is not None:
            self._look(now_s)

    def _on_keys_news(self, now_s: float, sender: NodeId, news: KeysNews) -> Effects:
        mine, theirs = self._roster, next(iter(news.roster), None)
        if theirs is None or self._custody.is_void(theirs):
            self._unknowing[sender] = None
        else:
            self._unknowing.pop(sender, None)
        if theirs is None:
            if news.asks:
                self._asked = True
                yield Send(sender, self._news())
            if self._current() is None and self._custody.is_first():
                self._look(now_s)
        elif mine is not None and mine.realm == theirs.realm:
            if theirs.number > mine.number:
                yield from self._adopt(now_s, theirs)
            elif theirs.number < mine.number:
                yield Send(sender, self._news())
        elif not self._custody.is_void(theirs):
            yield from self._meet(now_s, sender, theirs)
        elif self._current() is not None:
            yield Send(sender, self._news())

    def _meet(self, now_s: float, sender: NodeId, theirs: KeyRoster) -> Effects:
        """A roster of another realm: the lesser name stays."""
        mine = self._roster
        ended = mine is not None and not mine.members
        if mine is None or (ended and theirs.realm < mine.realm) or (not ended and self._custody.is_void(mine)):
            yield from self._adopt(now_s, theirs)
        elif theirs.realm > mine.realm:
            if not ended:
                yield Send(sender, self._news())
        elif self._elder is None or (theirs.realm, -theirs.number) < (self._elder.realm, -self._elder.number):
            self._elder = theirs
            self._look(now_s)

    def _expire_keys(self, now_s: float, _me: NodeId, due: KeysDue) -> Effects:
        self._deadlines.set(due, now_s + self._limits.settle_s)
        roster = self._current()
        if roster is None:
            yield from self._found(now_s)
        elif self._me in roster.members and self._complete == roster.number:
            yield from self._change(now_s, roster)
        elif self._me in roster.members:
            yield from self._pull(now_s)

    def _found(self, now_s: float) -> Effects:
        """Somebody asks for a key, and nobody here knows who keeps them: the first of all who are known begins, once all have said so."""
        if not (self._attempts or (self._asked and self._custody.is_first())):
            self._deadlines.clear(KeysDue())
            return
        founders = self._custody.founders(now_s, self._unknowing)
        if founders:
            yield from self._adopt(now_s, KeyRoster(f"{self._me}/{self._incarnation}", 1, founders))
            yield from self._tell_all()
            return
        for row in self._directory.rows():
            if row.linked and row.node != self._me and (row.node not in self._unknowing or not self._custody.is_first()):
                yield Send(row.node, KeysNews(asks=True))

    def _change(self, now_s: float, roster: KeyRoster) -> Effects:
        """Others shall keep the keys, or nobody here. One member asks for it: the first that is here."""
        members = () if self._elder is not None else self._custody.next(now_s, roster.members)
        asks = next(member for member in roster.members if self._is_here(member))
        if members != roster.members and asks == self._me and NEXT not in self._attempts:
            attempt = self._attempts[NEXT] = Attempt(NEXT, Choice(members=members))
            yield from self._begin(now_s, attempt)

    def _is_here(self, node: NodeId) -> bool:
        row = self._directory.get(node)
        return node == self._me or (row is not None and row.linked)

    # ---- fetching what was claimed before

    def _pull(self, now_s: float) -> Effects:
        roster = self._roster
        if roster is None or self._me not in roster.members or self._complete == roster.number:
            return
        for member in roster.before:
            if member == self._me and self._complete == roster.number - 1:
                yield from self._on_pulled(now_s, member)
            elif member != self._me and member not in self._pulled and self._is_here(member):
                yield Send(member, KeysAsk(roster))

    def _on_pulled(self, now_s: float, member: NodeId) -> Effects:
        roster = self._roster
        assert roster is not None, "what is pulled belongs to a roster"
        self._pulled[member] = None
        if self._complete < roster.number and 2 * len(self._pulled) > len(roster.before):
            self._complete = roster.number
            yield Append(Rostered(roster, True, int(now_s * 1000)))

    def _on_keys_ask(self, now_s: float, sender: NodeId, ask: KeysAsk) -> Effects:
        """It is answered under the roster that is asked for, or a later one: nothing is accepted any more under the one before."""
        mine = self._roster
        if mine is None or (mine.realm == ask.roster.realm and mine.number < ask.roster.number):
            yield from self._adopt(now_s, ask.roster)
            mine = self._roster
        if mine is None or mine.realm != ask.roster.realm or self._complete < ask.roster.number - 1 or not self._remembers():
            yield Refused("keys_incomplete", sender)
            return
        keys = sorted(key for key in self._cells if key > ask.after)
        page = tuple(self._cells[key] for key in keys[: self._limits.keys_page_max])
        yield Send(sender, KeysTold(mine.realm, ask.roster.number, ask.after, page, len(page) < len(keys)), need=Need.KEPT)

    def _on_keys_told(self, now_s: float, sender: NodeId, told: KeysTold) -> Effects:
        roster = self._roster
        if roster is None or (roster.realm, roster.number) != (told.realm, told.number) or sender not in roster.before:
            yield Refused("keys_not_asked", sender)
            return
        if self._complete == roster.number:
            return
        for cell in told.cells:
            mine = self._cells.get(cell.key)
            newest = merged(mine, cell)
            if newest != mine and cell.key != NEXT:
                self._cells[cell.key] = newest
                yield Append(Sworn(newest, int(now_s * 1000)))
        if told.more:
            yield Send(sender, KeysAsk(roster, told.cells[-1].key))
        else:
            yield from self._on_pulled(now_s, sender)

    # ---- keeping

    def _on_claim_ask(self, now_s: float, sender: NodeId, ask: ClaimAsk) -> Effects:
        roster = self._roster
        if roster is None or (roster.realm, roster.number) != (ask.realm, ask.turn[0]):
            yield Send(sender, self._news() if self._roster is not None else KeysNews(asks=True))
            return
        if self._me not in roster.members or self._complete != roster.number or not self._remembers():
            yield Refused("keys_incomplete", sender)
            return
        if ask.key not in self._cells and len(self._cells) >= self._limits.keys_max:
            yield Refused("too_many_keys", sender)
            return
        cell = self._cells.get(ask.key) or blank(ask.key)
        after = accept(cell, ask.turn, ask.choice[0]) if ask.choice else prepare(cell, ask.turn)
        if after is not None and after != cell:
            self._cells[ask.key] = after
            yield Append(Sworn(after, int(now_s * 1000)))
        stands = after or cell
        choice = () if stands.accepted == NO_TURN else (stands.choice,)
        answer = ClaimAnswer(ask.realm, ask.key, ask.turn, after is not None, stands.promised, stands.accepted, choice, bool(ask.choice))
        yield Later(answer, need=Need.KEPT) if sender == self._me else Send(sender, answer, need=Need.KEPT)

    def _remembers(self) -> bool:
        """All that this node has ever said as a keeper of keys is on its disk: those who keep its journal follow it, and have no more."""
        guard = self._directory.guard
        return guard.leads and not guard.behind

    def _on_keys_forgotten(self, now_s: float, me: NodeId, fact: KeysForgotten) -> Effects:
        roster = self._current()
        for member in roster.members if roster is not None else ():
            if self._is_here(member):
                yield Send(member, KeysFree(fact.keys))

    def _on_keys_free(self, now_s: float, sender: NodeId, free: KeysFree) -> Effects:
        """Of a task only who may drive it says so."""
        mine = tuple(
            (key, task)
            for key, task in free.keys
            if key in self._cells and self._cells[key].choice.task == task and self._directory.may_manage(task, sender)
        )
        if mine:
            self._free(mine)
            yield Append(Freed(mine, int(now_s * 1000)))

    def _free(self, keys: tuple[tuple[str, str], ...]) -> None:
        for key, _ in keys:
            self._cells.pop(key, None)

    # ---- claiming

    def _on_claim_wanted(self, now_s: float, _me: NodeId, wanted: ClaimWanted) -> Effects:
        if wanted.key not in self._attempts:
            attempt = self._attempts[wanted.key] = Attempt(wanted.key, wanted.choice)
            yield from self._begin(now_s, attempt)

    def _on_claim_dropped(self, _now_s: float, _me: NodeId, dropped: ClaimDropped) -> None:
        if self._attempts.pop(dropped.key, None) is not None:
            self._deadlines.clear(ClaimDue(dropped.key))

    def _begin(self, now_s: float, attempt: Attempt) -> Effects:
        """Another turn of it, if it is known whom to ask; and another after that if nothing comes of this one."""
        pause_s = min(self._limits.claim_retry_s * 2**attempt.tries, self._limits.claim_retry_max_s)
        self._deadlines.set(ClaimDue(attempt.key), now_s + pause_s * (1 + self._random.random()))
        roster = self._current()
        if roster is None:
            self._look(now_s)
            return
        self._turns += 1
        attempt.begin(roster.number, 1, f"{self._me}/{self._incarnation}/{self._turns}")
        yield from self._ask(roster, attempt)

    def _ask(self, roster: KeyRoster, attempt: Attempt) -> Effects:
        choice = () if attempt.proposed is None else (attempt.proposed,)
        for member in roster.members:
            if self._is_here(member):
                yield Send(member, ClaimAsk(roster.realm, attempt.key, attempt.turn, choice), need=Need.FREE)

    def _on_claim_answer(self, now_s: float, sender: NodeId, answer: ClaimAnswer) -> Effects:
        attempt, roster = self._attempts.get(answer.key), self._current()
        if attempt is None or roster is None or roster.realm != answer.realm:
            return
        promises = attempt.proposed is None
        choice = attempt.on_answer(sender, answer, roster.members)
        if choice is not None:
            del self._attempts[answer.key]
            self._deadlines.clear(ClaimDue(answer.key))
            yield from self._settled(now_s, roster, answer.key, choice)
        elif promises and attempt.proposed is not None:
            yield from self._ask(roster, attempt)
        elif not answer.ok and answer.turn == attempt.turn:
            self._deadlines.set(ClaimDue(answer.key), now_s + self._limits.claim_retry_s * attempt.tries * self._random.random())

    def _settled(self, now_s: float, roster: KeyRoster, key: str, choice: Choice) -> Effects:
        if key != NEXT:
            yield Tell(ClaimSettled(key, choice))
            return
        yield from self._adopt(now_s, KeyRoster(roster.realm, roster.number + 1, choice.members, roster.members))
        yield from self._tell_all()

    def _expire_claim(self, now_s: float, _me: NodeId, due: ClaimDue) -> Effects:
        attempt = self._attempts.get(due.key)
        if attempt is not None:
            yield from self._begin(now_s, attempt)
