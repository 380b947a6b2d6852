"""Telling the service manager that started us how we are: ready, or why not. Without one it does nothing. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket

STATUS_CHARACTERS_MAX = 500


def ready(status: str) -> None:
    """It answers: whoever waits for the start of the service goes on."""
    _notify(f"READY=1\nSTATUS={_line(status)}")


def failed(why: str) -> None:
    """Our last words, for `systemctl status` and for who asked for the start."""
    _notify(f"STATUS={_line(why)}")


def _line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARACTERS_MAX]


def _notify(text: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        try:
            manager.connect("\0" + address[1:] if address.startswith("@") else address)
            manager.sendall(text.encode(errors="replace"))
        except OSError:
            return  # it has gone, or was never ours to talk to: nobody waits for this
