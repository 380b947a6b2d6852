"""Names of things: nodes, tasks, fences, hashes. Plain strings and integers, so that they travel and print as they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

NodeId = str
"""32 characters of lower-case base32: BLAKE2b-160 of the node's first identity key. Shorter, readable names in the simulator."""

TaskId = str
"""``author.incarnation.counter`` of the task's first manager, so that any node can route a question about it."""

Hash = str
"""64 hexadecimal digits of SHA-256, what ``sha256sum`` prints."""

Fence = int
"""``term << 32 | award number`` of one task; strictly growing; compared only within that task."""

OURS = "mesh."
"""Capabilities whose names begin so are the mesh's own, such as ``mesh.flow``: only its own modules declare them."""

COORDINATE = OURS + "coordinate"
"""The capability whose one task is the mesh's office of coordinator."""

FIRST_TERM = 1

BEGINNING_CHARACTERS_MIN = 6
"""Of an id, where it stands for the node in what cannot be undone: a name that nobody has must not fit somebody's id."""

_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}(=[A-Za-z0-9_.:@+/-]{1,64})?")

LABELS_MAX = 32
"""Of one worker, or one task: they travel with every offer of it, and are looked at for every award. So are its resources."""
KEY_CHARACTERS_MAX = 256
"""Of what a caller names tasks by."""
AMOUNT_MAX = 10**15
"""Of one resource, in thousandths."""


def task_id(author: NodeId, incarnation: int, counter: int) -> TaskId:
    return f"{author}.{incarnation}.{counter}"


def author_of(task: TaskId) -> NodeId:
    """The node whose journal tells the task's story. The empty string if `task` is no task id."""
    author, _, rest = task.partition(".")
    return author if rest else ""


def place_of(task: TaskId) -> tuple[NodeId, int, int]:
    """Author, incarnation and number of a task. ("", 0, 0) if it is no task id."""
    author, _, rest = task.partition(".")
    incarnation, _, counter = rest.partition(".")
    if not (incarnation.isdecimal() and counter.isdecimal()):
        return "", 0, 0
    return author, int(incarnation), int(counter)


def short(identifier: str) -> str:
    """The form shown to people: the first eight characters of the node's part; any unique beginning is understood."""
    author, dot, rest = identifier.partition(".")
    return author[:8] + dot + rest


def begins(identifier: str, text: str) -> bool:
    """Whether `text` is enough of the beginning of this id to mean it."""
    return len(text) >= BEGINNING_CHARACTERS_MIN and identifier.startswith(text)


def fence_of(term: int, number: int) -> Fence:
    return term << 32 | number


def next_fence(fence: Fence) -> Fence:
    """The fence of the next award in the same term."""
    return fence + 1


def award_number(fence: Fence) -> int:
    return fence & 0xFFFFFFFF


def term_of(fence: Fence) -> int:
    """Grows each time that another manager takes the task over."""
    return fence >> 32


def content_hash(data: bytes) -> Hash:
    return hashlib.sha256(data).hexdigest()


def is_secret_name(name: str) -> bool:
    """1 to 64 letters, digits, '.', '-' or '_', beginning with a letter or digit: it becomes a file's name and part of a reference."""
    return _SECRET.fullmatch(name) is not None


def is_label(text: str) -> bool:
    """``zone=eu``, or ``gpu``."""
    return _LABEL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Of a label or a resource."""
    return _NAME.fullmatch(text) is not None


Rank = tuple[int, str]
"""Whose turn it is: the priority, 1 to 9, the greater first (0: not said, as its parent, else 5), and the key among whose equals turns are
taken ("": not said, as its parent, else the key of all who say none)."""

UNRANKED: Rank = (0, "")
PRIORITY_MIN, PRIORITY_DEFAULT, PRIORITY_MAX = 1, 5, 9
SHARE_CHARS_MAX = 64
TASK_KEY_CHARACTERS_MAX = 200


Baggage = tuple[tuple[str, str], ...]
"""What a caller sends along with his work and with all that it leads to: names and texts, in order of names."""

NO_BAGGAGE: Baggage = ()
BAGGAGE_BYTES_MAX = 2048
"""Of one piece of work, all names and texts together: they travel with every award, step and call below it."""


def baggage_bytes(baggage: Baggage) -> int:
    return sum(len(name.encode()) + len(text.encode()) for name, text in baggage)


def inherited(rank: Rank, parent: Rank) -> Rank:
    """What is not said is as the parent's."""
    return rank[0] or parent[0], rank[1] or parent[1]


ON, OFF = "+", "-"
"""What the pins of a piece of work begin with that say which value a feature flag has: ``+new-model``."""


def flags_in(pins: Iterable[str]) -> dict[str, bool]:
    return {pin[1:]: pin[0] == ON for pin in pins if pin[:1] in (ON, OFF)}
