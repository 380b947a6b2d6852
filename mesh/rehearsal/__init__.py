"""Rehearsal: what a flow, or a recorded load, would come to on a mesh of this or another size, without running any of it."""
