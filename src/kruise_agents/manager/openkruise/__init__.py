"""The answers of OpenKruise's sandbox-manager, misreadings included: all that ``serve --like openkruise`` changes.

Sources: ``protocol/openkruise.py`` for what that manager reads of a request, and its answers to 136 requests when it
ran (August 2026); ``tests/manager/api/openkruise.toml`` has them, and says which are not imitated and why.

Not imitated, because no client should depend on it: IDs that are guessable (``<namespace>--<name>``), metadata that
Kubernetes adds, namespaces, replicas and their peers, the resources of pods, and a browser's address.
"""

from __future__ import annotations

from .app import create_api
from .data_plane import OpenKruiseErrors, find_target
from .traffic_tokens import OpaqueTokens

__all__ = ["OpaqueTokens", "OpenKruiseErrors", "create_api", "find_target"]
