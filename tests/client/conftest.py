"""The setting of every test of the patch: one domain and one key in the environment, an SDK that is native again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kruise_agents.patch_e2b import unpatch_e2b
from kruise_agents.patch_traffic_token import unpatch_traffic_access_token


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``E2B_DOMAIN`` and ``E2B_API_KEY``, and no other variable of the SDK or of a proxy."""
    for name in list(os.environ):
        if name.startswith("E2B_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("E2B_DOMAIN", "example.com")
    monkeypatch.setenv("E2B_API_KEY", "e2b_00")
    yield
    unpatch_traffic_access_token()
    unpatch_e2b()
