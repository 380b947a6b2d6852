"""What `mesh run` loads."""

from __future__ import annotations

from pathlib import Path

from mesh.inspector.targets import load_agents


def test_a_file_that_ends_in_run_is_loaded_like_any_other(tmp_path: Path) -> None:
    """`agent.run()` at its end used to serve the agent during the import: on another node, and twice."""
    file = tmp_path / "own.py"
    file.write_text('from mesh import Agent\nagent = Agent("own")\n@agent.capability\ndef one() -> int: return 1\nagent.run()\n')
    assert [agent.name for agent in load_agents([str(file)])] == ["own"]
