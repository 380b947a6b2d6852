"""Takes a token out of this process's own command line, so that `ps` shows it no longer than it takes to start.

Linux keeps the words of a command line in the process's memory, where the process may overwrite them. Elsewhere nothing is done: give the
token on standard input there (`mesh join -`). Must run before anything slow is imported.
"""

from __future__ import annotations

import ctypes
import sys

PREFIX = b"mesh1_"
SHOWN = b"(token)"


def hide_tokens() -> None:
    """Overwrite every word that is a token. What Python has read already (`sys.argv`) stays."""
    if not sys.platform.startswith("linux") or not any(PREFIX.decode() in word for word in sys.argv):
        return
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: proc(5)
    words = ctypes.string_at(start, end - start)
    at = words.find(PREFIX)
    while at >= 0:
        length = words.find(b"\0", at) - at
        ctypes.memmove(start + at, SHOWN[:length].ljust(length, b"\0"), length)
        at = words.find(PREFIX, at + length)
