"""For a node that shall listen on a LAN and belongs to no mesh there: which meshes it sees, and what to type.
Listens a moment, announces nothing."""

from __future__ import annotations

from mesh.errors import UsageError
from mesh.runtime.lan import interfaces
from mesh.runtime.lan.discovery import browse
from mesh.runtime.settings import not_on_a_lan

LOOK_S = 1.0
SHOWN_MAX = 4


async def explain(bind: str) -> UsageError:
    """The error for whoever asked an open mesh's node to listen at `bind`.

    Raises UsageError if that is none of this machine's addresses.
    """
    choice = interfaces.find("" if bind == "0.0.0.0" else bind)
    try:
        seen = [one.address for one in await browse(choice.interface, LOOK_S)]
    except OSError:  # no multicast there: nothing is seen
        seen = []
    if not seen:
        return not_on_a_lan(bind)
    shown = ", ".join(seen[:SHOWN_MAX]) + (f" and {len(seen) - SHOWN_MAX} more" if len(seen) > SHOWN_MAX else "")
    return not_on_a_lan(
        bind,
        f"; there is a mesh here already, with doors at {shown}",
        f"mesh invite, on one of those machines, then here: mesh join TOKEN. Without a token: mesh join --ask {seen[0]}",
    )
