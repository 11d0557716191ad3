"""The domain that a key goes to, which is the domain that the key was given for."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import e2b
import e2b.api
import pytest
from packaging.version import Version

from kruise_agents.errors import ConfigurationError
from kruise_agents.keys import decode_key, encode_key
from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Recorder
from support.sdk import E2B_VERSION, build_sandbox, needs_e2b

RESOURCES = [
    "Sandbox",
    "AsyncSandbox",
    "Volume",
    "AsyncVolume",
    "Template",
    "AsyncTemplate",
    "Secret",
    "AsyncSecret",
]
OTHER = "https://other.example/kruise/api"


def again(config: Any, **opts: Any) -> Any:
    """Return a new configuration made from an object's own, as an instance call of the SDK does."""
    return e2b.ConnectionConfig(**config.get_api_params(**opts))


def test_the_api_is_at_the_domain_of_the_call() -> None:
    patch_e2b()
    config = e2b.ConnectionConfig(domain="other.example", api_key="e2b_11")
    assert config.api_url == OTHER
    assert build_sandbox(config=config).envd_api_url == "https://other.example/kruise/sbx/49983"


def test_a_domain_given_by_position_counts() -> None:
    patch_e2b()
    assert e2b.ConnectionConfig("other.example").api_url == OTHER


@needs_e2b("2.44.0", "the E2B client object")
@pytest.mark.parametrize("resource", RESOURCES)
def test_a_client_object_reaches_its_own_domain(resource: str) -> None:
    patch_e2b()
    client = e2b.E2B(api_key="e2b_11", domain="other.example")
    params = getattr(client, resource)._resolve_api_params
    assert e2b.ConnectionConfig(**params()).api_url == OTHER
    third = params(domain="third.example", api_key="e2b_22")
    assert e2b.ConnectionConfig(**third).api_url == "https://third.example/kruise/api"
    with pytest.raises(ConfigurationError, match=r"whose key would go to 'third\.example'"):
        params(domain="third.example")
    assert params(domain="OTHER.example.")["api_key"] == "e2b_11"


@needs_e2b("2.44.0", "the E2B client object")
def test_a_clients_key_for_the_domain_of_the_environment_stays_there() -> None:
    patch_e2b()
    params = e2b.E2B(api_key="e2b_11").Sandbox._resolve_api_params
    assert params(domain="example.com")["api_key"] == "e2b_11"
    with pytest.raises(ConfigurationError, match=r"a client of the domain 'example\.com'"):
        params(domain="third.example")


@needs_e2b("2.44.0", "the E2B client object")
def test_a_clients_key_without_a_domain_of_its_own_goes_where_the_call_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    params = e2b.E2B(api_key="e2b_11").Sandbox._resolve_api_params(domain="third.example")
    assert (params["domain"], params["api_key"]) == ("third.example", "e2b_11")


@needs_e2b("2.44.0", "options of a page")
def test_a_lists_key_stays_at_its_domain() -> None:
    patch_e2b()
    pages = e2b.Sandbox.list(api_key="e2b_11", domain="other.example")
    with pytest.raises(ConfigurationError, match=r"whose key would go to 'third\.example'"):
        pages.next_items(domain="third.example")


def test_an_objects_headers_never_go_to_another_domain() -> None:
    patch_e2b()
    config = e2b.ConnectionConfig(headers={"Authorization": "secret of example.com"})
    kept = config.get_api_params()
    left = config.get_api_params(domain="third.example", api_key="e2b_22", headers={"X-Mine": "1"})
    assert kept["headers"]["Authorization"] == "secret of example.com"
    assert left["headers"] == {"X-Mine": "1"}


def test_what_an_object_hands_on_can_be_copied_and_pickled() -> None:
    native = e2b.ConnectionConfig()
    patch_e2b()
    for params in (native.get_api_params(), pickle.loads(pickle.dumps(native.get_api_params()))):
        assert e2b.ConnectionConfig(**copy.deepcopy(params)).api_url == native.api_url


@pytest.mark.parametrize("key", ["ключ", "two\nlines", "a tab\tinside"])
def test_a_key_that_cannot_travel_in_a_header_goes_in_its_other_form(key: str) -> None:
    patch_e2b()
    assert decode_key(e2b.ConnectionConfig(api_key=key).api_key) == key.encode()


@pytest.mark.parametrize("key", ["some key\n", "some key\r\n", " some key", "some key\t ", "e2b_ab1\r", "ключ\n"])
def test_blanks_and_line_ends_around_a_key_do_not_count(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    monkeypatch.setenv("E2B_API_KEY", key)
    sent = e2b.ConnectionConfig().api_key
    assert e2b.ConnectionConfig(api_key=key).api_key == sent
    assert sent == e2b.ConnectionConfig(api_key=key.strip()).api_key


def test_a_key_of_blanks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    with pytest.raises(ConfigurationError, match="API key"):
        e2b.ConnectionConfig(api_key=" \r\n")
    monkeypatch.setenv("E2B_API_KEY", "\n")
    with pytest.raises(ConfigurationError, match="E2B_API_KEY"):
        e2b.ConnectionConfig()


def test_an_instance_call_with_another_domain_and_its_key_goes_there() -> None:
    patch_e2b()
    config = again(e2b.ConnectionConfig(), domain="other.example", api_key="e2b_11")
    assert (config.api_url, config.api_key) == (OTHER, "e2b_11")


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_an_objects_key_never_goes_to_another_domain(hops: int) -> None:
    patch_e2b()
    config = e2b.ConnectionConfig()
    for _ in range(hops):
        config = again(config)
    with pytest.raises(ConfigurationError, match="api_key="):
        config.get_api_params(domain="other.example")
    with pytest.raises(ConfigurationError, match=r"'other\.example'.*'example\.com'"):
        config.get_api_params(domain="other.example", api_url="", api_key="")
    assert again(config, domain="other.example", api_key="e2b_11").api_url == OTHER


@pytest.mark.parametrize("repeated", ["example.com", "EXAMPLE.com/", "example.com:443", None, ""])
def test_an_objects_own_domain_repeated_changes_nothing(repeated: str | None) -> None:
    patch_e2b()
    assert again(e2b.ConnectionConfig(), domain=repeated).api_url == "https://example.com/kruise/api"


def test_an_object_with_a_stated_api_url_keeps_it() -> None:
    patch_e2b()
    config = e2b.ConnectionConfig(api_url="https://custom.example/v9")
    assert again(config, domain="other.example").api_url == "https://custom.example/v9"
    assert again(config, domain="other.example", api_key="e2b_11").api_url == "https://custom.example/v9"


def test_an_instance_call_with_a_stated_api_url_goes_there() -> None:
    patch_e2b()
    config = again(e2b.ConnectionConfig(), domain="other.example", api_url="https://custom.example/v9")
    assert config.api_url == "https://custom.example/v9"


def test_the_instance_calls_of_a_native_object_are_the_sdks_own() -> None:
    native = e2b.ConnectionConfig()
    before = native.get_api_params(domain="other.example")
    patch_e2b()
    assert native.get_api_params(domain="other.example") == before


KEYS = ["some-api-key", "550e8400-e29b-41d4-a716-446655440000", "e2b_abc123", encode_key("some-api-key")]
CHECKED = Version("2.25.0") <= E2B_VERSION <= Version("2.45.1")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_any_key_reaches_the_server_as_it_is(key: str, asynchronous: bool) -> None:
    patch_e2b(False)
    with Recorder() as server:
        if asynchronous:
            asyncio.run(e2b.AsyncSandbox.create(domain=server.domain, api_key=key))
        else:
            e2b.Sandbox.create(domain=server.domain, api_key=key)
        assert {request.api_key for request in server.requests} == {key}


@pytest.mark.skipif(not CHECKED, reason="this e2b does not check the form of keys")
def test_the_sdks_own_check_stays_when_asked_for_and_comes_back_after_the_patch() -> None:
    original = vars(e2b.api)["validate_api_key"]

    def is_refused() -> bool:
        try:
            e2b.Sandbox.create(domain="localhost:1", api_key="some-api-key", request_timeout=0.1)
        except e2b.AuthenticationException:
            return True
        except Exception:
            return False
        raise AssertionError("there is no server")

    with patch_e2b(False, validate_key=True):
        assert is_refused()
        with patch_e2b(False, validate_key=False):
            assert not is_refused()
        assert is_refused()
    assert is_refused()
    assert vars(e2b.api)["validate_api_key"] is original


@pytest.mark.skipif(CHECKED, reason="this e2b checks the form of keys")
@pytest.mark.parametrize("validate_key", [None, False, True])
def test_elsewhere_the_choice_changes_nothing_and_creates_nothing(validate_key: bool | None) -> None:
    before = {**vars(e2b.api)}
    with patch_e2b(True, validate_key):
        assert vars(e2b.api).keys() == before.keys()
        assert vars(e2b.api).get("validate_api_key") is before.get("validate_api_key")
    assert {**vars(e2b.api)} == before
