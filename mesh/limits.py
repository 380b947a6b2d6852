"""Every bound and timer of the mesh, with what it trades off. Seconds unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.limits_use import FlowLimits as FlowLimits
from mesh.limits_use import IsolationLimits as IsolationLimits
from mesh.limits_use import TriggerLimits as TriggerLimits


@dataclass(frozen=True, slots=True)
class MembershipLimits:
    """Smaller intervals find failures sooner and cost messages: each node sends 2 (N - 1) / probe_interval_s of them."""

    probe_interval_s: float = 1.0
    """Silence on a link after which it is probed. Any authentic envelope counts as an answer."""
    probe_timeout_s: float = 0.5
    """TCP turns loss into delay (20 % loss: 9 % of answers later than 0.5 s), so late answers still count."""
    indirect_probes: int = 3
    suspicion_s: float = 2.0
    """Soft suspicion to vote for death: must leave the subject time to refute. Grows with log10 N; times 1 + local health."""
    hard_suspicion_s: float = 0.5
    """The same after a refused connect: time for a restarting process to come back."""
    roster_votes_max: int = 5
    """H: votes that make a death certificate; below 9 nodes a majority of the others."""
    redial_min_s: float = 0.1
    redial_max_s: float = 5.0
    seed_retry_max_s: float = 30.0
    anti_entropy_s: float = 5.0
    rumour_sends_factor: int = 4
    """Each rumour is sent factor * ceil(log10(N + 1)) times per peer group."""
    rows_max: int = 1024
    """Nodes remembered. Dead and left ones go first, the longest silent first."""
    outlaws_max: int = 8192
    """Revoked nodes that the core itself turns away, their rows forgotten or not: 8 * rows_max. The oldest are left to the wire alone."""
    health_max: int = 7


@dataclass(frozen=True, slots=True)
class TrustLimits:
    """Statements are kept for good, so there is room for the roots' own that nobody else can use up."""

    statements_max: int = 4096
    """Revocations and amendments held: about 1.5 KiB each with the chain of their author, so 6 MiB."""
    members_statements_max: int = 1024
    """Of all who are no root: above what the wire takes from them. The rest is for the roots."""
    policies_max: int = 16
    """Versions of the mesh's policy that are held, the newest: 32 KiB each at most."""
    message_statements_max: int = 64
    message_bytes_max: int = 32 * 1024
    """Of one TRUST message, so that it shares an envelope of 64 KiB; one statement alone may be larger."""
    gap_s: float = 1.0
    """A peer whose digest differs gets all that is held, at most once in this time: the beat in which it finds out."""
    gap_max_s: float = 60.0
    """The gap doubles up to here while the digests go on to differ (a table is full, or the peer lies), and starts anew when they agree."""


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """Timers of the contract net on a LAN."""

    separate_duties: bool = False
    """Whether who asked for work may not approve its gates, where a gate does not say so itself. So it is in mode ``ca``."""
    lease_s: float = 3.0
    """Shorter finds a silent contractor sooner and forgives shorter pauses."""
    margin_s: float = 0.5
    """Granter's slack beyond the lease's end: covers clock drift of 1 % and delivery."""
    beat_s: float = 0.5
    """How often a pair with leases exchanges an envelope."""
    accept_timeout_s: float = 0.5
    """An AWARD unanswered for so long is sent again; it counts as held until DECLINE, REVOKED or lease + margin."""
    auction_timeout_s: float = 0.5
    """Safety net: an auction closes when all asked have answered or are known to be gone; this bounds a silent one."""
    asked_max: int = 8
    """Nodes asked in one auction about one short task: all of them up to here, else a sample."""
    asked_most: int = 64
    """Nodes asked about a lot, or about long work: there an auction over all pays."""
    label_kinds_max: int = 8
    versions_max: int = 4
    """Sets of labels, and versions, that one node tells of one capability, when its workers differ: each travels in the node's row."""
    near_ms: int = 500
    """What it is worth to a task to be where the last one of its `near` key was. More keeps it there under load, less spreads it."""
    apart_ms: int = 1000
    """What it is worth to a task to be where no other one of its `apart` key is."""
    near_max: int = 4096
    """Keys whose last node one manager remembers, about 200 bytes each; of a forgotten one the first choice is by hash."""
    hedge_share: float = 0.05
    """Of the tasks given to one manager: how many may get a second attempt beside a slow first one. More cuts the tail, and costs work."""
    hedge_burst: float = 10.0
    """At once, after times without."""
    transfer_bytes_per_s: float = 50e6
    """What files are assumed to travel at when a node is chosen: less keeps work where its files are, more spreads it."""
    calibrated_max: int = 4096
    """Pairs of node and capability whose promises are compared with what became of them: about 200 bytes each."""
    lot_max: int = 256
    """Like tasks negotiated in one auction. More would wait longer for the slowest answer than they save in questions."""
    lots_max: int = 4
    """Auctions of lots open at once per line: work that comes while one is open need not wait for its slowest answer."""
    load_fresh_s: float = 5.0
    """Cached load older than this is no ground for a conditional award."""
    adopt_grace_s: float = 30.0
    """How long a suspended handler goes on computing without a manager."""
    retry_min_s: float = 0.2
    retry_max_s: float = 30.0
    retry_share: float = 0.1
    """Of the tasks a manager is given, so many may be tried again after their handler failed: more is a storm on whatever failed."""
    retry_floor_per_s: float = 5.0
    """So many may always, so that a small mesh can retry; what waits for its turn waits 1 / this longer for each one before it."""
    retry_burst: float = 100.0
    """Saved up in good times: a batch of a thousand of which a tenth fails is retried without delay."""
    breaker_faults: int = 3
    """In a row, of one node with one capability: it is given none of that for a while."""
    breaker_gap_s: float = 1.0
    """Faults closer together are one: what one dying worker takes with it."""
    breaker_rate: float = 0.5
    """The same if so much of its newest work failed, and others fail at most half as often."""
    breaker_open_s: float = 5.0
    """Then one piece of work is let in to see; the pause doubles each time that fails."""
    breaker_open_max_s: float = 60.0
    result_resend_s: float = 1.0
    calls_entry_s: float = 0.1
    """While plain calls run, one aggregate entry per this time."""
    calls_remembered: int = 1024
    """Plain calls whose decision `why` can still show."""
    tasks_max: int = 100_000
    """Live tasks of one manager; beyond: refused, with a reason."""
    tasks_bytes_max: int = 256 * 1024 * 1024
    """Arguments of all live tasks of one manager together: they are kept in memory until the task ends. Beyond: refused, with a reason."""
    claim_wait_s: float = 10.0
    """After so long without a majority of the key keepers a keyed submit's client is told; the claim goes on. Some disks' syncs fit in."""
    ended_remembered: int = 10_000
    body_bytes_max: int = 512 * 1024
    """One task's arguments or result as JSON; larger things travel as File."""
    wait_ms_target: int = 50
    """A contractor accepts about so much more work than its slots can start at once: keeps short work flowing, long work movable."""
    queue_max: int = 512
    load_gossip_s: float = 0.5
    price_timeout_s: float = 0.3
    """How long an ``@agent.bid`` function may think; below `auction_timeout_s`, so that a slow one costs only its own bid."""
    reattach_s: float = 5.0
    """After a restart: how long workers have to come back before what they ran counts as lost."""
    stop_s: float = 5.0
    """How long a cancelled handler may take to end before the cancellation is answered without it."""
    drain_s: float = 5.0
    """What runs has so long to end when its node is told to: `mesh down`, SIGTERM. Below what service managers wait before they kill."""
    gather_s: float = 1.0
    """A question to all nodes is answered after so long with what has come, naming who is missing."""
    ask_timeout_s: float = 10.0
    """A question to one linked node: longer than any journal takes to read."""
    ask_repeat_s: float = 5.0
    """How often a step that is known, or a wait for a result, is asked for again: covers what a broken link swallowed."""
    asks_max: int = 4096
    """Questions and steps of local clients that wait at once."""
    checkpoint_bytes_max: int = 64 * 1024
    """One ``ctx.checkpoint`` as JSON: each is an entry of the manager's journal, and the newest travels with the next award."""
    stream_items_max: int = 64
    """Items of one stream that its reader has not taken, at the worker and again at the manager: a slow reader slows the handler."""
    stream_bytes_max: int = 1024 * 1024
    """The same in bytes; one item may always go."""
    stream_repeat_s: float = 1.0
    """A reader who waits asks again so often: covers what a broken link swallowed."""
    log_bytes_max: int = 1024 * 1024
    """Of what one attempt printed and logged, in memory at the node that ran it: the newest lines are kept."""
    logs_bytes_max: int = 16 * 1024 * 1024
    """Of all attempts that a node ran; beyond it the log that was written to longest ago goes. More memory, or a shorter memory."""
    log_page_bytes: int = 128 * 1024
    """One answer's part of a log: well below the largest frame."""
    spends_max: int = 1000
    """Keys of what one task has spent, or has reserved: about 200 bytes each. What has no key costs no room."""
    effects_max: int = 1000
    """Keys of effects of one task: their outcomes up to 4 KiB stay in memory while it lives, 4 MiB at most."""
    state_keys_max: int = 1000
    state_value_bytes_max: int = 64 * 1024
    state_bytes_max: int = 4 * 1024 * 1024
    """Of one state, a task's or a shared one: keys, one value as JSON, all together. They are in its manager's memory and journal."""
    age_s: float = 5.0
    """Waiting work rises by one priority for each such time without a turn of its priority: each gets one every 45 s. Longer: later."""
    slots_lease_s: float = 10.0
    """Slots of a limit over the whole mesh (`limit=`, `rate=`) are leased for so long; the last `lease_s` of it is not used. Shorter gives
    back sooner what a dead holder had; below 3 * `lease_s` what runs is stopped when the limit gets another owner."""
    slots_ask_s: float = 1.0
    """How often who offers limited work asks the owner of its limits. Shorter frees slots sooner, for as many more messages."""
    shares_max: int = 256
    """Share keys that take turns with one another, at each node; those beyond take theirs as one."""
    auctions_max: int = 64
    """Open at once per capability; the rest stays in line, so that a burst does not become a storm of questions."""
    pull_service_ms_min: int = 20
    """Work that takes less is not pulled by idle nodes: moving it costs a good part of what it takes."""
    pull_cost_ms: int = 5
    """So much sooner must work be done elsewhere for it to move: a release, an award, and their entries."""
    pull_wait_s: float = 0.01
    """Between two PULLs of an idle node. Shorter finds waiting work sooner, and asks others when the first was about to answer."""
    pulls_max: int = 8
    """PULLs of one capability each time that a slot falls idle: first to managers with a backlog, then to nodes that said they are full."""
    hinted_max: int = 8
    """Nodes that are told of a backlog: any of them may fall idle first. More find an idle slot sooner, and pull in vain more often."""
    accept_wait_s: float = 0.02
    """A plain call that ends sooner is answered by its result alone: an ACCEPT costs a signature. Well below `accept_timeout_s`."""
    ack_wait_s: float = 0.05
    """How long the RESULT_ACK of a plain call waits for something else to say to that node. Well below `result_resend_s`."""


@dataclass(frozen=True, slots=True)
class RecordsLimits:
    commit_entries_max: int = 256
    commit_bytes_max: int = 384 * 1024
    """Entries and bodies of one commit; a larger entry stands alone. With the largest body (512 KiB) it still fits one frame
    (`frame_bytes_max`), in which it travels to those who keep the journal."""
    company_s: float = 0.05
    """So long is held back what nothing waits for, on its way to the disk (lazy entries) and to the keepers (all), for something else to
    take it along: each trip to the keepers costs three nodes a sync, and four messages their signatures. What is held is lost with the
    process, or with a disk that is lost for good; nobody was told of it."""
    ship_blocks_max: int = 64
    """Commits in one message to a keeper, who checks a signature for each: several milliseconds' work."""
    keepers_max: int = 16
    """Members of one journal's roster, its author included, that a block may name. Three are usual: each costs a copy of everything."""
    tale_bytes_max: int = 4 * 1024 * 1024
    """Bodies that are read at once where somebody's log is taken over; what then still follows is the next page."""
    sum_entries: int = 10_000
    """After so many entries it is written down which of all before are still needed. Fewer make a start shorter (10,000 are read within a
    second), and cost more: each time the open ones are read again, and their numbers written, at 5 bytes each."""
    sum_read_max: int = 40_000
    """Entries that one such summing reads beside those that were open before: half a second of the reading thread. A journal from before
    there was any is summed in several steps."""
    sum_open_max: int = 60_000
    """Numbers in one sum: 300 KB. Where more is open nothing is summed up, and a start reads all since the last time."""
    sum_ended_max: int = 512
    """Tasks that ended last, and holdings that were closed last, which a start still reads, as `mesh tasks` shows. Older are looked up."""
    sum_keyed_max: int = 10_000
    """Ended tasks with a key, of which two entries each are read: as many as `ended_remembered`, since their keys stand for so long."""
    scrub_entries: int = 512
    """What a start leaves out is verified after it, so many entries at a time (5 ms of the reading thread) ..."""
    scrub_pause_s: float = 0.1
    """... with a pause in between: a million entries take five minutes, at 5 % of a processor."""
    story_entries_max: int = 10_000
    heads_max: int = 1024
    forks_max: int = 64
    heads_gossip_s: float = 1.0
    heads_message_max: int = 128
    """Heads in one message: about 250 bytes each, so half an envelope of 64 KiB."""
    heads_table_rounds: int = 8
    """Every so many rounds of gossip one peer in turn gets the whole table: what was missed arrives, at 1/N of the cost of telling all."""
    asks_max: int = 256
    """Questions about the journal that may wait for the disk; beyond: refused as busy."""
    story_bytes_max: int = 512 * 1024
    """One page of a story, well below the largest frame; `more` says where the next begins."""
    witness_s: float = 10.0
    """How often the newest head of an author is co-signed, at most.
    What was cut off younger than this shows only by the heads peers hold."""
    witnesses_max: int = 256
    """Peers whose co-signatures of the own journal are kept: about 250 bytes each. Two are enough; the one that is furthest behind goes."""
    audit_gather_entries_max: int = 200
    """Entries of each node when all are asked: 64 nodes * 200 * about 1 KiB is 12 MiB, below the largest frame."""
    audit_note_chars_max: int = 500
    refusals_per_minute_max: int = 32
    """Pairs of reason and peer that get an audit entry each minute, the rest is one entry more: under attack 33 * about 200 bytes a minute,
    9 MB a day, whatever is sent."""


@dataclass(frozen=True, slots=True)
class KeepingLimits:
    """Who guards whose journal. A failover costs one vote, one fold and, for what must not run twice, one lease and margin."""

    keepers: int = 2
    """Others that keep a node's journal. With two any one of the three may be lost; four would let two go, for twice the bytes."""
    beat_s: float = 0.5
    """A leader with nothing to ship says so as often."""
    silence_s: float = 2.0
    """A linked leader that has said nothing for so long is taken for gone. Below a lease: its own has not ended then, and the
    successor waits for that; above any pause that is common."""
    hard_wait_s: float = 0.5
    """From a refused connect to a candidacy: time for a restarting process to come back."""
    stagger_s: float = 0.15
    """Keepers stand for election one after another, so that votes are not split."""
    election_s: float = 0.4
    """Between candidacies, times 1 to 2."""
    settle_s: float = 1.0
    """A node must have been linked for so long to be asked to keep; also how often the roster is looked at."""
    change_s: float = 0.1
    """The same while a change is under way."""
    doubt_s: float = 1.0
    """A node that has just started says nothing about a log before all its members have told it what they know of its own journal, or this
    is over: longer than heads take to all who are here, so that an old disk shows; a second of a failover only where one of the three is
    dead and another has just restarted."""
    replace_s: float = 10.0
    """A keeper that is dead for so long is replaced, or let go if there is nobody."""
    heirs_max: int = 256
    """Take-overs of one author that are remembered, the newest; 200 bytes each. A node that comes back is told all of them, at 560 bytes
    and three checks of a signature (0.65 ms): in a mesh of 20 nodes, each killed 256 times, 2.9 MB and 3.3 s. What was taken over
    longer ago is found by asking everybody."""
    logs_max: int = 256
    """Authors whose journals one node keeps: more in a large mesh means that somebody chooses badly or lies."""
    recent_bytes_max: int = 4 * 1024 * 1024
    """Own newest blocks in memory: what a keeper lacks beyond that is read from disk."""
    ship_bytes_max: int = 512 * 1024
    """Of one SHIP, unless one block is larger."""
    keys_max: int = 100_000
    """Claims that a key keeper holds, about 300 bytes each; more are refused: a forgotten claim could let a key run twice."""
    keys_page_max: int = 500
    """Claims that a new key keeper is told at once: about 150 KB."""
    claim_retry_s: float = 0.1
    """A claim without an answer is repeated after that, then after twice as long, ... A disk's sync and a hop fit in."""
    claim_retry_max_s: float = 2.0
    tale_entries_max: int = 2048
    """Entries folded in one turn when a log is taken over: about 10 ms."""


@dataclass(frozen=True, slots=True)
class FileLimits:
    piece_bytes: int = 48 * 1024
    """Fits one envelope of 64 KiB beside its neighbours."""
    window: int = 8
    """Pieces asked for at once per file."""
    piece_timeout_s: float = 2.0
    file_bytes_max: int = 4 * 1024**3
    fetches_max: int = 256
    source_tries_max: int = 3
    """Silences of `piece_timeout_s` in a row before a source is given up; a piece that comes makes up for them."""
    known_max: int = 10_000
    """Files remembered to be in the own store; of others it is asked again."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    batch_messages_max: int = 32
    batch_bytes_max: int = 64 * 1024
    frame_bytes_max: int = 1024 * 1024
    door_frame_bytes_max: int = 16 * 1024
    sndhwm: int = 16
    queue_messages_max: int = 4096
    """Per peer and class; beyond it the oldest of that class is dropped and counted."""
    window: int = 1024
    """Sequence numbers behind the newest that may still arrive."""
    hello_per_s: float = 10.0
    """Per address."""
    clock_skew_ms: int = 120_000
    stale_answers_per_s: float = 5.0
    rcvhwm: int = 11
    """Envelopes libzmq holds per peer before TCP pushes back: so many that (rcvhwm + 1) * (frame_bytes_max + 4 KiB), the largest there can
    be and one more that is coming in, stay below undelivered_bytes_max. Of usual ones (batch_bytes_max) it is less than 1 MiB."""
    undelivered_bytes_max: int = 25 * 512 * 1024
    """Of one connection, in libzmq and not taken by us; beyond it the connection is cut. By rcvhwm's formula no honest peer gets there.
    libzmq keeps four times as much for what comes in tiny frames: this bounds what one peer makes us grow, to about 55 MiB."""
    unproven_per_address_max: int = 128
    """Connections of one address to the ROUTER whose handshake is not finished; beyond it the oldest is cut. An honest one takes
    milliseconds; on one machine all nodes share an address, and may dial us all at once."""
    unproven_max: int = 512
    """The same for all addresses together; never more than a quarter of the descriptors this process may open."""
    silent_s: float = 6.0
    """A connection that has proven its key and sent nothing at all for so long is cut: ours send one empty message at once."""
    connections_max: int = 4
    """Of one node to our ROUTER: its old and its new one, twice over. Beyond it the oldest is cut."""
    transport_keys_max: int = 4
    """Of one node, admitted at once: the old and the new one of a rotation, twice over. Beyond it the oldest is retired."""
    tickets_max: int = 8
    """Of one node: handshakes let through whose first message has not come. Beyond it the oldest is void."""
    handshake_s: float = 2.0
    """A connection at the door, or a dial, that has not said HELLO and WELCOME by then is dropped."""
    hello_burst: float = 128.0
    """How many HELLOs of one address may come at once: on one machine all nodes share an address, and all start together."""
    all_hellos_per_s: float = 20.0
    """Of all addresses at which no linked peer lives: whoever has a network of addresses costs 5 % of a processor (TLS takes 2 ms), and
    newcomers are then met late."""
    all_hellos_burst: float = 128.0
    connects_per_s: float = 50.0
    """Connections of one address to the door, handshake or not: peers that lost a link ask by them whether the process lives."""
    connects_burst: float = 256.0
    all_connects_per_s: float = 200.0
    """Of all addresses at which no linked peer lives. Turning one away takes 30 us, serving it 150."""
    all_connects_burst: float = 512.0
    door_connections_max: int = 128
    """Open at once, all addresses together, and never more than a quarter of the descriptors; beyond it the longest silent is put out."""
    door_per_address_max: int = 64
    """The same of one address: on one machine all nodes share theirs. Half of all, so that one address alone cannot close the door."""
    admission_bytes_max: int = 1024 * 1024
    """The answer to a join: genesis, certificates, and every revocation there is."""
    dials_max: int = 16
    """Dials under way at once; more wait their turn."""
    peers_max: int = 1024
    """Sessions, links and rate counters remembered."""
    pending_sessions_max: int = 4
    """Sessions given to one peer and not yet used: a recorded HELLO said again cannot push out the honest one at once."""
    queue_bytes_max: int = 16 * 1024 * 1024
    """Per peer, all classes together; beyond it the oldest bulk, then work, then control is dropped and counted."""
    bad_per_minute: int = 20
    """Refused envelopes and messages of one peer within a minute, beyond which it is cut."""
    envelopes_per_s: float = 4000.0
    """Of one peer, for more than a moment: several times what two busy nodes exchange (measured: below 1,500), and soon checked."""
    envelopes_burst: float = 4000.0
    bytes_per_s: float = 256.0 * 1024 * 1024
    effort_per_s: float = 5000.0
    """What one peer may cost for a long time beside the work it brings, in units of about 10 us: 5 % of a processor. An honest one stays
    below 500."""
    effort_burst: float = 40_000.0
    """The same at once: less than half a second's work, so that a flood ends within a second. A mesh of 1000 nodes that is
    told in one piece takes about 25,000."""
    penalty_s: float = 10.0
    """How long a peer that was cut stays out; doubled each time, up to `penalty_max_s`."""
    penalty_max_s: float = 600.0


@dataclass(frozen=True, slots=True)
class DiscoveryLimits:
    """What mDNS may cost. A node that starts says about 10 packets in its first seconds; larger figures let more nodes start at once."""

    candidates_max: int = 256
    """Doors that discovery has told of and the core may dial; beyond: the one heard of longest ago is forgotten."""
    found_per_s: float = 20.0
    """Doors told a second, after a burst of `candidates_max`. The core dials fewer."""
    packets_per_s: float = 100.0
    """Of one address. zeroconf takes 70 us for a packet: a liar takes 0.7 % of a core, not 70 %."""
    packets_burst: float = 512.0
    """Fifty nodes of one machine may start together."""
    all_packets_per_s: float = 400.0
    """Of all addresses: who forges senders takes 3 % of a core, and new nodes are then found late."""
    all_packets_burst: float = 2048.0
    names_per_s: float = 5.0
    """New names of one address: zeroconf keeps 4 KiB for each until it expires, after 75 minutes."""
    names_burst: float = 128.0
    all_names_per_s: float = 20.0
    """Of all addresses. zeroconf keeps at most 10,000 records: 2,500 names, 10 MiB."""
    all_names_burst: float = 512.0
    sources_max: int = 1024
    """Senders whose rates are remembered."""
    announce_every_s: float = 1.0
    """Changes of what is offered are told no faster."""
    look_again_s: float = 300.0
    """Asks the network anew: whoever started while a cable was out is found after so long."""


@dataclass(frozen=True, slots=True)
class Limits:
    membership: MembershipLimits = field(default_factory=MembershipLimits)
    trust: TrustLimits = field(default_factory=TrustLimits)
    work: WorkLimits = field(default_factory=WorkLimits)
    records: RecordsLimits = field(default_factory=RecordsLimits)
    keeping: KeepingLimits = field(default_factory=KeepingLimits)
    files: FileLimits = field(default_factory=FileLimits)
    links: LinkLimits = field(default_factory=LinkLimits)
    discovery: DiscoveryLimits = field(default_factory=DiscoveryLimits)
    flows: FlowLimits = field(default_factory=FlowLimits)
    triggers: TriggerLimits = field(default_factory=TriggerLimits)
