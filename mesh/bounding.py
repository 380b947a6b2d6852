"""What users say of one piece of work: bounds of time, in seconds, and whose turn it is. Raises UsageError for what is none."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.errors import UsageError
from mesh.ids import BAGGAGE_BYTES_MAX, PRIORITY_MAX, PRIORITY_MIN, SHARE_CHARS_MAX, TASK_KEY_CHARACTERS_MAX, Baggage, baggage_bytes

TIMEOUT_MAX_S = 365 * 86400.0


def checked_s(seconds: float | None) -> float | None:
    """A timeout; None: no bound."""
    if seconds is None or 0 < seconds <= TIMEOUT_MAX_S:
        return seconds
    raise UsageError(f"a timeout of {seconds!r} s", fix=f"give seconds above 0, at most {TIMEOUT_MAX_S:g}; None for no bound")


def wait_ms(seconds: float) -> int:
    """A wait, which may be none, in milliseconds."""
    if 0 <= seconds <= TIMEOUT_MAX_S:
        return round(1000 * seconds)
    raise UsageError(f"a wait of {seconds!r} s", fix=f"give seconds, 0 to {TIMEOUT_MAX_S:g}")


def bounds_ms(queue_s: float | None, run_s: float | None, heartbeat_s: float | None) -> tuple[int, int, int]:
    """As `mesh.messages.work.Bounds`: milliseconds, 0 where nothing is said."""
    queue_ms, run_ms, heartbeat_ms = (
        max(1, round(1000 * seconds)) if (seconds := checked_s(given)) is not None else 0 for given in (queue_s, run_s, heartbeat_s)
    )
    return queue_ms, run_ms, heartbeat_ms


def checked_retries(retries: int | None) -> int:
    """Tries after a failure of the handler; -1 where nothing is said."""
    if retries is not None and (type(retries) is not int or retries < 0):
        raise UsageError(f"retries={retries!r}", fix="give a whole number, at least 0")
    return -1 if retries is None else retries


def checked_key(key: str) -> str:
    """The key that makes work one task of the whole mesh; "": none."""
    if not isinstance(key, str) or len(key) > TASK_KEY_CHARACTERS_MAX:
        raise UsageError(
            f"a key of {len(str(key))} characters is too long", fix=f"give a text of at most {TASK_KEY_CHARACTERS_MAX} characters"
        )
    return key


def checked_rank(priority: int | None, share: str | None) -> tuple[int, str]:
    """As `mesh.messages.work.Rank`: 0 and "" where nothing is said."""
    if priority is not None and (type(priority) is not int or not PRIORITY_MIN <= priority <= PRIORITY_MAX):
        raise UsageError(f"priority={priority!r}", fix=f"give a whole number from {PRIORITY_MIN} to {PRIORITY_MAX}; the greater goes first")
    if share is not None and not (isinstance(share, str) and 0 < len(share) <= SHARE_CHARS_MAX and share.isprintable()):
        raise UsageError(f"share={share!r}", fix=f"give a word of 1 to {SHARE_CHARS_MAX} characters, such as a tenant's name")
    return priority or 0, share or ""


def checked_baggage(baggage: Mapping[str, str] | None, inherited: Baggage = ()) -> Baggage:
    """What was inherited, with these in its place or beside it, in order."""
    given = baggage if baggage is not None else {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) and name and isinstance(text, str) for name, text in given.items()):
        raise UsageError(f"baggage={baggage!r}", fix='give names and texts: baggage={"tenant": "acme"}')
    whole = tuple(sorted((dict(inherited) | dict(given)).items()))
    if (size := baggage_bytes(whole)) > BAGGAGE_BYTES_MAX:
        fix = "pass an id, and keep what it stands for in m.state(...) or in an argument"
        raise UsageError(f"the baggage is {size} bytes, over the {BAGGAGE_BYTES_MAX} that travel with all work", fix=fix)
    return whole
