"""Python values as JSON values, for results that a client reads as data.

The kernel of E2B's template gets such values from ``orjson`` with ``OPT_NON_STR_KEYS | OPT_SERIALIZE_NUMPY``.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import sys
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias

Fallback: TypeAlias = Callable[[object], Any]


def refuse(value: object) -> Any:
    """Raise TypeError. By default, :func:`json_value` calls this function for a value without a JSON form."""
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def json_value(value: object, otherwise: Fallback = refuse) -> Any:
    """Return the JSON value for ``value``; NaN and infinity become None.

    ``otherwise`` is called for a value or key without a JSON form. A value that contains itself raises RecursionError.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return json_value(value.value, otherwise)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key, otherwise): json_value(item, otherwise) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item, otherwise) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        # The missing time of pandas (NaT) is a date that does not equal itself.
        return None if value != value else value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: json_value(getattr(value, field.name), otherwise) for field in fields}
    return _numpy_value(value, otherwise)


def _key(key: object, otherwise: Fallback) -> str:
    simple = json_value(key, otherwise)
    if isinstance(simple, str):
        return simple
    if simple is None or isinstance(simple, bool):
        return {None: "null", True: "true", False: "false"}[simple]
    if isinstance(simple, int | float):
        return str(simple)
    return str(otherwise(key))


def _numpy_value(value: object, otherwise: Fallback) -> Any:
    # Not imported: a value of numpy cannot exist before numpy is loaded.
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return otherwise(value)
    if isinstance(value, numpy.datetime64):
        return None if numpy.isnat(value) else str(value)
    simple = value.tolist()
    return otherwise(value) if simple is value else json_value(simple, otherwise)
