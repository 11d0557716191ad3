"""Keys, headers and tokens of one domain, which never go to another domain, as servers on loopback see them."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import e2b
import pytest
from packaging.version import Version

from kruise_agents.errors import ConfigurationError
from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Answer, Recorder, TemplateBuilds
from support.sdk import E2B_VERSION, build_sandbox, needs_e2b

HOME, AWAY = "e2b_aa", "e2b_bb"
SECRETS = {"X-Secret": "of home"}
API_SECRETS = {"X-Api-Secret": "of home"}

needs_clients = needs_e2b("2.44.0", "the E2B client object")
needs_pages = needs_e2b("2.22.0", "options of a page")
needs_volumes = needs_e2b("2.19.0", "Volume")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """The server of the environment, over http."""
    with Recorder() as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        patch_e2b(False)
        yield server


@pytest.fixture
def away() -> Iterator[Recorder]:
    """Another server."""
    with Recorder() as server:
        yield server


def call(action: Callable[[], Any]) -> None:
    """Make an SDK call, sync or async. The recorder answers few of them well, so errors of the SDK pass."""

    async def run() -> None:
        result = action()
        if inspect.isawaitable(result):
            await result

    try:
        asyncio.run(run())
    except Exception as error:
        if not re.search("not (here|found)", str(error)):
            raise


def assert_only_its_own(server: Recorder, key: str | None = AWAY) -> None:
    """Check that the server got requests, and that these have the call's own key, headers and token."""
    assert server.requests
    for request in server.requests:
        assert request.api_key == key
        assert not {name for name in request.headers if "secret" in name or name == "authorization"}, request.headers


def client_calls(client: Any) -> dict[str, Callable[..., Any]]:
    """Return a call of each resource of a client object, by name."""
    return {
        "create": client.Sandbox.create,
        "create, async": client.AsyncSandbox.create,
        "kill": lambda **to: client.Sandbox.kill("sbx", **to),
        "list": lambda **to: client.Sandbox.list(**to).next_items(),
        "list, later": lambda **to: client.Sandbox.list().next_items(**to),
        "list, later, async": lambda **to: client.AsyncSandbox.list().next_items(**to),
        "snapshots": lambda **to: client.Sandbox.list_snapshots().next_items(**to),
        "volumes": lambda **to: client.Volume.list(**to),
        "volumes, async": lambda **to: client.AsyncVolume.list(**to),
        "secrets": lambda **to: client.Secret.list().next_items(**to),
        "secret": lambda **to: client.AsyncSecret.exists("s", **to),
        "template": lambda **to: client.Template.exists("t", **to),
        "template, async": lambda **to: client.AsyncTemplate.exists("t", **to),
    }


@needs_clients
@pytest.mark.parametrize("name", client_calls(e2b))
def test_the_headers_and_the_key_of_a_client_stay_at_its_domain(name: str, home: Recorder, away: Recorder) -> None:
    client = e2b.E2B(api_key=HOME, domain=home.domain, headers=SECRETS, api_headers=API_SECRETS)
    use = client_calls(client)[name]
    call(lambda: use(domain=away.domain, api_key=AWAY))
    assert_only_its_own(away)
    away.requests.clear()
    with pytest.raises(ConfigurationError, match="api_key="):
        call(lambda: use(domain=away.domain))
    assert (home.requests, away.requests) == ([], [])
    call(lambda: use(domain=home.domain))
    assert {request.headers.get("x-api-secret") for request in home.requests} == {"of home"}


@needs_clients
def test_what_a_client_made_elsewhere_is_asked_without_the_clients_headers(home: Recorder, away: Recorder) -> None:
    client = e2b.E2B(api_key=HOME, domain=home.domain, headers=SECRETS, api_headers=API_SECRETS)
    sandbox: Any = client.Sandbox.create(domain=away.domain, api_key=AWAY)
    call(sandbox.kill)
    call(lambda: sandbox.list_snapshots().next_items())
    assert_only_its_own(away)
    assert home.requests == []


@needs_clients
def test_a_client_without_a_key_of_its_own_keeps_its_headers_all_the_same(home: Recorder, away: Recorder) -> None:
    client = e2b.E2B(domain=home.domain, headers=SECRETS)
    call(lambda: client.Sandbox.kill("sbx", domain=away.domain))
    assert_only_its_own(away, key="e2b_00")  # the environment's, as for a call of a class


@needs_clients
@pytest.mark.parametrize("by", ["environment", "client", "call"])
def test_with_a_stated_url_nothing_can_leave_so_nothing_is_refused(
    by: str, home: Recorder, away: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    url: dict[str, Any] = {"api_url": f"http://{home.domain}/stated/api"}
    if by == "environment":
        monkeypatch.setenv("E2B_API_URL", url["api_url"])
    client = e2b.E2B(api_key=HOME, domain=home.domain, api_headers=API_SECRETS, **url if by == "client" else {})
    call(lambda: client.Sandbox.kill("sbx", domain=away.domain, **url if by == "call" else {}))
    assert away.requests == []
    assert [request.target for request in home.requests] == ["/stated/api/sandboxes/sbx"]
    assert home.requests[0].headers["x-api-secret"] == "of home"


def test_with_a_url_that_the_environment_states_an_object_follows_no_domain(
    home: Recorder, away: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_API_URL", f"http://{home.domain}/kruise/api")
    sandbox = build_sandbox()
    call(lambda: sandbox.kill(domain=away.domain))
    assert (len(home.requests), away.requests) == (1, [])


@needs_clients
def test_in_debug_mode_a_client_is_the_sdks_own() -> None:
    patch_e2b()
    params = e2b.E2B(api_key=HOME, domain="a.example", headers=SECRETS, debug=True).Sandbox._resolve_api_params
    assert params(domain="b.example")["headers"] == SECRETS


@needs_pages
@pytest.mark.parametrize("cls", [e2b.Sandbox, e2b.AsyncSandbox])
def test_the_key_and_the_headers_of_a_list_stay_at_its_domain(cls: Any, home: Recorder, away: Recorder) -> None:
    pages = cls.list(api_key=HOME, domain=home.domain, headers=SECRETS)
    with pytest.raises(ConfigurationError, match=r"api_key= on a list"):
        call(lambda: pages.next_items(domain=away.domain))
    call(lambda: pages.next_items(domain=away.domain, api_key=AWAY))
    assert_only_its_own(away)
    assert home.requests == []


@needs_pages
def test_a_list_from_an_object_follows_the_domain_of_a_page_with_its_key(home: Recorder, away: Recorder) -> None:
    pages = build_sandbox().list_snapshots(headers=SECRETS)
    with pytest.raises(ConfigurationError, match="api_key="):
        call(lambda: pages.next_items(domain=away.domain))
    call(lambda: pages.next_items(domain=away.domain, api_key=AWAY))
    assert_only_its_own(away)
    assert home.requests == []


@needs_pages
def test_a_list_of_its_own_domain_goes_on_with_everything(home: Recorder) -> None:
    pages = e2b.Sandbox.list(api_key=HOME, headers=SECRETS)
    call(lambda: pages.next_items(domain=home.domain))
    assert home.requests[0].api_key == HOME
    assert home.requests[0].headers["x-secret"] == "of home"


@needs_volumes
@pytest.mark.parametrize("name", ["Volume", "AsyncVolume"])
@pytest.mark.parametrize("own", [True, False], ids=["own domain", "the environment's"])
def test_the_token_of_a_volume_stays_at_its_domain(name: str, own: bool, home: Recorder, away: Recorder) -> None:
    volume = getattr(e2b, name)("v", "n", "token of home", **{"domain": home.domain} if own else {})
    with pytest.raises(ConfigurationError, match=r"token= on a volume"):
        call(lambda: volume.list("/", domain=away.domain))
    call(lambda: volume.list("/", domain=away.domain, token="token of away"))
    assert [request.headers["authorization"] for request in away.requests] == ["Bearer token of away"]
    assert home.requests == []
    call(lambda: volume.list("/", domain=home.domain))
    assert [request.headers["authorization"] for request in home.requests] == ["Bearer token of home"]


@needs_volumes
@pytest.mark.parametrize("by", ["environment", "call"])
def test_a_volume_with_a_stated_url_stays_there(
    by: str, home: Recorder, away: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {"api_url": f"http://{home.domain}/stated"}
    if by == "environment":
        monkeypatch.setenv("E2B_VOLUME_API_URL", url["api_url"])
    call(lambda: e2b.Volume("v", "n", "token").list("/", domain=away.domain, **url if by == "call" else {}))
    assert (len(home.requests), away.requests) == (1, [])


@pytest.mark.parametrize("cls", [e2b.Sandbox, e2b.AsyncSandbox])
@pytest.mark.parametrize("name", ["connect", "pause", "beta_pause", "kill", "set_timeout"])
def test_a_call_on_an_object_goes_to_the_objects_own_domain(
    cls: Any, name: str, home: Recorder, away: Recorder
) -> None:
    if not hasattr(cls, name):
        pytest.skip("this e2b has no such call")
    arguments = {"timeout": 77} if name in ("connect", "set_timeout") else {}

    def there(**to: str) -> Any:
        config = e2b.ConnectionConfig(domain=away.domain, api_key=AWAY)
        return getattr(build_sandbox(cls, config), name)(**arguments, **to)

    def here(**to: str) -> Any:
        return getattr(build_sandbox(cls, e2b.ConnectionConfig(headers=SECRETS)), name)(**arguments, **to)

    call(in_loop_of(there))
    assert_only_its_own(away)
    assert not arguments or b"77" in away.requests[0].body
    away.requests.clear()
    with pytest.raises(ConfigurationError, match="api_key="):
        call(in_loop_of(here, domain=away.domain))
    assert away.requests == []
    call(in_loop_of(here, domain=away.domain, api_key=AWAY))
    assert_only_its_own(away)
    assert home.requests == []


def in_loop_of(action: Callable[..., Any], **options: str) -> Callable[[], Any]:
    """Return the action for :func:`call`, whose running loop an AsyncSandbox needs from e2b 2.15.2 to 2.37.1."""
    return lambda: action(**options)


UPLOAD = "/bucket/a%2Fb?signature=%C3%BC&x="


@pytest.mark.parametrize("cls", [e2b.Template, e2b.AsyncTemplate])
def test_neither_key_nor_headers_go_along_to_the_upload_url_of_a_build(
    cls: Any, away: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to e2b 2.28.1 the SDK uploads with the REST client of the manager."""
    away.special = {f"PUT {UPLOAD.partition('?')[0]}": [Answer(200)]}
    (tmp_path / "a.txt").write_text("content")
    build = cls(file_context_path=tmp_path).from_base_image().copy("a.txt", "/a.txt")
    options = {"headers": SECRETS} if Version("2.10.0") <= E2B_VERSION else {}
    with TemplateBuilds(upload_url=f"http://{away.domain}{UPLOAD}") as builder:
        monkeypatch.setenv("E2B_DOMAIN", builder.domain)
        patch_e2b(False)
        call(lambda: cls.build_in_background(build, "a", **options))
        assert {request.api_key for request in builder.requests} == {"e2b_00"}
    assert [str(request) for request in away.requests] == [f"PUT {UPLOAD}"]
    assert_only_its_own(away, key=None)
