"""What ``serve`` says when it is ready: where it listens, what isolates sandboxes, and the lines to paste."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..manager.sandboxes.recovery import Found

_DEFAULT_PORTS = {"https": 443, "http": 80}
_LOOPBACK = (None, "127.0.0.1", "::1", "localhost")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Greeting:
    """Everything that the lines depend on.

    Parameters:
        scheme: ``http`` or ``https``.
        host: the address that is listened on, or None: loopback.
        port: the port that is listened on.
        domain: what the operator says that clients call this manager, or None.
        runtime: one line on what isolates sandboxes.
        internet: one line on what connects them to the outside, or None: they have the machine's network.
        limits: one line on what holds them to their share of the machine.
        one_user_because: why they have one user, or None: they have several.
        api_key: the key that was made, or None: the operator gave one, which is not repeated.
        authority: the CA file that clients must trust, or None.
        found: sandboxes that were taken over.
        keep: whether they stay at the end.
    """

    scheme: str
    host: str | None
    port: int
    domain: str | None
    runtime: str
    limits: str
    internet: str | None
    one_user_because: str | None
    api_key: str | None
    authority: Path | None
    found: Found = field(default_factory=Found)
    keep: bool = False

    def text(self) -> str:
        """The lines, without a final newline."""
        lines = [
            f"kruise-agents {__version__}: sandbox-manager on {self.scheme}://{self._listening()}",
            self.runtime,
            self.limits,
            *([self.internet] if self.internet else []),
        ]
        if self.one_user_because:
            lines.append(f"sandboxes have one user, who is also their root: {self.one_user_because}")
        if self.found != Found():
            lines.append(
                f"sandboxes taken over from the last run: {self.found.running} running, {self.found.paused} paused"
            )
        if self.host not in _LOOPBACK:
            lines.append(f"listening on {self.host}: everybody who can reach it and has the key can run code here")
        lines += ["", "Point an E2B program at it:", "", f"  export E2B_DOMAIN={self.client_domain()}"]
        if self.api_key:
            lines.append(f"  export E2B_API_KEY={self.api_key}")
        else:
            lines.append("  export E2B_API_KEY=...   # the key that you gave")
        if self.authority:
            trusted = shlex.quote(str(self.authority))
            lines.append(f"  export SSL_CERT_FILE={trusted}   # trusts this manager, and then only this")
        call = "patch_e2b()" if self.scheme == "https" else "patch_e2b(False)"
        lines += [
            "",
            "  from kruise_agents.patch_e2b import patch_e2b",
            f"  {call}",
            "",
            "Ctrl-C ends it; sandboxes stay for the next start." if self.keep else "Ctrl-C ends it and all sandboxes.",
        ]
        return "\n".join(lines)

    def client_domain(self) -> str:
        """What belongs in ``E2B_DOMAIN``."""
        return self.domain or self._listening()

    def _listening(self) -> str:
        host = "localhost" if self.host in (*_LOOPBACK, *_ANY) else str(self.host)
        if ":" in host:
            host = f"[{host}]"
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
