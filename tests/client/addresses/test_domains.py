"""Which domain counts: the environment's, a call's, a stated URL's, or none."""

from __future__ import annotations

from types import SimpleNamespace

import e2b
import pytest

from kruise_agents.errors import DomainError, MissingDomainError
from kruise_agents.patch_e2b import patch_e2b
from support.sdk import build_sandbox, surfaces


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_stated_api_url_is_used(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = "https://custom.example/v9"
    if by == "environment":
        monkeypatch.setenv("E2B_API_URL", stated)
    patch_e2b()
    options = {"api_url": stated} if by == "argument" else {}
    assert e2b.ConnectionConfig(**options).api_url == stated
    assert e2b.ConnectionConfig(domain="other.example", **options).api_url == stated
    assert build_sandbox(config=e2b.ConnectionConfig(**options)).get_host(1) == "example.com/kruise/sbx/1"


def test_with_a_stated_api_url_the_domain_is_needed_only_for_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    monkeypatch.setenv("E2B_API_URL", "https://custom.example/v9")
    patch_e2b()
    config = e2b.ConnectionConfig()
    assert build_sandbox(config=config, answer="d.example").envd_api_url == "https://d.example/kruise/sbx/49983"
    with pytest.raises(MissingDomainError, match="E2B_DOMAIN"):
        build_sandbox(config=config)


@pytest.mark.parametrize("value", [None, "", "e2b.app", "E2B.App", "e2b.dev:443", " e2b.app/ "])
def test_without_a_domain_of_ones_own_a_configuration_is_an_error(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    if value is not None:
        monkeypatch.setenv("E2B_DOMAIN", value)
    patch_e2b()
    with pytest.raises(MissingDomainError) as caught:
        e2b.ConnectionConfig()
    assert "E2B_DOMAIN" in str(caught.value)
    assert "domain=" in str(caught.value)
    with pytest.raises(MissingDomainError):
        e2b.ConnectionConfig(domain="e2b.dev")
    assert e2b.ConnectionConfig(domain="x.example").api_url == "https://x.example/kruise/api"


def test_a_template_call_without_a_domain_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to e2b 2.9.1 templates hand the literal ``e2b.dev`` on as if somebody had given it."""
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    with pytest.raises(MissingDomainError):
        e2b.Template.get_build_status(SimpleNamespace(template_id="t", build_id="b"))


@pytest.mark.parametrize("value", ["https://example.com", "example.com/kruise", "user@example.com", "exa mple.com"])
def test_a_wrong_domain_is_an_error_that_shows_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", value)
    patch_e2b()
    with pytest.raises(DomainError, match=r"use 'example\.com'") as caught:
        e2b.ConnectionConfig()
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["example.com/", " example.com ", "EXAMPLE.com."])
def test_a_sloppy_domain_is_tidied_everywhere(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tidy = patch_and_look()
    monkeypatch.setenv("E2B_DOMAIN", value)
    assert patch_and_look() == tidy


def patch_and_look() -> dict[str, str]:
    with patch_e2b():
        return surfaces(build_sandbox())


def test_a_domain_that_is_set_after_the_patch_counts_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    monkeypatch.setenv("E2B_DOMAIN", "late.example")
    assert all("late.example/kruise" in url for url in surfaces(build_sandbox()).values())


def test_a_blank_domain_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "  ")
    patch_e2b()
    with pytest.raises(MissingDomainError, match="E2B_DOMAIN"):
        e2b.ConnectionConfig()
