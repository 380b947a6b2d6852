"""Updates: signals that are answered. A signal of its own kind brings one to the handler, a wait beside it takes the answer.

    Ask update --> signal/~NAME/N, said to, and update/NAME/N, which waits --HandlerAsk reply--> done with the answer, or failed
                                                                           --the task ends--> cancelled
    who asked waits for the result of update/NAME/N, as for any task's

Invariants: the n-th update of a name has the n-th answer, whichever attempt gives it; an update that is repeated, by its event, is the
first one, and so is its answer; what is answered stays answered so. Waits, signals and their order are `waiting.py`.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.ending import Ending
from mesh.core.work.gates import REPLY
from mesh.core.work.opening import opened_wait
from mesh.core.work.task import SETTLE, Task
from mesh.core.work.waits import dumps
from mesh.effects import Need, Send
from mesh.ids import NodeId, content_hash
from mesh.messages.scopes import HandlerAsk
from mesh.messages.waits import update_step
from mesh.messages.work import Answer

REFUSAL_CHARACTERS_MAX = 2000


class Updates:
    def __init__(self, book: Book, ending: Ending) -> None:
        self._book, self._ending = book, ending

    def answer_of(self, now_s: float, parent: Task, name: str, number: int) -> Task:
        """The wait for the answer to that update: the one that is there, or a new one. The caller writes a new one down."""
        return opened_wait(self._book, now_s, parent, update_step(name, number), {"wait": REPLY, "name": name, "n": number})

    def reply(self, now_s: float, sender: NodeId, ask: HandlerAsk, parent: Task, args: dict[str, Any]) -> Effects:
        """The handler's answer, or why it takes no such update. The first one stands."""
        name, number, refusal = args.get("name"), args.get("n"), args.get("refusal")
        data = dumps(args.get("answer"))
        if not isinstance(name, str) or type(number) is not int or not (refusal is None or isinstance(refusal, str)):
            yield Send(sender, Answer(ask.ask, False, dumps(_no("bad_reply", "a reply names its update"))), need=Need.FREE)
            return
        if len(data) > (most := self._book.limits.body_bytes_max):
            problem = _no("too_big", f"the answer has {len(data)} bytes, and {most} travel")
            yield Send(sender, Answer(ask.ask, False, dumps(problem)), need=Need.FREE)
            return
        answer = self.answer_of(now_s, parent, name, number)
        if answer.durable and not answer.seq:
            yield from self._book.submit(answer)
        if not answer.ended:
            if refusal is not None:
                fix = f"mesh why {parent.id}"
                error = {"code": "update_refused", "message": refusal[:REFUSAL_CHARACTERS_MAX] or "the handler refused it", "fix": fix}
                yield from self._ending.fail(now_s, answer, error)
            else:
                answer.move(SETTLE)
                answer.node, answer.output, answer.output_hash = sender, data, content_hash(data)
                yield from self._ending.settled(now_s, answer)
        yield Send(sender, Answer(ask.ask, True, dumps({"task": answer.id, "state": answer.state})), need=parent.need)


def _no(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "fix": "update.reply(value), update.refuse(why)"}
