"""protobuf's JSON mapping, read side."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.protocol.fields import FieldError
from kruise_agents.sandbox.connect import Code, ConnectError, Message
from kruise_agents.sandbox.connect.message import as_invalid_argument


def test_names_come_in_both_spellings() -> None:
    assert Message({"watcherId": "a"}).text("watcherId") == "a"
    assert Message({"watcher_id": "a"}).text("watcherId") == "a"


def test_unset_and_null_fields_have_their_defaults() -> None:
    message = Message({"cmd": None})
    assert message.text("cmd") == ""
    assert message.optional_text("cmd") is None
    assert message.texts("args") == []
    assert message.text_map("envs") == {}
    assert message.uint32("pid") == 0
    assert message.flag("stdin", True) is True
    assert message.object("process") is None


def test_an_empty_message_is_set() -> None:
    assert Message({"start": {}}).object("start") is not None


@pytest.mark.parametrize("value", [7, "7", 7.0])
def test_numbers_may_be_strings(value: object) -> None:
    assert Message({"pid": value}).uint32("pid") == 7


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, "x", True, [], {}, float("nan"), float("inf")])
def test_other_numbers_are_refused(value: object) -> None:
    with pytest.raises(FieldError, match="pid must be a uint32"):
        Message({"pid": value}).uint32("pid")


@given(st.binary(max_size=50))
def test_bytes_come_in_every_kind_of_base64(data: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        assert Message({"stdin": text}).data("stdin") == data
        assert Message({"stdin": text.rstrip("=")}).data("stdin") == data


@pytest.mark.parametrize("value", ["SIGNAL_SIGKILL", 9])
def test_enum_values_are_names_or_numbers(value: object) -> None:
    assert Message({"signal": value}).enum("signal", {"SIGNAL_SIGKILL": 9}) == 9


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"a": 1}, lambda message: message.text("a")),
        ({"a": "true"}, lambda message: message.flag("a")),
        ({"a": [1]}, lambda message: message.texts("a")),
        ({"a": {"b": 1}}, lambda message: message.text_map("a")),
        ({"a": "x"}, lambda message: message.object("a")),
        ({"a": "§"}, lambda message: message.data("a")),
    ],
)
def test_a_wrong_type_is_the_clients_mistake(fields: dict[str, object], read: Callable[[Message], object]) -> None:
    with pytest.raises(FieldError) as raised:
        read(Message(fields))
    error = as_invalid_argument(raised.value)
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith("unmarshal message: field 'a")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ConnectError, match="unmarshal message") as raised:
        Message.decode(data)
    assert raised.value.code is Code.INVALID_ARGUMENT
