"""Sandboxes whose ports are not open to everybody (``allow_public_traffic`` false): one token opens them, as on E2B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.protocol.addresses import SandboxTarget
from support.addresses import Shape, build
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
HEADER = "e2b-traffic-access-token"
PRIVATE = {"allow_public_traffic": False}
SECURED = "Sandbox is secured with traffic access token."


@pytest.fixture
def sandbox(manager: RunningManager, patched: None) -> Any:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key, network=PRIVATE) as running:
        yield running


def test_the_sdk_works_with_it_as_with_any_other(sandbox: Sandbox) -> None:
    assert sandbox.traffic_access_token
    assert sandbox.run_code("1 + 1").text == "2"
    sandbox.files.write("a.txt", "x")
    assert sandbox.commands.run("cat a.txt").stdout == "x"
    assert sandbox.is_running()
    network = sandbox.get_info().network
    assert network is not None
    assert network["allow_public_traffic"] is False


@pytest.mark.parametrize("shape", list(Shape))
def test_no_port_but_envds_opens_without_its_token(shape: Shape, manager: RunningManager, sandbox: Sandbox) -> None:
    def ask(port: int, *tokens: str) -> tuple[int, str]:
        wire = build(SandboxTarget(sandbox.sandbox_id, port, "/health"), f"d.example:{manager.port}", shape)
        headers = [*dict(wire.headers).items(), ("Host", wire.authority), *((HEADER, token) for token in tokens)]
        answer = httpx.get(f"http://127.0.0.1:{manager.port}{wire.target}", headers=headers)
        return answer.status_code, answer.json()["message"] if answer.status_code >= 400 else ""

    mine = sandbox.traffic_access_token
    assert mine
    for port in (49999, 3000, 1):
        assert ask(port) == (403, f"{SECURED} Token header '{HEADER}' is missing")
        for tokens in (("wrong",), (mine, mine), (mine.upper(),)):
            assert ask(port, *tokens) == (403, f"{SECURED} Provided token in header '{HEADER}' is invalid")
    assert ask(49999, mine)[0] == 200
    assert "port is not open" in ask(3000, mine)[1]
    assert ask(49983)[0] == 204


def test_who_connects_gets_the_same_token_and_a_fork_has_its_own(manager: RunningManager, sandbox: Sandbox) -> None:
    again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
    assert again.traffic_access_token == sandbox.traffic_access_token
    assert again.run_code("2 + 2").text == "4"
    with sandbox.fork(timeout=60)[0] as fork:
        assert fork.traffic_access_token not in (None, sandbox.traffic_access_token)
        assert httpx.get(f"http://{fork.get_host(49999)}/health").status_code == 403


def test_it_is_not_woken_without_its_token(manager: RunningManager, patched: None, api: httpx.Client) -> None:
    options: Any = {"domain": manager.domain, "api_key": manager.api_key, "network": PRIVATE}
    with Sandbox.create(lifecycle={"on_timeout": "pause", "auto_resume": True}, **options) as sandbox:
        sandbox.pause()
        url = f"http://{sandbox.get_host(49999)}/health"
        assert httpx.get(url).status_code == 403
        assert api.get(f"/sandboxes/{sandbox.sandbox_id}").json()["state"] == "paused"
        assert httpx.get(url, headers={HEADER: str(sandbox.traffic_access_token)}, timeout=60).status_code == 200


def test_a_protected_one_has_no_second_token_that_opens_nothing(api: httpx.Client) -> None:
    metadata = {"security.agents.kruise.io/enable-jwt-auth": "true"}
    body = {"templateID": "base", "metadata": metadata, "network": {"allowPublicTraffic": False}}
    made = api.post("/v2/sandboxes", json=body).json()
    assert made["trafficAccessToken"].count(".") == 2
    assert api.post(f"/v2/sandboxes/{made['sandboxID']}/connect").json()["trafficAccessToken"] is None
    api.delete(f"/sandboxes/{made['sandboxID']}")


def test_envd_needs_a_token_of_its_own_then(api: httpx.Client) -> None:
    body = {"templateID": "base", "secure": False, "network": {"allowPublicTraffic": False}}
    answer = api.post("/sandboxes", json=body)
    assert answer.status_code == 400
    assert "unless you enable secure envd access via 'secure' flag" in answer.json()["message"]


def test_the_next_manager_asks_for_the_same_token(tmp_path: Path) -> None:
    with patch_e2b(False):
        with running_manager(tmp_path, "--keep") as manager:
            sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key, network=PRIVATE)
        with running_manager(tmp_path) as manager:
            url = f"{manager.sandbox_url(sandbox.sandbox_id, 49999)}/health"
            assert httpx.get(url).status_code == 403
            assert httpx.get(url, headers={HEADER: str(sandbox.traffic_access_token)}).status_code == 200
