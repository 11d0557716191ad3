"""Answers as OpenKruise's manager gives them, also where it misreads a request, for ``serve --like openkruise``.

There are two sources. ``protocol/openkruise.py`` says what that manager reads of a request.
``tests/manager/api/openkruise.toml`` has its answers to 136 requests (August 2026), and says which are not imitated.

Not imitated, because no client should depend on it: IDs that are guessable (``<namespace>--<name>``), metadata that
Kubernetes adds, namespaces, replicas and their peers, the resources of pods, and the route for a Chrome in a sandbox.
"""

from __future__ import annotations

from .app import create_api
from .data_plane import OpenKruiseErrors, find_target
from .traffic_tokens import OpaqueTokens

__all__ = ["OpaqueTokens", "OpenKruiseErrors", "create_api", "find_target"]
