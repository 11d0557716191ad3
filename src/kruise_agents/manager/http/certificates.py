"""A local certificate authority, for a manager with ``--tls`` and without ``--cert``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalCertificate:
    """The files of a certificate that the manager made. Clients must trust ``authority``."""

    certificate: Path
    private_key: Path
    authority: Path


def make_certificate(folder: Path, hosts: Sequence[str]) -> LocalCertificate:
    """Make a certificate authority, and a certificate for ``hosts``, ``*.<host>`` and the loopback names.

    An IP address gets no ``*.<host>``. The authority's key is not kept, so that nobody can sign more certificates.
    """
    import trustme  # slow to import, and only needed here

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="kruise-agents local authority")
    names = dict.fromkeys(name for host in hosts for name in _names(host.strip("[]")))
    names |= dict.fromkeys(["localhost", "127.0.0.1", "::1"])
    server = authority.issue_cert(*names)
    made = LocalCertificate(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    made.private_key.touch(mode=0o600)
    made.private_key.write_bytes(server.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(made.authority))
    return made


def _names(host: str) -> list[str]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [host, f"*.{host}"]
    return [host]
