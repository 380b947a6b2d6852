"""The near end of a launch: what it sends to a shell, what it makes of what ssh says, and of a host that answers wrongly."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError, UsageError
from mesh.inspector import remote, stage
from mesh.inspector.bundle import BYTES_MAX, bundle
from mesh.inspector.launch import Job, line, parse, prepare

PLAN = {"down": True, "purge": False, "odd": 'it\'s "a" $HOME `x` \\ %s 50% \u732b\nMESH_LAUNCH_END\n'}


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "-", "", "two words", "a\nb", "tab\there", "esc\x1b[2J"])
def test_what_is_no_host_is_refused_before_anything_is_started(host: str) -> None:
    with pytest.raises(UsageError):
        remote.check_host(host)


@pytest.mark.parametrize("host", ["nas", "ann@gpu-box", "192.168.1.5", "ssh://ann@nas:2222", "fe80::1%eth0"])
def test_hosts_as_ssh_takes_them(host: str) -> None:
    assert remote.check_host(host) == host


def test_an_option_in_place_of_a_host_is_a_usage_error(mesh: Callable[..., Any], tmp_path: Path) -> None:
    ran = mesh("launch", f"-oProxyCommand=touch {tmp_path}/owned", "--down", "--json")
    assert ran.code == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "  ", "ssh 'open"])
def test_an_ssh_that_is_no_command(text: str) -> None:
    with pytest.raises(UsageError):
        remote.ssh_command(text)


def test_any_posix_shell_carries_any_plan(tmp_path: Path) -> None:
    """The script as `sh` gets it, from a stdin that stays open; the plan arrives as it was, and `nothing to undo` comes back."""
    said = _through_a_shell(PLAN, tmp_path)
    assert said == [{"end": {"state": "unchanged", "changed": [], "node": "", "message": "nothing to undo", "fix": ""}}]
    assert list(tmp_path.iterdir()) == [], "nothing is made where nothing is to be done"


def test_a_wheel_that_is_not_the_one_announced_is_not_run(tmp_path: Path) -> None:
    plan = {"down": False, "purge": False, "wheel": {"sha256": "0" * 64, "name": "lanmesh-1-py3-none-any.whl"}}
    said = _through_a_shell(plan, tmp_path, b"5\nwrong")
    assert said == [{"need": "wheel", "name": ""}, "mesh: the wheel did not arrive whole"]


def _through_a_shell(plan: dict[str, Any], home: Path, answer: bytes = b"") -> list[Any]:
    """What the far end says, each line decoded, its stderr last."""
    environment = {"HOME": str(home), "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(["sh"], env=environment, **pipes) as shell:
        assert shell.stdin and shell.stdout and shell.stderr
        shell.stdin.write(remote.script(plan).encode())
        shell.stdin.flush()
        lines = [shell.stdout.readline()]
        if b'"need"' in lines[0]:
            shell.stdin.write(answer)
            shell.stdin.flush()
        lines += shell.stdout.readlines()
        errors = shell.stderr.read().decode().splitlines()
    told = [json.loads(each.decode().removeprefix(stage.MARK)) for each in lines if each]
    return told + errors[-1:]


@pytest.mark.parametrize(
    ("stderr", "code", "message", "fix"),
    [
        ("ssh: Could not resolve hostname nas: Name or service not known", 255, "ssh does not get there: ssh: Could not", "ssh nas true"),
        ("ssh: connect to host nas port 22: No route to host", 255, "No route to host", "ssh nas true"),
        ("kex_exchange\nann@nas: Permission denied (publickey,password).", 255, "ssh was not let in", "ssh-copy-id nas"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", 255, "somebody", "ssh-keygen -R nas"),
        ("Host key verification failed.", 255, "does not know its host key yet", "ssh nas true, once"),
        ("bash: line 1: sh: command not found", 127, "sh: command not found", "ssh nas sh"),
        ("Traceback\n  File\nKeyError: 'x'", 1, "KeyError: 'x'", "ssh nas sh"),
        ("", 255, "ssh ended with exit code 255 and said nothing", "ssh nas true"),
    ],
)
def test_what_ssh_says_becomes_one_line(stderr: str, code: int, message: str, fix: str) -> None:
    report = remote.explained(("ssh",), "nas", code, stderr)
    assert report.state == "failed" and message in report.message and fix in report.fix
    assert "\n" not in line(report, 3) and "try: " in line(report, 3)


# ---- a host that is up to no good

END = {"state": "ok", "changed": [], "node": "n", "message": "m", "fix": ""}
WRONG = [
    "not json",
    "[]",
    "7",
    '{"end": 5}',
    '{"end": {}}',
    json.dumps({"end": END | {"state": "root"}}),
    json.dumps({"end": END | {"changed": 5}}),
    '{"something": "else"}',
    '{"need": "file"}',
    '{"no_python": ""}',
    '{"need": "invitation", "name": ""}\n' * 2,
]


def said_by(tmp_path: Path, told: str, job: Job, *, timeout_s: float = 30.0) -> remote.Report:
    """What becomes of a host whose ssh session prints these lines and reads whatever is sent."""
    impostor = tmp_path / "impostor.py"
    text = "".join(stage.MARK + each + "\n" for each in told.splitlines())
    impostor.write_text(f"import sys\nprint({text!r}, end='', flush=True)\nsys.stdin.read()\n")
    talk: list[str] = []
    return asyncio.run(remote.carry_out((sys.executable, str(impostor)), "nas", PLAN, job.answer, talk.append, timeout_s))


async def _token() -> bytes:
    return b"secret"


@pytest.mark.parametrize("told", WRONG)
def test_what_is_no_answer_fails_that_host_and_no_more(told: str, tmp_path: Path) -> None:
    report = said_by(tmp_path, told, Job({}, invite=_token))
    assert (report.state, report.message) == ("failed", "what runs there does not answer like mesh launch")


def test_an_endless_line_is_cut_off(tmp_path: Path) -> None:
    report = said_by(tmp_path, '{"say": "' + "x" * (2 * remote.LINE_BYTES_MAX), Job({}))
    assert report.message == "what runs there does not answer like mesh launch"


@pytest.mark.parametrize("need", ["wheel", "file", "invitation", "everything"])
def test_nothing_is_sent_that_was_not_offered(need: str, tmp_path: Path) -> None:
    """A file is named by the plan, never by the host: it cannot ask for another of ours."""
    report = said_by(tmp_path, json.dumps({"need": need, "name": "/etc/passwd"}), Job({}))
    assert report.state == "failed" and f"the other end asked for {need} '/etc/passwd'" in report.message


def test_what_it_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e\r\n"
    report = said_by(tmp_path, json.dumps({"end": END | {"message": evil, "fix": evil}}), Job({}))
    assert report.state == "ok" and line(report, 3).isprintable()


def test_one_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    report = said_by(tmp_path, "", Job({}), timeout_s=0.5)
    assert (report.state, report.message) == ("failed", "it was not done within 0.5 s")


def test_an_ssh_that_is_not_there() -> None:
    report = asyncio.run(remote.carry_out(("/no/such/ssh",), "nas", PLAN, Job({}).answer, print, 5.0))
    assert report.state == "failed" and "/no/such/ssh cannot be started" in report.message and report.fix


# ---- the plan


def test_the_words_after_the_dashes_are_those_of_run_and_up() -> None:
    assert parse([]) == ({"name": "", "words": []}, [])
    given = shlex.split("run a.py transform --name b --port 7800 --join h:1 --join h:2 --bind 127.0.0.1 --no-mdns")
    words = ["--bind", "127.0.0.1", "--port", "7800", "--join", "h:1", "--join", "h:2", "--no-mdns"]
    assert parse(given) == ({"name": "b", "words": words}, ["a.py", "transform"])


@pytest.mark.parametrize(
    "words", ["call x", "run a.py --detach", "run a.py --reload", "up --home /x", "run a.py --mesh m", "up --json", "up --name two/parts"]
)
def test_what_does_not_go_with_launch_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        parse(words.split(" "))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("launch nas -- run nowhere.py", "nowhere.py"),
        ("launch nas -- run nobody", "nobody"),
        ("launch nas -- up --name -x", "-x"),
        ("launch nas -- run nomodule:agent", "nomodule"),
        ("launch nas -- run", "TARGET"),
        ("launch nas --purge", "--purge"),
        ("launch nas --extra nothing", "nothing"),
        ("launch nas --with ./x", "./x"),
        ("launch nas --timeout 0", "0"),
        ("launch -- run transform", "HOST"),
    ],
)
def test_a_wrong_command_line_starts_nothing(line: str, named: str, mesh: Callable[..., Any]) -> None:
    ran = mesh(*line.split(" ")[:1], "--json", *line.split(" ")[1:])
    assert ran.code == 2 and named in ran.document["message"] and ran.document["fix"]


def test_a_file_goes_by_its_hash_and_a_module_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack/inner/__pycache__").mkdir(parents=True)
    for name in ("one.py", "pack/__init__.py", "pack/inner/data.txt", "pack/inner/__pycache__/x.pyc", "pack/.hidden"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    found = bundle([str(tmp_path / "one.py"), "pack.inner.agents:agent", "transform"])
    assert found.targets == ("one.py", "pack.inner.agents:agent", "transform")
    assert sorted(found.files) == ["one.py", "pack/__init__.py", "pack/inner/data.txt"]
    before = found.hashes()
    (tmp_path / "one.py").write_text("changed")
    after = found.hashes()
    assert {name for name in before if before[name] != after[name]} == {"one.py"}
    with pytest.raises(UsageError, match="two targets"):
        bundle(["one.py", str(tmp_path / "pack/../pack/inner/../../one.py"), _other(tmp_path)])


def _other(tmp_path: Path) -> str:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/one.py").write_text("")
    return str(tmp_path / "other/one.py")


def test_data_does_not_travel_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    with (tmp_path / "pack/big.bin").open("wb") as file:
        file.truncate(BYTES_MAX + 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="MiB"):
        bundle(["pack:agent"])


def test_a_plan_holds_no_path_and_no_secret_of_this_machine(tmp_path: Path) -> None:
    target = tmp_path / "transform.py"
    target.write_text("secret = 'hunter2'\n")
    job = prepare(["run", str(target)], [], [])
    assert str(tmp_path) not in json.dumps(job.plan) and "hunter2" not in remote.script(job.plan)
    assert job.plan["agent"]["targets"] == ("transform.py",) and list(job.plan["agent"]["files"]) == ["transform.py"]
    with pytest.raises(MeshError):
        asyncio.run(job.answer("invitation", ""))


def test_an_open_mesh_has_no_room_for_other_machines(mesh: Callable[..., Any], bare: Path) -> None:
    ran = mesh("launch", "nas", "--ssh", "/no/such/ssh", "--home", str(bare), "--json")
    assert (ran.code, ran.document["code"], ran.document["fix"]) == (5, "open_mesh", "mesh init")
