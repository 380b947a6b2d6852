"""A node without one thing that costs something, to see what it costs: `lesser_node.py unsigned|unsynced WORDS of mesh`. Never for use.

unsigned   signatures are 64 bytes of nothing, and every one holds
unsynced   SQLite and Python wait for no disk
"""

import os
import sqlite3
import sys

from mesh.runtime.disk import store_file
from mesh.wire import ed25519


def unsigned() -> None:
    """All nodes of the mesh have to be like this one."""
    signer_of = ed25519.signer_of
    ed25519.signer_of = lambda seed: (signer_of(seed)[0], lambda data: bytes(ed25519.SIGNATURE_BYTES))
    ed25519.verifier_of = lambda key: lambda signature, data: True


def unsynced() -> None:
    """Writes go to the system, and are lost with it."""
    connect = store_file.connect

    def careless(*args: object, **more: object) -> sqlite3.Connection:
        connection = connect(*args, **more)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    store_file.connect = careless
    os.fsync = lambda handle: None


if __name__ == "__main__":
    {"unsigned": unsigned, "unsynced": unsynced}[sys.argv.pop(1)]()
    from mesh.inspector.cli import main

    main()
