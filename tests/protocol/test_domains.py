"""Domains: what a user may give, and what a server answers."""

from __future__ import annotations

import pytest

from kruise_agents.errors import DomainError
from kruise_agents.protocol.domains import Domain, domain_for_reply, parse_domain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("your.domain.com", Domain("your.domain.com")),
        ("your.domain.com:8443", Domain("your.domain.com", 8443)),
        ("localhost:8080", Domain("localhost", 8080)),
        ("127.0.0.1:1", Domain("127.0.0.1", 1)),
        ("host:65535", Domain("host", 65535)),
        ("[::1]", Domain("[::1]")),
        ("[::1]:8080", Domain("[::1]", 8080)),
        ("[2001:DB8:0::1]:80", Domain("[2001:db8::1]", 80)),
        ("  example.com\n", Domain("example.com")),
        ("example.com///", Domain("example.com")),
        ("example.com:80/", Domain("example.com", 80)),
        ("example.com.", Domain("example.com")),
        ("example.com.:80", Domain("example.com", 80)),
        ("EXAMPLE.Com", Domain("example.com")),
        ("with_underscore.example", Domain("with_underscore.example")),
        (
            "sandbox-manager.sandbox-system.svc.cluster.local",
            Domain("sandbox-manager.sandbox-system.svc.cluster.local"),
        ),
    ],
)
def test_a_domain_is_a_host_and_perhaps_a_port(text: str, expected: Domain) -> None:
    assert parse_domain(text) == expected
    assert parse_domain(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "correction"),
    [
        ("https://example.com", "example.com"),
        ("HTTP://Example.com:8080/", "example.com:8080"),
        ("https://example.com/kruise/api", "example.com"),
        ("example.com/kruise/api", "example.com"),
        ("example.com?x=1", "example.com"),
        ("example.com#top", "example.com"),
        ("user@example.com:80", "example.com:80"),
        ("https://user:word@example.com/x", "example.com"),
        ("exam ple.com", "example.com"),
        ("example.com :80", "example.com:80"),
        ("::1", "[::1]"),
        ("exämple.com:80", "xn--exmple-cua.com:80"),
        ("http//example.com", "example.com"),
        ("https:example.com", "example.com"),
        ("https:/example.com", "example.com"),
        ("//example.com", "example.com"),
        ("2001:DB8::1", "[2001:db8::1]"),
    ],
)
def test_a_wrong_domain_is_shown_next_to_a_right_one(text: str, correction: str) -> None:
    with pytest.raises(DomainError) as caught:
        parse_domain(text)
    assert repr(text) in str(caught.value)
    assert f"use {correction!r}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "-example.com",
        "example..com",
        ".",
        "example.com:",
        "example.com:http",
        "example.com:0",
        "example.com:65536",
        "example.com:-1",
        "example.com:٣",
        ":8080",
        "[::1",
        "[::1]x",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "example.com:00000180000",
        "example.com:080",
        "[::1]:",
        "[::1]:99999999999999999999",
        "[example.com]",
        "1:2:3",
        "https://",
        "https://exa mple..com",
    ],
)
def test_a_wrong_domain_without_an_obvious_correction_gets_an_example(text: str) -> None:
    with pytest.raises(DomainError) as caught:
        parse_domain(text)
    assert repr(text) in str(caught.value)
    assert "host:port" in str(caught.value)


@pytest.mark.parametrize("text", ["http://", "https:", " https:/ ", "wss:///"])
def test_a_scheme_alone_is_called_one(text: str) -> None:
    with pytest.raises(DomainError, match="has a scheme; give a host"):
        parse_domain(text)


@pytest.mark.parametrize("text", ["", "   ", "/", " // "])
def test_an_empty_domain_is_an_error(text: str) -> None:
    with pytest.raises(DomainError, match="empty"):
        parse_domain(text)


REPLIES = [
    # Host, domain for a native request, domain for a private one
    ("API.example.com:8443", "example.com:8443", "API.example.com:8443"),
    ("example.com", "example.com", "example.com"),
    ("api.example.com.:8443", "example.com:8443", "api.example.com:8443"),
    ("api.gateway.example.com", "gateway.example.com", "api.gateway.example.com"),
    ("Gateway.example.com.:8443", "gateway.example.com:8443", "Gateway.example.com:8443"),
    ("apiserver.example.com", "apiserver.example.com", "apiserver.example.com"),
    ("api.api.example.com", "api.example.com", "api.api.example.com"),
    ("example.com..", "example.com.", "example.com."),
    ("example.com:", "example.com", "example.com"),
    ("api.bad_host.example.com:https", "bad_host.example.com:https", "api.bad_host.example.com:https"),
    ("bad_host.example.com:https", "bad_host.example.com:https", "bad_host.example.com:https"),
    ("localhost", "localhost", "localhost"),
    ("localhost:7788", "localhost:7788", "localhost:7788"),
    ("api.localhost:8080", "localhost:8080", "api.localhost:8080"),
    ("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:8080"),
    ("api.10.0.0.1", "10.0.0.1", "api.10.0.0.1"),
    (
        "sandbox-manager.sandbox-system.svc.cluster.local",
        "sandbox-manager.sandbox-system.svc.cluster.local",
        "sandbox-manager.sandbox-system.svc.cluster.local",
    ),
    ("2001:db8::1", "2001:db8::1", "[2001:db8::1]"),
    ("2001:DB8::1", "2001:db8::1", "[2001:db8::1]"),
    ("2001:0db8:0::1", "2001:0db8:0::1", "[2001:db8::1]"),
    ("::1", "::1", "[::1]"),
    ("[::1]", "[::1]", "[::1]"),
    ("[::1]:8443", "[::1]:8443", "[::1]:8443"),
    ("[2001:DB8::1]:80", "[2001:db8::1]:80", "[2001:DB8::1]:80"),
    ("[::1].:8443", "[::1].:8443", "[::1].:8443"),
    ("[::1", "[::1", "[::1"),
    ("fe80::1%eth0", "fe80::1%eth0", "[fe80::1%eth0]"),
    ("", None, None),
    (".", None, None),
    (":8443", None, None),
    ("api.", None, "api"),
    ("api.:8443", None, "api:8443"),
    ("api..", None, "api."),
]


@pytest.mark.parametrize(("host", "native", "private"), REPLIES)
def test_a_server_answers_with_the_domain_that_the_client_used(
    host: str, native: str | None, private: str | None
) -> None:
    assert domain_for_reply(host, "/v2/sandboxes") == native
    assert domain_for_reply(host, "/kruise/api/sandboxes") == private


def test_only_a_whole_kruise_segment_makes_a_request_private() -> None:
    """OpenKruise's manager compares the prefix of the string instead."""
    assert domain_for_reply("API.example.com", "/kruised") == "example.com"
    assert domain_for_reply("API.example.com", "/kruise?x") == "API.example.com"
