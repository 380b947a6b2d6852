"""Maxima of what people put on top of tasks: processes of their own, flows, schedules. Part of `limits.py`, where the others are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IsolationLimits:
    """What one task may use in a process of its own; the system enforces it. Whoever needs more says so at the capability."""

    memory_mib: int = 4096
    """Address space: what a library reserves counts, so this is several times what is used."""
    cpu_s: int = 3600
    """Processor time of all its threads together. Ends what computes for ever where no `timeout_s` does."""
    open_files: int = 256
    file_mib: int = 4096
    """The largest file it may write: as large as the mesh carries."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """Of one flow: its driver holds all of this in memory, and asks its manager for each step anew when it is replayed."""

    file_bytes_max: int = 4 * 1024 * 1024
    """Of a file that is read; what it says in short has to fit `spec_bytes_max`."""
    spec_bytes_max: int = 384 * 1024
    """Of its canonical form, which travels as an argument together with the input: below `body_bytes_max`."""
    steps_max: int = 10_000
    inputs_max: int = 256
    map_width_max: int = 10_000
    """Items of one map. Wider ones are for a map of maps: a step per item costs its manager about 2 KiB."""
    turns_max: int = 1000
    """Of one loop: each is a step of its own."""
    in_flight_max: int = 256
    """Steps of one flow begun and not ended, map items included. More keeps more nodes busy, fewer leave room to other work."""
    recorded_max: int = 800
    """Steps that can be undone, and joins that do not wait for all: each takes one of the effects that a task may have."""
    controls_max: int = 100
    """Times that one run is paused, resumed or patched; later ones are not looked at."""
    expression_characters_max: int = 1000
    """What an expression costs grows with its length; longer ones are for a capability."""


@dataclass(frozen=True, slots=True)
class TriggerLimits:
    schedules_max: int = 1000
    """Schedules that are known, people's and agents', and as many marks: about 300 bytes each."""
    stagger_s: float = 2.0
    """The node whose turn it is next acts on a tick so much later. Smaller: sooner after a death, more asked twice in vain."""
    late_s: float = 60.0
    """A tick that nobody has acted on for so long is missed, and `catch_up` says what becomes of it: longer than any failover takes."""
    settle_s: float = 3.0
    """After its start a node acts on no tick for so long: it hears first what has been done meanwhile."""
    look_s: float = 60.0
    """The wall clock is looked at so often even if no tick is near: it may have been set."""
    again_s: float = 5.0
    """What could not be asked or submitted is tried again after that."""
    answer_s: float = 30.0
    """The same for what is not answered: a claim of a key is, within `claim_wait_s`."""
    noted_s: float = 60.0
    """Of one schedule a mark is written down so often at most. The ticks in between are held by their keys, which live far longer."""
    ahead_s: float = 300.0
    """A mark further ahead of this node's clock than that is not believed: twice what the clocks of linked nodes may be apart, and some."""
    page_max: int = 100
    """Rows and marks told in one message: about 30 KB."""
    rollout_tell_s: float = 1.0
    rollout_marks_max: int = 64
    rollout_tallies_max: int = 256
    """A node tells so seldom what it has seen of rollouts; marks are kept of so many, and of each what so many lives of nodes have seen."""
