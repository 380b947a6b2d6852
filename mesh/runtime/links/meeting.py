"""Meeting peers: from an address to a link that is up, and from its loss to knowing why.

    Dial --> HELLO at the door --> WELCOME --> DEALER; the peer's HELLO at ours --> both directions stand --> LinkUp
    a proven HELLO or WELCOME --binding--> the peer's transport key: admitted at our ROUTER, pinned in our DEALER
    DISCONNECTED --> LinkDown --> our connect to its door is refused --> LinkDown(refused)

Invariant: a link is up only while both sides have proven who they are, under the keys that the other side pins; nothing here raises for a
peer's doing. Does not redial: the core says Dial. What goes over a link is `runtime/links/links.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.abc
import zmq

from mesh.core.inputs import DialFailed, LinkDown, LinkUp
from mesh.effects import Dial, HangUp
from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages.session import Stale
from mesh.messages.signed import Signed
from mesh.runtime import clock
from mesh.runtime.links.dialling import connect, knock
from mesh.runtime.links.door import DoorKeys
from mesh.runtime.links.frames import BadFrame
from mesh.runtime.links.link import Link
from mesh.runtime.links.penalties import GREETING_EFFORT, Penalties
from mesh.runtime.links.sessions import Greeting, Sessions, turned
from mesh.runtime.sockets.sockets import NotLoopback, Sender, Sockets
from mesh.wire.keyring import Keyring
from mesh.wire.packing import Refusal

REFUSED_ASK_S = 1.0
"""How long our own connect to a lost peer's door may take: refused means that its process is gone."""
REFUSED_ASKS = 5
"""A dying process may take a connection that is already on its way; only the next one is refused."""
TURNED_MAX = 64
"""Doors whose word is remembered: who can make us dial many says nothing more by it."""
_ENDED = (zmq.Event.DISCONNECTED, zmq.Event.CLOSED)


class Meeting:
    """Of one node. `anywhere`: doors beyond this machine may be dialled. `tell(peer, event)` hands in what the core is to know;
    `noted(reason, peer)` refusals for the record. Set `unstick`, which sends what waits at a link, before anything else."""

    unstick: Callable[[Link, Sender], Coroutine[Any, Any, None]]

    def __init__(
        self,
        me: NodeId,
        sockets: Sockets,
        sessions: Sessions,
        keyring: Keyring,
        door_keys: Callable[[], DoorKeys],
        limits: LinkLimits,
        *,
        anywhere: bool,
        tell: Callable[[NodeId, Any], None],
        noted: Callable[[str, str], None],
    ) -> None:
        self._me, self._sockets, self.sessions, self._keyring, self._door_keys = me, sockets, sessions, keyring, door_keys
        self._limits, self._anywhere, self._tell, self._noted = limits, anywhere, tell, noted
        self.penalties = Penalties(limits)
        self.links: dict[NodeId, Link] = {}
        self._dialing: set[str] = set()
        self._dial_places = anyio.Semaphore(limits.dials_max)
        self._hello_no = 0
        self.tasks: anyio.abc.TaskGroup | None = None
        """In which dials run; None before and after."""
        self.refusals: Counter[str] = Counter()
        self.turned_at: dict[str, str] = {}
        """Doors that turned our last HELLO away, with the word they said. Not signed: a hint for people."""
        self.dropped: Counter[str] = Counter()

    def _start(self, method: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        if self.tasks is not None:
            self.tasks.start_soon(method, *args)

    # ---- hello

    def do_dial(self, effect: Dial) -> None:
        if effect.address not in self._dialing:
            self._dialing.add(effect.address)
            self._start(self._dial, effect.address)

    async def _dial(self, address: str) -> None:
        """HELLO, WELCOME, the peer's own HELLO in return. Ends as LinkUp (again, if the link was up) or DialFailed."""
        async with self._dial_places:
            link, reason = await self._say_hello(address, "", back=True)
            if link is not None and not link.up:
                with anyio.move_on_after(self._limits.handshake_s) as waiting:
                    await link.ready.wait()
                reason = "" if link.up else "one_way" if waiting.cancelled_caught else "lost"
                if reason:
                    self._lose(link)
            elif link is not None:
                self._tell(link.node, LinkUp(link.alive))
            self._dialing.discard(address)
        if reason:
            self.refusals[f"dial_{reason}"] += 1
            self._tell(self._me, DialFailed(address, reason))

    async def renew(self, peer: NodeId) -> bool:
        """Both directions anew, with our keys of today: HELLO at the peer's door, over which it says its own at ours.

        True when we are connected anew and the peer has sent something over its new connection. False if there is no link (any more).
        """
        link = self.links.get(peer)
        if link is None or not link.up:
            return False
        before = link.greetings
        _, reason = await self._say_hello(link.door, peer, back=True, renew=True)
        while not reason and link.up and not (link.greetings > before and link.connected and link.heard == link.given):
            link.moved = anyio.Event()
            await link.moved.wait()
        return link.up and not reason

    async def introduce(self, peer: NodeId, row: Signed) -> bool:
        """Show the peer this row of ours, which brings another chain, before anything is signed under it. True if it believes it."""
        link = self.links.get(peer)
        if link is None or not link.up:
            return False
        _, reason = await self._say_hello(link.door, peer, back=False, row=row)
        return not reason

    async def _say_back(self, link: Link, renew: bool) -> None:
        """Our half of a link that the peer began (`renew`: over a new connection, as the old one may be broken), or called stale."""
        _, reason = await self._say_hello(link.door, link.node, back=False, renew=renew)
        link.rehello = False
        if reason:
            self.refusals[f"hello_back_{reason}"] += 1
            if link.up and link.tasks is not None and link.sender is not None:
                link.tasks.start_soon(self.unstick, link, link.sender)

    async def _say_hello(
        self, address: str, recipient: NodeId, *, back: bool, renew: bool = False, row: Signed | None = None
    ) -> tuple[Link | None, str]:
        """The link, with the session it gave us; or None and why not."""
        link, reason, word = await self._greet(address, recipient, back=back, renew=renew, row=row)
        self._answered(address, word)
        return link, reason

    async def _greet(self, address: str, recipient: NodeId, *, back: bool, renew: bool, row: Signed | None) -> tuple[Link | None, str, str]:
        """As `_say_hello`, and the word with which the door itself turned us away."""
        self._hello_no += 1
        number = self._hello_no
        try:
            nonce, frame = self.sessions.hello(recipient, back=back, row=row)
            with anyio.fail_after(self._limits.handshake_s):
                answer, door_key = await knock(address, self._door_keys(), lambda: frame, self._limits, anywhere=self._anywhere)
            greeting = self.sessions.welcomed(answer, nonce, recipient)
            if door_key and not self._keyring.has_key(greeting.peer, door_key):
                raise Refusal("wrong_door", greeting.peer)  # somebody stands between us and who answered
            link = self._met(greeting)
            if renew or not (back and link.up):  # a dial that finds its peer linked changes nothing
                self._adopt(link, greeting.session, number, renew)
            return link, "", ""
        except TimeoutError:
            return None, "timeout", ""
        except ConnectionRefusedError:
            return None, "refused", ""
        except NotLoopback:
            return None, "not_loopback", ""
        except Refusal as refusal:
            # What we refuse ourselves, a revoked peer's WELCOME say, names the peer.
            return None, refusal.reason, "" if refusal.peer else refusal.reason
        except BadFrame as error:
            return None, error.reason, ""
        except ValueError:
            return None, "bad_address", ""
        except OSError:
            return None, "unreachable", ""

    def _answered(self, address: str, word: str) -> None:
        """Only an answer ends what the last one said: while we ask again, people are still told why we are not let in."""
        self.turned_at.pop(address, None)
        if word:
            self.turned_at[address] = word
        if len(self.turned_at) > TURNED_MAX:
            del self.turned_at[next(iter(self.turned_at))]

    def answer(self, frame: bytes) -> bytes:
        """What the door says to a HELLO."""
        try:
            welcome, greeting = self.sessions.answer(frame)
            if self.penalties.tax(greeting.peer, GREETING_EFFORT, clock.now_s()):
                self.punish(greeting.peer, "too_many_greetings")
            link = self._met(greeting)
        except Refusal as refusal:
            self.refusals[f"hello_{refusal.reason}"] += 1
            self._noted(f"hello_{refusal.reason}", refusal.peer)
            return turned(refusal.reason)
        link.greeted, link.given = True, greeting.session
        link.greetings += 1
        link.moved.set()
        self._check_up(link)
        opening = link.door in self._dialing or (link.session and not link.up)  # our own HELLO is under way, or has been said
        if greeting.back and not opening:
            link.stuck = link.stuck or link.up  # the peer may have forgotten our session: hold back until there is a new one
            self._start(self._say_back, link, True)
        return welcome

    def _met(self, greeting: Greeting) -> Link:
        """The peer's link, with what it says of itself now; its transport key is admitted.

        Raises Refusal ``old_life``, ``busy``, ``cut``.
        """
        if self.penalties.is_out(greeting.peer, clock.now_s()):
            raise Refusal("cut", greeting.peer)
        link = self.links.get(greeting.peer)
        if link is None:
            if len(self.links) >= self._limits.peers_max:
                self._forget_one()
            link = self.links[greeting.peer] = Link(greeting, self._limits, self.dropped)
        elif greeting.incarnation < link.incarnation:
            raise Refusal("old_life", greeting.peer)
        elif greeting.incarnation > link.incarnation:  # the process at the other end of our connection is gone
            self._lose(link)
            link.greeted, link.stamp_ms = False, 0
            link.early.clear()
        if link.curve_key not in (b"", greeting.curve_key):
            self._start(self._retire_later, link.curve_key)
        link.learn(greeting)
        if not self._sockets.admit(greeting.curve_key, greeting.peer):
            raise Refusal("no_place", greeting.peer)
        return link

    async def _retire_later(self, key: bytes) -> None:
        """A peer's earlier transport key: what is on its way under it still arrives, then it opens nothing any more."""
        await anyio.sleep(2 * self._limits.handshake_s)
        self._sockets.retire(key)

    def _forget_one(self) -> None:
        for node, link in self.links.items():
            if not link.up and link.sender is None:
                del self.links[node]
                return
        raise Refusal("busy")

    def lives(self, host: str) -> bool:
        """Whether a linked peer says of itself that its door is at this address."""
        return any(link.up and link.door.rpartition(":")[0].strip("[]") == host for link in self.links.values())

    # ---- opening and losing

    def _adopt(self, link: Link, session: bytes, number: int, renew: bool) -> None:
        """Send under this session, unless that of a later HELLO is here already. Raises NotLoopback, or ValueError for a bad address."""
        if number < link.hello_no:
            return
        assert self.tasks is not None, "greetings come while the links run"
        if renew or link.sender is None or link.sender.address != link.router or link.dialled_key != link.curve_key:
            link.open(self._sockets.dealer(link.router, link.curve_key), self.tasks, self._on_event)
        link.hello_no, link.session, link.next_seq = number, session, 1
        if not link.up and link.ready.is_set():
            link.ready = anyio.Event()
        self._check_up(link)

    def _on_event(self, link: Link, sender: Sender, event: zmq.Event) -> None:
        if link.sender is not sender:
            return
        if event is zmq.Event.HANDSHAKE_SUCCEEDED:
            link.connected = True
            link.moved.set()
            self._check_up(link)
            assert link.tasks is not None, "its monitor is being watched"
            link.tasks.start_soon(self.unstick, link, sender)
        elif event in _ENDED:
            if link.up:
                self._start(self._ask_refused, link, link.incarnation)
            self._lose(link)

    def _check_up(self, link: Link) -> None:
        if not link.up and link.greeted and link.connected and link.session:
            link.up = True
            link.ready.set()
            self._tell(link.node, LinkUp(link.alive))
            for sender, item in link.early:
                self._tell(sender, item)
            link.early.clear()

    def _lose(self, link: Link) -> None:
        was_up = link.up
        if lost := link.shut():
            self.dropped["link_down"] += lost
        if was_up:
            self._tell(link.node, LinkDown())

    async def _ask_refused(self, link: Link, incarnation: int) -> None:
        """Connect to the lost peer's door. Refused is hard evidence: its process is gone."""
        with anyio.move_on_after(REFUSED_ASK_S):
            for _ in range(REFUSED_ASKS):
                try:
                    async with await connect(link.door, anywhere=self._anywhere) as stream:
                        await stream.receive(1)
                except ConnectionRefusedError:
                    if not link.up and link.incarnation == incarnation:
                        self._tell(link.node, LinkDown(refused=True))
                    return
                except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):  # reset in the middle: it is just going
                    continue
                except ValueError:
                    break
        self.refusals["lost_not_refused"] += 1

    def do_hang_up(self, effect: HangUp) -> None:
        link = self.links.pop(effect.peer, None)
        self._sockets.expel(effect.peer)
        self.sessions.forget(effect.peer)
        if link is not None and (lost := link.shut()):
            self.dropped["hung_up"] += lost

    def punish(self, peer: NodeId, reason: str) -> None:
        """Cut a peer for what it sends; its HELLO is turned away for a while, longer each time."""
        self.penalties.punish(peer, clock.now_s())
        self.refusals[f"cut_{reason}"] += 1
        self._noted(f"cut_{reason}", peer)
        self.expel(peer)

    def lose(self, peer: NodeId) -> None:
        """Give up our connection to this peer, whom the core dials anew."""
        if (link := self.links.get(peer)) is not None:
            self._lose(link)

    def expel(self, peer: NodeId) -> None:
        """End everything with this peer at once: its key, its live connections, its sessions, our link to it."""
        self._sockets.expel(peer)
        self.sessions.forget(peer)
        link = self.links.get(peer)
        if link is not None:
            self._lose(link)
            link.greeted = False
            link.early.clear()

    def on_stale(self, sender: NodeId, stale: Stale) -> None:
        link = self.links[sender]
        if stale.session == link.session and not link.rehello:
            link.rehello = True
            self._start(self._say_back, link, False)
