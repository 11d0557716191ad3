"""The deadline of a call."""

from __future__ import annotations

import pytest

from kruise_agents.sandbox.connect import Code, ConnectError
from kruise_agents.sandbox.connect.call import parse_timeout


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("0", None), ("0.0", None), ("2500", 2.5), ("2500.0", 2.5), ("60000", 60.0)],
)
def test_milliseconds_may_be_decimals_and_nothing_means_no_limit(header: str | None, seconds: float | None) -> None:
    assert parse_timeout(header) == seconds


@pytest.mark.parametrize("header", ["", "soon", "-1", "nan", "inf"])
def test_anything_else_is_refused(header: str) -> None:
    with pytest.raises(ConnectError, match="Connect-Timeout-Ms") as raised:
        parse_timeout(header)
    assert raised.value.code is Code.INVALID_ARGUMENT
