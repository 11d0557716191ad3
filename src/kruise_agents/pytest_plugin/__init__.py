"""Plugin for pytest: tests get sandboxes from an embedded manager, or from a cluster with ``--e2b-domain``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["E2BManager"]


@dataclass(frozen=True, slots=True)
class E2BManager:
    """The sandbox-manager of the fixture ``e2b_manager``.

    Attributes:
        domain: The value of ``E2B_DOMAIN``, such as ``localhost:41234``.
        scheme: ``http`` or ``https``.
        api_url: The address of the API, such as ``http://localhost:41234/kruise/api``.
        api_key: The value of ``E2B_API_KEY``. With the embedded manager each worker of pytest-xdist has its own key,
            and so sees its own sandboxes only.
        ca_file: The certificate authority that clients must trust, if an embedded manager made the certificate.
        embedded: False if ``--e2b-domain`` names the manager.
    """

    domain: str
    scheme: str
    api_url: str
    api_key: str = field(repr=False)
    ca_file: Path | None = None
    embedded: bool = True

    @property
    def https(self) -> bool:
        """The argument for ``patch_e2b()``."""
        return self.scheme == "https"

    def environment(self) -> dict[str, str]:
        """Return the variables that a program with the patch needs."""
        variables = {"E2B_DOMAIN": self.domain, "E2B_API_KEY": self.api_key}
        if self.ca_file is not None:
            variables["SSL_CERT_FILE"] = str(self.ca_file)
        return variables
