"""What `mesh run` loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import DeclarationError
from mesh.inspector.targets import BrokenTarget, load_agents


def test_a_file_that_ends_in_run_is_loaded_like_any_other(tmp_path: Path) -> None:
    """`agent.run()` at its end used to serve the agent during the import: on another node, and twice."""
    file = tmp_path / "own.py"
    file.write_text('from mesh import Agent\nagent = Agent("own")\n@agent.capability\ndef one() -> int: return 1\nagent.run()\n')
    assert [agent.name for agent in load_agents([str(file)])] == ["own"]


@pytest.mark.parametrize("text", ["def one(:\n", "import no_such_module_here\n"])
def test_what_cannot_be_imported_is_shown_without_the_machinery_of_importing(text: str, tmp_path: Path) -> None:
    file = tmp_path / "broken_target.py"
    file.write_text(text)
    with pytest.raises(BrokenTarget) as caught:
        load_agents([str(file)])
    assert "frozen" not in caught.value.details and str(file) in caught.value.details


def test_a_wrong_declaration_says_its_fix_once(tmp_path: Path) -> None:
    file = tmp_path / "wrong_declaration.py"
    file.write_text('from mesh import Agent\nagent = Agent("own")\n@agent.capability(limit=0)\ndef one() -> int: return 1\n')
    with pytest.raises(DeclarationError) as caught:
        load_agents([str(file)])
    assert caught.value.fix not in caught.value.message and caught.value.fix in str(caught.value)
