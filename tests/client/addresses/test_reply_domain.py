"""A server that names another domain than the client uses."""

from __future__ import annotations

import warnings

import e2b
import pytest

from kruise_agents.patch_e2b import ServerDomainWarning, patch_e2b
from support.sdk import SANDBOX_CLASSES, build_sandbox, class_name, in_loop, surfaces


@pytest.mark.parametrize("cls", SANDBOX_CLASSES, ids=class_name)
def test_the_clients_domain_counts_for_every_address(cls: type) -> None:
    patch_e2b()
    answer = f"{class_name(cls).replace('_', '-')}.wrong.example:8443"
    with pytest.warns(ServerDomainWarning):
        found = in_loop(lambda: surfaces(build_sandbox(cls, answer=answer)))
    assert all("://example.com/kruise/" in url for name, url in found.items() if name != "host")
    assert found["host"] == "example.com/kruise/sbx/3000"


def test_the_warning_says_what_to_change_and_where_it_happened() -> None:
    patch_e2b()
    with pytest.warns(ServerDomainWarning) as caught:
        build_sandbox(answer="static.example")
    text = str(caught[0].message)
    for part in (
        "'static.example'",
        "'example.com'",
        "--domain",
        "--e2b-domain",
        "E2B_DOMAIN",
        "follow_server_domain=True",
    ):
        assert part in text
    assert caught[0].filename.endswith("sdk.py")  # who called the SDK


def test_each_pair_of_domains_is_warned_about_once() -> None:
    patch_e2b()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            build_sandbox(answer="one.example")
            build_sandbox(answer="two.example")
    assert len(caught) == 2


@pytest.mark.parametrize("answer", ["example.com", "EXAMPLE.COM.", "example.com:443", None, ""])
def test_the_same_domain_in_another_form_is_no_difference(answer: str | None) -> None:
    patch_e2b()
    assert build_sandbox(answer=answer).get_host(1) == "example.com/kruise/sbx/1"


def test_a_default_port_that_http_clients_leave_out_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "example.com:80")
    patch_e2b(False)
    assert build_sandbox(answer="example.com").get_host(1) == "example.com:80/kruise/sbx/1"


def test_the_server_is_followed_when_asked_for() -> None:
    patch_e2b(follow_server_domain=True)
    sandbox = build_sandbox(answer="followed.example:8443")
    assert sandbox.envd_api_url == "https://followed.example:8443/kruise/sbx/49983"
    assert sandbox.get_host(1) == "followed.example:8443/kruise/sbx/1"
    assert sandbox.connection_config.api_url == "https://example.com/kruise/api"


def test_a_server_that_names_no_domain_at_all_does_no_harm() -> None:
    patch_e2b()
    with pytest.warns(ServerDomainWarning):
        assert build_sandbox(answer="not a domain").get_host(1) == "example.com/kruise/sbx/1"


@pytest.mark.parametrize("answer", ["neither a domain", "https://bad.example", "e2b.app"])
def test_a_server_whose_domain_cannot_be_followed_loses_no_sandbox(answer: str) -> None:
    """The sandbox already exists when the client reads the answer."""
    patch_e2b(follow_server_domain=True)
    with pytest.warns(ServerDomainWarning, match="cannot be followed, so 'example.com' is used"):
        assert build_sandbox(answer=answer).get_host(1) == "example.com/kruise/sbx/1"


def test_a_filter_that_makes_errors_of_warnings_loses_no_sandbox(caplog: pytest.LogCaptureFixture) -> None:
    patch_e2b()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_sandbox(answer="strict.example").get_host(1) == "example.com/kruise/sbx/1"
    assert "'strict.example'" in caplog.text


def test_the_servers_domain_is_used_when_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    config = e2b.ConnectionConfig(api_url="https://api.example.net")
    assert build_sandbox(config=config, answer="s.example").get_host(1) == "s.example/kruise/sbx/1"


def test_a_native_object_follows_the_server_as_ever() -> None:
    config = e2b.ConnectionConfig()
    patch_e2b()
    assert build_sandbox(config=config, answer="s.example").get_host(1) == "1-sbx.s.example"
