"""The pages say what the code does: generated blocks are fresh, nothing is missing, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from mesh.core.work.task import STATES
from mesh.errors import MeshError
from mesh.inspector.verbs import MODULES, verbs
from mesh.limits import Limits
from mesh.messages import KINDS, SIGNED
from mesh.messages.records import ENTRIES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "agents").rglob("*.md")])


def test_generated_blocks_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "_docs.py", "--check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_message_entry_and_limit_has_its_row() -> None:
    docs = {page.name: page.read_text() for page in PAGES}
    for group, verb, _ in verbs():
        assert f"| {group} | `{verb}` |" in docs["operations.md"]
    for number, kind in KINDS.items():
        assert f"| {number} | {kind.__name__} |" in docs["protocol.md"]
        assert f"| {number} | {kind.__name__} |" in docs["security.md"], "who may send it"
    for tag in SIGNED:
        assert f"\n| {tag} |" in docs["protocol.md"]
    for entry in ENTRIES:
        assert f"\n| {entry.__name__} |" in docs["protocol.md"]
    for group, kind in get_type_hints(Limits).items():
        for field in fields(kind):
            assert f"| {group} | {field.name} | {field.default} |" in docs["operations.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_commands_are_real(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{target} is not there"
    for script in set(re.findall(r"`scripts/(\w+)", text)):
        assert (ROOT / "scripts" / script).exists(), f"scripts/{script} is not there"
    for verb in set(re.findall(r"(?:`|^\$ |^    )mesh ([a-z]+)", text, re.MULTILINE)):
        assert verb in MODULES, f"mesh {verb} is no verb"


def test_each_promise_stands_beside_a_test_that_exists() -> None:
    page = ROOT / "docs" / "semantics.md"
    links = re.findall(r"\[test\]\(([^)#]+)(?:#([^)]*))?\)", page.read_text())
    assert len(links) > 40
    for file, name in links:
        target = page.parent / file
        assert target.exists(), f"{file} is not there"
        assert not name or f"def {name}(" in target.read_text(), f"{file} has no {name}"
    promises = page.read_text().partition("## Not promised")[0].split("\n- ")[1:]
    without = [one[:60] for one in promises if "[test]" not in one and "in its section below" not in one]
    assert not without, f"promised, and held by no test: {without}"


def test_every_state_of_a_task_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page.partition("## States of a task\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(STATES)


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()

    def codes(kind: type[MeshError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(each) for each in kind.__subclasses__()))

    for code in codes(MeshError):
        assert re.search(rf"\b{code} (ok|the answer is a failure|usage|no node|timed out|refused|degraded)", page)


def test_the_readme_names_its_two_commands_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("scripts/demo") < text.index("mesh run greeter.py")
    assert "scripts/test" in text
    assert not re.search(r"/(work|root|home)/", text), "no paths of somebody's machine"
