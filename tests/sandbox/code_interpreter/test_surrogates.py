"""Messages with lone surrogates, as a kernel packs them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jupyter_client.session import json_packer

from kruise_agents.sandbox.code_interpreter.kernel.surrogates import tolerant


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        ({"text": "täxt 😀"}, {"text": "täxt 😀"}),
        ({"text": "a\ud83d\nb"}, {"text": "a\ufffd\nb"}),
        ({"text": "bytes \udcff"}, {"text": "bytes \ufffd"}),
        ({"\udfff": [1, None, ("\ud800", {"a": "\udfff"})]}, {"\ufffd": [1, None, ["\ufffd", {"a": "\ufffd"}]]}),
    ],
)
def test_a_surrogate_is_replaced_wherever_it_is(message: Any, arrives: Any) -> None:
    assert json.loads(tolerant(json_packer)(message)) == arrives


def test_what_has_none_is_packed_as_ever() -> None:
    message = {"text": "täxt 😀", "data": [1.5, True, {"a": None}]}
    assert tolerant(json_packer)(message) == json_packer(message)
