"""Ports, headers, metadata keys, environment variables and user ids that several parts of the package share.

Sources: e2b 2.8.0 ... 2.63.0 for ports, headers and ``E2B_*``; OpenKruise's sandbox-manager for metadata keys and the
traffic access token. Header names are in lower case, to be compared as raw bytes; ``X-API-Key`` is the exception.
"""

from __future__ import annotations

ENVD_PORT = 49983
CODE_INTERPRETER_PORT = 49999

API_KEY_HEADER = "X-API-Key"
ACCESS_TOKEN_HEADER = "x-access-token"  # noqa: S105 - the name of a header
TRAFFIC_TOKEN_HEADER = "e2b-traffic-access-token"  # noqa: S105 - the name of a header
SANDBOX_ID_HEADER = "e2b-sandbox-id"
SANDBOX_PORT_HEADER = "e2b-sandbox-port"

RESERVED_PREFIX = "agents.kruise.io/"
EXTENSION_PREFIX = f"e2b.{RESERVED_PREFIX}"
"""Prefix of the metadata keys that the manager itself reads or sets, such as options of a create call."""
PROTECT_KEY = f"security.{RESERVED_PREFIX}enable-jwt-auth"
"""The metadata key that makes a sandbox protected, when its value is exactly ``true``."""

MARK_VARIABLE = "E2B_SANDBOX"
SANDBOX_ID_VARIABLE = "E2B_SANDBOX_ID"
TEMPLATE_VARIABLE = "E2B_TEMPLATE_ID"
INTERNAL_VARIABLES = (MARK_VARIABLE, SANDBOX_ID_VARIABLE, TEMPLATE_VARIABLE)
"""Environment variables that the manager sets in every sandbox. A create call can add other variables."""

RUN_ADDRESS_VARIABLE = "KRUISE_AGENTS_RUN_ADDRESS"
"""The scheme and the domain of ``kruise-agents run``, such as ``http://localhost:7788``; ``http://`` without a domain.

Python processes below ``run`` patch the SDK with that scheme.
"""
RUN_TRAFFIC_TOKENS_VARIABLE = "KRUISE_AGENTS_RUN_TRAFFIC_TOKENS"
RUN_VERBOSE_VARIABLE = "KRUISE_AGENTS_RUN_VERBOSE"  # read by run/site/kruise_agents_hook.py, which imports nothing
RUN_VARIABLES = (RUN_ADDRESS_VARIABLE, RUN_TRAFFIC_TOKENS_VARIABLE, RUN_VERBOSE_VARIABLE)
"""Environment variables that ``kruise-agents run`` sets for the processes below it."""

USER_ID = 1000
"""Id of the default user in an isolated sandbox."""
HIGHEST_ID = 65534
"""Id of the user ``nobody``, and the highest id in an isolated sandbox."""
ID_COUNT = HIGHEST_ID + 1
