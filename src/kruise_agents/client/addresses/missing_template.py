"""The error when a new sandbox's template is missing, extended by the names of the templates that the manager has.

The error of OpenKruise's manager says only ``Template or Checkpoint not found``: status 400, a JSON object with
``message`` (``pkg/servers/e2b/create.go`` at commit 0b72c83ae0bc; also seen in answers).
"""

from __future__ import annotations

import json
from typing import Any

import httpx

_NOT_FOUND = "Template or Checkpoint not found"
_MOST_NAMES = 20
_LONGEST_NAME = 253  # of a Kubernetes object
_PATIENCE = 5.0
OF_A_BODY = ("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Idempotency-Key")


def is_missing_template(response: httpx.Response) -> bool:
    """Return whether a response is the manager's error for a missing template."""
    return response.status_code == httpx.codes.BAD_REQUEST and _fields(response).get("message") == _NOT_FOUND


def question(request: httpx.Request, url: httpx.URL) -> httpx.Request:
    """Return the request for the list of templates at ``url``, with the credentials of ``request``."""
    headers = request.headers.copy()
    for name in OF_A_BODY:
        headers.pop(name, None)
    limits = {**dict.fromkeys(("connect", "read", "write", "pool"), None), **request.extensions.get("timeout", {})}
    patience = {name: min(limit or _PATIENCE, _PATIENCE) for name, limit in limits.items()}
    return httpx.Request("GET", url, headers=headers, extensions={**request.extensions, "timeout": patience})


def with_templates(refusal: httpx.Response, templates: httpx.Response) -> httpx.Response:
    """Return ``refusal`` with template names added to its message; unchanged if ``templates`` does not hold a list."""
    names = _names(templates) if templates.is_success else None
    if names is None:
        return refusal
    shown = ", ".join(names[:_MOST_NAMES]) or "none"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    headers = refusal.headers.copy()
    for name in OF_A_BODY:
        headers.pop(name, None)
    fields = {**_fields(refusal), "message": f"{_NOT_FOUND}; this manager has: {shown}{more}"}
    return httpx.Response(refusal.status_code, headers=headers, json=fields, extensions=refusal.extensions)


def _names(templates: httpx.Response) -> list[str] | None:
    listed = _parsed(templates)
    if not isinstance(listed, list):
        return None
    names = [template.get("templateID") for template in listed if isinstance(template, dict)]
    return sorted(
        {name for name in names if isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable()}
    )


def _fields(response: httpx.Response) -> dict[str, Any]:
    parsed = _parsed(response)
    return parsed if isinstance(parsed, dict) else {}


def _parsed(response: httpx.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None
