"""The life of a traffic access token: issued, needed, rotated, refused, and kept from the sandbox."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from e2b_code_interpreter import AsyncSandbox, Sandbox
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.traffic_tokens import ForeignTokenError, TokenRefusedError, TrafficTokens
from kruise_agents.patch_traffic_token import patch_traffic_access_token
from kruise_agents.protocol.addresses import SandboxTarget
from support.addresses import Shape, build
from support.managers import RunningManager, running_manager, wait_for

HEADER = "e2b-traffic-access-token"
PROTECT = {"security.agents.kruise.io/enable-jwt-auth": "true"}
MISSING = "forbidden: invalid or missing traffic access token"
FOREIGN = "forbidden: traffic access token does not match sandbox"
CHAT = Subprotocol("chat")
ODD_KEY = """\
-----BEGIN EC {}-----
MFQCAQEEFIxqs/loVynP1kkY2mPkHwBbBfQnoAsGCSskAwMCCAEBAaEsAyoABJdP
VcqS9ZCBeOL0MYIl7vmimE2nsEhES1jdaMX1Aq6l89TFBGS7uQA=
-----END EC {}-----
""".replace("{}", "PRIVATE KEY")
"""A key of the curve brainpoolP160r1, which the library does not support."""


@pytest.fixture
def traffic_patch(patched: None) -> Iterator[None]:
    with patch_traffic_access_token():
        yield


@pytest.fixture
def sandbox(manager: RunningManager, traffic_patch: None) -> Iterator[Sandbox]:
    """A protected sandbox, which ``serve`` and ``web`` use in place of the plain sandbox."""
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key, metadata=PROTECT) as running:
        yield running


@pytest.fixture
def other(manager: RunningManager, traffic_patch: None) -> Iterator[Sandbox]:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key, metadata=PROTECT) as running:
        yield running


@pytest.fixture
def serve(sandbox: Sandbox, port: int) -> Callable[[str], str]:
    """Return the fixture ``serve`` of all tests, but with the token in the readiness check."""

    def serve_program(name: str) -> str:
        sandbox.files.write(name, (Path(__file__).parent / "programs" / name).read_text())
        sandbox.commands.run(f"exec python {name} {port} > {name}.log 2>&1", background=True, timeout=0)
        url = f"http://{sandbox.get_host(port)}"
        wait_for(
            lambda: httpx.get(f"{url}/ready", headers=token_of(sandbox)).status_code != 502, 20, f"{name} listening"
        )
        return url

    return serve_program


def token_of(sandbox: Sandbox) -> dict[str, str]:
    assert sandbox.traffic_access_token is not None
    return {HEADER: sandbox.traffic_access_token}


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def refresh(api: httpx.Client, sandbox_id: str) -> httpx.Response:
    return api.post(f"/sandboxes/{sandbox_id}/traffic-access-token")


class TestIssue:
    def test_create_gives_a_token_and_its_end(self, api: httpx.Client) -> None:
        answer = api.post("/sandboxes", json={"templateID": "base", "metadata": PROTECT}).json()
        token = answer["trafficAccessToken"]
        header, claims = jwt.get_unverified_header(token), claims_of(token)
        assert header["alg"] == "EdDSA"
        assert header["kid"]
        assert claims["sandbox"]["sandboxId"] == answer["sandboxID"]
        assert claims["sandbox"]["sandboxUid"]
        assert claims["sub"]
        end = datetime.strptime(answer["trafficAccessTokenExpiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert end.timestamp() == claims["exp"] == claims["iat"] + 100 * 365 * 86_400
        for again in (
            api.get(f"/sandboxes/{answer['sandboxID']}"),
            api.post(f"/sandboxes/{answer['sandboxID']}/connect"),
        ):
            assert not again.json().get("trafficAccessToken")
        api.delete(f"/sandboxes/{answer['sandboxID']}")

    @pytest.mark.parametrize("value", ["True", "1", "false", ""])
    def test_only_exactly_true_protects(self, api: httpx.Client, manager: RunningManager, value: str) -> None:
        body = {"templateID": "base", "metadata": {next(iter(PROTECT)): value}}
        answer = api.post("/sandboxes", json=body).json()
        assert not answer.get("trafficAccessToken")
        assert httpx.get(f"{manager.sandbox_url(answer['sandboxID'], 49983)}/health").status_code == 204
        refused = refresh(api, answer["sandboxID"])
        assert (refused.status_code, refused.json()["message"]) == (
            409,
            "Sandbox cannot refresh its traffic access token",
        )
        api.delete(f"/sandboxes/{answer['sandboxID']}")

    def test_a_refresh_gives_a_new_token_and_the_old_one_stays_valid(self, api: httpx.Client, sandbox: Sandbox) -> None:
        old = token_of(sandbox)
        answer = refresh(api, sandbox.sandbox_id)
        assert answer.status_code == 200
        assert set(answer.json()) == {"trafficAccessToken", "trafficAccessTokenExpiration"}
        new = {HEADER: answer.json()["trafficAccessToken"]}
        assert new != old
        for token in (old, new):
            assert httpx.get(f"http://{sandbox.get_host(49983)}/health", headers=token).status_code == 204

    def test_refusals_of_a_refresh(self, api: httpx.Client, manager: RunningManager, sandbox: Sandbox) -> None:
        gone = refresh(api, "inobody")
        assert gone.status_code == 404
        assert gone.json()["message"] == "Sandbox route not found, maybe it is crashed or killed: inobody"
        path = f"/sandboxes/{sandbox.sandbox_id}/traffic-access-token"
        assert api.post(path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert api.post(path, content=b"no json").json()["message"] == "Invalid traffic access token refresh request"
        native = {"Host": f"api.{manager.domain}", "X-API-Key": manager.api_key}
        assert httpx.post(f"http://localhost:{manager.port}{path}", headers=native).status_code == 404


class TestUse:
    def test_the_whole_sdk_works_with_a_protected_sandbox(self, sandbox: Sandbox, manager: RunningManager) -> None:
        exercise(sandbox)
        joined = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
        exercise(joined)
        assert joined.traffic_access_token

    def test_the_async_sdk_too(self, traffic_patch: None, manager: RunningManager) -> None:
        async def run() -> None:
            options: Any = {"domain": manager.domain, "api_key": manager.api_key}
            sandbox = await AsyncSandbox.create(metadata=PROTECT, **options)
            joined = await AsyncSandbox.connect(sandbox.sandbox_id, **options)
            for one in (sandbox, joined):
                await one.files.write("a.txt", "a")
                assert await one.files.read("a.txt") == "a"
                assert (await one.commands.run("echo b")).stdout == "b\n"
                assert (await (await one.commands.run("echo c", background=True)).wait()).stdout == "c\n"
                assert (await one.run_code("1+1")).text == "2"
            await sandbox.kill()

        asyncio.run(run())

    @pytest.mark.parametrize("shape", list(Shape))
    def test_every_shape_of_address_is_guarded(self, shape: Shape, manager: RunningManager, sandbox: Sandbox) -> None:
        wire = build(SandboxTarget(sandbox.sandbox_id, 49983, "/health"), manager.domain, shape)
        url = f"http://localhost:{manager.port}{wire.target}"
        headers = {"Host": wire.authority, **wire.headers}
        refused = httpx.get(url, headers=headers)
        assert (refused.status_code, refused.text) == (403, MISSING)
        assert httpx.get(url, headers={**headers, **token_of(sandbox)}).status_code == 204

    def test_a_closed_port_tells_nothing_without_a_token(self, sandbox: Sandbox, port: int) -> None:
        url = f"http://{sandbox.get_host(port)}"
        assert httpx.get(url).status_code == 403
        assert httpx.get(url, headers=token_of(sandbox)).status_code == 502

    def test_the_sandbox_never_sees_a_token(self, sandbox: Sandbox, web: str, manager: RunningManager) -> None:
        names = {name.lower() for name, _ in httpx.get(web, headers=token_of(sandbox)).json()["headers"]}
        assert "user-agent" in names
        assert HEADER not in names

    def test_websockets_are_guarded(self, sandbox: Sandbox, serve: Callable[[str], str]) -> None:
        url = serve("ws.py").replace("http://", "ws://")
        with pytest.raises(InvalidStatus) as refused, connect(url, subprotocols=[CHAT]):
            pass
        assert (refused.value.response.status_code, refused.value.response.body) == (403, MISSING.encode())
        with connect(url, subprotocols=[CHAT], additional_headers=token_of(sandbox)) as client:
            client.recv()
            client.send("hello")
            assert client.recv() == "hello"

    def test_tokens_that_open_nothing(self, sandbox: Sandbox, other: Sandbox) -> None:
        good = token_of(sandbox)[HEADER]
        header, payload, signature = good.split(".")
        claims, kid = claims_of(good), jwt.get_unverified_header(good)["kid"]
        none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": kid}).encode()).decode().rstrip("=")
        key = Ed25519PrivateKey.generate()
        refused = {
            "empty": "",
            "opaque": "7d9f1c1e-1111-4222-8333-944455556666",
            "no algorithm": f"{none}.{payload}.",
            "symmetric": jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": kid}),
            "another key": jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid}),
            "unknown kid": jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "other"}),
            "changed": f"{header}.{payload[:-2]}{'AA' if payload[-2:] != 'AA' else 'BB'}.{signature}",
        }
        url = f"http://{sandbox.get_host(49983)}/health"
        for name, token in refused.items():
            answer = httpx.get(url, headers={HEADER: token})
            assert (answer.status_code, answer.text) == (403, MISSING), name
        foreign = httpx.get(url, headers=token_of(other))
        assert (foreign.status_code, foreign.text) == (403, FOREIGN)
        assert httpx.get(url, headers=[(HEADER, good), (HEADER, good)]).status_code == 403
        assert httpx.get(url, headers={HEADER: good}).status_code == 204

    def test_no_token_is_written_anywhere(self, sandbox: Sandbox, manager: RunningManager) -> None:
        exercise(sandbox)
        httpx.get(f"http://{sandbox.get_host(49983)}/health", headers={HEADER: "not.a.token"})
        log = manager.log.read_text()
        assert sandbox.sandbox_id in log
        for secret in (token_of(sandbox)[HEADER], "not.a.token"):
            assert secret not in log


@pytest.mark.live
def test_short_lived_tokens_are_rotated_by_the_sdk(tmp_path_factory: pytest.TempPathFactory, patched: None) -> None:
    options = ("--traffic-access-token-validity", "2", "--traffic-access-token-clock-skew", "0")
    with running_manager(tmp_path_factory.mktemp("rotating"), *options) as manager, patch_traffic_access_token():
        sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key, metadata=PROTECT)
        first = token_of(sandbox)
        exercise(sandbox)
        second = token_of(sandbox)
        assert second != first
        deadline = time.monotonic() + 20
        while httpx.get(f"http://{sandbox.get_host(49983)}/health", headers=second).status_code != 403:
            assert time.monotonic() < deadline, "the token does not expire"
        exercise(sandbox)
        assert token_of(sandbox) != second
        sandbox.kill()


class TestChecks:
    """Checks that need a clock of the test's own."""

    def test_times_are_checked_with_a_leeway(self) -> None:
        now = [1_800_000_000.0]
        tokens = TrafficTokens(validity=100, clock_skew=60, clock=lambda: now[0])
        token = tokens.issue("a", "1").value
        for moment in (0.0, 100.0, 159.0, -60.0):
            now[0] = 1_800_000_000 + moment
            tokens.check(token, "a", "1")
        for moment in (160.0, -61.0):
            now[0] = 1_800_000_000 + moment
            with pytest.raises(TokenRefusedError):
                tokens.check(token, "a", "1")

    def test_a_key_that_the_library_does_not_support_is_a_wrong_setting(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text(ODD_KEY)
        with pytest.raises(ConfigurationError, match="no Ed25519 key"):
            TrafficTokens(key_file=tmp_path / "key").check_key_file()

    def test_a_token_belongs_to_one_life_of_one_sandbox(self) -> None:
        tokens = TrafficTokens()
        token = tokens.issue("a", "1").value
        for sandbox in (("b", "1"), ("a", "2")):
            with pytest.raises(ForeignTokenError):
                tokens.check(token, *sandbox)

    def test_another_managers_tokens_open_nothing(self) -> None:
        with pytest.raises(TokenRefusedError):
            TrafficTokens().check(TrafficTokens().issue("a", "1").value, "a", "1")

    def test_a_token_over_64_kib_is_not_even_read(self) -> None:
        with pytest.raises(TokenRefusedError, match="longer"):
            TrafficTokens().check("a" * 65_537, "a", "1")

    def test_a_token_does_not_show_when_it_is_printed(self) -> None:
        token = TrafficTokens().issue("a", "1")
        assert token.value not in repr(token)


def exercise(sandbox: Sandbox) -> None:
    sandbox.files.write("a.txt", "a")
    assert sandbox.files.read("a.txt") == "a"
    assert sandbox.files.exists("a.txt")
    assert sandbox.commands.run("echo b").stdout == "b\n"
    assert sandbox.commands.run("echo c", background=True).wait().stdout == "c\n"
    assert sandbox.run_code("1+1").text == "2"
    assert sandbox.is_running()
