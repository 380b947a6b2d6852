"""Where the machines of a node are put together. A new machine is one line here."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mesh.core.coordination.office import Office
from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.keeping.keepers import Keepers
from mesh.core.keeping.keys import Keys
from mesh.core.membership.membership import Membership
from mesh.core.membership.trust import Trust
from mesh.core.node import Node
from mesh.core.policy.register import Policies
from mesh.core.policy.rolling import Rolling
from mesh.core.records.records import Beginning, Records
from mesh.core.records.summing import Summing
from mesh.core.triggers.calendar import Cron, NoCron
from mesh.core.triggers.ticker import Ticker
from mesh.core.work.contractor import Contractor
from mesh.core.work.desk import Desk
from mesh.core.work.files import Files
from mesh.core.work.manager import Manager
from mesh.limits import Limits
from mesh.messages.membership import Alive


@dataclass(frozen=True, slots=True)
class Assembly:
    """A node and, for those who look but never touch, its table and machines."""

    node: Node
    directory: Directory
    membership: Membership
    trust: Trust
    policies: Policies
    rolling: Rolling
    records: Records
    keepers: Keepers
    keys: Keys
    manager: Manager
    contractor: Contractor
    files: Files
    desk: Desk
    ticker: Ticker
    office: Office
    deadlines: Deadlines


def build(
    me: Alive,
    *,
    random: Random,
    limits: Limits,
    journal_seq: int = 0,
    head: bytes = bytes(32),
    begins: Beginning | None = None,
    cron: Cron | None = None,
) -> Assembly:
    """A node that has not started. `me` is its own row (its incarnation already raised and on disk).

    `journal_seq` and `head` are the last durable entry's number and the last commit's hash. Feed `Replay` for every entry, then `Started`.
    `cron` knows cron expressions; without it schedules are intervals.
    """
    deadlines = Deadlines()
    directory = Directory(me.node, me.name, limits.keeping.heirs_max)
    membership = Membership(directory, deadlines, limits.membership, Random(random.random()), me=me)
    records = Records(
        directory, deadlines, limits.records, incarnation=me.incarnation, name=me.name, head=head, head_seq=journal_seq, begins=begins
    )
    trust = Trust(directory, limits)
    policies = Policies(directory, limits.trust)
    rolling = Rolling(directory, deadlines, limits, me.incarnation)
    keepers = Keepers(directory, deadlines, limits, Random(random.random()), journal_seq=journal_seq)
    keys = Keys(directory, deadlines, limits.keeping, Random(f"{me.node}/{me.incarnation}"), incarnation=me.incarnation)
    manager = Manager(directory, deadlines, limits.work, Random(random.random()), incarnation=me.incarnation)
    contractor = Contractor(directory, deadlines, limits.work, Random(random.random()), me.incarnation)
    files = Files(directory, deadlines, limits.files)
    desk = Desk(directory, deadlines, limits.work)
    ticker = Ticker(directory, deadlines, limits.triggers, cron or NoCron())
    summing = Summing(directory, limits.records)
    office = Office(directory, deadlines, contractor.lease_ms)
    workers = (manager, contractor, files, desk, ticker, office)
    machines = (membership, trust, policies, rolling, records, summing, keepers, keys, *workers, manager.forwarding)
    node = Node(me.node, machines, deadlines, journal_seq, directory.outlaws, lambda: bool(directory.guard.keepers))
    others = (records, keepers, keys, manager, contractor, files, desk, ticker, office, deadlines)
    return Assembly(node, directory, membership, trust, policies, rolling, *others)
