"""The limits that pages state are those of the code."""

from __future__ import annotations

import pytest

from kruise_agents.manager.api.reading import BODY_SECONDS, MAX_BYTES
from kruise_agents.manager.gateway.tunnel import AFTER_EOF_SECONDS, STALL_SECONDS
from kruise_agents.manager.http.request_head import MAX_HEAD_BYTES, MAX_HEADERS
from kruise_agents.manager.runtime.network import host_names
from kruise_agents.manager.sandboxes.sockets import CONNECT_SECONDS
from kruise_agents.manager.unix_http import CLOSE_SECONDS, KEPT_SECONDS
from kruise_agents.sandbox.code_interpreter.languages import REPEAT_SECONDS, STOP_SECONDS
from kruise_agents.serving import KEEP_ALIVE_SECONDS
from support.documents import ROOT

GATEWAY = "reference/behaviour/gateway.md"
KERNELS = "reference/behaviour/code-interpreter.md"
SECURITY = "explanation/security.md"


@pytest.mark.parametrize(
    ("limits", "expected", "page", "words"),
    [
        ((STALL_SECONDS,), (3600,), GATEWAY, "cut after an hour"),
        ((AFTER_EOF_SECONDS,), (10,), GATEWAY, "ten seconds to close too"),
        ((CONNECT_SECONDS,), (30,), GATEWAY, "| 30 seconds, then 502 `port is not open`"),
        ((CLOSE_SECONDS,), (10,), GATEWAY, "closed at most 10 seconds after the end of its answer"),
        ((MAX_HEAD_BYTES, MAX_HEADERS), (64 * 1024, 256), GATEWAY, "| 64 KiB and 256 headers"),
        ((BODY_SECONDS, MAX_BYTES), (60, 4 * 1024 * 1024), GATEWAY, "| 60 seconds, then 408; 4 MiB, then 413"),
        ((KEEP_ALIVE_SECONDS,), (650,), GATEWAY, "650 seconds"),
        ((KEPT_SECONDS,), (30,), "explanation/decisions.md", "the code interpreter for 30 seconds"),
        ((STOP_SECONDS,), (10,), KERNELS, "if it does not answer for 10 s after its client has left"),
        ((REPEAT_SECONDS,), (3,), KERNELS, "interrupted at once, and again every 3 s"),
        ((host_names.SECONDS,), (15,), SECURITY, "looks it up again every 15 seconds"),
        ((host_names.KEPT_SECONDS,), (600,), SECURITY, "closed ten minutes after the last answer"),
        ((host_names.MAX_ADDRESSES,), (400,), SECURITY, "At most 400 addresses are open by name"),
    ],
)
def test_limits_are_those_that_a_page_states(
    limits: tuple[float, ...], expected: tuple[float, ...], page: str, words: str
) -> None:
    assert limits == expected
    assert words in " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
