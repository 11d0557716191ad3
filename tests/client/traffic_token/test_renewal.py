"""The renewal of a token: its time, the delay after a failure, and the answers that are believed."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest

from kruise_agents.client.traffic_token.errors import TrafficAccessTokenError, TrafficAccessTokenRefreshError
from kruise_agents.client.traffic_token.renewal import (
    Claims,
    backoff,
    read_claims,
    read_fresh_token,
    read_retry_after,
    refresh_time,
)
from kruise_agents.errors import KruiseAgentsError

EXP = 1_900_000_000.0
NOW = 1_800_000_000
FRESH = NOW + 3600
STATED = "2027-01-15T09:00:00Z"


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


def read(token: Any = None, expiration: Any = STATED, **other: Any) -> tuple[str, float]:
    answer = {
        "trafficAccessToken": jwt({"exp": FRESH}) if token is None else token,
        "trafficAccessTokenExpiration": expiration,
    }
    return read_fresh_token(200, {}, json.dumps({**answer, **other}).encode(), NOW)


@pytest.mark.parametrize(
    "expiration",
    [STATED, "2027-01-15T17:00:00+08:00", "2027-01-15T09:00:00.000Z", "2027-01-15T09:00:05Z", "2027-01-15T08:59:55Z"],
)
def test_a_good_answer_gives_its_token(expiration: str) -> None:
    assert read(expiration=expiration, more="is fine") == (jwt({"exp": FRESH}), FRESH)


@pytest.mark.parametrize("token", ["7d9f1c1e-1111-4222-8333-944455556666", jwt({"sub": "x"}), "a.b.c"])
@pytest.mark.parametrize(("stated", "exp"), [(STATED, FRESH), (None, math.inf), ("2127-01-15T09:00:00Z", 4955677200.0)])
def test_an_opaque_token_is_good_until_the_stated_time(token: str, stated: str | None, exp: float) -> None:
    assert read(token, stated) == (token, exp)
    body = json.dumps({"trafficAccessToken": token}).encode()
    assert read_fresh_token(200, {}, body, NOW) == (token, math.inf)


@pytest.mark.parametrize(
    ("token", "expiration", "message"),
    [
        ("", STATED, "traffic access token refresh returned an invalid response"),
        (7, STATED, "traffic access token refresh returned an invalid response"),
        (None, None, "traffic access token refresh returned an invalid response"),
        (None, 17, "traffic access token refresh returned an invalid response"),
        (None, "tomorrow", "traffic access token refresh returned an invalid response"),
        (None, "2027-01-15T09:00:00", "traffic access token expiration must include a timezone"),
        ("opaque", "tomorrow", "traffic access token refresh returned an invalid response"),
        ("opaque", "2027-01-15T09:00:00", "traffic access token expiration must include a timezone"),
        ("opaque", "2027-01-15T08:00:00Z", "traffic access token refresh returned an expired token"),
        ("opaque\n", STATED, "traffic access token refresh returned an invalid response"),
        ("schlüssel", STATED, "traffic access token refresh returned an invalid response"),
        (None, "2027-01-15T09:00:06Z", "traffic access token expiration does not match its exp claim"),
        (jwt({"exp": NOW}), "2027-01-15T08:00:00Z", "traffic access token refresh returned an expired token"),
    ],
)
def test_a_bad_answer_is_a_failed_refresh(token: Any, expiration: Any, message: str) -> None:
    with pytest.raises(TrafficAccessTokenRefreshError) as failed:
        read(token, expiration)
    assert str(failed.value) == message
    assert failed.value.status_code == 200


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b"\xff", b'"text"', b"[" * 100_000])
def test_a_body_of_another_shape_is_a_failed_refresh(body: bytes) -> None:
    with pytest.raises(TrafficAccessTokenRefreshError, match="invalid response"):
        read_fresh_token(200, {}, body, NOW)


def test_a_refusal_keeps_status_and_wait_and_hides_the_body() -> None:
    with pytest.raises(TrafficAccessTokenRefreshError) as failed:
        read_fresh_token(503, {"Retry-After": "9"}, b"secret", NOW)
    assert str(failed.value) == "traffic access token refresh failed with status 503"
    assert (failed.value.status_code, failed.value.retry_after) == (503, 9.0)


def test_its_errors_are_of_this_package_and_runtime_errors() -> None:
    assert issubclass(TrafficAccessTokenRefreshError, TrafficAccessTokenError)
    assert issubclass(TrafficAccessTokenError, KruiseAgentsError)
    assert issubclass(TrafficAccessTokenError, RuntimeError)
