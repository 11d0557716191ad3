"""Metadata keys and filters. Keys are names of Kubernetes annotations, so fewer keys are accepted than by E2B."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus

from ...protocol.names import EXTENSION_PREFIX, RESERVED_PREFIX
from ...protocol.openkruise import Route
from .reading import Refused

CLONE_ONLY = frozenset({f"{EXTENSION_PREFIX}sandbox-name", f"{EXTENSION_PREFIX}sandbox-generate-name"})
_NAME = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_PREFIX = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_RESERVED = (EXTENSION_PREFIX, RESERVED_PREFIX)


def require_qualified(keys: Iterable[str]) -> None:
    """Refuse a key that is no qualified name of Kubernetes: an optional ``prefix/``, and up to 63 characters."""
    for key in keys:
        if key.startswith((*_RESERVED, "label:")):
            continue  # settings and labels, which have checks of their own
        prefix, slash, name = key.rpartition("/")
        if slash and not re.fullmatch(_PREFIX, prefix):
            raise Refused(400, f"Unqualified metadata key [{key}]: prefix part must be a lowercase RFC 1123 subdomain")
        if len(name.encode()) > 63:
            raise Refused(400, f"Unqualified metadata key [{key}]: name part must be no more than 63 bytes")
        if not re.fullmatch(_NAME, name):
            raise Refused(
                400,
                f"Unqualified metadata key [{key}]: name part must consist of alphanumeric characters, '-', '_' or "
                f"'.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or "
                f"'123-abc', regex used for validation is '{_NAME}')",
            )


def read_filter(query: Mapping[str, str], route: Route) -> dict[str, str]:
    """Return the metadata that listed sandboxes must have. A query key that the list route does not know is a filter.

    The SDK encodes keys and values three times, and this manager decodes them twice. So a filter with other characters
    than ``A-Z a-z 0-9 _ . - ~ /`` finds nothing.
    """
    wanted = {key: value for key, value in query.items() if key not in route.query}
    for pair in query.get("metadata", "").split("&"):
        key, equals, value = pair.partition("=")
        if equals:
            wanted[unquote_plus(key)] = unquote_plus(value)
    for key in wanted:
        if key.startswith(_RESERVED):
            raise Refused(400, f"Forbidden metadata key: {key}")
    return wanted
