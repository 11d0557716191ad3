"""The choice of the domain: from the environment, a call or a stated URL, or no domain."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import e2b
import pytest

from kruise_agents.client.addresses import cross_domain
from kruise_agents.errors import DomainError, MissingDomainError
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.protocol.domains import parse_domain
from support.sdk import build_sandbox, surfaces


@pytest.mark.filterwarnings("ignore::kruise_agents.patch_e2b.LeftOverVariableWarning")
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_stated_api_url_is_used(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = "https://custom.example/v9"
    if by == "environment":
        monkeypatch.setenv("E2B_API_URL", stated)
    patch_e2b()
    options: dict[str, Any] = {"api_url": stated} if by == "argument" else {}
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
    """Up to e2b 2.9.1, templates pass the literal ``e2b.dev`` on as if the caller had given this domain."""
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    build: Any = SimpleNamespace(template_id="t", build_id="b")
    with pytest.raises(MissingDomainError):
        e2b.Template.get_build_status(build)


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


def parses(action: Callable[[], Any]) -> int:
    """Count the domains that are parsed while ``action`` runs."""
    code: CodeType = parse_domain.__code__
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is code

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture
def nothing_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_domain, "_parsed", {})


@pytest.mark.usefixtures("nothing_parsed")
@pytest.mark.parametrize("domain", ["parsed.example", "parsed.example:8443"])
@pytest.mark.parametrize("spelled", ["{}", " {}/ "])
@pytest.mark.parametrize("answered", [False, True])
def test_a_domain_is_parsed_once_for_a_configuration(
    domain: str, spelled: str, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DOMAIN", spelled.format(domain))
    patch_e2b()
    assert parses(lambda: [surfaces(build_sandbox(answer=domain if answered else None)) for _ in range(3)]) == 1


@pytest.mark.usefixtures("nothing_parsed")
def test_copies_of_a_configuration_are_not_parsed_again() -> None:
    patch_e2b()
    config: Any = e2b.ConnectionConfig(domain="parsed.example")

    def use() -> None:
        for copied in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
            assert copied.get_host("sbx", None, 1) == "parsed.example/kruise/sbx/1"

    assert parses(use) == 0


def test_a_domain_that_is_changed_on_a_configuration_counts_from_then_on() -> None:
    patch_e2b()
    config: Any = e2b.ConnectionConfig(domain="first.example")
    assert config.get_host("sbx", None, 1) == "first.example/kruise/sbx/1"
    config.domain = "second.example"
    assert config.get_host("sbx", None, 1) == "second.example/kruise/sbx/1"
    config.domain = "no domain"
    with pytest.raises(DomainError):
        config.get_host("sbx", None, 1)


def test_a_domain_of_a_call_counts_beside_the_one_of_the_configuration() -> None:
    patch_e2b()
    config: Any = e2b.ConnectionConfig(domain="first.example")
    for _ in range(2):
        assert config.get_host("sbx", "other.example", 1) == "other.example/kruise/sbx/1"
        assert config.get_host("sbx", None, 1) == "first.example/kruise/sbx/1"


@pytest.mark.usefixtures("nothing_parsed")
def test_domains_without_number_take_no_memory_without_end() -> None:
    patch_e2b()
    for number in range(1000):
        assert e2b.ConnectionConfig(domain=f"d{number}.example").api_url == f"https://d{number}.example/kruise/api"
    assert len(cross_domain._parsed) <= 2 * cross_domain._MOST_KEPT
