"""Kill campaigns over the work of the demos, with real processes: who manages it, who drives it and who runs a step, each at many points.

arena.py      the demo's nodes and workers, a client at each, a clock of events
works.py      what the four demos have done, asked for by somebody who asks again at another node when one is gone
strikes.py    when the blow falls, and on whom
verdicts.py   what was wrong: the ledger that handlers write, the results of two nodes, the record, `scripts/verify`
witness_agent.py    the ready-made agents, each run and each effect of which leaves a line outside the mesh
"""
