"""Every door is tried without its key, and with somebody else's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.keys import encode_key
from kruise_agents.manager.api.routes import Access, ApiRoute
from kruise_agents.manager.http.listening import bind
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.protocol.addresses import SandboxTarget
from support.addresses import Shape, build
from support.managers import API_KEY, RunningManager, running_manager

pytestmark = pytest.mark.live
ENVD = 49983
TRAFFIC = "e2b-traffic-access-token"
PROTECT = {"security.agents.kruise.io/enable-jwt-auth": "true"}
WITHOUT_A_KEY = {"/health", "/openapi.json"}
WRONG_KEYS: list[dict[str, str]] = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
    {"X-API-Key": API_KEY[:-1]},
    {"X-API-Key": API_KEY + "0"},
    {"X-API-Key": API_KEY.upper()},
    {"X-API-Key": encode_key("")},
    {"X-API-Key": encode_key("wrong")},
    {"Authorization": f"Bearer {API_KEY}"},
    {"X-API-Kex": API_KEY},
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningManager, Sandbox, Sandbox]]:
    """A manager of its own, a sandbox, and a protected one."""
    with running_manager(tmp_path_factory.mktemp("doors"), "--log-level", "debug") as manager, patch_e2b(False):
        options: Any = {"domain": manager.domain, "api_key": manager.api_key}
        with Sandbox.create(**options) as one, Sandbox.create(metadata=PROTECT, **options) as other:
            yield manager, one, other


def _command_lines(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the command lines of a process and of all below it. Others may be of another run of these tests."""
    process = Path("/proc", str(pid))
    with suppress(OSError):  # it has ended
        yield f"process {pid}", (process / "cmdline").read_bytes().decode(errors="replace")
        for task in (process / "task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _command_lines(int(child))


@pytest.fixture
def doors(house: tuple[RunningManager, Sandbox, Sandbox]) -> RunningManager:
    return house[0]


@pytest.fixture
def one(house: tuple[RunningManager, Sandbox, Sandbox]) -> Sandbox:
    return house[1]


@pytest.fixture
def protected(house: tuple[RunningManager, Sandbox, Sandbox]) -> Sandbox:
    return house[2]


@pytest.mark.parametrize("wrong", WRONG_KEYS, ids=str)
def test_no_route_of_the_api_opens_without_the_key(
    wrong: dict[str, str], doors: RunningManager, one: Sandbox, declared: list[ApiRoute]
) -> None:
    tries = [(route.operation.method, concrete(route, one.sandbox_id), route.operation.access) for route in declared]
    with httpx.Client() as client:
        for method, path, access in [*tries, ("GET", "/no/such/route", Access.KEY)]:
            private = client.request(method, f"{doors.api_url}{path}", headers=wrong)
            native = {**wrong, "Host": f"api.{doors.domain}"}
            answers = [private, client.request(method, f"http://localhost:{doors.port}{path}", headers=native)]
            for answer in answers:
                expected = access is not Access.PUBLIC
                assert (answer.status_code == 401) is expected, (method, path, answer.status_code)
                assert API_KEY not in answer.text
    assert one.is_running()


def test_only_two_routes_are_open_to_everybody(declared: list[ApiRoute]) -> None:
    assert {route.path for route in declared if route.operation.access is Access.PUBLIC} == WITHOUT_A_KEY


def test_nothing_of_one_key_opens_to_another_key(doors: RunningManager, declared: list[ApiRoute]) -> None:
    with doors.api() as admin:
        owner, stranger = (new_key(admin, team) for team in ("owners", "strangers"))
    with httpx.Client(base_url=doors.api_url, headers={"X-API-Key": owner["key"]}, timeout=60) as client:
        sandbox = client.post("/sandboxes", json={"templateID": "base"}).json()
        snapshot = client.post(f"/sandboxes/{sandbox['sandboxID']}/snapshots", json={"name": "own"}).json()
        volume = client.post("/volumes", json={"name": "own"}).json()
        secret = client.post("/secrets", json={"name": "own", "value": "v"}).json()
        places = {
            "sandbox_id": sandbox["sandboxID"],
            "template_id": snapshot["snapshotID"],
            "alias": snapshot["snapshotID"],
            "volume_id": volume["volumeID"],
            "secret_id": secret["secretID"],
            "key_id": owner["id"],
            "team_id": owner["team"]["id"],
        }
        query = {"sandbox_ids": sandbox["sandboxID"], "path": "/", "sandboxID": sandbox["sandboxID"]}
        with httpx.Client(base_url=doors.api_url, headers={"X-API-Key": stranger["key"]}, timeout=60) as theirs:
            for route in declared:
                method, path = route.operation.method, concrete(route, "x", places)
                body: dict[str, object] | None = {} if "body" in route.operation.reads else None
                answer = theirs.request(method, path, params=query, json=body)
                told = [place for place in places.values() if place in answer.text]
                if "{" in route.path:
                    assert 400 <= answer.status_code < 500, (method, path, answer.status_code)
                else:
                    assert told == [], (method, path)
        assert client.get(f"/sandboxes/{sandbox['sandboxID']}").json()["state"] == "running"
        assert [row["volumeID"] for row in client.get("/volumes").json()] == [volume["volumeID"]]
        assert [row["secretID"] for row in client.get("/secrets").json()] == [secret["secretID"]]
        assert [row["snapshotID"] for row in client.get("/snapshots").json()] == [snapshot["snapshotID"]]
        client.delete(f"/sandboxes/{sandbox['sandboxID']}")


def test_the_contents_of_a_volume_open_to_its_own_token_only(doors: RunningManager, declared: list[ApiRoute]) -> None:
    with doors.api() as api:
        own, other = (api.post("/volumes", json={"name": name}).json() for name in ("doors", "neighbour"))
    for route in declared:
        if route.operation.access is not Access.VOLUME_TOKEN:
            continue
        url = f"{doors.api_url}{concrete(route, own['volumeID'])}"
        for wrong in ("Bearer", "wrong", API_KEY, own["token"][:-1], other["token"]):
            headers = {"Authorization": f"Bearer {wrong}", "X-API-Key": API_KEY}
            assert httpx.request(route.operation.method, url, headers=headers).status_code == 401, (route.path, wrong)
        right = {"Authorization": f"Bearer {own['token']}"}
        assert httpx.request(route.operation.method, url, headers=right).status_code == 400  # no path


@pytest.mark.parametrize("spelling", [API_KEY, encode_key(API_KEY)])
def test_the_key_opens_in_both_spellings(spelling: str, doors: RunningManager) -> None:
    assert httpx.get(f"{doors.api_url}/v2/sandboxes", headers={"X-API-Key": spelling}).status_code == 200


@pytest.mark.parametrize("shape", list(Shape))
def test_envd_opens_to_its_own_token_only(
    shape: Shape, doors: RunningManager, one: Sandbox, house: tuple[RunningManager, Sandbox, Sandbox]
) -> None:
    theirs = envd_token(house[2])
    for path, method, body in [
        ("/process.Process/List", "POST", {}),
        ("/filesystem.Filesystem/ListDir", "POST", {"path": "/"}),
        ("/files?path=/etc/passwd", "GET", None),
        ("/metrics", "GET", None),
        ("/envs", "GET", None),
    ]:
        wire = build(SandboxTarget(one.sandbox_id, ENVD, path), f"d.example:{doors.port}", shape)
        url = f"http://127.0.0.1:{doors.port}{wire.target}"
        for token in (None, "", "wrong", theirs, API_KEY):
            headers = {**wire.headers, "Host": wire.authority, **({} if token is None else {"X-Access-Token": token})}
            answer = httpx.request(method, url, headers=headers, json=body)
            assert answer.status_code == 401, (path, token is theirs, answer.status_code, answer.text)
        headers = {**wire.headers, "Host": wire.authority, "X-Access-Token": envd_token(one)}
        assert httpx.request(method, url, headers=headers, json=body).status_code == 200


def test_a_signed_address_opens_one_path_of_one_sandbox(doors: RunningManager, one: Sandbox) -> None:
    options: Any = {"domain": doors.domain, "api_key": doors.api_key}
    with Sandbox.create(**options) as neighbour:
        for sandbox in (one, neighbour):
            sandbox.files.write("a.txt", sandbox.sandbox_id)
            sandbox.files.write("b.txt", "other")
        url = one.download_url("a.txt", use_signature_expiration=60)
        assert httpx.get(url).text == one.sandbox_id
        assert httpx.get(url.replace(one.sandbox_id, neighbour.sandbox_id)).status_code == 401
        assert httpx.get(url.replace("a.txt", "b.txt")).status_code == 401
        assert httpx.post(url, files={"file": b"x"}).status_code == 401


@pytest.mark.parametrize("port", [ENVD, 49999, 3000, 1])
@pytest.mark.parametrize("shape", list(Shape))
def test_no_port_of_a_protected_sandbox_opens_without_its_token(
    port: int, shape: Shape, doors: RunningManager, one: Sandbox, protected: Sandbox
) -> None:
    wire = build(SandboxTarget(protected.sandbox_id, port, "/health"), f"d.example:{doors.port}", shape)
    for token in ({}, {TRAFFIC: "wrong"}, {"X-Access-Token": envd_token(protected)}, {"X-API-Key": API_KEY}):
        headers = {**wire.headers, "Host": wire.authority, **token}
        answer = httpx.get(f"http://127.0.0.1:{doors.port}{wire.target}", headers=headers)
        assert (answer.status_code, answer.text[:9]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("port", "status"),
    [
        ("0", 400),
        ("00", 400),
        ("-1", 400),
        ("49984", 502),
        ("49982", 502),
        ("control", 500),
        ("relay", 500),
        ("envd", 500),
    ],
)
def test_the_managers_own_channel_has_no_address(port: str, status: int, doors: RunningManager, one: Sandbox) -> None:
    body: dict[str, object] = {"accessToken": None, "envVars": {}}
    answer = httpx.post(f"http://{doors.domain}/kruise/{one.sandbox_id}/{port}/init", json=body)
    assert answer.status_code == status
    assert httpx.get(f"http://{one.get_host(ENVD)}/files?path=a.txt").status_code == 401  # the token still counts


@pytest.mark.parametrize(
    "path", ["/init", "/init/", "//init", "/%69nit", "/init;x", "/./init", "/a/../init", "/INIT", "/init?x"]
)
def test_no_spelling_of_the_managers_routes_is_served_by_envd(path: str, doors: RunningManager, one: Sandbox) -> None:
    url = f"http://{doors.domain}/kruise/{one.sandbox_id}/{ENVD}"
    headers = {"X-Access-Token": envd_token(one)}
    request = httpx.Request("POST", url, headers=headers, json={"accessToken": None, "envVars": {}})
    request.url = httpx.URL(url).copy_with(raw_path=httpx.URL(url).raw_path + path.encode())
    with httpx.Client() as client:
        assert client.send(request).status_code == 404
    assert httpx.get(f"{url}/files?path=a.txt").status_code == 401


@pytest.mark.needs("namespaces")  # without them, nothing is hidden
def test_the_managers_sockets_do_not_exist_inside(doors: RunningManager, one: Sandbox) -> None:
    sockets = [*doors.state_dir.rglob("control"), *doors.state_dir.rglob("relay")]
    assert sockets
    program = f"""
import os, socket
for path in {[str(path) for path in sockets]!r}:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            print("connected", path)
        except OSError:
            print("closed")
try:
    socket.create_connection(("127.0.0.1", {doors.port}), 2).close()
    print("connected to the manager")
except OSError:
    print("closed")
"""
    output = one.run_code(program).logs.stdout
    assert set("".join(output).split("\n")) == {"closed", ""}


def test_no_secret_is_told_to_anybody(doors: RunningManager, one: Sandbox, protected: Sandbox, tmp_path: Path) -> None:
    created = httpx.post(
        f"{doors.api_url}/sandboxes",
        headers={"X-API-Key": API_KEY},
        json={"templateID": "base", "metadata": PROTECT, "envVars": {"SECRET": "a-variable-of-mine"}},
    ).json()
    secrets = {API_KEY, encode_key(API_KEY), created["envdAccessToken"], created["trafficAccessToken"], envd_token(one)}
    secrets |= {"a-variable-of-mine", "a-wrong-key", "a-token-in-a-query"}
    signed = one.download_url("a.txt", use_signature_expiration=60)
    secrets.add(httpx.URL(signed).params["signature"])
    everything = {"X-API-Key": API_KEY, "X-Access-Token": envd_token(one), TRAFFIC: created["trafficAccessToken"]}
    query = "?access_token=a-token-in-a-query"
    answers = [
        httpx.get(signed.replace("a.txt", "c.txt")),
        httpx.get(f"{doors.api_url}/sandboxes/nobody", headers=everything),
        httpx.get(f"{doors.api_url}/sandboxes", headers={"X-API-Key": "a-wrong-key"}),
        httpx.post(f"{doors.api_url}/sandboxes", headers=everything, content=b"{no json"),
        httpx.get(f"http://{doors.domain}/kruise/nobody/3000/{query}", headers=everything),
        httpx.get(f"http://{one.get_host(3000)}/{query}", headers=everything),
        httpx.get(f"http://{doors.domain}/kruise/nobody/x/", headers=everything),
        httpx.get(f"{doors.sandbox_url(created['sandboxID'], ENVD)}/files?path=x", headers={"X-Access-Token": "x"}),
        httpx.get(f"{doors.api_url}/v2/sandboxes", headers=[("X-API-Key", API_KEY), ("X-API-Key", "a-wrong-key")]),
        httpx.get(
            f"http://{one.get_host(49999)}/{query}",
            headers={"Upgrade": "websocket", "Connection": "Upgrade", **everything},
        ),
    ]
    told = {f"answer {answer.request.url.path}": answer.text for answer in answers if answer.status_code != 200}
    assert len(told) >= 8
    told["log of the manager"] = doors.log.read_text()
    for log in doors.state_dir.rglob("*.log"):
        told[str(log)] = log.read_text(errors="replace")
    told |= dict(_command_lines(doors.process.pid))
    assert len([place for place in told if place.startswith("process ")]) > 1
    named = {place for place, text in told.items() for secret in secrets if secret in text}
    # What a request asked for may be shown to the one who asked.
    assert {place for place in named if not place.startswith("answer /kruise/nobody/x")} == set()
    httpx.delete(f"{doors.api_url}/sandboxes/{created['sandboxID']}", headers={"X-API-Key": API_KEY})


def test_connections_notice_that_the_other_end_has_vanished() -> None:
    import socket

    for listener in bind(None, 0):
        with listener:
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


def envd_token(sandbox: Sandbox) -> str:
    token: str | None = sandbox._envd_access_token
    assert token
    return token


def concrete(route: ApiRoute, anything: str, places: Mapping[str, str] | None = None) -> str:
    """Return the path of a route with values in place of the parameters."""
    return re.sub(r"\{([a-z_]+)(:path)?\}", lambda match: (places or {}).get(match[1], anything), route.path)


def new_key(admin: httpx.Client, team: str) -> dict[str, Any]:
    answer = admin.post("/api-keys", json={"name": team, "teamName": team})
    assert answer.status_code == 201
    made: dict[str, Any] = answer.json()
    return made
