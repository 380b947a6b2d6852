"""The command line: launch nodes, use the mesh, watch it, repair it. One file per group of verbs; every verb goes through `shell.py`."""
