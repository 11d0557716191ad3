"""The stream of a desktop, where e2b-desktop is installed."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import e2b
import pytest

from kruise_agents.patch_e2b import patch_e2b
from support.sdk import build_sandbox

desktop = pytest.importorskip("e2b_desktop.main", reason="e2b-desktop is not installed")


def stream_url(config: Any) -> str:
    url: str = desktop._VNCServer(build_sandbox(desktop.Sandbox, config)).get_url()
    return url


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_stream_is_private_in_the_right_scheme(scheme: str) -> None:
    patch_e2b(scheme == "https")
    address = f"{scheme}://example.com/kruise/sbx/6080/vnc.html"
    assert stream_url(e2b.ConnectionConfig()).startswith(f"{address}?autoconnect=true&resize=scale&")


@pytest.mark.parametrize(
    ("domain", "host", "port"),
    [
        ("example.com", "example.com", "80"),
        ("example.com:8080", "example.com", "8080"),
        ("[::1]:8080", "[::1]", "8080"),
    ],
)
def test_the_page_is_told_where_its_socket_is(domain: str, host: str, port: str) -> None:
    patch_e2b(False)
    query = parse_qs(urlsplit(stream_url(e2b.ConnectionConfig(domain=domain))).query)
    assert {name: query[name] for name in ("host", "port", "encrypt", "path")} == {
        "host": [host],
        "port": [port],
        "encrypt": ["0"],
        "path": ["kruise/sbx/6080/websockify"],
    }


def test_the_stream_of_a_native_object_stays_native() -> None:
    config = e2b.ConnectionConfig()
    patch_e2b(False)
    assert stream_url(config).startswith("https://6080-sbx.example.com/vnc.html")
