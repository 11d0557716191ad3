"""Every row of the table from MIME types to fields."""

from __future__ import annotations

import json
import math

import pytest

from kruise_agents.sandbox.code_interpreter.lines import encoded, result_fields


@pytest.mark.parametrize(
    ("mime_type", "field", "value"),
    [
        ("text/plain", "text", "2"),
        ("text/html", "html", "<b>x</b>"),
        ("text/markdown", "markdown", "# x"),
        ("image/svg+xml", "svg", "<svg/>"),
        ("image/png", "png", "aGk=\n"),
        ("image/jpeg", "jpeg", "aGk="),
        ("application/pdf", "pdf", "aGk="),
        ("text/latex", "latex", "$x$"),
        ("application/json", "json", {"a": [1, None]}),
        ("application/javascript", "javascript", "alert(1)"),
        ("e2b/data", "data", {"a": [1]}),
        ("e2b/chart", "chart", {"type": "line"}),
    ],
)
def test_a_known_type_becomes_a_field(mime_type: str, field: str, value: object) -> None:
    assert result_fields({mime_type: value}) == {field: value, "extra": {}}


def test_numbers_that_json_does_not_have_become_null() -> None:
    line = {"type": "result", "json": [math.nan, {"a": -math.inf}, 1.5, "NaN"], "extra": {}}

    def refuse(name: str) -> None:
        raise ValueError(name)

    sent = json.loads(encoded(line), parse_constant=refuse)
    assert sent == {"type": "result", "json": [None, {"a": None}, 1.5, "NaN"], "extra": {}}


def test_other_types_stay_in_extra_as_they_are() -> None:
    bundle = {"text/plain": "x", "application/vnd.thing+json": {"a": 1}}
    assert result_fields(bundle) == {"text": "x", "extra": {"application/vnd.thing+json": {"a": 1}}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'it'", "it"),
        ('"it\'s"', "it's"),
        (r"'a\nb'", r"a\nb"),
        ("''", ""),
        ("'", "'"),
        ("'a\"", "'a\""),
        ("''a''", "'a'"),
        ("it's", "it's"),
    ],
)
def test_one_pair_of_equal_quotes_is_removed_and_nothing_unescaped(text: str, shown: str) -> None:
    assert result_fields({"text/plain": text})["text"] == shown
