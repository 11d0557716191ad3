"""The stream of a desktop, where e2b-desktop is installed."""

from __future__ import annotations

from typing import Any

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
    assert stream_url(e2b.ConnectionConfig()) == f"{address}?autoconnect=true&resize=scale"


def test_the_stream_of_a_native_object_stays_native() -> None:
    config = e2b.ConnectionConfig()
    patch_e2b(False)
    assert stream_url(config).startswith("https://6080-sbx.example.com/vnc.html")
