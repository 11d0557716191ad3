"""Servers that answer every request with the same bytes, or with silence, and certificates for them."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK"


def answer(status: str, body: str, *fields: str) -> bytes:
    """Return an HTTP answer with these header lines."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", *fields, "", body]
    return "\r\n".join(lines).encode()


@dataclass
class RawServer:
    """A listening server and the heads of the requests that came."""

    port: int
    requests: list[bytes] = field(default_factory=list)

    @property
    def domain(self) -> str:
        return f"localhost:{self.port}"


@contextlib.contextmanager
def raw_server(
    reply: bytes | Mapping[bytes, bytes] | None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[RawServer]:
    """Answer each request with ``reply``. With None, read and stay silent; with no bytes, close the connection.

    Of a mapping, the answer is the first whose key is a part of the request line.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        server = RawServer(listener.getsockname()[1])
        stopped = threading.Event()

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.settimeout(20)
                plain = tls is None
                stream = connection if tls is None else tls.wrap_socket(connection, server_side=True)
                with stream:
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := stream.recv(65536)):
                        head += piece
                        if plain and head[:1] == b"\x16":  # a TLS client
                            break
                    if head:
                        server.requests.append(head)
                    if reply is None:
                        stopped.wait(20)
                    else:
                        stream.sendall(_chosen(reply, head))

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                if stopped.is_set():
                    connection.close()
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            stopped.set()
            with contextlib.suppress(OSError), socket.create_connection((host, server.port), 5):
                pass  # so that the accepting thread sees the end
            thread.join(10)


def _chosen(reply: bytes | Mapping[bytes, bytes], head: bytes) -> bytes:
    line = head.partition(b"\r\n")[0]
    return reply if isinstance(reply, bytes) else next(reply[part] for part in reply if part in line)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port on which connections are refused: bound, and without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def trusted_authority(folder: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that this program trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    return made


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def self_made(
    folder: Path,
    *,
    authority: bool,
    name: str = "localhost",
    until: datetime.timedelta = datetime.timedelta(days=30),
) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a self-signed certificate, and the certificate's file.

    With ``authority`` the certificate is what ``openssl req -x509`` makes: CA:TRUE.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if authority:
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True
        )
    certificate = builder.sign(key, hashes.SHA256())
    path, key_path = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return context, path
