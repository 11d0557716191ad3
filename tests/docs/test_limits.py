"""The limits of the gateway's page are those of the code."""

from __future__ import annotations

import pytest

from kruise_agents.manager.api.reading import BODY_SECONDS, MAX_BYTES
from kruise_agents.manager.gateway.tunnel import AFTER_EOF_SECONDS, STALL_SECONDS
from kruise_agents.manager.http.request_head import MAX_HEAD_BYTES, MAX_HEADERS
from kruise_agents.manager.sandboxes.sockets import CONNECT_SECONDS
from kruise_agents.serving import KEEP_ALIVE_SECONDS
from support.documents import ROOT


@pytest.mark.parametrize(
    ("limits", "expected", "words"),
    [
        ((STALL_SECONDS,), (3600,), "cut after an hour"),
        ((AFTER_EOF_SECONDS,), (10,), "ten seconds to close too"),
        ((CONNECT_SECONDS,), (30,), "| 30 seconds, then 502 `port is not open`"),
        ((MAX_HEAD_BYTES, MAX_HEADERS), (64 * 1024, 256), "| 64 KiB and 256 headers"),
        ((BODY_SECONDS, MAX_BYTES), (60, 4 * 1024 * 1024), "| 60 seconds, then 408; 4 MiB, then 413"),
        ((KEEP_ALIVE_SECONDS,), (650,), "650 seconds"),
    ],
)
def test_the_gateway_is_as_patient_as_its_page_says(
    limits: tuple[float, ...], expected: tuple[float, ...], words: str
) -> None:
    assert limits == expected
    assert words in (ROOT / "docs/reference/behaviour/gateway.md").read_text(encoding="utf-8")
