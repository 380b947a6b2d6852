"""The store's reading thread: answers what is asked of the journal, and in its measure verifies what the start has left out.

    ReadBody, ReadStory, ReadShelf, ReadTale, FindOpen --> queue --> thread --> BodyRead, StoryRead, ShelfRead, TaleRead, OpenFound
                                                       Scrub, a piece at a time --'

Invariant: reads are answered in the order in which they were asked. What is damaged ends the thread, and by `fail` the store: nothing that
does not hold is ever answered. Writes nothing.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mesh.core.inputs import BodyRead, StoryRead
from mesh.core.records.journal import AUDIT
from mesh.effects import FindOpen, ReadBody, ReadShelf, ReadStory, ReadTale
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.runtime.disk.store_chain import ChainEnd
from mesh.runtime.disk.store_file import UNREADABLE, StoreError, explain
from mesh.runtime.disk.store_read import Reader
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.store_scrub import Scrub


class Reading:
    """`tell` hands an input to the driver, `fail` ends the store, `heal` has the index made again; all three from this thread."""

    def __init__(
        self,
        rows: Rows,
        author: NodeId,
        verify: Callable[[bytes], bool],
        limits: RecordsLimits,
        tell: Callable[[Any], None],
        fail: Callable[[StoreError], None],
        heal: Callable[[], None],
    ) -> None:
        self._rows, self._author, self._verify, self._limits = rows, author, verify, limits
        self._tell, self._fail, self._heal = tell, fail, heal
        self._asked: queue.SimpleQueue[Callable[[Reader], Any] | None] = queue.SimpleQueue()
        self._scrub: Scrub | None = None
        self.damages: Counter[str] = Counter()
        """Rows of others' logs that were not what had been written there."""
        self.end = ChainEnd()
        """What the start has walked; set before `run`."""
        self.effects: dict[type, Callable[[Any], None]] = {
            ReadBody: lambda effect: self._ask(lambda reader: BodyRead(effect.token, reader.body(effect.hash))),
            ReadStory: lambda effect: self._ask(lambda reader: StoryRead(effect.token, _story(reader, effect))),
            ReadShelf: lambda effect: self._ask(lambda reader: reader.shelf.read(effect)),
            ReadTale: lambda effect: self._ask(lambda reader: reader.shelf.tale(effect)),
            FindOpen: lambda effect: self._ask(lambda reader: reader.find_open(effect.taken)),
        }

    def _ask(self, read: Callable[[Reader], Any]) -> None:
        self._asked.put(read)

    def close(self) -> None:
        """`run` returns when it has answered what was asked before."""
        self._asked.put(None)

    @property
    def commits(self) -> int:
        """Of those that the start left out, how many have been verified since."""
        return self._scrub.commits if self._scrub is not None else 0

    @property
    def unverified(self) -> int:
        """Entries that the start left out, until all of them are verified."""
        return 0 if self._scrub is not None and self._scrub.done else self.end.walked_after

    def run(self) -> None:
        """The thread."""
        try:
            reader = Reader(self._rows, self._limits, self._verify, self._author, self.damages)
            self._scrub = scrub = Scrub(reader.connection, self._rows, self._author, self._limits, self.end)
        except UNREADABLE as error:
            return self._fail(explain(self._rows.path, error))
        try:
            while (read := self._next(scrub)) is not None:
                self._tell(read(reader))
        except StoreError as error:
            self._fail(error)
        except UNREADABLE as error:
            self._fail(explain(self._rows.path, error))
        finally:
            reader.close()

    def _next(self, scrub: Scrub) -> Callable[[Reader], Any] | None:
        """What is asked next. Until then, and however much is asked, the scrub goes on in its measure."""
        while not scrub.done:
            wait_s = scrub.due_s - time.monotonic()
            if wait_s > 0:
                with contextlib.suppress(queue.Empty):
                    return self._asked.get(timeout=wait_s)
            self._piece(scrub)
        return self._asked.get()

    def _piece(self, scrub: Scrub) -> None:
        scrub.step()
        if scrub.done and scrub.index_differs:
            self._heal()


def _story(reader: Reader, effect: ReadStory) -> bytes:
    if effect.question == "hash":
        return reader.touched(effect.key)
    if effect.question == AUDIT:
        return reader.under(effect.key, effect.since, effect.newest)
    return reader.story(effect.key, effect.since)
