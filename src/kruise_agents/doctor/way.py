"""Checks of the way to the manager: its name, the connection, the process behind a port here, the scheme, TLS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from packaging.version import Version

from ..client.seams import E2B
from ..probe import (
    CERTIFICATE_TROUBLES,
    DEFAULT_PORTS,
    GATEWAY_ERRORS,
    Certificate,
    Look,
    Trouble,
    look_at,
    manager_kind,
    resolve,
)
from ..protocol.addresses import Scheme
from ..protocol.domains import Domain
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .sdk import release
from .world import World

ENVOY_PORT = 7788
"""The port of OpenKruise's manager and gateway: API and data plane."""
_RUSTLS = Version("2.35.0")
"""The first release of e2b that sends requests with a TLS library that refuses certificates with CA:TRUE."""
_ALL_RUSTLS = Version("2.38.0")
"""The first release of e2b whose requests to the API do not go through Python's ssl."""
_FIRST_FREE_PORT = 1024
"""The first port that needs no root to listen on, unless the machine is set up otherwise."""
_LISTENING = "0A"
_FORWARD = f"kubectl port-forward services/sandbox-manager {{port}}:{ENVOY_PORT} -n {{namespace}}"

CHECKS = Checks(Group.WAY)


@CHECKS.add(
    "name",
    "addresses of the name",
    """The system's resolver must know the host of `E2B_DOMAIN`. Names that end in `.svc` or `.svc.cluster.local` exist
    inside a cluster only: from outside use the ingress, or a port-forward with `E2B_DOMAIN=localhost:8080`. The private
    protocol needs this one name; without the patch the SDK needs `api.<domain>` and `*.<domain>` as well.""",
)
def _name(world: World) -> Finding:
    if world.domain is None:
        return skipped("no domain is set")
    if world.proxies and not world.is_loopback:
        return skipped("the proxy resolves the name")
    host = world.domain.host
    try:
        return fine(", ".join(resolve(host, world.domain.port or 443, world.seconds())))
    except TimeoutError as error:
        return broken(host, f"The name server does not answer: {error}.", f"getent hosts {host}")
    except OSError as error:
        if host.endswith(".localhost"):
            reason = f"The system does not know the name. e2b {_ALL_RUSTLS} and later take it for this machine"
            if (release(E2B) or _ALL_RUSTLS) >= _ALL_RUSTLS:
                return fine(f"{host}: this machine", f"{reason}; other programs may not.")
            return broken(host, f"{reason}.", _named_here(host))
        if is_in_cluster(host):
            return broken(
                host,
                "Names of Services exist inside the cluster only.",
                "export E2B_DOMAIN=localhost:8080   # and: "
                + _FORWARD.format(port=8080, namespace=world.options.namespace),
            )
        return broken(host, f"The name is not known here: {error.strerror}.", f"getent hosts {host}")


def _named_here(name: str) -> str:
    return f"echo '127.0.0.1 {name}' | sudo tee -a /etc/hosts"


def is_in_cluster(host: str) -> bool:
    """Return whether a name is that of a Service, which exists inside a cluster only."""
    return host.endswith((".svc", ".cluster.local"))


@CHECKS.add(
    "loopback",
    "addresses of localhost",
    """`localhost` often has two addresses, `::1` and `127.0.0.1`. If only one of them is served, some clients try the
    other one first and give up. If two programs serve them, a client may reach the wrong one, and wait for an answer
    that never comes. Naming the address in `E2B_DOMAIN` decides.""",
)
def _loopback(world: World) -> Finding:
    domain = world.domain
    if domain is None or domain.host != "localhost":
        return skipped("the domain is not localhost")
    scheme: Scheme = world.scheme or "http"
    port = domain.port or DEFAULT_PORTS[scheme]
    try:
        addresses = resolve(domain.host, port, world.seconds())
    except OSError:
        return skipped("localhost has no address")
    # The SDK asks both, whatever the system's resolver says.
    looks = {
        each: _look_at_address(world, scheme, each, port) for each in dict.fromkeys((*addresses, "127.0.0.1", "::1"))
    }
    answering = [address for address, look in looks.items() if look.connected]
    if not answering:
        return skipped("nothing listens")
    first = _as_domain(answering[0], domain.port)
    right = [address for address in answering if _may_be_manager(looks[address])]
    wrong = [address for address in answering if address not in right]
    if right and wrong:
        seen = looks[wrong[0]].trouble or f"answer {looks[wrong[0]].status}"
        return broken(
            ", ".join(answering),
            f"Two programs serve them, and on {wrong[0]} it is no manager: {seen}.",
            f"export E2B_DOMAIN={_as_domain(right[0], domain.port)}   # or end the other program",
        )
    if answering[0] != addresses[0]:
        return warning(
            ", ".join(addresses),
            f"{addresses[0]} comes first, and only {answering[0]} is served.",
            f"export E2B_DOMAIN={first}",
        )
    return fine(", ".join(answering))


def _look_at_address(world: World, scheme: Scheme, address: str, port: int) -> Look:
    return look_at(scheme, _as_domain(address, port), seconds=world.seconds(2))


def _may_be_manager(look: Look) -> bool:
    return manager_kind(look) is not None or look.trouble in CERTIFICATE_TROUBLES


def _as_domain(address: str, port: int | None) -> Domain:
    return Domain(f"[{address}]" if ":" in address else address, port)


@CHECKS.add(
    "connect",
    "connection",
    """A refused connection means that nothing listens on this port. On this machine: the manager does not run, runs on
    another port, or the port-forward has ended. In a cluster: the Service of OpenKruise's manager has port 7788 and no
    port 80, so `E2B_DOMAIN` needs `:7788`. A connection that times out is usually dropped by a firewall.""",
)
def _connect(world: World) -> Finding:
    domain = world.domain
    look = _reached(world)
    if domain is None or look is None:
        return skipped("no domain is set")
    if look.trouble is Trouble.NAME:
        return skipped("the name has no address")
    place = f"{domain.host}:{domain.port or DEFAULT_PORTS[look.scheme]}"
    if look.connected:
        return fine(f"{look.address} port {place.rpartition(':')[2]}")
    if world.proxies.get(look.scheme):
        return skipped("the proxy makes the connections")
    if world.is_loopback:
        port = domain.port or DEFAULT_PORTS[look.scheme]
        serve = "kruise-agents serve" if port == ENVOY_PORT else f"kruise-agents serve --port {port}"
        reason = f"Nothing on this machine listens there: {look.trouble}."
        if port < _FIRST_FREE_PORT:
            reason += f" Ports below {_FIRST_FREE_PORT} need root: port 8080 needs E2B_DOMAIN={domain.host}:8080."
            port, serve = 8080, "kruise-agents serve --port 8080"
        forward = _FORWARD.format(port=port, namespace=world.options.namespace)
        return broken(place, reason, f"{serve}   # or: {forward}")
    if domain.port is None and (is_in_cluster(domain.host) or "." not in domain.host):
        return broken(
            place,
            f"{_capital(look.trouble)}. The Service of OpenKruise's manager has port {ENVOY_PORT}.",
            f"export E2B_DOMAIN={domain.host}:{ENVOY_PORT}",
        )
    return broken(place, f"{_capital(look.trouble)} ({look.detail}).", f"curl -v {look.scheme}://{domain}/")


def _reached(world: World) -> Look | None:
    """Return the look that came further."""
    if world.options.scheme is not None:
        return world.look(world.options.scheme)
    looks = [look for look in (world.look("http"), world.look("https")) if look is not None]
    return max(looks, key=lambda look: (look.trouble is None, look.connected), default=None)


@CHECKS.add(
    "port-owner",
    "program on the port",
    """For a domain on this machine: which program listens on the port. Another program may have taken the port of the
    manager or of the port-forward. A `kubectl port-forward` whose pod has ended keeps listening, and closes every
    connection: end it and start it again.""",
)
def _port_owner(world: World) -> Finding:
    domain = world.domain
    looks = [look for scheme in get_args(Scheme) if (look := world.look(scheme, direct=True)) is not None]
    if domain is None or not looks or not world.is_loopback:
        return skipped("the manager is not on this machine")
    look = max(looks, key=lambda look: look.connected)
    port = domain.port or DEFAULT_PORTS[look.scheme]
    start = _FORWARD.format(port=port, namespace=world.options.namespace)
    if not look.connected:
        forwards = [command for _, command in _processes() if _is_forward(command)]
        if forwards:
            return broken(" ".join(forwards[0]), f"A port-forward runs, but not for port {port}.", start)
        return skipped("nothing listens")
    owner = next(iter(_owners(port)), None)
    if owner is None:
        return fine("a program of another user, or in another container")
    pid, command = owner
    shown = f"{_program(command)} (process {pid})"
    if any(_may_be_manager(each) or each.is_redirect or each.status in GATEWAY_ERRORS for each in looks):
        return fine(shown)  # a web server before the manager, perhaps: see the check of who answers
    if not _is_forward(command):
        return broken(
            shown,
            f"That program is no manager, and port {port} is taken.",
            "kruise-agents serve --port 7789   # and: export E2B_DOMAIN=localhost:7789",
        )
    if all(each.trouble is not None for each in looks):
        reason = f"The port-forward listens, but no answer comes through it: {look.trouble}. Its pod has ended."
        return broken(shown, reason, f"kill {pid}; {start}")
    return fine(shown)


def _owners(port: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes that listen on a port of this machine, as far as /proc shows them."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for line in _lines(Path("/proc/net", table))[1:]
        if (fields := line.split())[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port
    }
    links = {f"socket:[{inode}]" for inode in inodes}
    for pid, command in _processes() if links else ():
        if links & _open_files(pid):
            yield pid, command


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue
        yield int(entry.name), [argument for argument in arguments if argument]


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(str(link.readlink()))
    except OSError:  # the process has ended, or belongs to another user
        return found
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no IPv6, or no /proc
        return []


def _is_forward(command: list[str]) -> bool:
    return "port-forward" in command and any(Path(argument).name == "kubectl" for argument in command)


def _program(command: list[str]) -> str:
    return " ".join(command if _is_forward(command) else [Path(argument).name for argument in command[:3]])[:100]


@CHECKS.add(
    "scheme",
    "scheme",
    """`patch_e2b()` speaks https and `patch_e2b(False)` plain http. The wrong one of the two gives errors such as
    `InvalidContentType` or a connection that is closed at once. Tell the doctor what your program does with `--https`
    or `--http`; without either it looks what the port speaks, and says what the program needs.""",
)
def _scheme(world: World) -> Finding:
    asked = world.options.scheme
    looks = {each.scheme: each for each in (world.look("https"), world.look("http")) if each is not None}
    if not any(look.connected for look in looks.values()):
        return skipped("there is no connection")
    speaks = world.scheme
    if asked is None:
        if speaks is None:
            return broken("neither https nor http", _capital(looks["http"].trouble or ""), "")
        if looks[speaks].is_redirect:
            return skipped("the server sends requests on elsewhere")
        both = all(look.trouble is None and not look.is_redirect for look in looks.values())
        return fine("https and http" if both else speaks, f"The program needs {_call(speaks)}.")
    other: Scheme = "http" if asked == "https" else "https"
    look = looks[asked]
    if look.is_redirect and look.headers["location"].startswith(f"{other}:"):
        return broken(asked, f"The server sends every {asked} request on to {other}.", _call(other))
    if look.trouble is None or look.trouble in CERTIFICATE_TROUBLES:
        return fine(asked, f"The program needs {_call(asked)}.")
    if looks[other].trouble is None or look.trouble in (Trouble.WANTS_TLS, Trouble.PLAIN_HTTP):
        return broken(asked, f"The port speaks {other}: over {asked}, {look.trouble}.", _call(other))
    return broken(asked, f"{_capital(look.trouble)} {look.detail}".strip(), "")


def _call(scheme: Scheme) -> str:
    return "patch_e2b()" if scheme == "https" else "patch_e2b(False)"


@CHECKS.add(
    "tls-trust",
    "certificate",
    """Over https the server's certificate must come from an authority that this program trusts, be for the host of
    `E2B_DOMAIN`, be in its time, and not be an authority itself. For an authority of your own set `SSL_CERT_FILE` to
    its certificate, not to the server's. A server whose certificate comes from an intermediate authority must send that
    authority's certificate too (`openssl s_client -connect host:port -showcerts` shows what it sends): it cannot be
    seen from here whether an unknown authority is an intermediate one. `openssl req -x509` alone makes a certificate
    that is an authority (CA:TRUE), which e2b 2.35.0 and later refuse as a server's. Python 3.13 also wants key
    identifiers in certificates.""",
)
def _tls_trust(world: World) -> Finding:
    if world.scheme == "http":
        return skipped("the port is asked over plain http")
    look = world.look("https")
    if look is None or not (look.trouble is None or look.trouble in (*CERTIFICATE_TROUBLES, Trouble.TLS)):
        return skipped("there is no TLS connection")
    if look.trouble is None:
        return fine(_names(look.certificate))
    return _bad_certificate(world, look)


def _bad_certificate(world: World, look: Look) -> Finding:
    certificate = look.certificate
    shown = _names(certificate)
    trust = f"export SSL_CERT_FILE={(world.own and world.own.ca_file) or '/path/to/ca.pem'}"
    is_authority = certificate is not None and certificate.is_authority
    if look.trouble is Trouble.AUTHORITY or (look.trouble is Trouble.UNTRUSTED and is_authority):
        version = release(E2B)
        if look.trouble is Trouble.AUTHORITY and version is not None and version < _RUSTLS:
            return warning(shown, "It is an authority's own (CA:TRUE); e2b 2.35.0 and later refuse it.", "")
        return broken(
            shown,
            "The server's certificate is an authority's own (CA:TRUE), which the SDK refuses.",
            f"kruise-agents cert {look.domain.host}   # makes an authority and a certificate below it",
        )
    if look.trouble is Trouble.UNTRUSTED:
        given = world.environment.get("SSL_CERT_FILE")
        by = f", by {certificate.issuer!r}" if certificate is not None and certificate.issuer else ""
        trusted = f" {given} does not hold it." if given else ""
        alone = certificate is not None and certificate.sent == 1 and world.own is None
        if alone:
            trusted += " The server sends this certificate alone: if that authority is an intermediate one, the server"
            trusted += " must send its certificate too."
            trust += "   # or, on the server: cat server.pem intermediate.pem > full.pem"
        return broken(
            shown,
            f"The authority of the certificate{by}, is not trusted: {look.detail}.{trusted}{_besides(look)}",
            trust,
        )
    if look.trouble is Trouble.WRONG_NAME or Trouble.WRONG_NAME in (certificate.troubles if certificate else ()):
        name = _first_name(certificate)
        hosts = f"{_named_here(name)}; " if world.is_loopback else ""
        port = "" if look.domain.port is None else f":{look.domain.port}"
        return broken(
            shown,
            f"The certificate is not for {look.domain.host}.{_besides(look)}",
            f"{hosts}export E2B_DOMAIN={name}{port}",
        )
    if look.trouble is Trouble.STRICT and (release(E2B) or _ALL_RUSTLS) >= _ALL_RUSTLS:
        return warning(shown, f"Python's strict checks refuse it ({look.detail}); the SDK does not.", "")
    return broken(shown, f"{_capital(look.trouble or '')}: {look.detail}.", "renew the certificate of the server")


def _names(certificate: Certificate | None) -> str:
    return ", ".join(certificate.names[:4]) if certificate is not None and certificate.names else "a certificate"


def _first_name(certificate: Certificate | None) -> str:
    return next((each for each in (certificate.names if certificate else ()) if "*" not in each), "your.domain.com")


def _besides(look: Look) -> str:
    """Return what else is wrong with a certificate whose first trouble is not the time."""
    troubles = look.certificate.troubles if look.certificate is not None else ()
    wrong = [each for each in troubles if each is not look.trouble]
    return "".join(f" Besides, {each}." for each in wrong)


@CHECKS.add(
    "proxy",
    "through the proxy",
    """If a proxy variable applies to the domain, the SDK sends every request through that proxy. If the manager answers
    directly and not through the proxy, add the domain to `NO_PROXY`. If it answers neither way, ask who runs the
    proxy.""",
)
def _proxy(world: World) -> Finding:
    used: Scheme = world.options.scheme or world.scheme or "http"
    through = world.proxies.get(used)
    domain = world.domain
    if domain is None or not through:
        return skipped("no proxy applies")
    shown = re.sub(r"(\w+://)?\S*@", r"\1", through)
    look = world.look(used)
    if look is not None and look.trouble is None and world.proxy is not None and world.kind is not None:
        return fine(shown)
    direct = world.look(used, direct=True)
    seen = "" if look is None else f"Through the proxy: {look.trouble or f'answer {look.status}'}."
    if direct is not None and direct.trouble is None:
        return broken(shown, f"{seen} The manager answers directly.", world.without_proxy())
    return broken(shown, f"{seen} Directly: {'' if direct is None else direct.trouble}.", "")


def _capital(text: object) -> str:
    words = str(text)
    return words[:1].upper() + words[1:]
