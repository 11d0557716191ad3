"""Access to envd: the access token, signed URLs, users, and the routes around them."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from e2b import AuthenticationException, Sandbox

from kruise_agents.sandbox.envd.auth import sign, verify
from kruise_agents.sandbox.envd.errors import HttpError
from kruise_agents.serving import Server

TOKEN = "0123456789abcdef" * 4
JSON_ERROR = "application/json; charset=utf-8"


@pytest.fixture
def secured(served_envd: Any) -> Any:
    served_envd.state.access_token = TOKEN
    return served_envd


@pytest.mark.parametrize(
    ("path", "operation", "user", "expiration", "signature"),
    [
        ("/home/user/a b.txt", "read", "", None, "v1_DRqJ3yYc6dTc06Bsf7gqbK1IADObRix9Ioug/oxIy3k"),
        ("/home/user/a b.txt", "write", "user", "1767225600", "v1_uYGCRia0QwdeufhR3I/+VMAmS9uIcl2WsgA9/5j2Q6w"),
        ("f", "read", "root", "1767225600", "v1_SWdDdLSWtXXxUINawkEUHslwaNfRRaPiOOdSHyUHlgo"),
    ],
)
def test_signatures_are_those_of_the_sdk(
    path: str, operation: Any, user: str, expiration: str | None, signature: str
) -> None:
    assert sign(path, operation, user, TOKEN, expiration) == signature


def test_a_wrong_signature_is_not_told_to_be_expired() -> None:
    with pytest.raises(HttpError, match="invalid signature"):
        verify({"path": "f", "signature": "v1_x", "signature_expiration": "1"}, "read", TOKEN, None, time.time())


def test_an_expiration_that_is_no_number_is_refused() -> None:
    query = {"path": "f", "signature": sign("f", "read", "", TOKEN, "soon"), "signature_expiration": "soon"}
    with pytest.raises(HttpError, match="invalid signature"):
        verify(query, "read", TOKEN, None, time.time())


def test_signed_urls_of_the_sdk_work_without_the_token(secured: Any) -> None:
    sandbox: Sandbox = secured.sandbox(TOKEN)
    url = sandbox.upload_url("a b+ü.txt", use_signature_expiration=60)
    assert httpx.post(url, files={"file": ("x", b"signed")}).status_code == 200
    assert sandbox.files.read("a b+ü.txt") == "signed"
    assert httpx.get(sandbox.download_url("a b+ü.txt", use_signature_expiration=60)).text == "signed"
    assert httpx.get(sandbox.download_url("a b+ü.txt")).text == "signed"


@pytest.mark.parametrize(
    ("query", "headers", "message"),
    [
        ({}, {}, "missing signature query parameter"),
        ({"signature": "v1_wrong"}, {}, "invalid signature"),
        ({}, {"X-Access-Token": "wrong"}, "access token present in header but does not match"),
        (
            {"signature": sign("f", "read", "", TOKEN, "1"), "signature_expiration": "1"},
            {},
            "signature is already expired",
        ),
        ({"signature": sign("f", "write", "", TOKEN)}, {}, "invalid signature"),
        ({"signature": sign("g", "read", "", TOKEN)}, {}, "invalid signature"),
        ({"signature": sign("f", "read", "", TOKEN), "username": "user"}, {}, "invalid signature"),
    ],
)
def test_unsigned_requests_are_refused(
    query: dict[str, str], headers: dict[str, str], message: str, secured: Any
) -> None:
    (secured.home / "f").write_text("secret")
    reply = httpx.get(secured.url + "/files", params={"path": "f"} | query, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["content-type"] == JSON_ERROR
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.json() == {"code": 401, "message": message}


def test_the_body_of_an_expired_request_is_exactly_this(secured: Any) -> None:
    """SDKs and their tests compare the whole body."""
    query = {"path": "f", "signature": sign("f", "read", "", TOKEN, "1"), "signature_expiration": "1"}
    reply = httpx.get(secured.url + "/files", params=query)
    assert reply.content == b'{"code":401,"message":"signature is already expired"}'


def test_a_signature_without_a_path_is_one_for_the_empty_path(secured: Any) -> None:
    form = {"file": ("f", b"x")}
    assert httpx.post(secured.url + "/files", params={"signature": sign("", "write", "", TOKEN)}, files=form).is_success
    assert (secured.home / "f").read_text() == "x"
    query = {"signature": sign("f", "write", "", TOKEN)}
    assert httpx.post(secured.url + "/files", params=query, files=form).status_code == 401


@pytest.mark.live
def test_the_token_opens_everything(secured: Any) -> None:
    sandbox = secured.sandbox(TOKEN)
    sandbox.files.write("f", "x")
    assert sandbox.commands.run("cat f").stdout == "x"


def test_the_token_is_looked_at_before_the_user(secured: Any) -> None:
    url = secured.url + "/filesystem.Filesystem/Stat"
    reply = httpx.post(url, json={"path": ""}, auth=("nobody", ""), headers={"x-access-token": "wrong"})
    assert reply.json()["message"].startswith("unauthorized access")
    reply = httpx.post(url, json={"path": ""}, auth=("nobody", ""), headers={"x-access-token": TOKEN})
    assert (reply.status_code, reply.json()) == (
        401,
        {"code": "unauthenticated", "message": "invalid username: 'nobody'"},
    )
    reply = httpx.post(url, json={"path": ""}, auth=("user", "any password"), headers={"x-access-token": TOKEN})
    assert reply.status_code == 200


@pytest.mark.parametrize("token", [None, "wrong", "ünïcode".encode().decode("latin-1")])
def test_without_the_token_nothing_runs(token: str | None, secured: Any) -> None:
    headers = {} if token is None else {b"x-access-token": token.encode("latin-1")}
    for path in ("/envs", "/process.Process/List", "/nothing"):
        reply = httpx.post(secured.url + path, json={}, headers=headers)
        assert reply.status_code == 401
        assert reply.json() == {
            "code": 401,
            "message": "unauthorized access, please provide a valid access token or method signing if supported",
        }


def test_the_sdk_reports_a_wrong_token(secured: Any) -> None:
    sandbox = secured.sandbox("wrong")
    for call in (
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.files.list("."),
        lambda: sandbox.files.read("f"),
        lambda: sandbox.files.write("f", "x"),
    ):
        with pytest.raises(AuthenticationException):
            call()


def test_a_new_token_counts_from_the_next_request(secured: Any) -> None:
    sandbox = secured.sandbox(TOKEN)
    assert sandbox.commands.list() == []
    secured.state.access_token = "another"
    with pytest.raises(AuthenticationException):
        sandbox.commands.list()
    secured.state.access_token = None
    assert sandbox.commands.list() == []


def test_health_is_open_to_everybody(secured: Any) -> None:
    reply = httpx.get(secured.url + "/health")
    assert (reply.status_code, reply.content, reply.headers["cache-control"]) == (204, b"", "no-store")
    assert secured.sandbox().is_running()


@pytest.mark.live
def test_the_users_name_may_be_given(sandbox: Sandbox) -> None:
    sandbox.files.write("f", "x", user="user")
    assert sandbox.files.read("f", user="user") == "x"
    assert sandbox.commands.run("cat f", user="user").stdout == "x"


@pytest.mark.parametrize("user", ["nobody", "no such user"])
def test_other_users_do_not_exist_here(user: str, sandbox: Sandbox) -> None:
    for call in (
        lambda: sandbox.commands.run("true", user=user),
        lambda: sandbox.files.list(".", user=user),
        lambda: sandbox.files.make_dir("d", user=user),
    ):
        with pytest.raises(AuthenticationException, match=f"invalid username: '{user}'"):
            call()
    for use in (lambda: sandbox.files.read("f", user=user), lambda: sandbox.files.write("f", "x", user=user)):
        with pytest.raises(AuthenticationException, match=f"error looking up user '{user}': user: unknown user"):
            use()


def test_variables_are_those_of_the_sandbox(served_envd: Any) -> None:
    served_envd.state.variables = {"A": "1", "E2B_SANDBOX": "true"}
    reply = httpx.get(served_envd.url + "/envs")
    assert reply.json() == {"A": "1", "E2B_SANDBOX": "true"}
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/nothing", "/init", "/health/", "/filesystem.Filesystem", "/a.B/C"])
def test_unknown_paths_are_404_in_plain_text(path: str, served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + path, json={})
    assert reply.status_code == 404
    assert reply.text.strip() == "404 page not found"


def test_browsers_may_come_from_anywhere(secured: Any) -> None:
    preflight = httpx.options(
        secured.url + "/process.Process/Start",
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-access-token,connect-protocol-version",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "x-access-token" in preflight.headers["access-control-allow-headers"]
    reply = httpx.get(secured.url + "/envs", headers={"origin": "https://app.example"})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (401, "*")
    exposed = reply.headers["access-control-expose-headers"].lower()
    for name in ("location", "cache-control", "x-content-type-options", "connect-content-encoding"):
        assert name in exposed


@pytest.mark.parametrize("method", ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"])
def test_browsers_may_use_every_method(method: str, served_envd: Any) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": method}
    preflight = httpx.options(served_envd.url + "/files", headers=asked)
    assert preflight.status_code == 200
    assert method in preflight.headers["access-control-allow-methods"]


def test_connections_may_rest_for_640_seconds() -> None:
    """The SDK's connection pools rely on this: a server that closes earlier may close a connection under reuse."""
    assert Server(None, []).config.timeout_keep_alive >= 640
