"""Texts of times in the answers of the API."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kruise_agents.manager.api.formats import timestamp


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC), "2026-01-31T10:00:00.123456Z"),
        (1.5, "1970-01-01T00:00:01.500000Z"),
        (-50_000_000_000.0, "0385-07-25T07:06:40.000000Z"),
        (253_402_300_800.0, "1970-01-01T00:00:00.000000Z"),
        (1e17, "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_every_time_of_a_file_has_a_text(moment: datetime | float, text: str) -> None:
    assert timestamp(moment) == text
