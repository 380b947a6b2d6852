"""TLS 1.3 for the door, with the node's own identity key: no names, no dates, no authorities; who is there is the key itself.

    identity seed --certificate()--> 213 bytes, one fixed template around the public key --server_context()--> TLS
    dialler --client_context()--> TLS --peer_key()--> the key, if the other side's certificate is that template exactly

Invariant: `peer_key` gives the very key with which the other side proved itself in the handshake: the template leaves no second place where
a key could stand. Whether that key is the right one is for the caller, who pins it or compares it with who signs the WELCOME. The template
is a self-signed X.509 certificate of Ed25519 (RFC 8410). Does no I/O on the network.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from pathlib import Path

from mesh.wire import ed25519

_TBS = bytes.fromhex(
    "308185a003020102020101300506032b657030123110300e06035504030c076c616e6d6573683020170d3730303130313030303030305a180f"
    "32303939303130313030303030305a30123110300e06035504030c076c616e6d657368302a300506032b6570032100"
)
"""Everything that is signed, up to the key: version 3, serial 1, issuer and subject "lanmesh", 1970 to 2099."""
_HEAD = bytes.fromhex("3081d2") + _TBS
_MIDDLE = bytes.fromhex("300506032b6570034100")
CERTIFICATE_BYTES = len(_HEAD) + 32 + len(_MIDDLE) + 64
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")


class NotOurs(Exception):
    """The certificate of the other side is none of a node."""


def certificate(seed: bytes) -> bytes:
    """The DER certificate of the identity whose 32-byte seed this is."""
    public, sign = ed25519.signer_of(seed)
    return _HEAD + public + _MIDDLE + sign(_TBS + public)


def key_in(der: bytes) -> bytes:
    """The public key in a node's certificate. Raises NotOurs for any other certificate."""
    key_ends = len(_HEAD) + 32
    middle_ends = key_ends + len(_MIDDLE)
    if len(der) != CERTIFICATE_BYTES or der[: len(_HEAD)] != _HEAD or der[key_ends:middle_ends] != _MIDDLE:
        raise NotOurs
    return der[len(_HEAD) : key_ends]


def server_context(seed: bytes) -> ssl.SSLContext:
    """For the side that listens. The key never gets a name on disk where the system can do without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    text = _pem("CERTIFICATE", certificate(seed)) + _pem("PRIVATE KEY", _PKCS8 + seed)
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").exists():
        handle = os.memfd_create("door")
        try:
            os.write(handle, text)
            context.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
    else:
        with tempfile.NamedTemporaryFile() as file:  # 0600
            file.write(text)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def client_context() -> ssl.SSLContext:
    """For the side that dials: it checks nothing by itself. Ask `peer_key` before anything is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _pem(name: str, der: bytes) -> bytes:
    lines = base64.encodebytes(der).decode()
    return f"-----BEGIN {name}-----\n{lines}-----END {name}-----\n".encode()
