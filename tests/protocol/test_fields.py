"""The reader of typed objects: it returns values of the right type, and says which value is wrong and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kruise_agents.protocol.fields import FieldError, Fields

BODY = Fields(
    {
        "text": "a",
        "flag": True,
        "number": 5,
        "float": 5.0,
        "texts": ["a", "b"],
        "map": {"a": "b"},
        "object": {"inner": {"text": 1}},
        "objects": [{"text": "a"}, {"text": 2}],
        "mixed": ["a", 1],
        "null": None,
    }
)


def error_of(read: Callable[[], Any]) -> tuple[str, str, object]:
    with pytest.raises(FieldError) as caught:
        read()
    return caught.value.name, caught.value.wanted, caught.value.seen


def test_values_of_the_right_type_are_returned() -> None:
    assert BODY.text("text") == BODY.required_text("text") == "a"
    assert BODY.flag("flag") is True
    assert (
        BODY.integer("number")
        == BODY.integer("float")
        == BODY.required_integer(
            "number",
        )
        == 5
    )
    assert BODY.integer("number", 5, 5) == 5
    assert BODY.texts("texts") == ["a", "b"]
    assert BODY.text_map("map") == {"a": "b"}
    assert [entry.value("text") for entry in BODY.objects("objects")] == ["a", 2]


@pytest.mark.parametrize("name", ["null", "nowhere"])
def test_null_counts_as_absent(name: str) -> None:
    assert not BODY.has(name)
    assert [BODY.text(name), BODY.flag(name), BODY.integer(name, 0, 9), BODY.object(name)] == [None] * 4
    assert [BODY.texts(name), BODY.objects(name), BODY.text_map(name)] == [[], [], {}]
    assert error_of(lambda: BODY.required_text(name)) == (name, "a string", None)
    assert error_of(lambda: BODY.required_integer(name)) == (name, "a whole number", None)


def test_an_error_says_where_what_is_wanted_and_what_was_seen() -> None:
    assert error_of(lambda: BODY.text("flag")) == ("flag", "a string", True)
    assert error_of(lambda: BODY.flag("number")) == ("number", "true or false", 5)
    assert error_of(lambda: BODY.integer("flag")) == ("flag", "a whole number", True)
    assert error_of(lambda: BODY.integer("number", 0, 4)) == ("number", "a whole number from 0 to 4", 5)
    assert error_of(lambda: BODY.integer("float", allow_float=False)) == ("float", "a whole number", 5.0)
    assert error_of(lambda: BODY.texts("mixed")) == ("mixed", "an array of strings", ["a", 1])
    assert error_of(lambda: BODY.texts("text")) == ("text", "an array of strings", "a")
    assert error_of(lambda: BODY.text_map("object")) == ("object.inner", "a string", {"text": 1})
    assert error_of(lambda: BODY.object("text")) == ("text", "an object", "a")
    assert error_of(lambda: BODY.objects("mixed")) == ("mixed", "a list of objects", ["a", 1])


def test_the_path_goes_through_objects_and_lists() -> None:
    outer = BODY.object("object")
    inner = outer and outer.object("inner")
    assert inner is not None
    assert error_of(lambda: inner.text("text")) == ("object.inner.text", "a string", 1)
    assert error_of(lambda: BODY.objects("objects")[1].text("text")) == ("objects[1].text", "a string", 2)


def test_unknown_names_are_listed() -> None:
    assert Fields({"a": 1, "b": None, "c": 2}).unknown(["a"]) == ["b", "c"]


def test_a_protocol_may_know_a_field_by_another_name() -> None:
    class Shouting(Fields):
        def value(self, name: str) -> Any:
            return super().value(name.upper())

    body = Shouting.parse('{"OBJECT": {"TEXT": 1}}')
    inner = body.object("object")
    assert isinstance(inner, Shouting)
    assert error_of(lambda: inner.text("text")) == ("object.text", "a string", 1)


def test_a_body_that_is_no_object_is_refused() -> None:
    assert error_of(lambda: Fields.parse(b"[1]")) == ("", "an object", [1])


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": ', b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Fields.parse(data)
