"""What a node knows of the mesh's coordinator: who is in office, who stands by, how the mesh's mode has it, and how busy everybody is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mesh.core.assembly import Assembly
from mesh.core.directory import ALIVE, LEFT, SUSPECT
from mesh.ids import COORDINATE, NodeId

Document = dict[str, Any]


def shown(assembly: Assembly, now_s: float, name_of: Callable[[NodeId], str]) -> Document:
    directory, seat, mode = assembly.directory, assembly.directory.seat, assembly.directory.rulebook.mode
    admitting = assembly.manager.admitting
    rows = [row for row in directory.rows() if row.state != LEFT and not row.revoked]
    stand_by = [row for row in rows if COORDINATE in row.offers and row.node != seat.holder and row.state in (ALIVE, SUSPECT)]
    return {
        "schema": "mesh.coordinator/1",
        "mode": mode.name,
        "open_after_s": mode.after_ms / 1000,
        "node": name_of(directory.me),
        "holder": name_of(seat.holder) if seat.holder else "",
        "holder_id": seat.holder,
        "epoch": list(seat.epoch),
        "since_ms": max(0, round((now_s - seat.since_s) * 1000)),
        "standing_by": [name_of(row.node) for row in stand_by],
        "here": {
            **{name: getattr(admitting, name) for name in ("admitted", "refused", "opened", "cached")},
            "waiting": admitting.rows(now_s),
            "office": asdict(assembly.office.statistics()),
            "limits": assembly.contractor.leased(now_s, name_of),
        },
        "fleet": [
            {
                "name": name_of(row.node),
                "id": row.node,
                "state": row.state,
                "draining": row.draining,
                "capabilities": len(row.offers),
                "busy": sum(load.busy for load in row.load.values()),
                "slots": sum(load.slots for load in row.load.values()),
                "coordinator": row.node == seat.holder,
            }
            for row in rows
        ],
    }
