"""Traffic access tokens that the proxy adds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from kruise_agents.protocol.names import PROTECT_KEY, TRAFFIC_TOKEN_HEADER
from support.managers import wait_for
from support.upstreams import Arrival, Handler, RunningProxy, get, in_front_of, proxied, run, running_proxy

from .conftest import Ages

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def adding(ages: Ages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    options = [*in_front_of(ages.managers["new"]), "--traffic-tokens"]
    with running_proxy(tmp_path_factory.mktemp("tokens"), *options) as proxy:
        yield proxy


def test_a_protected_sandbox_is_reached_without_a_token(ages: Ages, adding: RunningProxy) -> None:
    manager = ages.managers["new"]
    key = {"X-API-Key": manager.api_key}
    settings = {"templateID": "base", "timeout": 60, "metadata": {PROTECT_KEY: "true"}}
    with httpx.Client(base_url=manager.api_url, headers=key, timeout=60) as direct:
        made = direct.post("/sandboxes", json=settings).json()
        path = f"/kruise/{made['sandboxID']}/49983/health"
        assert httpx.get(f"{ages.proxies['new'].url}{path}").status_code == 403
        assert httpx.get(f"{adding.url}{path}").status_code == 403  # the proxy has not seen it yet

        with httpx.Client(base_url=adding.url, headers=key, timeout=60) as api:
            assert api.post(f"/sandboxes/{made['sandboxID']}/connect", json={"timeout": 60}).status_code == 200
            assert httpx.get(f"{adding.url}{path}").status_code == 204
            assert httpx.get(f"{adding.url}{path}", headers={TRAFFIC_TOKEN_HEADER: "wrong"}).status_code == 204
            for foreign in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
                assert httpx.get(f"{adding.url}{path}", headers=foreign).status_code == 403
            opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            native = {"Host": f"49983-{made['sandboxID']}.{adding.domain}"}
            for own in (opened, {"Sec-Fetch-Site": "same-origin"}, {"Origin": f"http://{native['Host']}"}):
                assert httpx.get(f"{adding.url}/health", headers=native | own).status_code == 204
                # Below localhost alone, a page of another sandbox is of the same origin.
                assert httpx.get(f"{adding.url}{path}", headers=own).status_code == 403
            by_header = {"E2b-Sandbox-Id": made["sandboxID"], "Sec-Fetch-Site": "same-origin"}
            assert httpx.get(f"{adding.url}/health", headers=by_header).status_code == 403
            assert httpx.get(f"{adding.url}{path}", headers={"Sec-Fetch-Site": "none"}).status_code == 204
            assert api.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204
    log = adding.log.read_text()
    assert manager.api_key not in log
    assert made["trafficAccessToken"] not in log


def test_a_token_that_a_create_gave_is_sent(ages: Ages, adding: RunningProxy) -> None:
    key = {"X-API-Key": ages.managers["new"].api_key}
    with httpx.Client(base_url=adding.url, headers=key, timeout=60) as api:
        for settings in ({"metadata": {PROTECT_KEY: "true"}}, {"network": {"allowPublicTraffic": False}}):
            made = api.post("/sandboxes", json={"templateID": "base", "timeout": 60, **settings}).json()
            assert made["trafficAccessToken"]
            path = f"/kruise/{made['sandboxID']}/3000/"
            # The port is closed, which only requests with a token are told.
            assert httpx.get(f"{ages.proxies['new'].url}{path}").status_code == 403
            wait_for(lambda path=path: httpx.get(f"{adding.url}{path}").status_code == 502)  # type: ignore[misc]
            assert api.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "\N{EURO SIGN}"])
def test_a_token_that_no_header_can_carry(token: str) -> None:
    async def scenario() -> None:
        async with proxied(answering({"sandboxID": "a--b", "trafficAccessToken": token}), traffic_tokens=True) as pair:
            assert (await pair.ask(get("/sandboxes/a--b", "localhost"))).startswith(b"HTTP/1.1 200 ")
            refused = await pair.ask(get("/", "3000-a--b.localhost"))
            assert refused.startswith(b"HTTP/1.1 403 "), refused
            assert b"that no header can carry" in refused
            assert len(pair.arrivals) == 1

    run(scenario())


@pytest.mark.parametrize("sandbox_id", ["a" * 70_000, "a\n", "../a"])
def test_an_id_that_is_no_part_of_an_address(sandbox_id: str) -> None:
    async def scenario() -> None:
        async with proxied(answering({"sandboxID": sandbox_id}), traffic_tokens=True) as pair:
            assert (await pair.ask(get("/sandboxes/a", "localhost"))).startswith(b"HTTP/1.1 200 ")

    run(scenario())


def answering(fields: dict[str, str]) -> Handler:
    """Return a handler that gives each request the same JSON object."""
    body = json.dumps(fields).encode()

    async def handler(arrival: Arrival) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        await arrival.send(head + body)

    return handler
