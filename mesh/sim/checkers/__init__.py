"""The checkers: one file per family of invariants, each reading a history and nothing else. Each is proven by planted bugs in tests/sim."""

from __future__ import annotations

from mesh.limits import Limits
from mesh.sim.checkers.bounds import BoundsChecker
from mesh.sim.checkers.durability import DurabilityChecker
from mesh.sim.checkers.effects import EffectChecker
from mesh.sim.checkers.failure import FailureChecker
from mesh.sim.checkers.fitting import FittingChecker
from mesh.sim.checkers.journal import JournalChecker
from mesh.sim.checkers.keys import KeyChecker
from mesh.sim.checkers.leases import LeaseChecker
from mesh.sim.checkers.limits import LimitChecker
from mesh.sim.checkers.market import MarketChecker
from mesh.sim.checkers.membership import MembershipChecker
from mesh.sim.checkers.rollback import RollbackChecker
from mesh.sim.checkers.states import StateChecker
from mesh.sim.checkers.tasks import TaskChecker
from mesh.sim.checkers.trust import TrustChecker
from mesh.sim.history import Checker


def all_checkers(limits: Limits) -> list[Checker]:
    """One fresh checker of every kind, for one run."""
    return [
        MembershipChecker(limits.membership),
        TaskChecker(),
        LeaseChecker(),
        MarketChecker(limits.work),
        FailureChecker(limits.work),
        FittingChecker(),
        JournalChecker(),
        DurabilityChecker(),
        EffectChecker(),
        KeyChecker(),
        TrustChecker(),
        RollbackChecker(),
        BoundsChecker(limits),
        LimitChecker(),
        StateChecker(),
    ]
