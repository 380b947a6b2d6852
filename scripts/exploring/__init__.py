"""The consensus about one author's log, explored: every interleaving within bounds, and long random ones from seeds. `scripts/explore`."""
