"""A local certificate authority, for the proxy, and for a manager without ``--cert``."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError

_MOST_CONTEXTS = 1024


@dataclass(frozen=True, slots=True)
class LocalCertificate:
    """The files of a certificate that the manager made. Clients must trust ``authority``."""

    certificate: Path
    private_key: Path
    authority: Path


class LocalAuthority:
    """A certificate authority whose key stays in memory, so that nobody else can sign certificates."""

    def __init__(self) -> None:
        import trustme  # slow to import, and only needed here

        self._authority = trustme.CA(organization_name="kruise-agents local authority")
        self._contexts: dict[str, ssl.SSLContext] = {}

    def issue(self, folder: Path, hosts: Sequence[str]) -> LocalCertificate:
        """Make a certificate for ``hosts``, ``*.<host>`` and the loopback names. An IP address gets no ``*.<host>``.

        Raises:
            ConfigurationError: A host is no name that a certificate can have.
        """
        try:
            server = self._authority.issue_cert(*_all_names(hosts))
        except UnicodeError as error:  # of the package idna
            raise ConfigurationError(
                f"no certificate can be made for {', '.join(hosts)}: {error}. Names in certificates have letters, "
                f"digits and '-', and at most 63 between two dots"
            ) from error
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = LocalCertificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")
        made.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        made.private_key.touch(mode=0o600)
        made.private_key.write_bytes(server.private_key_pem.bytes())
        self._authority.cert_pem.write_to_path(str(made.authority))
        return made

    def name_servers_of(self, context: ssl.SSLContext, is_own: Callable[[str], bool]) -> None:
        """Give each client of ``context`` a certificate for the very name that it asks for, if that ``is_own``.

        OpenSSL accepts no ``*.localhost``, so a certificate for all names would not do.
        """

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name is not None and is_own(name):
                with contextlib.suppress(ValueError):  # no certificate can have this name
                    connection.context = self._context_for(name)

        context.sni_callback = choose

    def _context_for(self, name: str) -> ssl.SSLContext:
        context = self._contexts.get(name)
        if context is None:
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            context = self._contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._authority.issue_cert(name).configure_cert(context)
        return context


def make_certificate(folder: Path, hosts: Sequence[str]) -> LocalCertificate:
    """Return a certificate for ``hosts`` as :meth:`LocalAuthority.issue` makes one. Make it if there is none.

    The authority's key is not kept, so other names mean another authority. With the same names, clients go on trusting
    the one that they know.
    """
    made = LocalCertificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    record, names = folder / "names", "\n".join(_all_names(hosts))
    if not _is_there(made, record, names):
        record.unlink(missing_ok=True)
        LocalAuthority().issue(folder, hosts)
        record.write_text(names, encoding="utf-8")  # the last one: what a crash left unfinished is made anew
    return made


def server_context(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """Return the settings of https with a certificate. Raise OSError or ssl.SSLError if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    return context


def _is_there(made: LocalCertificate, record: Path, names: str) -> bool:
    try:
        if record.read_text(encoding="utf-8") != names:
            return False
        server_context(made.certificate, made.private_key)
        ssl.create_default_context(cafile=made.authority)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
    return True


def _all_names(hosts: Sequence[str]) -> list[str]:
    names = [name for host in hosts for name in _names(host.strip("[]"))]
    return list(dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"]))


def _names(host: str) -> list[str]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [host, f"*.{host}"]
    return [host]
