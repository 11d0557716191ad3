"""The reading of a request's address: the vectors of the private protocol, and the deliberate differences."""

from __future__ import annotations

from typing import Any

import pytest

from kruise_agents.errors import AddressError, PortError
from kruise_agents.manager.openkruise.data_plane import find_target
from kruise_agents.manager.sandboxes.sandbox import new_sandbox_id
from kruise_agents.protocol.addresses import ApiTarget, SandboxTarget
from kruise_agents.protocol.routing import parse

PATHS = [
    ("/kruise/sb1/3000", "sb1", 3000, "/"),
    ("/kruise/sb1/3000/", "sb1", 3000, "/"),
    ("/kruise/sb1/3000/a/b?x=1", "sb1", 3000, "/a/b?x=1"),
    ("/kruise/sb1/3000/?x=1", "sb1", 3000, "/?x=1"),
    ("/kruise/sb1/3000//a", "sb1", 3000, "//a"),
    ("/kruise/sb1/3000/../x", "sb1", 3000, "/../x"),
    ("/kruise/sb1/3000/..", "sb1", 3000, "/.."),
    ("/kruise/sb1/3000/a%2Fb%3Fc", "sb1", 3000, "/a%2Fb%3Fc"),
    ("/kruise/sb1/3000/a?to=/kruise/x/1/y?z", "sb1", 3000, "/a?to=/kruise/x/1/y?z"),
    ("/kruise/sb1/3000/kruise/x/1/y", "sb1", 3000, "/kruise/x/1/y"),
    ("/kruise/sb1/65535/x", "sb1", 65535, "/x"),
    ("/kruise/sb1/03000/x", "sb1", 3000, "/x"),
    ("/kruise/API/3000/x", "API", 3000, "/x"),
    ("/kruise/ns--name/49983/health", "ns--name", 49983, "/health"),
]


@pytest.mark.parametrize(("target", "sandbox_id", "port", "path"), PATHS)
@pytest.mark.parametrize(
    "authority", ["d.example", "d.example:8443", "[::1]:8080", "api.d.example", "9-other.d.example", ""]
)
def test_a_private_path_names_the_sandbox_whatever_the_host_says(
    authority: str, target: str, sandbox_id: str, port: int, path: str
) -> None:
    assert parse(authority, target, "hdr", "9090") == SandboxTarget(sandbox_id, port, path)


@pytest.mark.parametrize(
    "target",
    [
        "/kruise",
        "/kruise/",
        "/kruise?x=1",
        "/kruise?sb1/3000/x",
        "/kruise/sb1",
        "/kruise/sb1/",
        "/kruise/sb1/abc/x",
        "/Kruise/sb1/3000/x",
    ],
)
def test_a_path_that_names_no_sandbox_is_an_error(target: str) -> None:
    with pytest.raises(AddressError):
        parse("d.example", target)


@pytest.mark.parametrize("port", ["-1", "65536", "0"])
def test_a_port_that_cannot_exist_is_told_apart_and_shown(port: str) -> None:
    with pytest.raises(PortError, match=f"invalid sandbox port: {port}$") as caught:
        parse("d.example", f"/kruise/sb1/{port}/x")
    assert caught.value.port == int(port)


def test_a_port_of_twenty_digits_is_an_error() -> None:
    with pytest.raises(AddressError):
        parse("d.example", "/kruise/sb1/99999999999999999999/x")


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/kruise/api", "/"),
        ("/kruise/api/", "/"),
        ("/kruise/api/sandboxes", "/sandboxes"),
        ("/kruise/api/v2/sandboxes?state=running", "/v2/sandboxes?state=running"),
        ("/kruise/api?x=1", "/?x=1"),
    ],
)
def test_the_private_api_is_found_on_any_host(target: str, route: str) -> None:
    assert parse("9-other.d.example", target, "hdr", "9090") == ApiTarget(route, private=True)


class TestDeliberateDifferences:
    """OpenKruise's manager compares string prefixes and accepts more forms of numbers. Here whole segments count."""

    @pytest.mark.parametrize("sandbox_id", ["apiserver", "api-7", "apiaaaaaaaaaa", "api-prod--x"])
    def test_an_id_that_begins_with_api_is_a_sandbox(self, sandbox_id: str) -> None:
        assert parse("d.example", f"/kruise/{sandbox_id}/3000/x") == SandboxTarget(sandbox_id, 3000, "/x")

    @pytest.mark.parametrize("target", ["/kruised/1/2", "/kruisefoo/3000/x", "/kruise-x/sb1/3000/x"])
    def test_a_path_that_only_begins_like_the_prefix_belongs_to_the_application(self, target: str) -> None:
        assert parse("3000-sb1.d.example", target) == SandboxTarget("sb1", 3000, target)
        with pytest.raises(AddressError):
            parse("d.example", target)

    def test_a_query_right_after_the_port_is_a_query(self) -> None:
        assert parse("d.example", "/kruise/sb1/3000?x=1") == SandboxTarget("sb1", 3000, "/?x=1")

    def test_a_port_with_a_plus_sign_is_an_error(self) -> None:
        with pytest.raises(AddressError):
            parse("d.example", "/kruise/sb1/+3000/x")

    def test_an_empty_id_is_an_error(self) -> None:
        with pytest.raises(AddressError):
            parse("d.example", "/kruise//3000/x")

    def test_a_missing_port_header_means_envd_as_at_the_gateway(self) -> None:
        assert parse("d.example", "/x", "sb1") == SandboxTarget("sb1", 49983, "/x")
        assert parse("d.example", "/x", "sb1", "") == SandboxTarget("sb1", 49983, "/x")

    def test_the_api_host_wins_over_headers_as_at_the_manager(self) -> None:
        assert parse("api.d.example", "/x", "hdr", "9090") == ApiTarget("/x", private=False)


@pytest.mark.parametrize(
    ("authority", "target", "expected"),
    [
        ("3000-sb1.d.example", "/a?b=1", SandboxTarget("sb1", 3000, "/a?b=1")),
        ("3000-sb1.d.example:8443", "/", SandboxTarget("sb1", 3000)),
        ("3000-ns--name.d.example", "/", SandboxTarget("ns--name", 3000)),
        ("3000-SB1.d.example", "/", SandboxTarget("SB1", 3000)),
        ("9-api.d.example", "/", SandboxTarget("api", 9)),
        ("api.d.example", "/sandboxes", ApiTarget("/sandboxes", private=False)),
        ("API.D.example:8443", "/sandboxes", ApiTarget("/sandboxes", private=False)),
        ("api.localhost:8080", "/x", ApiTarget("/x", private=False)),
    ],
)
def test_a_native_host_names_the_sandbox_or_the_api(
    authority: str, target: str, expected: SandboxTarget | ApiTarget
) -> None:
    assert parse(authority, target) == expected


@pytest.mark.parametrize(
    "authority",
    [
        "3000-sb_1.d.example",
        "3000-sb1",
        "sb1.d.example",
        "99999999999999999999-sb1.d.example",
        "apix.d.example",
        "api-7.d.example",
        "localhost",
        "localhost:7788",
        "127.0.0.1:7788",
        "[::1]:7788",
        "",
    ],
)
@pytest.mark.parametrize("target", ["/", "/sandboxes", "/health"])
def test_a_host_that_names_nothing_is_an_error(authority: str, target: str) -> None:
    with pytest.raises(AddressError):
        parse(authority, target)


def test_a_native_host_with_an_impossible_port_is_a_port_error() -> None:
    with pytest.raises(PortError):
        parse("65536-sb1.d.example", "/")


def test_headers_name_the_sandbox_on_any_host() -> None:
    assert parse("d.example", "/x", "sb1", "8080") == SandboxTarget("sb1", 8080, "/x")
    assert parse("3000-host.d.example", "/x", "hdr", "9090") == SandboxTarget("hdr", 9090, "/x")


def test_the_path_wins_over_headers() -> None:
    assert parse("d.example", "/kruise/path/1/x", "hdr", "9090") == SandboxTarget("path", 1, "/x")


def test_an_empty_id_header_counts_as_absent() -> None:
    with pytest.raises(AddressError):
        parse("d.example", "/x", "", "80")


def test_a_port_header_that_is_no_number_is_shown() -> None:
    with pytest.raises(AddressError, match="invalid sandbox port header value: abc"):
        parse("d.example", "/x", "sb1", "abc")


def test_a_port_header_out_of_range_is_a_port_error() -> None:
    with pytest.raises(PortError):
        parse("d.example", "/x", "sb1", "70000")


def test_an_application_path_below_kruise_cannot_be_reached_through_a_native_host() -> None:
    """This is the documented hazard of native hosts: the path is read first, and the path names another sandbox."""
    assert parse("3000-sb1.d.example", "/kruise/x/80/y") == SandboxTarget("x", 80, "/y")
    with pytest.raises(AddressError):
        parse("3000-sb1.d.example", "/kruise/dashboard")


@pytest.mark.parametrize("target", ["*", "d.example:443", "http://d.example/x", ""])
def test_a_request_target_that_is_no_path_is_an_error(target: str) -> None:
    with pytest.raises(AddressError):
        parse("3000-sb1.d.example", target)


@pytest.mark.parametrize(
    "target", ["/", "/kruise/sb2/80/x", "/kruise/x", "/kruise", "/kruise/api/sandboxes", "/health?x=1"]
)
@pytest.mark.parametrize("find", [parse, find_target])
def test_a_native_host_of_the_embedded_manager_decides_alone(find: Any, target: str) -> None:
    """A browser keeps what has different hosts apart, so such a host must not serve another sandbox or the API."""
    sandbox_id = new_sandbox_id()
    for port in (1, 3000, 65535):
        found = find(f"{port}-{sandbox_id}.localhost:7788", target, "sb2", "80")
        assert found == SandboxTarget(sandbox_id, port, target)
