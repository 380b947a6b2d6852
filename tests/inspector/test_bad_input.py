"""What people and scripts get wrong at the command line: a clear word, the next step, the right code, nothing raw on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.inspector import lineage, policy, render, why
from mesh.inspector.watch import _show_caps, _show_nodes, _show_status, _show_task, _show_tasks
from mesh.runtime.home import Home
from mesh.runtime.settings import load_settings

MESH = [sys.executable, "-m", "mesh.inspector.cli"]
EVIL = "otter\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202e"
"""Clears the screen, names the window, forges a line, colours, and reverses what follows."""


def start(*words: str, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if name not in ("MESH_HOME", "HOME")}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([*MESH, *words], env=environ | {"HOME": "/nonexistent"} | (env or {}), text=True, **pipes)


def run(*words: str, env: dict[str, str] | None = None, **more: Any) -> tuple[int, str, str]:
    with start(*words, env=env, **more) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


# ---- words


def test_without_a_verb_the_help_is_shown_with_its_groups() -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert all(f"\n{group}:\n" in err for group in ("Start", "Use", "Watch", "Repair"))
    code, out, _ = run("--help", env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert code == 0 and "\x1b" not in out and max(map(len, out.splitlines())) <= 80
    assert all(f"\n{group}:\n" in out for group in ("Start", "Use", "Watch", "Repair"))


@pytest.mark.parametrize(("verb", "usage"), [("run", "run [OPTIONS] TARGET..."), ("audit", "audit [OPTIONS] [ABOUT]")])
def test_help_shows_what_is_typed(verb: str, usage: str, mesh: Callable[..., Any]) -> None:
    help_text = mesh(verb, "--help").out
    assert help_text.splitlines()[0] == f"Usage: mesh {usage}" and "<str>" not in help_text and "<list" not in help_text


@pytest.mark.parametrize(
    ("words", "code", "said", "fix"),
    [
        ("nods", 2, "there is no verb 'nods'", "mesh nodes"),
        ("xyzzy", 2, "there is no verb 'xyzzy'", "mesh --help"),
        ("frobnicate", 2, "there is no verb 'frobnicate'", "mesh --help"),
        ("rotat", 2, "there is no verb 'rotat'", "mesh --help"),
        ("nodes --jsn", 2, "--jsn", "mesh nodes --json"),
        ("nodes --frobnicate", 2, "--frobnicate", "mesh nodes --help"),
        ("nodes surplus", 2, "surplus", "mesh nodes --help"),
        ("call", 2, "capability", "mesh call --help"),
        ("call x@^y", 2, "no range of versions: write 2.1, ^2", "mesh call --help"),
        ("submit x@", 2, "no range of versions", "mesh submit --help"),
        ("get " + "0" * 64, 2, "--out", "mesh get --help"),
        ("nodes --home=", 2, "empty", "mesh nodes --help"),
        ("nodes --node=", 2, "empty", "mesh nodes --help"),
        ("up --join=", 2, "empty", "mesh up --help"),
        ("up --name=", 2, "empty", "mesh up --help"),
        ("call x -i ", 2, "empty", "mesh call --help"),
        ("nodes --timeout nan", 2, "nan", "mesh nodes --help"),
        ("nodes --timeout 1e999", 2, "inf", "mesh nodes --help"),
        ("nodes --timeout -1", 2, "-1", "mesh nodes --help"),
        ("nodes --timeout 0", 2, "at most 2592000, 30 days", "mesh nodes --help"),
        ("nodes --timeout soon", 2, "number", "mesh nodes --help"),
        ("submit x --retries -1", 2, "retries", "mesh submit --help"),
        ("schedule add x --every 5m", 2, "wants a capability", "mesh schedule add x --every 5m CAPABILITY name=value"),
        ("schedule add x sweep", 2, "--every or --cron", "mesh schedule add x --every 5m sweep"),
        ("schedule add x --every -5m sweep", 2, "'-5m' is neither an interval", "write an interval such as"),
        ("schedule add x --every 10ms sweep", 2, "out of range", "give one from 1s to 366d"),
        ("schedule add x --cron 61_*_*_*_* sweep", 2, "no cron expression", "write five fields: --cron '0 6 * * 1-5'"),
        ("schedule add x --every 5m --tz UTC sweep", 2, "no time zone", "leave tz out"),
        ("schedule add x --every 5m --catch-up some sweep", 2, "some", "mesh schedule --help"),
        ("schedule add -x- --every 5m sweep", 2, "", "mesh schedule --help"),
        ("schedule add 1x --every 5m sweep", 2, "'1x' cannot be the name", "use letters"),
        ("schedule pause", 2, "wants a name", "mesh schedule list"),
        ("schedule list x", 2, "list takes no name", "mesh schedule list"),
        ("publish file.*", 2, "'file.*' is no topic", "write words joined by dots"),
        ("submit x --near=", 2, "empty", "mesh submit --help"),
        ("call x --apart=", 2, "empty", "mesh call --help"),
        ("submit x -o y", 2, "--wait", "mesh submit --help"),
        ("up --port 65536", 2, "65536", "--port 7710"),
        ("up --port -1", 2, "-1", "--port 7710"),
        ("up --port 99999999999999999999", 2, "99999999999999999999", ""),
        ("up --join nonsense", 2, "HOST:PORT", "--join 192.168.1.20:7710"),
        ("up --bind otter", 2, "no address", "--bind 192.168.1.20"),
        ("up --name ../up", 2, "--name", "--name otter"),
        ("up --mesh a/b", 2, "--mesh", "--mesh otter"),
        ("run nowhere.py", 2, "nowhere.py", "mesh run FILE.py"),
        ("run colector", 2, "colector", "mesh run collector"),
        ("run no.such.module:agent", 2, "no.such.module", ""),
        ("run x.py --detach --reload", 2, "--reload", "leave one of them out"),
        ("demo --data nowhere.csv", 2, "nowhere.csv", "mesh demo --data FILE.csv"),
        ("demo suport", 2, "there is no demo 'suport'", "mesh demo support"),
        ("demo xyzzy", 2, "there is no demo 'xyzzy'", "mesh demo pipeline, support, regulated, delivery"),
        ("demo support --data x.csv", 2, "brings its own data", "mesh demo support"),
        ("demo regulated --ask", 2, "only the demo support", "mesh demo support --ask"),
        ("demo support pipeline", 2, "pipeline", "mesh demo --help"),
        ("blame nowhere", 3, "no node", "mesh up"),
        ("init a/b", 2, "NAME 'a/b'", "NAME otter"),
        ("init --mode open", 2, "token and ca", "mesh init --mode token"),
        ("init --bind otter", 2, "no address", "--bind 192.168.1.20"),
        ("init --port -1", 2, "-1", "--port 7710"),
        ("init --name ../up", 2, "--name", "--name otter"),
        ("invite --ttl soon", 2, "'soon' is no time", "--ttl 15m"),
        ("invite --ttl 15", 2, "'15' is no time", "--ttl 15m"),
        ("invite --ttl -5m", 2, "'-5m' is no time", "--ttl 15m"),
        ("invite --ttl nanm", 2, "'nanm' is no time", "--ttl 15m"),
        ("invite --ttl 31d", 2, "from 1s to 30d", "--ttl 15m"),
        ("invite --ttl=", 2, "'' is no time", "--ttl 15m"),
        ("join mesh1_cut", 2, "no invitation", "mesh join -"),
        ("join --file /nonexistent", 2, "'/nonexistent' cannot be read: No such file", "ls -l /nonexistent"),
        ("join mesh1_x --file f", 2, "three ways in", "say one of them"),
        ("join mesh1_x --ask 127.0.0.1:1", 2, "three ways in", "say one of them"),
        ("join --file=", 2, "empty", "mesh join --help"),
        ("join --ask nowhere", 2, "HOST:PORT", "--ask 192.168.1.20:7710"),
        ("join --ask=", 2, "empty", "mesh join --help"),
        ("join x --as a/b", 2, "--as", "--as otter"),
        ("join x y", 2, "y", "mesh join --help"),
        ("grant issuer", 2, "NODE", "mesh grant --help"),
        ("revoke", 2, "NODE", "mesh revoke --help"),
        ("rotate", 2, "KEY", "mesh rotate --help"),
        ("down --name x", 2, "no option --name", "mesh down --node NAME"),
        ("run --node x a.py", 2, "no option --node", "mesh run --name NAME"),
        ("secret", 2, "'action'. Choose from: set, list, remove", "mesh secret --help"),
        ("service nonsense", 2, "'action': 'nonsense' is not one of", "mesh service --help"),
        ("--home x nodes", 2, "--home before the verb", "mesh VERB --home"),
    ],
)
def test_wrong_words(words: str, code: int, said: str, fix: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    line = words.split(" ") + (["--home", str(tmp_path / "h")] if "home" not in words and words[:4] not in ("demo", "nods", "xyzz") else [])
    talk = mesh(*line)
    assert talk.code == code and not talk.out
    assert said in talk.err.splitlines()[0]
    assert f"try:  {fix}" in talk.err
    ran = mesh(*line, "--json")
    assert ran.code == code and said in ran.document["message"]
    assert not (tmp_path / "h").exists(), "a wrong word leaves nothing behind"


def test_an_option_without_its_word_is_explained_by_its_own_verb(mesh: Callable[..., Any], tmp_path: Path) -> None:
    ran = mesh("revoke", "--home", str(tmp_path / "h"), "nas", "--reason")
    assert ran.code == 2 and "requires an argument" in ran.err and "mesh revoke --help" in ran.err


def test_a_door_where_nobody_is(mesh: Callable[..., Any], tmp_path: Path) -> None:
    ran = mesh("join", "--ask", "127.0.0.1:1", "--home", str(tmp_path / "h"))
    assert ran.code == 4 and ran.err.splitlines()[0].endswith("nobody listens at 127.0.0.1:1")


def test_a_token_from_a_closed_standard_input(tmp_path: Path) -> None:
    line = 'exec "$@" <&-'
    words = ["sh", "-c", line, "sh", *MESH, "join", "-", "--home", str(tmp_path / "h")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as ran:
        _, err = ran.communicate(timeout=60)
    assert ran.returncode == 2 and "standard input is closed" in err and "Traceback" not in err


@pytest.mark.parametrize("words", ["invite", "trust", "grant issuer b", "revoke b", "rotate transport"])
def test_where_there_is_no_mesh_the_way_into_one_is_shown(words: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    ran = mesh(*words.split(), "--home", str(tmp_path / "h"), "--json")
    assert ran.code == 3 and ran.document["fix"] == "mesh init, or mesh join TOKEN"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Bob"], "'Bob' is not an argument"),
        (["=Bob"], "'=Bob' is not an argument"),
        (["a-b=1"], "'a-b'"),
        (["n:=1e999"], "n:=1e999"),
        (["n:=NaN"], "n:=NaN"),
        (["n:={"], "is not JSON"),
        (["n:=" + "[" * 5000], "is not JSON"),
        (["n=1", "n=2"], "twice"),
        (["raw=@/nonexistent"], "/nonexistent"),
        (["raw=@/tmp"], "/tmp"),
        (["raw=@/dev/zero"], "/dev/zero"),
        (["-i", "[1]"], "JSON object"),
        (["-i", "@/nonexistent"], "-i @/nonexistent: cannot be read: No such file or directory"),
        (["-i", "@/dev/null"], "what -i gives is not JSON"),
        (["-i", "{bad"], "what -i gives is not JSON"),
        (["name=x", "-o", "/nonexistent/file"], "/nonexistent"),
        (["name=x", "-o", "/dev/null"], "/dev/null"),
    ],
)
def test_wrong_arguments(words: list[str], said: str, mesh: Callable[..., Any], node: Path) -> None:
    ran = mesh("call", "greet", *words, "--home", str(node), "--json")
    assert ran.code == 2 and said in ran.document["message"] and ran.document["fix"]


def test_a_wrong_argument_of_a_submit_is_refused_as_of_a_call(mesh: Callable[..., Any], node: Path) -> None:
    for verb in ("call", "submit"):
        ran = mesh(verb, "broken", "number=abc", "--home", str(node), "--json")
        assert (ran.code, ran.document["code"]) == (2, "invalid_argument") and "'number' is wrong" in ran.document["message"]


def test_a_fifo_is_refused_at_once(mesh: Callable[..., Any], node: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ran = mesh("call", "greet", f"raw=@{tmp_path / 'fifo'}", "--home", str(node), "--json")
    assert ran.code == 2 and "fifo" in ran.document["message"]


# ---- homes and ports


@pytest.mark.parametrize("name", ["with space", "with\nnewline", "uml\u00e4ut", "..", "a" * 90])
def test_homes_with_odd_names_work(name: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "x" / name
    ran = mesh("up", "--detach", "--no-mdns", "--name", "odd", "--home", str(home), "--json")
    assert ran.code == 0, ran.out
    try:
        assert mesh("status", "--home", str(home), "--json").document["node"] == "odd"
        talk = mesh("doctor", "--home", str(home))
        assert talk.code == 0 and all(line.startswith(("ok", "note", " ", "nothing")) for line in talk.out.splitlines())
    finally:
        assert mesh("down", "--home", str(home)).code == 0


@pytest.mark.parametrize(
    "place", ["/dev/null", "/dev/null/x", "/proc/nonexistent", "file", "loop", "fifo", b"\xff\xfe".decode("utf-8", "surrogateescape")]
)
def test_homes_that_cannot_be(place: str, mesh: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    home = str(tmp_path / place)
    assert mesh("nodes", "--home", home, "--json").document["code"] == "no_node"
    if place.isprintable():
        ran = mesh("up", "--detach", "--home", home, "--json")
        assert ran.code == 2 and place.rsplit("/")[-1] in ran.document["message"] and ran.document["fix"]


def test_a_node_that_is_another_homes_is_not_started_here(mesh: Callable[..., Any], node: Path) -> None:
    ran = mesh("drain", "elsewhere", "--home", str(node), "--json")
    assert (ran.code, ran.document["code"], ran.document["fix"]) == (3, "no_such_node", f"mesh id --home {node}")
    assert "only otter" in ran.document["message"]


def test_home_unset_and_unwritable() -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "MESH_HOME", "XDG_STATE_HOME")}
    done = subprocess.run([*MESH, "nodes"], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "HOME is not set" in done.stderr and "--home" in done.stderr
    code, _, err = run("up", "--detach", env={"HOME": "/proc/1/nonexistent"})
    assert code == 2 and "try:  " in err and "Traceback" not in err


def test_a_taken_port_is_named(mesh: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = mesh("up", "--port", str(port), "--home", str(tmp_path), "--no-mdns", "--json")
    assert ran.code == 2 and ran.document["code"] == "port_taken" and str(port) in ran.document["message"]


def test_a_node_that_does_not_start_says_what_to_type(mesh: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('kek = "passphrase"\n')
    ran = mesh("up", "--detach", "--home", str(tmp_path), "--json")
    assert ran.code == 2 and "no terminal" in ran.document["message"] and "MESH_PASSPHRASE_FILE" in ran.document["fix"]


@pytest.mark.parametrize("option", ["--bind=127.0.0.1", "--port=7999", "--no-mdns"])
def test_what_a_running_node_would_not_heed_is_refused(option: str, mesh: Callable[..., Any], node: Path) -> None:
    before = mesh("id", "--home", str(node), "--json").document
    ran = mesh("init", "--home", str(node), *option.split("="), "--json")
    assert ran.code == 2 and option.split("=")[0] in ran.document["message"] and "config.toml" in ran.document["fix"]
    assert mesh("id", "--home", str(node), "--json").document == before, "nothing was made"


def test_the_address_a_home_was_set_up_with_holds_for_its_later_starts(mesh: Callable[..., Any], tmp_path: Path) -> None:
    ran = mesh("init", "--bind", "127.0.0.1", "--no-start", "--home", str(tmp_path / "home"), "--json")
    assert ran.code == 0, ran.out
    assert load_settings(Home(tmp_path / "home")).bind == "127.0.0.1"


def test_a_second_process_on_one_nodes_folder_is_refused(mesh: Callable[..., Any], node: Path) -> None:
    code, _, err = run("up", "--home", str(node), "--name", "otter")
    assert code == 5 and "already runs as process" in err and "try:  mesh down --node otter" in err
    assert mesh("status", "--home", str(node)).code == 0, "the first is not disturbed"


def test_a_node_of_another_version_is_named(mesh: Callable[..., Any], tmp_path: Path) -> None:
    folder = Home(tmp_path).node("old").make()
    with folder.lock(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.make_socket_folder()))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            connection = listener.accept()[0]
            connection.recv(4096)
            body = b"\x93\x01\xc2\x83\xa4code\xa7version\xa7message\xaeolder protocol\xa3fix\xa7upgrade"
            connection.sendall(len(body).to_bytes(4, "big") + body)
            connection.recv(4096)
            os._exit(0)
        ran = mesh("nodes", "--home", str(tmp_path), "--json")
        os.waitpid(pid, 0)
    assert (ran.code, ran.document["code"], ran.document["fix"]) == (5, "version", "upgrade")


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x03\x93\x01\xc3", b"\xff" * 64, b""])
def test_a_socket_that_speaks_something_else(noise: bytes, mesh: Callable[..., Any], tmp_path: Path) -> None:
    folder = Home(tmp_path).node("odd").make()
    with folder.lock(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.make_socket_folder()))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            connection = listener.accept()[0]
            connection.sendall(noise)
            connection.close()
            os._exit(0)
        ran = mesh("nodes", "--home", str(tmp_path), "--json", "--timeout", "5")
        os.waitpid(pid, 0)
    assert (ran.code, ran.document["code"]) == (3, "node_lost")


# ---- streams


def test_stdin_closed(node: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *MESH, "call", "greet", "name=Bob", "--home", str(node)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "hello Bob\n"), done.stderr


def test_a_pipe_that_is_closed_is_no_error(node: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code, _, err = run("caps", "--home", str(node), stdout=writer)
    os.close(writer)
    assert (code, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_answer_that_cannot_be_written_is_a_failure(node: Path) -> None:
    with open("/dev/full", "w") as full:
        code, _, err = run("caps", "--home", str(node), stdout=full)
    assert code == 1 and "could not be written" in err and "Traceback" not in err


def test_locale_c_and_plain_ascii(mesh: Callable[..., Any], node: Path) -> None:
    env = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict", "NO_COLOR": "1"}
    code, out, err = run("call", "greet", "-i", '{"name": "J\\u00fcrgen \\u732b"}', "--home", str(node), env=env)
    assert code == 0 and "hello J\\xfcrgen \\u732b" in out, err


def on_terminal(columns: int, *words: str) -> str:
    """What a terminal of that width gets to see."""
    main, side = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen([*MESH, *words], stdin=subprocess.DEVNULL, stdout=side, stderr=side, env=env) as process:
        os.close(side)
        seen = b""
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # the terminal's other end is closed
                break
            if not data:
                break
            seen += data
        assert process.wait(120) == 0, seen
    os.close(main)
    return seen.decode()


@pytest.mark.parametrize("columns", [1, 20, 80])
def test_narrow_terminals(columns: int, node: Path) -> None:
    lines = on_terminal(columns, "nodes", "--home", str(node)).splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= max(columns, 60)


def test_a_result_cannot_steer_the_terminal(node: Path) -> None:
    seen = on_terminal(80, "call", "nasty", "--home", str(node))
    assert "\x1b" not in seen and "\u202e" not in seen and "red \\x1b[31m and \\u202e back" in seen


def test_ctrl_c_while_waiting(node: Path) -> None:
    process = start("call", "forever", "--home", str(node))
    waiting = ["tasks", "--home", str(node), "--json"]
    while '"forever", "state": "held"' not in run(*waiting)[1]:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_while_watching(node: Path) -> None:
    process = start("nodes", "--watch", "--home", str(node))
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith('{"schema": "mesh.nodes/1"'), "off a terminal each look is one JSON line"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


# ---- what peers say


def _row(**more: Any) -> dict[str, Any]:
    row = {"name": EVIL, "id": EVIL, "state": "alive", "addr": EVIL, "caps": [EVIL], "self": False, "linked": True, "seen_ms": 5}
    return row | more


SHOWN: list[tuple[Callable[[dict[str, Any]], str], dict[str, Any]]] = [
    (_show_nodes, {"nodes": [_row()]}),
    (
        _show_caps,
        {
            "caps": [
                {"capability": EVIL, "signature": EVIL, "offered_by": [EVIL], "breakers": {"": EVIL}, "service_ms": 1, "doc": EVIL}
                | {"versions": [{"version": EVIL, "signature": EVIL, "offered_by": [EVIL], "disputed": True}]}
            ]
        },
    ),
    (
        _show_tasks,
        {
            "tasks": [
                {"task": EVIL, "capability": EVIL, "state": EVIL, "owner": EVIL, "agent": EVIL, "age_ms": 1, "attempts": 1}
                | {"progress": 0.5, "note": EVIL, "reason": EVIL, "step": EVIL}
            ],
            "missing": [EVIL],
        },
    ),
    (
        _show_task,
        {"task": EVIL, "capability": EVIL, "state": EVIL, "owner": EVIL, "agent": EVIL, "fence": 1, "attempts": 1, "age_ms": 1}
        | {"parent": EVIL, "step": EVIL, "by": EVIL, "survives": EVIL, "reason": EVIL, "note": EVIL},
    ),
    (
        _show_status,
        {
            "node": EVIL,
            "id": EVIL,
            "pid": 1,
            "addr": EVIL,
            "mesh": EVIL,
            "mesh_name": EVIL,
            "mode": "token",
            "uptime_s": 1.0,
            "findings": [{"message": EVIL, "fix": EVIL}],
            "notes": [{"message": EVIL, "fix": EVIL}],
        }
        | {"workers": [{"agent": EVIL, "pid": 1}], "nodes": {EVIL: 1}, "tasks": {EVIL: 1}, "journal": {"entries": 1, "synced": 1}},
    ),
]

CANDIDATE = {"node": EVIL, "name": EVIL, "agent": EVIL, "version": EVIL, "score_ms": 1, "start_ms": 1, "service_ms": 1, "cost": 0.0}
DECISION = {
    "award": 1,
    "term": 2,
    "recorded_by": EVIL,
    "way": EVIL,
    "winner": EVIL,
    "winner_id": "x",
    "outcome": EVIL,
    "rule": EVIL,
    "agrees": True,
}
STEP = {"task": EVIL, "parent": "", "step": EVIL, "capability": EVIL, "agent": EVIL, "node": EVIL, "state": EVIL, "attempts": 1}
WORK = STEP | {"files_in": [EVIL], "files_out": [EVIL]}
ROLLOUT = {"capability": EVIL, "from": EVIL, "to": EVIL, "stages": [5, 100], "stage": 0, "share": 5, "stopped": EVIL, "by": EVIL}
ROLLOUT |= {"runs": [1, 1], "failed": [0, 1], "took_ms": [5, 0]}
RULED = {"policy": EVIL, "rule": [{"id": EVIL, "deny": EVIL, "match": {"capability": EVIL}}], "rollout": [ROLLOUT]}
RULED |= {"flag": [{"name": EVIL, "share": 5, "match": {"from": [EVIL]}}]}
SHOWN += [
    (
        why.show,
        {"task": EVIL, "capability": EVIL, "verified": True, "rules": [EVIL, EVIL], "pins": [EVIL, f"+{EVIL}", f"{EVIL}@{EVIL}"]}
        | {"events": [{"kind": "CancelAsked", "by": EVIL, "reason": EVIL}, {"kind": "Finished", "state": "cancelled"}]}
        | {"decisions": [DECISION | {"candidates": [CANDIDATE], "refusals": [{"name": EVIL, "reason": EVIL}]}]},
    ),
    (policy._show, {"version": 1, "unread": 0, "history": [{"version": 1, "in_force": True}], "rollouts": [ROLLOUT], "document": RULED}),
    (policy._show, {"version": 1, "unread": 0, "history": [], "rollouts": [], "document": RULED}),
    (lineage.show, {"task": EVIL, "goal": "", "tasks": [WORK], "sources": [EVIL], "entries": 1, "verified": True}),
    (lineage.show_blame, {"file": EVIL, "sha256": "0", "made_by": WORK, "used_by": [], "verified": True}),
    (lineage.show_blame, {"file": EVIL, "sha256": "0", "made_by": None, "used_by": [EVIL], "verified": True}),
]


@pytest.fixture(params=SHOWN, ids=lambda pair: pair[0].__name__)
def shown(request: pytest.FixtureRequest) -> Iterator[str]:
    show, document = request.param
    yield show(document)


def test_nothing_a_peer_says_steers_the_terminal(shown: str) -> None:
    assert "otter\\x1b[2J\\x1b]0;owned\\x07\\x0d\\x0a\\x9b31m\\u202e" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_clean_leaves_what_people_write() -> None:
    for text in ("otter", "J\u00fcrgen", "\u732b", "\U0001f9a6", "a b"):
        assert render.clean(text) == text
    assert render.clean_lines("a\tb\nc\x1bd") == "a\tb\nc\\x1bd"
    assert render.json_text({"a": "\x9b\u202eb\n"}) == '{\n  "a": "\\u009b\\u202eb\\n"\n}'


def test_columns_line_up_whatever_the_script() -> None:
    text = render.table(("A", "B"), [("\u732b\u732b", 1), ("abcd", 2), ("e\u0301", 3)], empty="")
    assert [render.width(line[: line.rindex(digit)]) for line, digit in zip(text.split("\n")[1:], "123")] == [6, 6, 6]


def test_a_hundred_thousand_rows() -> None:
    text = render.table(("TASK", "STATE"), ((f"x.1.{number}", "done") for number in range(100_000)), empty="none")
    assert text.count("\n") == 100_000 and text.endswith("x.1.99999  done")
