"""The home: where it is, who may get in, one process per node, what others read."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import UsageError
from mesh.runtime import home as home_module
from mesh.runtime.home import (
    SOCKET_PATH_BYTES_MAX,
    Home,
    HomeError,
    Lock,
    NodeRunning,
    check_name,
    host_name,
    make_private,
    read_private,
    write_atomic,
)

as_root = os.geteuid() == 0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


# ---- where


def test_the_option_wins_over_the_environment_over_the_platform(tmp_path: Path) -> None:
    environ = {"MESH_HOME": str(tmp_path / "env"), "HOME": "/h", "XDG_STATE_HOME": "/x"}
    assert Home.locate(tmp_path / "opt", environ=environ).path == tmp_path / "opt"
    assert Home.locate(environ=environ).path == tmp_path / "env"
    assert Home.locate(environ={"HOME": "/h", "XDG_STATE_HOME": "/x"}, platform="linux").path == Path("/x/lanmesh")
    assert Home.locate(environ={"HOME": "/h", "XDG_STATE_HOME": "relative"}, platform="linux").path == Path("/h/.local/share/lanmesh")
    assert Home.locate(environ={"HOME": "/h"}, platform="darwin").path == Path("/h/Library/Application Support/lanmesh")
    assert Home.locate("sub", environ={}).path == Path.cwd() / "sub"


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_without_any_home_the_error_says_what_to_type(environ: dict[str, str]) -> None:
    with pytest.raises(HomeError) as caught:
        Home.locate(environ=environ, platform="linux")
    assert "HOME is not set" in caught.value.message and "--home DIR" in caught.value.fix and caught.value.exit_code == 2


def test_a_named_mesh_is_a_home_of_its_own(tmp_path: Path) -> None:
    assert Home.locate(tmp_path, "lab").path == tmp_path / "meshes" / "lab"
    with pytest.raises(UsageError, match="--mesh"):
        Home.locate(tmp_path, "../up")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "x" * 33, "a b", "a\n", "\x1b[31m", "é", ".hidden"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        check_name(name)


@pytest.mark.parametrize(
    ("host", "name"),
    [("otter", "otter"), ("Otter.local", "otter"), ("my host", "my-host"), ("", "node"), ("---", "node"), ("x" * 60, "x" * 32)],
)
def test_host_names_become_node_names(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module.socket, "gethostname", lambda: host)
    assert host_name() == name == check_name(name)


# ---- folders


def test_nodes_of_a_home(home: Home) -> None:
    assert home.nodes() == []
    first = home.node().make()
    other = home.node("badger").make()
    home.node("aardvark").make()
    assert (first.path, other.path) == (home.path / "node", home.path / "nodes" / "badger")
    assert [folder.name for folder in home.nodes()] == [host_name(), "aardvark", "badger"]
    assert home.node(host_name()).path == first.path
    assert home.running() == []


def test_without_a_name_the_only_node_is_meant(home: Home) -> None:
    home.node("otter").make()
    assert home.node().path == home.node("otter").path == home.path / "nodes" / "otter"
    home.node("heron").make()
    assert home.node().path == home.path / "node", "of several, none is more than the others: a first one begins"


def test_the_first_node_keeps_its_name_when_the_host_gets_another(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    name = home.node().make().name
    monkeypatch.setattr(home_module.socket, "gethostname", lambda: "renamed")
    assert home.node().name == name and home.node(name).path == home.path / "node"
    assert home.node("renamed").path == home.path / "nodes" / "renamed"


def test_everything_is_private_whatever_the_umask(home: Home) -> None:
    old = os.umask(0)
    try:
        folder = Home(home.path / "meshes" / "lab").node("otter").make()
        write_atomic(folder.path / "x", b"1")
    finally:
        os.umask(old)
    for path in [home.path, *home.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_open_folders_and_files_are_refused_with_the_line_to_type(home: Home) -> None:
    folder = home.node().make()
    for path, loose, tight in ((folder.path, 0o755, 0o700), (home.mesh_path, 0o710, 0o700), (home.path, 0o777, 0o700)):
        path.chmod(loose)
        with pytest.raises(HomeError) as caught:
            folder.make()
        assert caught.value.fix == f"chmod {tight:o} {path}" and str(path) in caught.value.message
        path.chmod(tight)
    secret = folder.path / "secret"
    write_atomic(secret, b"s")
    assert read_private(secret) == b"s" and read_private(folder.path / "none") is None
    secret.chmod(0o640)
    with pytest.raises(HomeError) as caught:
        read_private(secret)
    assert caught.value.fix == f"chmod 600 {secret}"


def test_a_home_that_others_may_only_read_is_good_enough(home: Home) -> None:
    home.path.mkdir(mode=0o755)
    home.node().make()


def test_a_link_or_a_file_in_the_place_of_a_folder_is_refused(home: Home, tmp_path: Path) -> None:
    home.make()
    (home.path / "node").symlink_to(tmp_path)
    with pytest.raises(HomeError, match="not a folder of its own"):
        home.node().make()
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError) as caught:
        Home(tmp_path / "file").make()
    assert "--home DIR" in caught.value.fix


@pytest.mark.skipif(as_root, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HomeError) as caught:
        Home(tmp_path / "home").make()
    tmp_path.chmod(0o700)
    assert "Permission denied" in caught.value.message and "--home DIR" in caught.value.fix


def test_a_folder_of_somebody_else_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.make()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(HomeError, match="another user"):
        make_private(home.mesh_path)


# ---- files


def test_a_write_that_fails_leaves_the_old_bytes_and_nothing_else(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.make()
    path = home.mesh_path / "x"
    write_atomic(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HomeError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [entry.name for entry in home.mesh_path.iterdir()] == ["x"]


def test_info_counts_only_while_the_node_runs(home: Home) -> None:
    folder = home.node().make()
    assert folder.info() is None
    with folder.lock():
        assert folder.info() is None
        folder.write_info({"name": "otter", "pid": os.getpid(), "door": "127.0.0.1:7710"})
        info = folder.info()
        assert info is not None and info["schema"] == "mesh.node/1" and info["door"] == "127.0.0.1:7710"
        assert [running.path for running in home.running()] == [folder.path]
        folder.info_path.write_text("{")
        assert folder.info() is None
    folder.write_info({"name": "otter"})
    assert folder.info() is None, "what a dead node said does not count"
    folder.clear_info()
    folder.clear_info()
    assert not folder.info_path.exists()


def test_peers_are_a_cache(home: Home) -> None:
    folder = home.node().make()
    assert folder.peers() == ()
    folder.save_peers([f"127.0.0.1:{port}" for port in range(1000, 2000)])
    assert len(folder.peers()) == 256 and folder.peers()[0] == "127.0.0.1:1000"
    for bad in ("", "{", "[]", "null", '{"doors": 5}', '{"doors": [1, null, "127.0.0.1:1"]}', "[" * 100_000, '{"doors": {}}'):
        folder.peers_path.write_text(bad)
        assert folder.peers() in ((), ("127.0.0.1:1",))
    folder.peers_path.write_bytes(b"\xff\xfe\x00")
    assert folder.peers() == ()


# ---- the lock


def test_a_second_lock_is_refused_with_the_pid_and_the_fix(home: Home) -> None:
    folder = home.node("otter").make()
    with folder.lock():
        with pytest.raises(NodeRunning) as caught:
            home.node("otter").lock()
        assert caught.value.pid == os.getpid() and str(os.getpid()) in caught.value.message
        assert "mesh down --node otter" in caught.value.fix and caught.value.exit_code == 5
    home.node("otter").lock().release()


def test_a_lock_dies_with_its_holder(home: Home) -> None:
    folder = home.node("otter").make()
    code = """
import sys
from pathlib import Path
from mesh.runtime.home import Home
lock = Home(Path(sys.argv[1])).node("otter").lock()
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"held\n"
        assert folder.is_running()
        with pytest.raises(NodeRunning) as caught:
            folder.lock()
        assert caught.value.pid == child.pid
        child.kill()
    assert not folder.is_running()
    folder.lock().release()


def test_those_who_look_do_not_keep_a_node_from_starting(home: Home) -> None:
    folder = home.node().make()
    folder.lock().release()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            folder.is_running()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            folder.lock().release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_garbled_lock_file_still_locks(home: Home) -> None:
    folder = home.node("otter").make()
    folder.lock_path.write_bytes(b"\xff" * 10)
    lock = Lock.take(folder.lock_path)
    assert lock
    with lock, pytest.raises(NodeRunning) as caught:
        folder.lock()
    assert caught.value.pid == 0


# ---- the socket's path


def test_a_long_path_gets_a_short_private_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_path = Path(tempfile.mkdtemp(prefix="m"))
    monkeypatch.setattr(home_module, "SHORT_PATH", short_path)
    short = Home(Path("/h")).node("otter")
    assert short.socket_path == Path("/h/nodes/otter/node.sock")
    deep = [Home(tmp_path / ("d" * 60) / ("e" * 60) / end).node("otter") for end in ("one", "two")]
    paths = [folder.socket_path for folder in deep]
    assert len(set(paths)) == 2 and paths[0] == deep[0].socket_path
    assert all(len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX for path in paths)
    made = deep[0].make_socket_folder()
    assert stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    made.write_text("left over")
    assert not deep[0].make_socket_folder().exists()
    made.parent.chmod(0o777)
    with pytest.raises(HomeError, match="others may enter"):
        deep[0].make_socket_folder()
    shutil.rmtree(short_path)


def test_node_json_is_readable_by_programs(home: Home) -> None:
    folder = home.node().make()
    info: dict[str, Any] = {"name": "otter", "pid": 1, "door": "a", "router": "b", "socket": str(folder.socket_path)}
    folder.write_info(info)
    assert json.loads(folder.info_path.read_text()) == {"schema": "mesh.node/1", **info}
