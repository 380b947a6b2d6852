"""User units: their text, and a real systemd that reads it. `nas` runs one for this account."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError, Refused, UsageError
from mesh.inspector import units
from mesh.inspector.units import Unit

NASTY = [
    "plain",
    "two words",
    "",
    "it's",
    'a "quote"',
    "back\\slash",
    "\\x41 \\n",
    "%h %% %n",
    "$HOME ${HOME} $$",
    ";",
    "; rm",
    "#no comment",
    "-@:+!",
    "tab\tand\nline\rend",
    "\x7f\x1b[0m",
    "J\u00fcrgen \u732b",
    "=",
    "trailing\\",
]
TELLS = """
import json, os, sys, time
from mesh.inspector import notify
where = os.environ["WHERE ALL"] if "WHERE ALL" in os.environ else os.environ["WHERE"]
told = {"argv": sys.argv[1:], "environment": {name: os.environ.get(name) for name in ("NASTY", "WHERE")}, "cwd": os.getcwd()}
open(where, "w").write(json.dumps(told))
notify.ready("told")
time.sleep(3600)
"""


def unit(home: Path, *words: str, **more: Any) -> Unit:
    return Unit("mesh-run-tells.service", home, "tells", words, **more)


def test_the_unit_of_a_node() -> None:
    text = units.Unit(
        "mesh.service",
        Path("/home/ann/.local/share/lanmesh"),
        "mesh node otter",
        ("/opt/my python/bin/python", "-m", "mesh", "up", "--port", "7710"),
    ).text()
    assert text.startswith(units.MARK)
    lines = text.splitlines()
    assert 'ExecStart="/opt/my python/bin/python" -m mesh up --port 7710' in lines
    for line in ("Type=notify", "Restart=on-failure", "KillMode=mixed", "NoNewPrivileges=yes", "UMask=0077", "WantedBy=default.target"):
        assert line in lines
    assert any(line.startswith("#LoadCredential") for line in lines), "how a secret gets in, as an example"


def test_another_stamp_is_another_unit() -> None:
    one, other = (unit(Path("/h"), "/bin/true", stamp=stamp).text() for stamp in ("made of 1", "made of 2"))
    assert one != other


@pytest.mark.parametrize("word", ["nul\0", "not text \udcff"])
def test_words_that_no_unit_can_hold_are_refused(word: str) -> None:
    with pytest.raises(UsageError) as refused:
        unit(Path("/h"), "/bin/true", word).text()
    assert refused.value.fix


@pytest.mark.parametrize("folder", ["two\nlines", " leading", "trailing "])
def test_folders_that_no_unit_can_hold_are_refused(folder: str) -> None:
    with pytest.raises(UsageError):
        unit(Path("/h"), "/bin/true", directory=folder).text()


def test_names_of_services() -> None:
    assert units.agent_name(["dir/my transform's.py"]) == "my-transform-s"
    assert units.agent_name(["counting.agents:agent"]) == "counting.agents"
    assert units.agent_name(["transform", "b.py"]) == "transform-b"
    assert units.agent_name(["\u732b.py"]) == "agent"
    assert units.node_unit("") == "mesh.service" and units.node_unit("run-x") == "mesh-node-run-x.service"
    assert units.agent_unit("x") == "mesh-run-x.service"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "systemd/user"


def test_a_unit_that_we_did_not_write_is_never_touched(config: Path) -> None:
    config.mkdir(parents=True)
    theirs = config / "mesh-run-tells.service"
    theirs.write_text("[Service]\nExecStart=/bin/true\n")
    for attempt in (lambda: units.write(unit(Path("/h"), "/bin/true")), lambda: units.remove("mesh-run-tells.service")):
        with pytest.raises(Refused):
            attempt()
    assert theirs.read_text() == "[Service]\nExecStart=/bin/true\n" and units.ours() == []


def test_a_unit_of_another_home_is_not_taken_over(config: Path) -> None:
    assert units.write(unit(Path("/one"), "/bin/true")) and not units.write(unit(Path("/one"), "/bin/true"))
    with pytest.raises(Refused, match="another home"):
        units.write(unit(Path("/other"), "/bin/true"))
    assert units.ours() == ["mesh-run-tells.service"] and units.remove("mesh-run-tells.service") and units.ours() == []


def test_without_systemd_it_says_so(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert units.why_not() == "systemctl --user does not answer: there is no systemctl here"
    assert units.state("mesh.service") == "unknown" and units.pid_of("mesh.service") == 0
    with pytest.raises(MeshError):
        units.enable("mesh.service")


def test_macos_is_told_what_is_not_there(mesh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = mesh("service", "install", "--json")
    assert (ran.code, ran.document["code"], ran.document["fix"]) == (2, "no_systemd", "mesh up --detach")
    assert "launchd" in ran.document["message"] and units.why_not().startswith("this is macOS")


# ---- a real systemd


def restart_there(nas: Any, wanted: dict[str, Any]) -> Any:
    """`units` used on `nas`, by the account that is logged in there."""
    program = (
        "import json, sys; from pathlib import Path; from mesh.inspector import units; wanted = json.loads(sys.stdin.read());"
        "unit = units.Unit(**(wanted | {'home': Path('/h')})); units.write(unit); units.enable(unit.name); units.restart(unit.name)"
    )
    return nas.inside(sys.executable, "-c", program, input=json.dumps(wanted))


def systemctl(nas: Any, *words: str) -> str:
    return str(nas.inside("systemctl", "--user", *words).stdout.strip())


@pytest.mark.cluster
def test_systemd_reads_every_word_as_it_was_meant(nas: Any, tmp_path: Path) -> None:
    place = tmp_path / "50% of $HOME \\ it's"
    place.mkdir()
    told = place / "told here.json"
    wanted = {
        "name": "mesh-run-tells.service",
        "description": "tells %h \\ and more",
        "words": [sys.executable, "-c", TELLS, *NASTY],
        "environment": {"NASTY": "".join(NASTY), "WHERE": str(told)},
        "directory": str(place),
    }
    ran = restart_there(nas, wanted)
    assert ran.returncode == 0, ran.stderr
    try:
        found = json.loads(told.read_text())  # it was ready, or restart() would not have come back
        assert found["argv"] == NASTY
        assert found["environment"] == {"NASTY": "".join(NASTY), "WHERE": str(told)}
        assert found["cwd"] == str(place)
        assert systemctl(nas, "is-enabled", "mesh-run-tells") == "enabled"
        assert systemctl(nas, "show", "--value", "-p", "StatusText", "mesh-run-tells") == "told"
    finally:
        nas.inside(sys.executable, "-c", "from mesh.inspector import units; assert units.remove('mesh-run-tells.service')")
    assert systemctl(nas, "is-active", "mesh-run-tells") == "inactive"


@pytest.mark.cluster
def test_a_service_that_does_not_start_gives_its_reason(nas: Any) -> None:
    words = [sys.executable, "-c", "import sys; from mesh.inspector import notify; notify.failed('the reason\\nis this'); sys.exit(2)"]
    ran = restart_there(nas, {"name": "mesh-run-tells.service", "description": "fails", "words": words})
    assert "the service mesh-run-tells.service did not start: the reason is this" in ran.stderr
    assert systemctl(nas, "show", "--value", "-p", "NRestarts", "mesh-run-tells") == "0", "exit 2 is not tried again"
    nas.inside(sys.executable, "-c", "from mesh.inspector import units; assert units.remove('mesh-run-tells.service')")


@pytest.mark.cluster
def test_service_install_show_remove(nas: Any, tmp_path: Path) -> None:
    target = tmp_path / "my greeter.py"
    target.write_text("from mesh import Agent\nagent = Agent('greeter')\n@agent.capability\ndef greet() -> str:\n    return 'hello'\n")

    def mesh(*words: str) -> Any:
        ran = nas.inside(sys.executable, "-m", "mesh.inspector.cli", *words, cwd=tmp_path)
        return json.loads(ran.stdout) | {"exit": ran.returncode}

    words = ("service", "install", "--json", "--", "run", "my greeter.py", "--no-mdns")
    installed = mesh(*words)
    names = ["mesh-run-my-greeter.service", "mesh.service"]
    assert (installed["exit"], sorted(installed["changed"]), installed["type"]) == (0, names, []), installed
    assert [(each["unit"], each["state"]) for each in installed["units"]] == [(name, "active") for name in names]
    assert mesh("call", "greet", "--json")["result"] == "hello"
    again = mesh(*words)
    assert again["changed"] == [] and again["units"] == installed["units"], "the same processes go on"

    greeter = installed["units"][0]["pid"]
    systemctl(nas, "restart", "mesh")
    assert mesh("status", "--json")["pid"] == mesh("service", "show", "--json")["units"][1]["pid"] != installed["units"][1]["pid"]
    assert mesh("call", "greet", "--json", "--timeout", "20")["result"] == "hello"
    assert mesh("service", "show", "--json")["units"][0]["pid"] == greeter, "an agent outlives a restart of its node"

    assert mesh("service", "remove", "--json", "--", "run", "my greeter.py")["changed"] == [names[0]]
    assert mesh("service", "remove", "--json")["changed"] == [names[1]]
    assert mesh("service", "remove", "--json")["changed"] == [] == mesh("service", "show", "--json")["units"]
    assert mesh("status", "--json")["exit"] == 3


@pytest.mark.cluster
def test_a_node_that_was_started_by_hand_is_not_doubled(nas: Any) -> None:
    mesh, home = (sys.executable, "-m", "mesh.inspector.cli"), ("--home", str(nas.home / ".local/share/lanmesh"))
    assert nas.inside(*mesh, "up", "--detach", "--no-mdns", *home).returncode == 0
    ran = nas.inside(*mesh, "service", "install", *home)
    assert ran.returncode == 5 and "runs already, and not as this service" in ran.stderr and "try:  mesh down --node" in ran.stderr
    assert nas.inside(*mesh, "down", *home).returncode == 0


@pytest.mark.cluster
def test_where_systemd_does_not_answer_it_says_what_to_type(box: Any) -> None:
    program = (sys.executable, "-m", "mesh.inspector.cli")
    ran = box.inside(*program, "service", "install")
    assert ran.returncode == 0, ran.stderr
    assert "the units are written, and nothing was started" in ran.stdout and "systemctl --user enable --now mesh.service" in ran.stdout
    assert "no service" not in ran.stdout and box.inside(*program, "service", "remove").returncode == 0
    assert "no service of mesh is installed" in box.inside(*program, "service", "show").stdout
