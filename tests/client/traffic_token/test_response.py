"""Which answers to a refresh are believed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kruise_agents.client.traffic_token.errors import TrafficAccessTokenError, TrafficAccessTokenRefreshError
from kruise_agents.client.traffic_token.token import read_fresh_token
from kruise_agents.errors import KruiseAgentsError

NOW = 1_800_000_000
EXP = NOW + 3600
STATED = "2027-01-15T09:00:00Z"


def jwt(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


def read(token: Any = None, expiration: Any = STATED, **other: Any) -> str:
    answer = {
        "trafficAccessToken": jwt(exp=EXP) if token is None else token,
        "trafficAccessTokenExpiration": expiration,
    }
    return read_fresh_token(200, {}, json.dumps({**answer, **other}).encode(), NOW)


@pytest.mark.parametrize(
    "expiration",
    [STATED, "2027-01-15T17:00:00+08:00", "2027-01-15T09:00:00.000Z", "2027-01-15T09:00:05Z", "2027-01-15T08:59:55Z"],
)
def test_a_good_answer_gives_its_token(expiration: str) -> None:
    assert read(expiration=expiration, more="is fine") == jwt(exp=EXP)


@pytest.mark.parametrize(
    ("token", "expiration", "message"),
    [
        ("", STATED, "traffic access token refresh returned an invalid response"),
        (7, STATED, "traffic access token refresh returned an invalid response"),
        (None, None, "traffic access token refresh returned an invalid response"),
        (None, 17, "traffic access token refresh returned an invalid response"),
        (None, "tomorrow", "traffic access token refresh returned an invalid response"),
        (None, "2027-01-15T09:00:00", "traffic access token expiration must include a timezone"),
        ("opaque", STATED, "traffic access token is not a JWT with a valid exp claim"),
        (jwt(sub="x"), STATED, "traffic access token is not a JWT with a valid exp claim"),
        (None, "2027-01-15T09:00:06Z", "traffic access token expiration does not match its exp claim"),
        (jwt(exp=NOW), "2027-01-15T08:00:00Z", "traffic access token refresh returned an expired token"),
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
