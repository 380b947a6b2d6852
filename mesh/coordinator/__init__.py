"""The mesh's coordinator: an optional agent that says whether work which the policy marks as critical may start.

`mesh up --role coordinator` runs it as it is; with a function of your own: `coordinator(decide)` in a file, and `mesh run FILE`.
"""

from mesh.coordinator.agent import Decide, coordinator

__all__ = ["Decide", "coordinator"]
