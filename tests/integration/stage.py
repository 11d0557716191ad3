"""A stage for a client program inside a network namespace: names, certificates, a manager and the client program.

usage: stage.py <way> <work folder> <runtime> <command of the client program ...>

The variable `ACCESS` tells the client program the protocol: native, https or http.

The real ports (443, 80, 7788) are bound, and the names are resolved by a real DNS server, as in the README's setup.
Nothing leaves the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme
from dnslib import AAAA, QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSRecord, DNSServer

KEY = "e2b_0123456789abcdef0123456789abcdef01234567"
IN_CLUSTER = "sandbox-manager.sandbox-system.svc.cluster.local"
PROXIED = "sandboxes.example.com"
PACKAGING = Path(__file__).parents[2] / "packaging"


@dataclass(frozen=True)
class Way:
    """A way to connect, as the README describes it."""

    e2b_domain: str
    access: str
    manager_port: int
    names: tuple[str, ...] = ()
    certificate_for: str | None = None
    forward: tuple[int, int] | None = None
    proxy: str | None = None
    """The reverse proxy in front of the manager, with its configuration of `packaging/`."""


WAYS = {
    "native": Way("your.domain", "native", 443, ("*.your.domain",), certificate_for="*.your.domain"),
    "private-https": Way("your.domain", "https", 443, ("your.domain",), certificate_for="your.domain"),
    "in-cluster": Way(IN_CLUSTER, "http", 80, (IN_CLUSTER,)),
    "in-cluster-7788": Way(f"{IN_CLUSTER}:7788", "http", 7788, (IN_CLUSTER,)),
    "port-forward": Way("localhost", "http", 7788, forward=(80, 7788)),
    "nginx": Way(PROXIED, "https", 7788, (PROXIED,), certificate_for=PROXIED, proxy="nginx"),
    "caddy": Way(PROXIED, "https", 7788, (PROXIED,), certificate_for=PROXIED, proxy="caddy"),
}


class Names(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """A resolver that answers the loopback addresses for ``names``, in which ``*.`` stands for one label."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        reply = request.reply()
        asked = str(request.q.qname).rstrip(".")
        if not any(self._is(asked, name) for name in self._names):
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype == QTYPE.A:
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A("127.0.0.1"), ttl=5))
        elif request.q.qtype == QTYPE.AAAA:
            reply.add_answer(RR(request.q.qname, QTYPE.AAAA, rdata=AAAA("::1"), ttl=5))
        return reply

    @staticmethod
    def _is(asked: str, name: str) -> bool:
        if not name.startswith("*."):
            return asked == name
        first, _, rest = asked.partition(".")
        return bool(first) and rest == name[2:]


def main() -> int:
    way, folder, runtime, command = WAYS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONFAULTHANDLER": "1",
        "ACCESS": way.access,
        "E2B_DOMAIN": way.e2b_domain,
        "E2B_API_KEY": KEY,
    }
    options = ["--port", str(way.manager_port), "--state-dir", str(folder / "state"), "--runtime", runtime]
    options += ["--log-level", "info"]
    if way.certificate_for:
        certificate = make_certificate(folder, way.certificate_for)
        options += [] if way.proxy else certificate
        environment |= dict.fromkeys(("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"), str(folder / "ca.pem"))
    with contextlib.ExitStack() as stack:
        if way.names:
            stack.enter_context(serving_names(way.names))
        if way.forward:
            stack.enter_context(forwarding(*way.forward))
        stack.enter_context(serving(options, folder))
        if way.proxy:
            stack.enter_context(PROXIES[way.proxy](folder))
        client = subprocess.run(command, env=environment, check=False)
    return client.returncode


def make_certificate(folder: Path, *names: str) -> list[str]:
    """Make a certificate for ``names``, with the authority ``ca.pem``, and return the options of ``serve`` for it."""
    authority = trustme.CA()
    certificate = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    return ["--cert", str(folder / "server.pem"), "--key", str(folder / "server.key")]


@contextlib.contextmanager
def serving_names(names: tuple[str, ...]) -> Iterator[None]:
    server = DNSServer(Names(names), address="127.0.0.1", port=53, logger=DNSLogger("-request,-reply"))
    server.start_thread()
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def forwarding(source: int, destination: int) -> Iterator[None]:
    """Forward a port, as ``kubectl port-forward services/sandbox-manager 80:7788`` does."""
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", destination)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    loop.run_until_complete(asyncio.start_server(accept, "127.0.0.1", source))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextlib.contextmanager
def serving(options: list[str], folder: Path) -> Iterator[int]:
    """Start a manager whose home is ``folder``, and yield its pid."""
    command = [sys.executable, "-m", "kruise_agents", "serve", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KRUISE_AGENTS_API_KEY": KEY}
    environment |= {name: value for name, value in os.environ.items() if name == "KRUISE_AGENTS_PREFORK"}
    manager = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert manager.stdout is not None
    try:
        if not any("Ctrl-C" in line for line in manager.stdout):
            raise SystemExit(f"the manager ended with code {manager.wait()}")
        yield manager.pid
    finally:
        manager.terminate()
        manager.wait(20)


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[None]:
    """Start nginx with the documented configuration, but with the certificate in ``folder``."""
    site = (PACKAGING / "nginx.conf").read_text()
    (folder / "site.conf").write_text(certified(site, "/etc/ssl/kruise-agents/", folder))
    (folder / "nginx.conf").write_text(
        # nginx would otherwise change to another user, but the namespace has only root.
        f"user root; pid {folder}/nginx.pid; daemon off; events {{}}\n"
        # The installed nginx's own folder for temporary files does not belong to root here.
        f"http {{ access_log off; client_body_temp_path {folder}/body;\n"
        f"{''.join(f'{kind}_temp_path {folder}/{kind}; ' for kind in ('proxy', 'fastcgi', 'scgi', 'uwsgi'))}\n"
        f"include {folder}/site.conf; }}\n"
    )
    with listening(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log")], folder):
        yield


@contextlib.contextmanager
def caddy(folder: Path) -> Iterator[None]:
    """Start Caddy with the documented configuration and a certificate, which Caddy cannot get from outside here."""
    site = (PACKAGING / "Caddyfile").read_text()
    files = f"\ttls {folder}/server.pem {folder}/server.key\n"
    (folder / "Caddyfile").write_text(site.replace(f"{PROXIED} {{\n", f"{PROXIED} {{\n{files}", 1))
    with listening(["caddy", "run", "--config", str(folder / "Caddyfile")], folder):
        yield


PROXIES = {"nginx": nginx, "caddy": caddy}


def certified(site: str, place: str, folder: Path) -> str:
    assert site.count(place) == 2, site
    return site.replace(f"{place}fullchain.pem", f"{folder}/server.pem").replace(
        f"{place}privkey.pem", f"{folder}/server.key"
    )


def answers(port: int) -> bool:
    with contextlib.closing(socket.socket()) as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def listening(command: list[str], folder: Path) -> Iterator[None]:
    """Start a reverse proxy, and wait until the proxy listens on port 443."""
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "HOME": str(folder)}
    proxy = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 20
        while not answers(443):
            if proxy.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen; it ended with {proxy.poll()}")
            time.sleep(0.05)
        yield
    finally:
        proxy.terminate()
        proxy.wait(20)


if __name__ == "__main__":
    sys.exit(main())
