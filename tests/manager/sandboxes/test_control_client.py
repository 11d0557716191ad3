"""The client of a sandbox's program, and answers that code in the sandbox has forged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kruise_agents.manager.sandboxes.control_client import ControlClient, NoAnswerError


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"envVars": 1}', b'{"envVars": {"A": [[]]}}', b"[" * 10**6])
def test_forged_variables_are_no_answer(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forged(*_: object) -> tuple[int, bytes]:
        return 200, answer

    monkeypatch.setattr(ControlClient, "_exchange", forged)
    with pytest.raises(NoAnswerError, match="variables"):
        asyncio.run(ControlClient(Path(), str).variables())
