"""The text that ``serve`` prints when it is ready: the address, the isolation, and lines to paste."""

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
    """The facts that the text depends on.

    Args:
        host: The address that the manager listens on, or None for loopback.
        domain: The domain that the operator chose, or None.
        runtime: A line on what isolates sandboxes.
        limits: A line on what holds sandboxes to their share of the machine.
        internet: A line on what connects sandboxes to the internet, or None if they use the machine's network.
        one_user_because: Why sandboxes have one user, or None if they have several.
        api_key: The new key, or None if the operator gave a key, which is not repeated.
        authority: The CA file that clients must trust, or None.
        found: The sandboxes that were taken over.
        keep: Whether sandboxes stay when the manager ends.
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
        """Return the value for ``E2B_DOMAIN``."""
        return self.domain or self._listening()

    def _listening(self) -> str:
        host = "localhost" if self.host in (*_LOOPBACK, *_ANY) else str(self.host)
        if ":" in host:
            host = f"[{host}]"
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
