"""The client of a sandbox's program, and answers that code in the sandbox has forged."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given

from kruise_agents.manager.sandboxes.control_client import ControlClient, NoAnswerError
from support.mutations import broken, times

VARIABLES = b'{"envVars": {"A": "1", "B": "\\ud83d\\ude00"}}'


def answered(answer: bytes) -> dict[str, str]:
    async def forged(*_: object) -> tuple[int, bytes]:
        return 200, answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ControlClient, "_exchange", forged)
        return asyncio.run(ControlClient(Path(), str).variables())


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"envVars": 1}', b'{"envVars": {"A": [[]]}}', b"[" * 10**6, b'{"envVars": {"A=": "1"}}'],
)
def test_forged_variables_are_no_answer(answer: bytes) -> None:
    with pytest.raises(NoAnswerError, match="variables"):
        answered(answer)


@times(3)
@given(broken([VARIABLES], [b"[", b"{", b"null", b'"', b"1e999", b"\\ud800", b"\xff", b"NaN", b""]))
def test_broken_variables_are_texts_or_no_answer(answer: bytes) -> None:
    with contextlib.suppress(NoAnswerError):
        for name, value in answered(answer).items():
            assert name
            assert not {"=", "\0"} & set(name)
            assert "\0" not in value
            (name + value).encode()
