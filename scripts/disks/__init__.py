"""Power cuts and rot under the real journal: seeded crashes of its file system, real file-system shutdowns, flipped bits.

`scripts/disk` runs each at full size; tests run a part.
"""
