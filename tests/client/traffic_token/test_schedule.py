"""When a token is refreshed, and how long a failure keeps the next try away."""

from __future__ import annotations

import base64
import json

import pytest

from kruise_agents.client.traffic_token.token import Claims, backoff, read_claims, read_retry_after, refresh_time

EXP = 1_900_000_000.0


def jwt(payload: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize(
    ("validity", "ahead"), [(3600, 300), (1000, 200), (300, 60), (60, 60), (10, 60), (86_400, 300)]
)
def test_a_token_is_refreshed_this_long_before_its_end(validity: float, ahead: float) -> None:
    assert refresh_time(EXP, EXP - validity, random=0) == EXP - ahead


def test_jitter_only_makes_it_earlier_and_at_most_by_a_tenth() -> None:
    assert refresh_time(EXP, EXP - 1000, random=0.5) == EXP - 200 - 10
    assert refresh_time(EXP, EXP - 3600, random=1) == EXP - 330


def test_a_token_that_was_issued_after_its_end_has_no_validity() -> None:
    assert refresh_time(EXP, EXP + 5000, random=0) == EXP - 60


def test_the_wait_doubles_to_thirty_seconds() -> None:
    assert [backoff(failures, None) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("failures", "asked", "wait"), [(1, 20.0, 20.0), (6, 20.0, 30.0), (1, 0.0, 1.0)])
def test_the_server_can_only_prolong_the_wait(failures: int, asked: float, wait: float) -> None:
    assert backoff(failures, asked) == wait


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("1.5", 1.5), ("0", 0.0), (" 3 ", 3.0)])
def test_retry_after_is_read_as_seconds(text: str, seconds: float) -> None:
    assert read_retry_after(text) == seconds


@pytest.mark.parametrize("text", [None, "", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "nan", "inf"])
def test_any_other_form_of_retry_after_is_ignored(text: str | None) -> None:
    assert read_retry_after(text) is None


def test_the_times_of_a_jwt_are_read_without_a_key() -> None:
    assert read_claims(jwt({"exp": 20, "iat": 10})) == Claims(20, 10)
    assert read_claims(jwt({"exp": 20.5})) == Claims(20.5, None)


@pytest.mark.parametrize(
    "claims", [{}, {"exp": "20"}, {"exp": True}, {"exp": None}, {"exp": 1e999}, {"exp": 20, "iat": "1"}]
)
def test_a_jwt_without_usable_times_is_opaque(claims: object) -> None:
    assert read_claims(jwt(claims)) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "7d9f1c1e-1111-4222-8333-944455556666",
        "a.b",
        "a.b.c",
        "a.###.c",
        "a.é.c",
        "..",
        jwt([1]),
        jwt(1),
        f"{jwt({'exp': 1})}.x",
    ],
)
def test_what_is_no_jwt_is_opaque(token: str) -> None:
    assert read_claims(token) is None
