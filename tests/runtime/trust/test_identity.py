"""Who a node is: its id, chain, transport key and binding; through restarts, rotations, other meshes and crashes."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks.world import sealed

from mesh.errors import Refused
from mesh.messages.membership import Alive
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Revocation
from mesh.runtime.home import Home, HomeError
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.founding import enter, open_up
from mesh.runtime.trust.identity import Identity, folder_id, keep_chains, known_chains, load_identity, node_key, past_keys, replace_identity
from mesh.runtime.trust.keyfiles import adopt_key, next_of, prepare_key, public_of, read_key
from mesh.runtime.trust.succession import replace_home_key
from mesh.wire import ed25519
from mesh.wire.chain import PAST_KEYS_MAX, split_chain
from mesh.wire.objects import handover_bytes, mesh_id, node_id
from mesh.wire.packing import Refusal, pack


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def row(identity: Identity) -> bytes:
    return identity.signer.seal(Signed(identity.node, Alive(identity.node, 1, 1, identity.name, "d", "r", (), identity.chain)))


def test_keys_are_made_once(home: Home) -> None:
    first = load_identity(home.node())
    again = load_identity(home.node())
    assert (first.node, first.chain, first.genesis, first.curve) == (again.node, again.chain, again.genesis, again.curve)
    assert first.binding.raw == again.binding.raw and first.binding.body.curve_key == first.curve.public
    assert first.node == node_id(first.signer.public_key) == folder_id(home.node()) and node_key(home.node()) == first.signer.public_key
    assert first.genesis.mesh == mesh_id(first.genesis.raw) == first.signer.mesh and first.genesis.mode == "open"
    member = first.keyring.member(first.node)
    assert member is not None and "member" in member.rights.roles and first.serial == member.serial > 0


def test_nodes_of_one_home_know_each_other_and_nobody_else(home: Home, tmp_path: Path) -> None:
    one, two = load_identity(home.node()), load_identity(home.node("two"))
    stranger = load_identity(Home(tmp_path / "other").node())
    named = load_identity(Home.locate(home.path, "lab").node())
    assert len({one.node, two.node, stranger.node, named.node}) == 4
    assert len({one.genesis.mesh, stranger.genesis.mesh, named.genesis.mesh}) == 3 and named.genesis.name == "lab"
    assert one.keyring.open(row(two)).author == two.node
    for other in (stranger, named):
        with pytest.raises(Refusal) as caught:
            one.keyring.open(row(other))
        assert caught.value.reason in ("other_mesh", "bad_certificate")


def test_everything_is_for_its_owner_only(home: Home) -> None:
    load_identity(home.node("two"))
    for path in home.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["identity.key", "transport.key", "deed", "certificate", "binding"])
@pytest.mark.parametrize("mode", [0o604, 0o640])
def test_open_files_are_refused_with_the_chmod_line(name: str, mode: int, home: Home) -> None:
    load_identity(home.node())
    path = home.path / "node" / name
    path.chmod(mode)
    with pytest.raises(HomeError) as caught:
        load_identity(home.node())
    assert caught.value.fix == f"chmod 600 {path}"


@pytest.mark.parametrize("name", ["identity.key", "transport.key"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 32, b"ed25519 00", b"curve 00", b"ed25519 " + b"zz" * 32, b"rsa " + b"00" * 32, b"\xff" * 80]
)
def test_a_damaged_key_is_an_error_and_stays(name: str, content: bytes, home: Home) -> None:
    load_identity(home.node())
    path = home.path / "node" / name
    path.write_bytes(content)
    with pytest.raises(HomeError) as caught:
        load_identity(home.node())
    assert str(path) in caught.value.message and str(path) in caught.value.fix
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"noise", b"\x90"])
def test_a_damaged_deed_is_told(content: bytes, home: Home) -> None:
    load_identity(home.node())
    deed = home.node().deed_path
    deed.write_bytes(content)
    with pytest.raises(HomeError, match="deed is damaged"):
        load_identity(home.node())
    assert folder_id(home.node()) == ""


def test_what_can_be_made_again_is(home: Home) -> None:
    before = load_identity(home.node())
    folder = home.node()
    for path, content in ((folder.certificate_path, b"noise"), (folder.binding_path, b"noise"), (folder.members_path, b"noise")):
        path.write_bytes(content)
        path.chmod(0o600)
    after = load_identity(home.node())
    assert after.node == before.node and after.serial > before.serial and after.binding.body.seq > before.binding.body.seq
    for path in (folder.certificate_path, folder.binding_path):
        path.unlink()
    assert load_identity(home.node()).node == before.node


def test_a_lost_transport_key_gets_a_new_binding_with_a_larger_number(home: Home) -> None:
    before = load_identity(home.node())
    home.node().transport_path.unlink()
    after = load_identity(home.node())
    assert after.curve != before.curve and after.binding.body.curve_key == after.curve.public
    assert after.binding.body.seq > before.binding.body.seq


def test_certificates_and_bindings_of_another_node_are_replaced(home: Home) -> None:
    one, two = load_identity(home.node("one")), load_identity(home.node("two"))
    folder = home.node("two")
    for path in (folder.certificate_path, folder.binding_path):
        path.write_bytes((home.node("one").path / path.name).read_bytes())
    again = load_identity(folder)
    assert again.node == two.node and again.chain != one.chain
    assert again.binding.author == two.node and again.binding.body.curve_key == two.curve.public


def test_nodes_that_start_at_once_agree_on_one_genesis(home: Home) -> None:
    code = """
import sys
from pathlib import Path
from mesh.runtime.home import Home
from mesh.runtime.trust.identity import load_identity
sys.stdin.read(1)
print(load_identity(Home(Path(sys.argv[1])).node(sys.argv[2])).genesis.mesh)
"""
    names = ["", "one", "two", "three"]
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(home.path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    meshes = {child.communicate("go", timeout=30)[0].strip() for child in children}
    assert len(meshes) == 1 and len(meshes.pop()) == 32


# ---- rotation


def test_an_identity_key_hands_over_to_the_next_and_the_node_stays_the_same(home: Home) -> None:
    before = load_identity(home.node())
    seed = replace_identity(home.node())
    after = load_identity(home.node())
    assert after.node == before.node and after.signer.public_key == public_of(seed) != before.signer.public_key
    [past] = after.past
    assert (past.old, past.new) == (before.signer.public_key, after.signer.public_key)
    assert ed25519.verifier_of(past.old)(past.proof, handover_bytes(past.old, past.new))
    assert after.serial > before.serial and after.binding.body.seq > before.binding.body.seq and after.curve == before.curve
    assert before.keyring.open(row(after)).author == before.node, "others learn it by its chain"
    assert before.keyring.has_key(before.node, after.signer.public_key)


def test_a_key_can_be_replaced_as_often_as_one_likes(home: Home) -> None:
    first = load_identity(home.node())
    for _ in range(PAST_KEYS_MAX + 2):
        replace_identity(home.node())
        last = load_identity(home.node())
    assert last.node == first.node and len(last.past) == PAST_KEYS_MAX + 2
    assert load_identity(home.node()).chain == last.chain
    certificate = last.keyring.authorities.chains.read(last.chain).last
    assert certificate.past_keys == tuple(one.old for one in last.past[-PAST_KEYS_MAX:])


def test_a_crash_while_the_identity_is_replaced(homes: Any, crashing: Callable[..., int]) -> None:
    before: dict[Home, Identity] = {}

    def prepare(n: int) -> Home:
        home: Home = homes.founded(f"h{n}")
        before[home] = load_identity(home.node())
        return home

    def act(home: Home) -> None:
        replace_identity(home.node())
        load_identity(home.node())

    def look(home: Home) -> None:
        prepared = next_of(home.node().identity_path).exists() or bool(past_keys(home.node()))
        after = load_identity(home.node())
        assert after.node == before[home].node
        assert (after.signer.public_key != before[home].signer.public_key) == prepared == (len(after.past) == 1)
        assert not next_of(home.node().identity_path).exists()
        assert before[home].keyring.open(row(after)).author == after.node
        act(home)

    assert crashing(prepare, act, look) >= 5


def test_a_crash_while_the_transport_key_is_replaced(homes: Any, crashing: Callable[..., int]) -> None:
    before: dict[Home, Identity] = {}

    def prepare(n: int) -> Home:
        home: Home = homes.founded(f"h{n}")
        before[home] = load_identity(home.node())
        return home

    def act(home: Home) -> None:
        prepare_key(home.node().transport_path, "curve")
        adopt_key(home.node().transport_path)
        load_identity(home.node())

    def look(home: Home) -> None:
        after = load_identity(home.node())
        assert after.binding.body.curve_key == after.curve.public and after.curve.secret == read_key(home.node().transport_path, "curve")
        assert after.binding.body.seq >= before[home].binding.body.seq
        assert (after.binding.body.seq > before[home].binding.body.seq) == (after.curve != before[home].curve)

    assert crashing(prepare, act, look) >= 3


def test_a_crash_at_a_nodes_first_start(homes: Any, crashing: Callable[..., int]) -> None:
    def look(home: Home) -> None:
        key = read_key(home.node().identity_path)
        identity = load_identity(home.node())
        assert key is None or identity.node == node_id(public_of(key))

    assert crashing(lambda n: homes.founded(f"h{n}"), lambda home: load_identity(home.node()), look) >= 5


# ---- the home it belongs to


def test_a_node_follows_its_home_to_another_key_and_another_mesh(homes: Any) -> None:
    home = homes.founded("two", "open")
    node = load_identity(home.node())
    office = homes.Office(homes.founded("one"))
    admission = homes.admitted(office, home)
    with home.lock():
        enter(home, admission)
    moved = load_identity(home.node())
    assert moved.node == node.node and moved.credentials.past == (node.genesis.mesh,)
    assert moved.signer.public_key == node.signer.public_key and moved.binding.body.mesh == moved.genesis.mesh
    replace_home_key(home)
    again = load_identity(home.node())
    assert again.node == node.node and again.serial > moved.serial
    other = load_identity(office.home.node())
    assert other.keyring.open(row(moved)).author == node.node
    assert other.keyring.open(row(again)).author == node.node


def test_a_node_belongs_to_the_home_that_made_it(homes: Any) -> None:
    """A folder that was copied into another home gets no certificate there."""
    office = homes.Office(homes.founded("one"))
    home = homes.joined(office, "two")
    load_identity(office.home.node("stray"))
    theirs, mine = office.home.node("stray").path, home.node("stray").make().path
    for name in ("identity.key", "deed"):
        (mine / name).write_bytes((theirs / name).read_bytes())
        (mine / name).chmod(0o600)
    with pytest.raises(Refused, match="no certificate was made") as caught:
        load_identity(home.node("stray"))
    assert caught.value.code == "bad_certificate"


def test_it_can_do_what_its_home_can(homes: Any) -> None:
    from mesh.runtime.trust.authority import Grant

    office = homes.Office(homes.founded("one"))
    token = office.invite(Grant(("worker",), ("ocr.*",), ()), issuer="no")
    identity = load_identity(homes.joined(office, "two", token).node())
    assert identity.may_offer("ocr.page") and not identity.may_offer("greet")
    assert not identity.may_request("greet") and not identity.may_request("ocr.page")
    root = load_identity(office.home.node())
    assert root.may_offer("greet") and root.may_request("anything")
    assert root.may_keep() and not identity.may_keep()
    for role, keeps in (("requester", True), ("observer", False)):
        token = office.invite(Grant((role,), (), ("*",)), issuer="no")
        assert load_identity(homes.joined(office, role, token).node()).may_keep() is keeps


# ---- members of earlier lives


def test_members_are_remembered_and_a_stranger_or_revoked_one_is_not(homes: Any) -> None:
    office = homes.Office(homes.founded("one"))
    other, gone = (load_identity(homes.joined(office, name).node()) for name in ("two", "three"))
    stranger = load_identity(homes.founded("elsewhere").node())
    folder = office.home.node()
    me = load_identity(folder)
    keep_chains(folder, [other.chain, gone.chain, stranger.chain, b"noise"])
    assert {member.node for member in load_identity(folder).keyring.members()} == {me.node, other.node, gone.node}
    with office.home.lock():
        credentials = Credentials(office.home)
        root = credentials.root_signer()
        assert root is not None
        credentials.authorities.open(sealed(root, Revocation(me.genesis.mesh, NODE, gone.node, "gone", "sold", 1, gone.chain)).raw)
        credentials.keep_statements()
    keyring = load_identity(folder).keyring
    assert {member.node for member in keyring.members()} == {me.node, other.node}
    assert gone.chain in keyring.chains(), "its keys verify what it had signed in logs, also in the lives after this one"


@pytest.mark.parametrize("content", [b"", b"noise", pack(("text", 5)), b"\x91" * 2000])
def test_remembered_members_are_a_cache(content: bytes, home: Home) -> None:
    load_identity(home.node())
    home.node().members_path.write_bytes(content)
    home.node().members_path.chmod(0o600)
    assert known_chains(home.node()) == () and load_identity(home.node()).node


def test_as_many_members_are_kept_as_fit_the_newest_first_to_stay(home: Home) -> None:
    folder = home.node().make()
    chains = [bytes([n]) * 200_000 for n in range(8)]
    keep_chains(folder, chains)
    assert known_chains(folder) == tuple(chains[-5:])


def test_opening_up_gives_the_node_a_certificate_that_ends(home: Home) -> None:
    before = load_identity(home.node())
    with home.lock():
        open_up(home, "ca", "lab")
    after = load_identity(home.node())
    assert (before.expires_ms, after.node) == (0, before.node) and after.expires_ms > 0
    assert split_chain(after.chain)[:2] == split_chain(Credentials(home).chain.raw)
    assert after.keyring.authorities.mode == "ca"
