"""The contents of volumes, whose configuration is a class of its own and sends a token."""

from __future__ import annotations

from typing import Any

import e2b
import pytest

from kruise_agents.errors import MissingDomainError
from kruise_agents.patch_e2b import patch_e2b
from support.sdk import needs_e2b

pytestmark = needs_e2b("2.19.0", "Volume")


@pytest.fixture(params=["Volume", "AsyncVolume"])
def volume_class(request: pytest.FixtureRequest) -> Any:
    return getattr(e2b, request.param)


@pytest.mark.parametrize("https", [True, False], ids=["https", "http"])
def test_contents_are_below_the_private_api(volume_class: Any, https: bool) -> None:
    patch_e2b(https)
    scheme = "https" if https else "http"
    config = volume_class("v", "n", "t")._get_volume_config()
    assert config.api_url == f"{scheme}://example.com/kruise/api"


@needs_e2b("2.37.0", "a domain of the volume itself")
def test_the_volumes_own_domain_counts(volume_class: Any) -> None:
    patch_e2b()
    volume = volume_class("v", "n", "t", domain="v.example/")
    assert volume._get_volume_config().api_url == "https://v.example/kruise/api"


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_stated_url_is_used(volume_class: Any, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = "https://contents.example"
    options = {"api_url": stated} if by == "argument" else {}
    if by == "environment":
        monkeypatch.setenv("E2B_VOLUME_API_URL", stated)
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config(**options).api_url == stated


def test_a_stated_api_url_is_not_one_for_contents(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_URL", "https://custom.example/v9")
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config().api_url == "https://example.com/kruise/api"


def test_without_a_domain_no_token_leaves(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    with pytest.raises(MissingDomainError):
        volume_class("v", "n", "t")._get_volume_config()


def test_in_debug_mode_it_is_native(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config().api_url == "http://localhost:8080"
