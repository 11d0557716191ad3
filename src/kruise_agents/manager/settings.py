"""Everything that can be chosen when a manager is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 7788


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one manager.

    Parameters:
        state_dir: folder for everything the manager keeps; made when it is not there.
        api_keys: the keys that may call the API; at least one.
        host: address to listen on, or None: both loopback addresses.
        port: port to listen on; 0: any free one.
        domain: what replies name as the domain, or None: the host that each client used.
        runtime: a name from :data:`.runtime.RUNTIMES`.
        certificate: PEM file with the server's certificate and its chain, or None: plain http.
        private_key: PEM file with the certificate's key.
    """

    state_dir: Path
    api_keys: Sequence[str]
    host: str | None = None
    port: int = DEFAULT_PORT
    domain: str | None = None
    runtime: str = "bubblewrap"
    certificate: Path | None = None
    private_key: Path | None = None
