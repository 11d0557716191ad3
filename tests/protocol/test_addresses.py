"""Targets of requests, which are read back as they were written."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.errors import AddressError, DomainError
from kruise_agents.protocol.addresses import ApiTarget, SandboxTarget, api_url, sandbox_host
from kruise_agents.protocol.domains import parse_domain
from kruise_agents.protocol.routing import parse
from support.addresses import Shape, WireAddress, build


def test_the_forms_of_the_private_protocol() -> None:
    assert api_url("https", "your.domain") == "https://your.domain/kruise/api"
    assert sandbox_host("your.domain:8443", "ns--name", 3000) == "your.domain:8443/kruise/ns--name/3000"


def test_one_target_in_three_shapes() -> None:
    target = SandboxTarget("sb1", 3000, "/a?b=1")
    assert build(target, "d.example") == WireAddress("d.example", "/kruise/sb1/3000/a?b=1")
    assert build(target, "d.example", Shape.NATIVE) == WireAddress("3000-sb1.d.example", "/a?b=1")
    assert build(target, "d.example", Shape.HEADERS) == WireAddress(
        "d.example", "/a?b=1", {"e2b-sandbox-id": "sb1", "e2b-sandbox-port": "3000"}
    )


def test_the_api_in_its_two_shapes() -> None:
    assert build(ApiTarget("/sandboxes"), "d.example") == WireAddress("d.example", "/kruise/api/sandboxes")
    assert build(ApiTarget("/sandboxes"), "d.example", Shape.NATIVE) == WireAddress("api.d.example", "/sandboxes")


@pytest.mark.parametrize("shape", [Shape.NATIVE, Shape.HEADERS])
@pytest.mark.parametrize("path", ["/kruise", "/kruise/x/80/y", "/kruise?x"])
def test_an_application_path_below_kruise_needs_the_private_shape(shape: Shape, path: str) -> None:
    target = SandboxTarget("sb1", 3000, path)
    with pytest.raises(AddressError, match="private address"):
        build(target, "d.example", shape)
    assert parse("d.example", build(target, "d.example").target) == target


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
ids = st.text(LETTERS + "-", min_size=1).filter(lambda text: text != "api")
ports = st.integers(1, 65535)
paths = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)).map(lambda text: f"/{text}")
names = st.from_regex(r"[a-z0-9]([a-z0-9_\-]{0,10}[a-z0-9])?(\.[a-z][a-z0-9]{0,5}){0,3}", fullmatch=True)
hosts = names | st.ip_addresses(v=4).map(str)
bracketed = st.ip_addresses(v=6).map(lambda address: f"[{ipaddress.IPv6Address(address)}]")
port_suffixes = st.just("") | ports.map(lambda port: f":{port}")
domains = st.builds(str.__add__, hosts, port_suffixes)
any_domains = st.builds(str.__add__, hosts | bracketed, port_suffixes)


def read_back(address: WireAddress) -> SandboxTarget | ApiTarget:
    headers = address.headers
    return parse(address.authority, address.target, headers.get("e2b-sandbox-id"), headers.get("e2b-sandbox-port"))


@given(st.builds(SandboxTarget, ids, ports, paths), any_domains)
def test_a_private_address_is_read_back(target: SandboxTarget, domain: str) -> None:
    assert read_back(build(target, domain)) == target


@given(st.builds(SandboxTarget, ids, ports, paths), domains, st.sampled_from([Shape.NATIVE, Shape.HEADERS]))
def test_a_native_address_is_read_back_or_refused(target: SandboxTarget, domain: str, shape: Shape) -> None:
    try:
        address = build(target, domain, shape)
    except AddressError:
        assert target.path.startswith("/kruise")
        return
    if shape is Shape.HEADERS and domain.startswith("api."):
        assert isinstance(read_back(address), ApiTarget)  # such a domain has the native API on its own host
    else:
        assert read_back(address) == target


@given(paths, any_domains)
def test_a_private_api_address_is_read_back(path: str, domain: str) -> None:
    assert read_back(build(ApiTarget(path), domain)) == ApiTarget(path, private=True)


@given(paths, domains, st.sampled_from([Shape.NATIVE, Shape.HEADERS]))
def test_a_native_api_address_is_read_back_unless_its_path_is_private(path: str, domain: str, shape: Shape) -> None:
    address = build(ApiTarget(path, private=False), domain, shape)
    if path.startswith("/kruise"):
        return
    assert read_back(address) == ApiTarget(path, private=False)


@given(any_domains)
def test_a_domain_in_its_normal_form_is_kept(domain: str) -> None:
    assert str(parse_domain(domain)) == domain


@given(st.text())
def test_any_text_is_a_domain_or_a_domain_error(text: str) -> None:
    with contextlib.suppress(DomainError):
        domain = parse_domain(text)
        assert parse_domain(str(domain)) == domain


@given(st.text(), st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_request_is_a_target_or_an_address_error(
    authority: str, target: str, sandbox_id: str | None, port: str | None
) -> None:
    with contextlib.suppress(AddressError):
        parse(authority, target, sandbox_id, port)
