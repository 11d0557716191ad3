"""The pages for people who open the manager's address in a browser.

Anybody may see them, without a key. So they show nothing of the manager but that it is alive. A page of another site
can have its name resolve to this machine (DNS rebinding), and reads no more from them than their fixed text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import ipaddress

from starlette.responses import Response
from starlette.types import Scope

from ...errors import DomainError
from ...protocol.addresses import API_PREFIX
from ...protocol.domains import parse_domain

OPENAPI = "/openapi.json"
_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }
pre { padding: 1rem; overflow-x: auto; background: #8882; border-radius: .4rem; }
:root { color-scheme: light dark; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kruise-agents sandbox-manager</title>
<style>{style}</style>
</head>
<body>
<h1>The sandbox-manager is running</h1>
<p>This is an embedded sandbox-manager of kruise-agents. Programs that use the E2B SDK run code in its sandboxes.</p>
<h2>Connect a program</h2>
<pre>export E2B_DOMAIN={domain}
export E2B_API_KEY=<i>the key that "kruise-agents serve" printed</i></pre>
<p>On the manager's machine <code>eval "$(kruise-agents env)"</code> sets both. In the program, before the first
sandbox:</p>
<pre>from kruise_agents.patch_e2b import patch_e2b

{call}</pre>
<h2>Look closer</h2>
<ul>
<li><a href="{api}/openapi.json">The description of the API</a> (OpenAPI), which is below <code>{api}</code></li>
<li><a href="/health">The state of the manager</a> and <a href="/metrics">its counts</a></li>
<li><code>kruise-agents doctor</code> says why a program does not connect</li>
</ul>
</body>
</html>
"""
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#36c"/>'
    '<path d="M4 5l3 3-3 3M8 11h4" stroke="#fff" stroke-width="1.5" fill="none"/></svg>'
)


class Pages:
    """The pages at the root of the manager's address. ``domain`` is the manager's own, if it has one."""

    def __init__(self, domain: str | None) -> None:
        self._domain = domain

    def find(self, path: str, scope: Scope, authority: str) -> Response | None:
        """Return the answer to ``GET`` of a path, or None if there is no such page."""
        if path == "/":
            call = "patch_e2b()" if scope["scheme"] == "https" else "patch_e2b(False)"
            domain = html.escape(self._domain or _trusted(authority) or "your.domain")
            text = _PAGE.format(style=_STYLE, domain=domain, call=call, api=API_PREFIX)
            return Response(text, media_type="text/html", headers=_HEADERS)
        if path == "/favicon.ico":
            return Response(_ICON, media_type="image/svg+xml", headers=_HEADERS | {"cache-control": "max-age=86400"})
        if path == "/robots.txt":
            return Response("User-agent: *\nDisallow: /\n", media_type="text/plain", headers=_HEADERS)
        return None


def _trusted(authority: str) -> str | None:
    """Return the domain in a ``Host`` header if it names this machine itself and is no name that anybody may own."""
    try:
        domain = parse_domain(authority)
        if domain.host != "localhost":
            ipaddress.ip_address(domain.host.strip("[]"))
    except (DomainError, ValueError):
        return None
    return str(domain)
