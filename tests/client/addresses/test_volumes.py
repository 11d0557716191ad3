"""The contents of volumes, whose configuration is a class of its own and sends a token."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import e2b
import pytest

from kruise_agents.errors import MissingDomainError
from kruise_agents.patch_e2b import ServerDomainWarning, patch_e2b
from support.recorder import Answer, Recorder
from support.sdk import needs_e2b

pytestmark = needs_e2b("2.19.0", "Volume")


@pytest.fixture(params=["Volume", "AsyncVolume"])
def volume_class(request: pytest.FixtureRequest) -> Any:
    return getattr(e2b, request.param)


@pytest.mark.parametrize("https", [True, False], ids=["https", "http"])
def test_contents_are_below_the_private_api(volume_class: Any, https: bool) -> None:
    patch_e2b(https)
    scheme = "https" if https else "http"
    config = volume_class("v", "n", "t")._get_volume_config()
    assert config.api_url == f"{scheme}://example.com/kruise/api"


@needs_e2b("2.37.0", "a domain of the volume itself")
def test_the_volumes_own_domain_counts(volume_class: Any) -> None:
    patch_e2b()
    volume = volume_class("v", "n", "t", domain="v.example/")
    assert volume._get_volume_config().api_url == "https://v.example/kruise/api"


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_stated_url_is_used(volume_class: Any, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = "https://contents.example"
    options = {"api_url": stated} if by == "argument" else {}
    if by == "environment":
        monkeypatch.setenv("E2B_VOLUME_API_URL", stated)
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config(**options).api_url == stated


def test_a_stated_api_url_is_not_one_for_contents(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_URL", "https://custom.example/v9")
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config().api_url == "https://example.com/kruise/api"


def test_without_a_domain_no_token_leaves(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    with pytest.raises(MissingDomainError):
        volume_class("v", "n", "t")._get_volume_config()


def test_in_debug_mode_it_is_native(volume_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    patch_e2b()
    assert volume_class("v", "n", "t")._get_volume_config().api_url == "http://localhost:8080"


def made(volume_class: Any, name: str, **options: Any) -> Any:
    """Return a volume from the class method ``name``, sync or async."""

    async def run() -> Any:
        volume = getattr(volume_class, name)("v", **options)
        return await volume if inspect.isawaitable(volume) else volume

    return asyncio.run(run())


@pytest.fixture
def naming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A manager that names another domain for the contents of its volumes."""
    domain = f"{request.node.callspec.id.lower().replace('-', '.')}.named.example"
    volume = {"volumeID": "v", "name": "v", "token": "t", "domain": domain}
    answers = {"POST /volumes": [Answer.json(201, volume)], "GET /volumes/v": [Answer.json(200, volume)]}
    with Recorder(domain, special=answers) as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        yield server


@needs_e2b("2.37.0", "a domain of the volume itself")
@pytest.mark.parametrize("name", ["create", "connect"])
def test_contents_are_at_the_programs_domain_though_the_manager_names_another(
    volume_class: Any, name: str, naming: Recorder
) -> None:
    patch_e2b(False)
    with pytest.warns(ServerDomainWarning, match="the contents of its volumes") as caught:
        volumes = [made(volume_class, name) for _ in range(2)]
    volume = volumes[1]
    assert volume._get_volume_config().api_url == f"http://{naming.domain}/kruise/api"
    assert len(caught) == 1
    for part in (repr(naming.domain), repr(naming.answer), "follow_server_domain=True"):
        assert part in str(caught[0].message)


@needs_e2b("2.37.0", "a domain of the volume itself")
@pytest.mark.parametrize("name", ["create", "connect"])
def test_contents_are_at_the_managers_domain_when_it_is_to_be_followed(
    volume_class: Any, name: str, naming: Recorder
) -> None:
    patch_e2b(False, follow_server_domain=True)
    volume = made(volume_class, name)
    assert volume._get_volume_config().api_url == f"http://{naming.answer}/kruise/api"


@needs_e2b("2.44.0", "the E2B client object")
def test_the_domain_of_a_client_counts_for_contents_too(volume_class: Any, naming: Recorder) -> None:
    patch_e2b(False)
    client = e2b.E2B(domain=naming.domain.replace("127.0.0.1", "localhost"), api_key="e2b_11")
    with pytest.warns(ServerDomainWarning):
        volume = made(getattr(client, volume_class.__name__), "create")
    assert volume._get_volume_config().api_url.startswith("http://localhost:")


@needs_e2b("2.37.0", "a domain of the volume itself")
def test_in_debug_mode_the_managers_domain_is_left_alone(volume_class: Any, naming: Recorder) -> None:
    patch_e2b(False)
    volume = made(volume_class, "create", debug=True, api_url=f"http://{naming.domain}/kruise/api")
    assert volume._domain == naming.answer
