"""Every request is read as the tables of the private protocol say, compared with a reading written from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.errors import AddressError, PortError
from kruise_agents.protocol.addresses import ApiTarget, SandboxTarget
from kruise_agents.protocol.routing import parse
from support.addresses import Shape, build
from support.mutations import times
from support.reference import IMPOSSIBLE_PORT, NOBODY, Destination, destination

PORTS = st.sampled_from(
    ["3000", "0", "-1", "-0", "65535", "65536", "03000", "+3000", "", " 3000", "3_0", "٣", "9" * 20]
)
SEGMENTS = st.one_of(
    st.sampled_from(
        ["", "kruise", "kruised", "Kruise", "api", "api-7", "API", "sb1", "..", ".", "%2e", "%2F", ";", "*"]
    ),
    PORTS,
    st.text(alphabet="ab/?#%.\\ \x00é", max_size=4),
)
TARGETS = st.builds(
    lambda begin, segments, query: begin + "/".join(segments) + query,
    st.sampled_from(["/", "/", "/", "/kruise/", "/kruise", "", "//", "http://d.example/"]),
    st.lists(SEGMENTS, max_size=6),
    st.sampled_from(["", "", "?", "?x=/kruise/sb2/1/", "?/kruise/api"]),
)
AUTHORITIES = st.one_of(
    st.sampled_from(["", "d.example", "api.d.example", "API.x", "api", "apix.d", "[::1]:80", "3000-sb1.d", "3000-sb1"]),
    st.builds(lambda port, name, rest: f"{port}-{name}{rest}", PORTS, SEGMENTS, st.sampled_from(["", ".", ".d:80"])),
)


@pytest.mark.slow
@times(15)
@given(AUTHORITIES, TARGETS, st.none() | SEGMENTS, st.none() | PORTS)
def test_a_request_is_for_whom_the_tables_say(
    authority: str, target: str, sandbox_id: str | None, port: str | None
) -> None:
    assert read(authority, target, sandbox_id, port) == destination(authority, target, sandbox_id, port)


@times(3)
@given(
    st.text(alphabet="abz019-", min_size=1, max_size=40),
    st.integers(1, 65535),
    st.lists(SEGMENTS, max_size=4),
    st.sampled_from(list(Shape)),
)
def test_what_is_built_is_read_back(sandbox_id: str, port: int, segments: list[str], shape: Shape) -> None:
    target = SandboxTarget(sandbox_id, port, "/" + "/".join(segments))
    try:
        wire = build(target, "d.example", shape)
    except AddressError:
        return  # said loudly, which is the other promise
    headers = wire.headers
    assert parse(wire.authority, wire.target, headers.get("e2b-sandbox-id"), headers.get("e2b-sandbox-port")) == target


def read(authority: str, target: str, sandbox_id: str | None, port: str | None) -> Destination:
    try:
        found = parse(authority, target, sandbox_id, port)
    except PortError:
        return IMPOSSIBLE_PORT
    except AddressError:
        return NOBODY
    if isinstance(found, ApiTarget):
        return ("api", found.path)
    return ("sandbox", found.sandbox_id, found.port, found.path)
