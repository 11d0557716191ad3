"""Everything that can be chosen when a manager is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .runtime import Limits
from .traffic_tokens import DEFAULT_CLOCK_SKEW, DEFAULT_VALIDITY

DEFAULT_PORT = 7788
DEFAULT_POOL = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one manager.

    Parameters:
        state_dir: folder for everything the manager keeps; made when it is not there.
        api_keys: the keys of the admin team, at least one. What the first one owns stays its own when it changes.
        host: address to listen on, or None: both loopback addresses.
        port: port to listen on; 0: any free one.
        domain: what replies name as the domain, or None: the host that each client used.
        runtime: a name from :data:`.runtime.RUNTIMES`.
        limits: what each sandbox may take of the machine.
        internet: whether sandboxes may reach it, where a program that can connect them is installed.
        prefork: fork sandboxes' programs from one that has imported everything, where the runtime can.
        tls: serve https.
        certificate: PEM file with the server's certificate and its chain, or None: with ``tls`` one is made.
        private_key: PEM file with the certificate's key.
        keep: leave sandboxes as they are at the end, for the next manager on this state folder.
        templates: folder of TOML files with templates, or None: only those that are built in.
        pool: how many sandboxes of ``code-interpreter-v1`` are kept warm.
        v1_only: answer as older sandbox-managers do, which have no ``POST /v2/sandboxes``.
        traffic_token_validity: seconds from the issue of a traffic access token to its end.
        traffic_token_clock_skew: seconds for which its times are still accepted too early and too late.
    """

    state_dir: Path
    api_keys: Sequence[str]
    host: str | None = None
    port: int = DEFAULT_PORT
    domain: str | None = None
    runtime: str = "bubblewrap"
    limits: Limits = Limits()  # noqa: RUF009 - cannot be changed
    internet: bool = True
    prefork: bool = True
    tls: bool = False
    certificate: Path | None = None
    private_key: Path | None = None
    keep: bool = False
    templates: Path | None = None
    pool: int = DEFAULT_POOL
    v1_only: bool = False
    traffic_token_validity: int = DEFAULT_VALIDITY
    traffic_token_clock_skew: float = DEFAULT_CLOCK_SKEW
