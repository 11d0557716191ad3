"""The addresses by which clients reach the proxy, and the requests that the manager gets."""

from __future__ import annotations

import asyncio

import pytest

from kruise_agents.errors import AddressError, PortError
from kruise_agents.protocol.addresses import ApiTarget, SandboxTarget
from kruise_agents.proxy.proxy import find_target
from support.upstreams import Arrival, get, proxied, run

PORT = 7789


@pytest.mark.parametrize(
    ("host", "path", "headers", "target"),
    [
        ("localhost:7789", "/sandboxes", (None, None), ApiTarget("/sandboxes", private=False)),
        ("localhost:7789", "/v2/sandboxes?limit=1", (None, None), ApiTarget("/v2/sandboxes?limit=1", private=False)),
        ("localhost:7789", "/kruise/api/sandboxes", (None, None), ApiTarget("/sandboxes")),
        ("api.localhost:7789", "/sandboxes", (None, None), ApiTarget("/sandboxes", private=False)),
        ("127.0.0.1:7789", "/health", (None, None), ApiTarget("/health", private=False)),
        ("localhost:7789", "/kruise/a--b/80/x", (None, None), SandboxTarget("a--b", 80, "/x")),
        ("3000-a--b.localhost:7789", "/x?y=1", (None, None), SandboxTarget("a--b", 3000, "/x?y=1")),
        ("localhost:7789", "/files", ("a--b", "49983"), SandboxTarget("a--b", 49983, "/files")),
        # A native host decides alone, so that no page of another sandbox is of its origin.
        ("3000-a--b.localhost", "/kruise/c--d/80/x", (None, None), SandboxTarget("a--b", 3000, "/kruise/c--d/80/x")),
        ("3000-a--b.localhost", "/x", ("c--d", "80"), SandboxTarget("a--b", 3000, "/x")),
        ("3000-a--b.localhost", "/kruise/api/x", (None, None), SandboxTarget("a--b", 3000, "/kruise/api/x")),
    ],
)
def test_each_form_of_an_address(
    host: str, path: str, headers: tuple[str | None, str | None], target: ApiTarget | SandboxTarget
) -> None:
    assert find_target(host, path, *headers) == target


def test_a_domain_may_look_like_the_host_of_a_sandbox() -> None:
    domain = "7789-work.preview.example"
    for host in (domain, domain.upper()):
        target = find_target(host, "/kruise/c--d/80/x", domains=[domain])
        assert target == SandboxTarget("c--d", 80, "/x")
    assert find_target(f"3000-a--b.{domain}", "/kruise/c--d/80/x", domains=[domain]) == SandboxTarget(
        "a--b", 3000, "/kruise/c--d/80/x"
    )


def test_a_broken_address_of_a_sandbox_is_no_route_of_the_api() -> None:
    for path, headers in (("/kruise/a", ()), ("/x", ("a", "many"))):
        with pytest.raises(AddressError):
            find_target("localhost", path, *headers)
    with pytest.raises(PortError):
        find_target("70000-a.localhost", "/")


@pytest.mark.parametrize(
    ("request_head", "path"),
    [
        (get("/a?b=1", "3000-ns--a.localhost"), "/kruise/ns--a/3000/a?b=1"),
        (get("/kruise/ns--a/3000/a?b=1", "localhost"), "/kruise/ns--a/3000/a?b=1"),
        (get("/a?b=1", "localhost", "E2b-Sandbox-Id: ns--a", "E2b-Sandbox-Port: 3000"), "/kruise/ns--a/3000/a?b=1"),
        (get("/a", "localhost", "E2b-Sandbox-Id: ns--a"), "/kruise/ns--a/49983/a"),
        (get("//a/../b%2F", "3000-ns--a.localhost"), "/kruise/ns--a/3000//a/../b%2F"),
        (get("/teams", "localhost"), "/kruise/api/teams"),
        (get("/kruise/api/snapshots?sandboxID=a%2F", "localhost"), "/kruise/api/snapshots?sandboxID=a%2F"),
    ],
)
def test_the_manager_gets_private_paths(request_head: bytes, path: str) -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            answer = await pair.ask(request_head)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert answer.endswith(b"\r\n\r\nok")
            (arrival,) = pair.arrivals
            assert arrival.request_line == f"GET {path} HTTP/1.1"
            assert arrival.headers["host"].startswith("127.0.0.1:")

    run(scenario())


def test_an_id_that_begins_with_api_goes_by_headers() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            await pair.ask(get("/a", "3000-api-prod--x.localhost"))
            (arrival,) = pair.arrivals
            assert arrival.request_line == "GET /a HTTP/1.1"
            assert arrival.headers["e2b-sandbox-id"] == "api-prod--x"
            assert arrival.headers["e2b-sandbox-port"] == "3000"

    run(scenario())


def test_an_application_sees_its_own_origin() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            own = f"http://3000-a.localhost:{pair.proxy.port}"
            lines = (f"Origin: {own}", f"Referer: {own}/page")
            await pair.ask(get("/", own.removeprefix("http://"), *lines))
            await pair.ask(get("/", own.removeprefix("http://"), "Origin: http://other.example"))
            first, second = pair.arrivals
            upstream = f"http://{first.headers['host']}"
            assert first.headers["origin"] == upstream
            assert first.headers["referer"] == f"{upstream}/kruise/a/3000/page"
            assert second.headers["origin"] == "http://other.example"

    run(scenario())


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "3000-a.evil.example"])
def test_a_name_that_is_not_its_own_is_refused(host: str) -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            for path in ("/sandboxes", "/kruise/a/80/"):
                answer = await pair.ask(get(path, host))
                assert answer.startswith(b"HTTP/1.1 403 "), answer
                assert f"--domain {host}".encode() in answer
            assert pair.arrivals == []

    run(scenario())


def test_a_stated_domain_is_its_own() -> None:
    async def scenario() -> None:
        async with proxied(domains=("box.example:7789",)) as pair:
            for host in ("box.example", "3000-a.box.example:7789", "[::1]:1", "10.1.2.3"):
                path = "/" if host.startswith("3000") else "/kruise/a/3000/"
                assert (await pair.ask(get(path, host))).startswith(b"HTTP/1.1 200 ")

    run(scenario())


def redirecting(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 302 Found", *headers, "Content-Length: 0", "", ""]).encode()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_application_leads_its_browser_to_the_address_that_the_browser_knows(scheme: str) -> None:
    async def answer(arrival: Arrival) -> None:
        origin = f"{scheme}://{arrival.headers['host']}"
        location = {
            "/whole": f"{origin}/kruise/a/3000/in?x",
            "/below": "/kruise/a/3000/in?x",
            "/bare": "/in?x",
            "/other": "https://other.example/kruise/a/3000/in",
        }[arrival.request_line.split()[1].removeprefix("/kruise/a/3000")]
        lines = [f"Location: {location}", "Set-Cookie: a=1; Path=/kruise/a/3000; HttpOnly", "Alt-Svc: h3=x"]
        await arrival.send(redirecting(*lines, "Strict-Transport-Security: max-age=9"))

    async def scenario() -> None:
        async with proxied(answer) as pair:
            for path in ("/whole", "/below", "/bare"):
                by_host = await pair.ask(get(path, "3000-a.localhost"))
                assert b"\r\nlocation: /in?x\r\n" in by_host
                assert b"\r\nset-cookie: a=1; Path=/; HttpOnly\r\n" in by_host
                assert b"strict-transport" not in by_host
                assert b"alt-svc" not in by_host
                by_path = await pair.ask(get(f"/kruise/a/3000{path}", "localhost"))
                assert b"\r\nlocation: /kruise/a/3000/in?x\r\n" in by_path
                assert b"\r\nset-cookie: a=1; Path=/kruise/a/3000; HttpOnly\r\n" in by_path
            for request in (get("/other", "3000-a.localhost"), get("/kruise/a/3000/other", "localhost")):
                assert b"\r\nlocation: https://other.example/kruise/a/3000/in\r\n" in await pair.ask(request)

    run(scenario())


def test_a_service_worker_cannot_serve_other_sandboxes() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            answer = await pair.ask(get("/kruise/a/3000", "localhost", "Service-Worker: script"))
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert pair.arrivals == []

    run(scenario())


def test_its_own_page_says_what_it_is() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            answer = (await pair.ask(get("/", f"localhost:{pair.proxy.port}"))).decode()
            assert "kruise-agents proxy, in front of the sandbox-manager at http://127.0.0.1:" in answer
            assert f"http://<port>-<sandbox ID>.localhost:{pair.proxy.port}" in answer
            assert pair.arrivals == []

    run(scenario())


def test_connections_to_the_manager_are_used_again() -> None:
    async def scenario() -> None:
        async with proxied() as pair:
            for path in ("/kruise/a/1/x", "/kruise/b/2/x", "/teams"):
                await pair.ask(get(path, "localhost"))
            assert len({id(arrival.writer) for arrival in pair.arrivals}) == 1
            await asyncio.gather(*(pair.ask(get("/kruise/a/1/x", "localhost")) for _ in range(20)))

    run(scenario())
