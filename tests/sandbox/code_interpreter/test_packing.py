"""Messages with lone surrogates, NaN or infinity, as a kernel packs them."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pytest
from jupyter_client.session import json_packer

from kruise_agents.sandbox.code_interpreter.kernel.packing import tolerant


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        ({"text": "täxt 😀"}, {"text": "täxt 😀"}),
        ({"text": "a\ud83d\nb"}, {"text": "a\ufffd\nb"}),
        ({"text": "bytes \udcff"}, {"text": "bytes \ufffd"}),
        ({"\udfff": [1, None, ("\ud800", {"a": "\udfff"})]}, {"\ufffd": [1, None, ["\ufffd", {"a": "\ufffd"}]]}),
        ({"\udfff": float("nan")}, {"\ufffd": None}),
        (
            {"a": [float("nan"), {"b": (float("inf"), 1.5)}], "c": -float("inf")},
            {"a": [None, {"b": [None, 1.5]}], "c": None},
        ),
        (
            {"a": [numpy.float32("nan"), numpy.float64("inf"), numpy.float32(1.5), 10**400]},
            {"a": [None, None, 1.5, 10**400]},
        ),
        ({"array": numpy.array([1, float("nan")]), "set": {float("inf")}}, {"array": [1.0, None], "set": [None]}),
        ({"made once": (number for number in (1.5, float("nan")))}, {"made once": [1.5, None]}),
        ({"NaN": "-Infinity", "a": ["NaN", float("nan")]}, {"NaN": "-Infinity", "a": ["NaN", None]}),
    ],
)
def test_what_has_no_form_is_replaced_wherever_it_is(message: Any, arrives: Any) -> None:
    assert json.loads(tolerant(json_packer)(message)) == arrives


def test_what_has_none_is_packed_as_ever() -> None:
    message = {"text": "täxt 😀", "data": [1.5, True, {"a": None}]}
    assert tolerant(json_packer)(message) == json_packer(message)
