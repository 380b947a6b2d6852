"""Random flows against a model of a page: whole nodes in virtual time, some of them killed on the way. `scripts/flows` runs thousands.

generate  a flow and what its work will do, from a seed       model  what becomes of each step, by the rules alone
campaign  runs lots of them in a `LocalMesh` under kills      judge  compares what handlers saw with what the model says
"""
