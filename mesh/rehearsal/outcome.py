"""What one rehearsal came to: plain values, which travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.rehearsal.ledger import Work


@dataclass(slots=True)
class Outcome:
    """Of one seed. `state`: done, failed, or stuck: it waits for what will not come. Times of `works` are since it began."""

    seed: int
    state: str
    makespan_s: float
    works: list[Work]
    root: str = ""
    """The flow's own task; "": a load has none."""
    error: str = ""
    slots: dict[str, int] = field(default_factory=dict)
    """Handlers at once, of each node."""
    events: int = 0
    failed: int = 0


def since(work: Work, first_s: float) -> None:
    """Its times since `first_s`."""
    work.submitted_s -= first_s
    work.finished_s -= first_s if work.finished_s >= 0 else 0.0
    for spell in work.spells:
        spell.began_s -= first_s
        spell.ended_s -= first_s if spell.ended_s >= 0 else 0.0
