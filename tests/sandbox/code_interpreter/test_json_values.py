"""Python values as JSON, as the kernel shows lists and dicts."""

from __future__ import annotations

import datetime
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy
import pandas
import pytest

from kruise_agents.sandbox.code_interpreter.kernel.formatters import json_or_nothing, table
from kruise_agents.sandbox.code_interpreter.kernel.json_values import json_value


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 1.5, "a", True, None], [1, 1.5, "a", True, None]),
        ({None: 2, True: 3, 1.5: 4}, {"null": 2, "true": 3, "1.5": 4}),
        ({2: "a"}, {"2": "a"}),
        ([float("nan"), float("inf")], [None, None]),
        ((1, (2,)), [1, [2]]),
        ([datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3)], ["2026-01-02", "2026-01-02T03:00:00"]),
        ([Colour.RED, Point(3)], [1, {"x": 3}]),
        ([uuid.UUID(int=1)], ["00000000-0000-0000-0000-000000000001"]),
        ([numpy.int64(1), numpy.float32(0.5), numpy.bool_(True)], [1, 0.5, True]),
        ({numpy.int64(7): numpy.arange(3)}, {"7": [0, 1, 2]}),
        ([numpy.datetime64("2026-01-02"), numpy.datetime64("NaT", "D")], ["2026-01-02", None]),
    ],
)
def test_values_have_the_json_form_that_a_client_expects(value: Any, expected: Any) -> None:
    assert json_value(value) == expected


@pytest.mark.parametrize("value", [[object()], [{1, 2}], [b"x"], {(1, 2): 3}, [1j], [numpy.complex128(1)]])
def test_what_has_no_json_form_gives_no_json(value: Any) -> None:
    assert json_or_nothing(value) is None


def test_a_list_that_contains_itself_gives_no_json() -> None:
    value: list[Any] = []
    value.append(value)
    assert json_or_nothing(value) is None


def test_a_table_is_shown_by_columns() -> None:
    frame = pandas.DataFrame(
        {
            "n": [1, 2],
            "f": [0.5, None],
            "t": [pandas.Timestamp("2026-01-02T03:04:05"), pandas.NaT],
            3: [Decimal("1.5"), "x"],
            "d": [{(1, 2): 1j}, {}],
        }
    )
    assert table(frame) == {
        "n": [1, 2],
        "f": [0.5, None],
        "t": ["2026-01-02T03:04:05", None],
        "3": ["1.5", "x"],
        "d": [{"(1, 2)": "1j"}, {}],
    }
