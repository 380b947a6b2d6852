"""TLS for the door: one template of a certificate, the key in it and nothing else; TLS 1.3 and nothing less."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from mesh.runtime.links.tls import CERTIFICATE_BYTES, NotOurs, certificate, client_context, key_in, server_context
from mesh.runtime.trust.keyfiles import public_of

SEED, DECOY = b"t" * 32, b"u" * 32


def test_the_template_is_a_certificate_of_that_key_signed_by_it() -> None:
    der = certificate(SEED)
    assert len(der) == CERTIFICATE_BYTES == 213 and key_in(der) == public_of(SEED)
    read = x509.load_der_x509_certificate(der)
    key = Ed25519PrivateKey.from_private_bytes(SEED).public_key()
    assert read.public_key() == key and read.subject == read.issuer and read.subject.rfc4514_string() == "CN=lanmesh"
    assert (read.serial_number, read.version, list(read.extensions)) == (1, x509.Version.v3, [])
    assert read.not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC) and read.not_valid_after_utc.year == 2099
    key.verify(read.signature, read.tbs_certificate_bytes)
    assert certificate(SEED) == der != certificate(DECOY), "the same each time"


def test_another_byte_anywhere_but_in_key_and_signature_is_not_ours() -> None:
    der = certificate(SEED)
    key_at = der.index(public_of(SEED))
    for at in range(len(der)):
        changed = der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]
        if key_at <= at < key_at + 32 or at >= len(der) - 64:
            assert key_in(changed)
        else:
            with pytest.raises(NotOurs):
                key_in(changed)
    for other in (b"", der[:-1], der + b"\0", b"\0" + der):
        with pytest.raises(NotOurs):
            key_in(other)


def made(*, seed: bytes = SEED, name: str = "lanmesh", extension: bytes = b"") -> bytes:
    """A certificate that a library makes, as like ours as can be; `extension` is one more place for a key."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(datetime(1970, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
    if extension:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.9900.1"), extension), critical=False)
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)


def test_what_a_library_makes_of_the_same_words_is_the_template() -> None:
    assert made() == certificate(SEED)


@pytest.mark.parametrize(
    "der",
    [
        made(extension=public_of(DECOY)),
        made(name="lanmesj"),
        made(name=public_of(DECOY).hex()[:60]),
        made(seed=DECOY, extension=certificate(SEED)),
        certificate(SEED) + certificate(DECOY),
    ],
)
def test_a_decoy_beside_the_key_is_not_ours(der: bytes) -> None:
    with pytest.raises(NotOurs):
        key_in(der)


def test_a_certificate_of_another_kind_is_not_ours() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lanmesh")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(1)
    der = (
        builder.not_valid_before(now)
        .not_valid_after(now + timedelta(1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    with pytest.raises(NotOurs):
        key_in(der)


# ---- handshakes


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, bytes]:
    """The version agreed on, and the certificate that the client saw. Raises what the client's side raises."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as inside:
                inside.recv(1)
        except (OSError, ssl.SSLError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours) as inside:
            inside.sendall(b"x")
            version, der = inside.version(), inside.getpeercert(binary_form=True)
            assert version is not None and der is not None
            return version, der
    finally:
        ours.close()
        thread.join()


def test_a_handshake_shows_the_key_that_was_proven() -> None:
    version, der = shaken(server_context(SEED), client_context())
    assert version == "TLSv1.3" and key_in(der) == public_of(SEED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_2_is_refused_on_both_sides() -> None:
    old_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old_client.check_hostname, old_client.verify_mode = False, ssl.CERT_NONE
    old_client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, OSError)):
        shaken(server_context(SEED), old_client)
    old_server = server_context(SEED)
    old_server.minimum_version, old_server.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, OSError)):
        shaken(old_server, client_context())


def test_the_certificate_of_another_is_of_no_use_without_his_key(tmp_path: Path) -> None:
    pem = ssl.DER_cert_to_PEM_cert(certificate(SEED))
    key = Ed25519PrivateKey.from_private_bytes(DECOY)
    theirs = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    (tmp_path / "stolen.pem").write_text(pem + theirs)
    with pytest.raises(ssl.SSLError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "stolen.pem")


def test_the_key_gets_no_name_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.runtime.links.tls.tempfile.NamedTemporaryFile", lambda *_, **__: pytest.fail("a file was made"))
    server_context(SEED)


def test_where_the_system_cannot_do_without_a_file_none_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("mesh.runtime.links.tls.os.memfd_create")
    monkeypatch.setattr("mesh.runtime.links.tls.tempfile.tempdir", str(tmp_path))
    assert shaken(server_context(SEED), client_context())[0] == "TLSv1.3"
    assert list(tmp_path.iterdir()) == []
