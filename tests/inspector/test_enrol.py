"""A mesh over several homes, by the command line: init, invite, join, trust, grant, revoke, rotate; what is shown and what never is."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import joining, link
from mesh.runtime.home import Home
from mesh.wire.token import read_token

MESH = [sys.executable, "-m", "mesh.inspector.cli"]
LIMIT_S = 60.0
GREETER = """
from mesh import Agent

agent = Agent("greeter")


@agent.capability
def greet(name: str) -> str:
    return f"hello {name}"
"""


def until(done: Callable[[], Any], what: str) -> Any:
    """What `done` returns, as soon as that is true: somebody else's doing, within a bound that only a defect exceeds."""
    end = time.monotonic() + LIMIT_S
    while not (found := done()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.02)
    return found


class Town:
    """Homes whose nodes stay on this machine, and the command line in each. Every answer is kept, for what must never be in one."""

    def __init__(self, folder: Path, mesh: Callable[..., Any], here_only: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._mesh, self._here_only, self._monkeypatch = folder, mesh, here_only, monkeypatch
        self.said: list[str] = []
        self._homes: list[Path] = []
        self._workers: list[subprocess.Popen[bytes]] = []

    def home(self, name: str) -> Path:
        path = self.folder / name
        if path not in self._homes:
            self._homes.append(self._here_only(path))
        return path

    def ran(self, home: str, *words: str, stdin: str | None = None) -> Any:
        """One command line in a home, in JSON."""
        if stdin is not None:
            self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        ran = self._mesh(*words, "--home", str(self.home(home)), "--json")
        if words[0] != "invite":
            self.said += [ran.out, ran.err]
        return ran

    def do(self, home: str, *words: str, code: int = 0, stdin: str | None = None) -> dict[str, Any]:
        """The same: its document."""
        ran = self.ran(home, *words, stdin=stdin)
        assert ran.code == code, (words, ran.out, ran.err)
        document: dict[str, Any] = ran.document
        return document

    def invited(self, home: str, *words: str) -> str:
        return str(self.do(home, "invite", *words)["token"])

    def join(self, home: str, *words: str, by: str = "one", invite: tuple[str, ...] = ()) -> dict[str, Any]:
        """Let `home` into the mesh of `by`, the token on standard input."""
        return self.do(home, "join", "-", *words, stdin=self.invited(by, *invite) + "\n")

    def worker(self, home: str, node: str) -> None:
        """An agent that greets, at that node, and known there."""
        target = self.folder / "greeter.py"
        target.write_text(GREETER)
        with (self.folder / "worker.log").open("ab") as log:
            words = [*MESH, "run", str(target), "--home", str(self.home(home)), "--name", node]
            self._workers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))
        self.until_offered(home, node)

    def until_offered(self, home: str, node: str) -> None:
        until(lambda: any(worker["agent"] == "greeter" for worker in self.do(home, "status", "--node", node)["workers"]), "the worker")

    def linked(self, home: str, *names: str) -> None:
        """Wait until the first running node of that home is linked with these."""

        def seen() -> bool:
            rows = {row["name"]: row for row in self.do(home, "nodes")["nodes"]}
            return all(name in rows and rows[name]["state"] == "alive" and (rows[name]["linked"] or rows[name]["self"]) for name in names)

        until(seen, f"{names} to be linked")

    def verified(self, home: str, node: str) -> dict[str, Any]:
        """The node's journal holds, also for the verifier that shares no code with it."""
        export = self.folder / f"{home}-{node}.export"
        document = self.do(home, "verify", "--node", node, "--export", str(export))
        checked = subprocess.run([sys.executable, "scripts/verify", str(export)], capture_output=True, text=True, check=False)
        assert document["ok"] and checked.returncode == 0, checked.stdout + checked.stderr
        return document

    def close(self) -> None:
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        for path in self._homes:
            for folder in Home(path).running():
                assert self._mesh("down", "--home", str(path), "--node", folder.name).code == 0
            for log in path.rglob("node.log"):
                assert "Traceback" not in log.read_text(), log.read_text()


def a_free_pair() -> int:
    """A port that is free, and the one above it, far from where nodes look for one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture
def town(mesh: Callable[..., Any], on_loopback: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    folder = Path(tempfile.mkdtemp(prefix="mesh-"))
    made = Town(folder, mesh, on_loopback, monkeypatch)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


# ---- one command per machine


def test_two_machines_are_a_mesh_after_one_command_each(town: Town) -> None:
    made = town.do("one", "init", "lab", "--name", "a")
    assert (made["schema"], made["name"], made["mode"], made["node"], made["started"]) == ("mesh.init/1", "lab", "token", "a", True)
    assert made["roles"] == ["member", "issuer"] and made["addr"].startswith("127.0.0.1:") and len(made["mesh"]) == 32
    joined = town.join("two", "--name", "b")
    assert (joined["mesh"], joined["name"], joined["node"], joined["roles"]) == (made["mesh"], "lab", "b", ["member", "issuer"])
    town.linked("one", "a", "b")
    town.worker("one", "a")
    assert town.do("two", "call", "greet", "name=Bob")["result"] == "hello Bob"
    members = {member["name"]: member for member in town.do("two", "trust")["members"]}
    assert set(members) == {"a", "b"} and members["a"]["home"] == made["home"] != members["b"]["home"] == joined["home"]
    identity = town.do("two", "id")
    assert (identity["mesh"], identity["home"], identity["past"]) == (made["mesh"], joined["home"], [])
    assert [(node["name"], node["running"]) for node in identity["nodes"]] == [("b", True)]


def test_the_words_that_people_read(town: Town, mesh: Callable[..., Any]) -> None:
    home = str(town.home("one"))
    made = mesh("init", "lab", "--name", "a", "--home", home)
    assert made.code == 0 and made.out.splitlines()[0].startswith("mesh lab is made (mode token); its fingerprint is ")
    assert made.out.splitlines()[1].startswith("node a is up: door 127.0.0.1:") and made.out.splitlines()[2].endswith("mesh invite")
    invited = mesh("invite", "--home", home)
    assert read_token(invited.out) and len(invited.out.splitlines()) == 1, "stdout is the token alone, for a pipe"
    assert "mesh join TOKEN" in invited.err and "once" in invited.err
    trust = mesh("trust", "--home", home).out
    assert "this machine admits members; it holds the root key" in trust and "MAY OFFER" in trust
    assert "member, issuer" in mesh("id", "--home", home).out


def test_a_node_is_not_started_where_that_is_not_wanted(town: Town) -> None:
    assert town.do("one", "init", "--no-start")["started"] is False
    assert town.do("one", "id")["nodes"] == []
    again = town.do("one", "init", code=5)
    assert again["code"] == "member_already" and "mesh invite" in again["fix"]


# ---- in a home that is in use


def test_init_keeps_the_nodes_of_a_home_their_journals_and_their_agents(town: Town) -> None:
    for name in ("a", "b"):
        words = ["up", "--name", name, "--detach"]
        doors = [row["addr"] for row in town.do("one", "nodes")["nodes"]] if name == "b" else []
        town.do("one", *words, *[word for door in doors for word in ("--join", door)])
    town.worker("one", "a")
    task = town.do("one", "submit", "greet", "name=Ann", "--wait", "--node", "b")["task"]
    before = {node["name"]: node["id"] for node in town.do("one", "id")["nodes"]}
    entries = {name: town.verified("one", name)["entries"] for name in before}
    made = town.do("one", "init", "lab")
    assert sorted(made["nodes"]) == ["a", "b"] and made["started"] is False and made["mode"] == "token"
    after = {node["name"]: node["id"] for node in town.do("one", "id")["nodes"]}
    assert after == before
    town.until_offered("one", "a")
    town.linked("one", "a", "b")
    until(lambda: town.ran("one", "call", "greet", "name=Bob", "--node", "b").code == 0, "the agent to be offered again")
    assert town.do("one", "task", task, "--node", "b")["state"] == "done"
    assert town.do("one", "status", "--node", "a")["mode"] == "token"
    for name in before:
        assert town.verified("one", name)["entries"] > entries[name]


def test_join_keeps_the_node_of_a_home_its_journal_and_its_history(town: Town) -> None:
    town.do("one", "init", "lab", "--name", "a")
    town.do("two", "up", "--name", "b", "--detach")
    town.worker("two", "b")
    task = town.do("two", "submit", "greet", "name=Ann", "--wait")["task"]
    before, old_mesh = town.do("two", "id")["nodes"][0]["id"], town.do("two", "id")["mesh"]
    joined = town.join("two")
    assert joined["nodes"] == ["b"] and joined["started"] is False
    identity = town.do("two", "id")
    assert identity["nodes"][0]["id"] == before and identity["past"] == [old_mesh] and identity["mesh"] == joined["mesh"]
    town.linked("two", "a", "b")
    town.linked("one", "a", "b")
    assert town.do("two", "task", task)["state"] == "done" and town.do("two", "result", task)["result"] == "hello Ann"
    story = town.do("two", "lineage", task)
    assert story["verified"] is True and story["tasks"]
    assert town.do("two", "why", task)["verified"] is True
    until(lambda: town.ran("one", "call", "greet", "name=Bob").code == 0, "the agent to be offered in the new mesh")
    assert town.do("one", "task", task)["state"] == "done", "the others can ask about it now"
    assert town.verified("two", "b")["ok"]


# ---- who is turned away


def test_tokens_that_open_nothing_and_what_is_said_about_each(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    used = town.invited("one")
    town.do("two", "join", "-", "--no-start", stdin=used)
    assert town.do("three", "join", "-", code=5, stdin=used)["code"] == "used"
    assert town.do("two", "join", "-", code=5, stdin=town.invited("one"))["code"] == "member_already"
    late = town.invited("one", "--ttl", "1s")
    until(lambda: time.time() * 1000 > read_token(late).expires_ms, "the token to expire")
    assert town.do("three", "join", "-", code=5, stdin=late)["code"] == "expired"
    good = town.invited("one")
    for bad in (good[:-1], good[:20] + ("A" if good[20] != "A" else "B") + good[21:], "", "mesh1_", "\x00"):
        assert town.do("three", "join", "-", code=2, stdin=bad)["code"] == "bad_token"
    spread = "\n ".join(good[at : at + 40] for at in range(0, len(good), 40))
    assert town.do("three", "join", "-", "--no-start", stdin=f"\n{spread}\n")["roles"] == ["member"]


def test_who_took_the_place_of_the_door_hears_nothing(town: Town) -> None:
    port = str(a_free_pair())
    town.do("one", "init", "--name", "a", "--port", port)
    token = town.invited("one")
    town.do("one", "down")
    assert town.do("three", "join", "-", code=4, stdin=token)["code"] == "timed_out"
    town.do("other", "init", "--name", "x", "--port", port)
    refused = town.do("three", "join", "-", code=5, stdin=token)
    assert refused["code"] == "wrong_door" and "nothing was said to it" in refused["message"]
    assert not town.do("other", "trust")["waiting"]


def test_an_open_mesh_is_not_joined(town: Town) -> None:
    town.do("one", "up", "--name", "a", "--detach")
    assert town.do("one", "invite", code=5)["code"] == "open_mesh"
    address = town.do("one", "status")["addr"]
    assert town.do("two", "join", "--ask", address, code=5)["code"] == "no_issuer"


# ---- by code


def test_a_machine_is_let_in_by_the_code_that_both_show(town: Town) -> None:
    address = town.do("one", "init", "--name", "a")["addr"]
    words = [*MESH, "join", "--ask", address, "--home", str(town.home("two")), "--name", "b", "--as", "desk", "--json"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stderr is not None and asking.stdout is not None
        assert asking.stderr.readline().startswith(f"asking at {address}")
        code = asking.stderr.readline().split()[-1]
        [waiting] = until(lambda: town.do("one", "trust")["waiting"], "the request")
        assert (waiting["name"], waiting["code"]) == ("desk", code)
        assert town.do("one", "trust", "dodod-dodod-dodod-dodod", code=5)["code"] == "no_such_code"
        assert town.do("one", "trust", code, "--role", "worker")["admitted"] == "desk"
        out, _ = asking.communicate(timeout=LIMIT_S)
    assert asking.returncode == 0 and '"schema": "mesh.join/1"' in out
    town.linked("one", "a", "b")
    assert town.do("two", "id")["roles"] == ["worker"]
    assert town.do("two", "call", "greet", "name=Bob", code=5)["code"] == "not_granted"


# ---- looking after trust


def test_rights_end_where_the_invitation_ends_them(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    town.join("two", "--name", "b", invite=("--role", "member", "--offer", "other.*", "--request", "other.*"))
    town.linked("two", "a", "b")
    town.worker("one", "a")
    until(lambda: "greet" in str(town.do("two", "caps")["caps"]), "the capability to be known")
    assert town.do("two", "call", "greet", "name=Bob", code=5)["code"] == "not_granted"
    for home in ("one", "two"):
        [own] = [cap for cap in town.do(home, "caps", "--all")["caps"] if cap["capability"].startswith("mesh.")]
        assert own["offered_by"] == ["flows@a"], "who may not offer it, or ask for what flows ask for, does not"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--offer", "a b;c"), "no capability's name"),
        (("--request", "*x"), "no capability's name"),
        (("--role", "worker", "--request", "x"), "has no use for --request"),
        (("--role", "observer", "--offer", "a.*"), "has no use for --offer"),
        (("--role", "worker", "--issuer"), "is a member itself"),
    ],
)
def test_invitations_that_make_no_sense(words: tuple[str, ...], says: str, town: Town) -> None:
    town.do("one", "init", "--name", "a")
    assert says in town.do("one", "invite", *words, code=2)["message"]


def test_a_third_machine_is_made_an_issuer(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    town.join("two", "--no-start")
    town.join("three", "--name", "c")
    town.linked("one", "a", "c")
    assert town.do("three", "invite", code=5)["code"] == "no_issuer"
    assert town.do("one", "grant", "issuer", "c")["granted"] == "issuer"
    until(lambda: town.do("three", "trust")["admits"], "the certificate to arrive")
    assert town.join("four", "--no-start", by="three")["roles"] == ["member"]
    assert town.do("one", "grant", "emperor", "c", code=2)["fix"] == "mesh grant issuer NODE"
    assert town.do("three", "grant", "issuer", "a", code=5)["code"]
    assert town.do("three", "grant", "issuer", "c", code=5)["code"] == "issuer_already"


def test_who_is_revoked_is_out_everywhere_and_is_told_so(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    town.join("two", "--name", "b")
    town.join("three", "--name", "c", "--as", "desk")
    town.linked("two", "a", "b", "c")
    revoked = town.do("one", "revoke", "c", "--reason", "sold")
    assert (revoked["revoked"], revoked["level"]) == ("desk", "home")

    def out(home: str) -> bool:
        rows = {row["name"]: row for row in town.do(home, "nodes")["nodes"]}
        known = [entry["name"] for entry in town.do(home, "trust")["revoked"]]
        return "desk" in known and (("c" not in rows) or rows["c"]["state"] != "alive")

    for home in ("one", "two"):
        until(lambda home=home: out(home), f"{home} to know")
    assert town.do("one", "revoke", "c", code=5)["code"] == "no_such_member"
    (entry,) = [one for one in town.do("one", "audit")["entries"] if one["what"] == "revoked" and one["note"].startswith("home")]
    assert (entry["about_name"], entry["by_name"], entry["note"]) == ("desk", "root", "home desk: sold")
    assert {"joined", "revoked"} <= {one["what"] for one in town.do("one", "audit", "desk")["entries"]}, "found by its name"
    (own,) = [node["id"] for node in town.do("one", "id")["nodes"]]
    assert town.do("one", "revoke", own[:5], code=5)["code"] == "no_such_member", "a few letters that fit some id name nobody"

    def told() -> bool:
        return any("revoked" in finding["message"] for finding in town.do("three", "status", code=6)["findings"])

    until(lambda: town.ran("three", "status").code == 6 and told(), "the revoked node to be told")
    town.do("three", "down")
    town.do("three", "up", "--name", "c", "--detach")
    assert town.do("three", "verify")["ok"], "its history can still be looked at"
    until(told, "the finding after a restart")


def test_a_node_does_not_end_itself_by_a_slip(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    refused = town.do("one", "revoke", "a", code=5)
    assert refused["code"] == "own_node" and refused["fix"].endswith("mesh revoke a --only-node")
    assert town.do("one", "revoke", "a", "--only-node")["level"] == "node"
    for words in (("invite",), ("rotate", "identity"), ("grant", "issuer", "a")):
        assert town.do("one", *words, code=5)["code"] == "revoked"
    [told] = town.do("one", "status", code=6)["findings"]
    assert "revoked" in told["message"] and "mesh up --name OTHER" in told["fix"]
    town.do("one", "down")
    town.do("one", "up", "--name", "b", "--detach")
    assert town.do("one", "status", "--node", "b")["healthy"], "the home is believed as before"


def test_a_name_that_looks_like_an_id_stands_in_nobodys_place(town: Town) -> None:
    made = town.do("one", "init", "--name", "a")
    looks = made["home"][:8]
    town.join("two", "--name", looks, "--as", "desk")
    town.linked("one", "a", looks)
    assert "could be any of 2" in town.do("one", "revoke", looks, code=2)["message"]
    (id_of_two,) = [node["id"] for node in town.do("two", "id")["nodes"]]
    assert town.do("one", "revoke", id_of_two)["revoked"] == "desk"


def test_what_a_machine_did_in_its_open_mesh_is_still_its_own_word(town: Town) -> None:
    town.do("two", "up", "--name", "b", "--detach")
    town.do("two", "rotate", "transport")
    town.do("one", "init", "--name", "a")
    town.do("two", "join", "-", stdin=town.invited("one"))
    town.linked("one", "a", "b")

    def told() -> list[dict[str, Any]]:
        return [one for one in town.do("one", "audit", "--all")["entries"] if one["what"] == "rotated" and one["node"] == "b"]

    (entry,) = until(told, "the entry of before")
    assert entry["verified"]


def test_in_an_open_mesh_nobody_is_revoked(town: Town) -> None:
    town.do("one", "up", "--name", "a", "--detach")
    assert town.do("one", "revoke", "a", code=5)["code"] == "open_mesh"


def test_a_node_runs_without_the_keys_that_admit_others_and_says_what_is_wrong_with_them(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    town.do("one", "down")
    keys = [town.home("one") / "mesh" / name for name in ("root.key", "issuer.key")]
    for key in keys:
        key.write_text("junk")
    town.do("one", "up", "--name", "a", "--detach")
    # The node answers before it has looked at the keys that it does not need.
    told = until(lambda: town.ran("one", "status").document["findings"], "a word about the keys")
    assert town.ran("one", "status").code == 6
    assert all(any(str(key) in finding["message"] for finding in told) for key in keys), told
    assert "issuer.key holds no key" in town.do("one", "invite", code=5)["message"]


def test_what_lies_in_the_folder_where_one_stands_is_not_run(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    here = town.folder / "here"
    here.mkdir()
    (here / "zmq.py").write_text(f"open({str(town.folder / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(here)
    town.do("one", "init", "--name", "a")
    assert not (town.folder / "ran").exists()


def test_keys_are_replaced_one_after_the_other(town: Town) -> None:
    town.do("one", "init", "--name", "a")
    town.join("two", "--name", "b")
    town.linked("one", "a", "b")
    for home in ("one", "two"):
        for what in ("transport", "identity", "home"):
            done = town.do(home, "rotate", what)
            assert done["rotated"] == what and done["note"] and not done.get("late")
    assert town.do("two", "rotate", "root", code=5)["code"] == "no_root"
    town.do("one", "rotate", "issuer")
    assert town.do("one", "rotate", "root")["note"].startswith("old and new count")
    assert town.do("one", "rotate", "root", code=5)["code"] == "unfinished"
    assert town.do("one", "rotate", "nonsense", code=2)["fix"].startswith("mesh rotate transport")
    until(lambda: town.ran("one", "rotate", "root", "--finish").code == 0, "every member to be under the new root")
    assert town.do("one", "rotate", "root", "--finish")["note"] == "one root key counts already"
    town.linked("two", "a", "b")
    town.join("three", "--name", "c")
    town.linked("three", "a", "b", "c")
    for home, node in (("one", "a"), ("two", "b")):
        assert town.verified(home, node)["ok"]
    noted = [entry["about"] for entry in town.do("one", "audit")["entries"] if entry["what"] == "rotated"]
    assert noted == ["transport", "identity", "home", "issuer", "root", "root"]


# ---- what hangs, and what is never shown


def test_a_node_that_does_not_come_back_is_named(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "RESTART_S", 0.3)
    monkeypatch.setattr(link, "HELLO_S", 0.3)
    folder = Home(town.home("one")).node("lynx").make()
    with folder.lock(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.make_socket_folder()))
        listener.listen()
        assert town.do("one", "init", code=4)["code"] == "timed_out"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a token belongs on standard input")
def test_a_token_on_the_command_line_is_gone_before_anybody_is_dialled(town: Town) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        town.do("one", "init", "--name", "a")
        token = read_token(town.invited("one"))
        elsewhere = type(token)(
            token.mesh, token.door_key, (f"127.0.0.1:{silent.getsockname()[1]}",), token.invite, token.secret, token.expires_ms
        ).encode()
        words = [*MESH, "join", elsewhere, "--home", str(town.home("two")), "--no-start", "--json"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as joins:
            connection, _ = silent.accept()
            shown = Path(f"/proc/{joins.pid}/cmdline").read_bytes()
            connection.close()
            out, err = joins.communicate(timeout=LIMIT_S)
    assert b"(token)" in shown and elsewhere.encode() not in shown and b"mesh1_" not in shown
    assert b"--no-start" in shown, "the rest is as it was"
    assert joins.returncode == 4 and elsewhere not in out + err


def test_secrets_of_invitations_are_nowhere_but_in_the_token(town: Town, mesh: Callable[..., Any]) -> None:
    town.do("one", "init", "--name", "a")
    tokens = [town.invited("one") for _ in range(4)]
    town.do("two", "join", "-", "--name", "b", stdin=tokens[0])
    town.do("three", "join", "-", code=5, stdin=tokens[0])
    town.do("three", "join", "-", code=2, stdin=tokens[1][:-2])
    assert mesh("join", tokens[2][:-3], "--home", str(town.home("three"))).code == 2
    town.linked("one", "a", "b")
    for words in ("status", "nodes", "caps", "tasks", "trust", "audit --all", "id", "doctor", "verify"):
        town.ran("one", *words.split())
    needles = [needle for token in tokens for needle in (token, read_token(token).secret.hex(), repr(read_token(token).secret))]
    everything = "\n".join(town.said)
    for home in ("one", "two", "three"):
        for path in town.home(home).rglob("*"):
            if path.is_file() and path.name != "invites.json":
                everything += path.read_bytes().decode("latin-1")
    assert not [needle for needle in needles if needle in everything]
    raw = [read_token(token).secret.decode("latin-1") for token in tokens]
    assert not [secret for secret in raw if secret in everything]
    kept = (town.home("one") / "mesh" / "invites.json").read_text()
    assert read_token(tokens[0]).secret.hex() not in kept, "the secret goes when the invitation is used"
    assert read_token(tokens[3]).secret.hex() in kept and os.stat(town.home("one") / "mesh" / "invites.json").st_mode & 0o77 == 0
