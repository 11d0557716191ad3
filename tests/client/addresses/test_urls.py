"""Every address that a patched SDK builds."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import e2b
import pytest

from kruise_agents.errors import AddressError
from kruise_agents.patch_e2b import patch_e2b
from support.sdk import (
    CODE_INTERPRETER_VERSION,
    SANDBOX_CLASSES,
    build_sandbox,
    class_name,
    in_loop,
    needs_e2b,
    surfaces,
)

every_sandbox_class = pytest.mark.parametrize("cls", SANDBOX_CLASSES, ids=class_name)
both_schemes = pytest.mark.parametrize("https", [True, False], ids=["https", "http"])


def surfaces_of(cls: type, **options: Any) -> dict[str, str]:
    return in_loop(lambda: surfaces(build_sandbox(cls, **options)))


@every_sandbox_class
@both_schemes
@pytest.mark.parametrize("domain", ["example.com", "example.com:8443", "[::1]:8080"])
def test_every_address_is_private(cls: type, https: bool, domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", domain)
    patch_e2b(https)
    scheme = "https" if https else "http"
    envd = f"{scheme}://{domain}/kruise/sbx/49983"
    found = surfaces_of(cls)
    expected = {
        "api": f"{scheme}://{domain}/kruise/api",
        "api, handed on": f"{scheme}://{domain}/kruise/api",
        "host": f"{domain}/kruise/sbx/3000",
        "mcp": f"{scheme}://{domain}/kruise/sbx/50005/mcp",
        "envd": envd,
        "envd by config": envd,
        "direct": envd,
        "direct by config": envd,
        "download": f"{envd}/files?path=%2Fa%20b",
        "upload": f"{envd}/files?path=%2Fa%20b",
        "code interpreter": f"{scheme}://{domain}/kruise/sbx/49999",
    }
    assert {name: url for name, url in found.items() if name in expected} == {
        name: url for name, url in expected.items() if name in found
    }
    clients = {name: url for name, url in found.items() if name.startswith("client")}
    assert set(clients.values()) == {f"{envd}/files"}
    rpcs = [url for name, url in found.items() if name.startswith("rpc")]
    assert len(rpcs) >= 3
    assert all(f"{url}/".startswith(f"{envd}/") for url in rpcs)


@pytest.mark.filterwarnings("ignore::kruise_agents.patch_e2b.LeftOverVariableWarning")
@every_sandbox_class
@both_schemes
@pytest.mark.parametrize("domain", [None, "example.com"])
def test_in_debug_mode_every_address_is_the_native_one(
    cls: type, https: bool, domain: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    monkeypatch.delenv("E2B_DOMAIN")
    if domain:
        monkeypatch.setenv("E2B_DOMAIN", domain)
    native = surfaces_of(cls)
    patch_e2b(https)
    assert surfaces_of(cls) == native


def test_debug_by_argument_is_native_too() -> None:
    native = surfaces(build_sandbox(config=e2b.ConnectionConfig(debug=True)))
    patch_e2b(False)
    assert surfaces(build_sandbox(config=e2b.ConnectionConfig(debug=True))) == native


@every_sandbox_class
@both_schemes
def test_an_object_built_before_the_patch_stays_native(cls: type, https: bool) -> None:
    def both() -> tuple[dict[str, str], dict[str, str]]:
        old = build_sandbox(cls)
        before = surfaces(old)
        with patch_e2b(https):
            return before, surfaces(old)

    before, after = in_loop(both)
    assert after == before
    assert not any("kruise" in url for url in after.values())


def test_a_child_of_an_object_built_before_the_patch_is_native_as_a_whole() -> None:
    """A fork builds its configuration from ``get_api_params`` of its parent."""
    old = build_sandbox()
    before = surfaces(old)
    patch_e2b()
    child = build_sandbox(config=e2b.ConnectionConfig(**old.connection_config.get_api_params()))
    assert surfaces(child) == before
    assert type(child.connection_config.api_url) is str


def test_an_object_and_its_children_keep_their_scheme() -> None:
    patch_e2b(False)
    plain = build_sandbox()
    before = surfaces(plain)
    patch_e2b(True)
    child = build_sandbox(config=e2b.ConnectionConfig(**plain.connection_config.get_api_params()))
    assert surfaces(plain) == surfaces(child) == before
    assert all("https:" not in url for url in before.values())


@every_sandbox_class
@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize("user", [None, "root"])
def test_file_urls_keep_the_query_byte_for_byte(cls: type, token: str | None, user: str | None) -> None:
    def urls() -> list[str]:
        sandbox = build_sandbox(cls, envd_access_token=token)
        return [sandbox.download_url("/ä b&c", user), sandbox.upload_url("x/../y", user), sandbox.upload_url("")]

    native = in_loop(urls)
    patch_e2b()
    for ours, theirs in zip(in_loop(urls), native, strict=True):
        assert urlsplit(ours)._replace(path="", netloc="") == urlsplit(theirs)._replace(path="", netloc="")
        assert ours.startswith("https://example.com/kruise/sbx/49983/files")
        assert ours.partition("/files")[2] == theirs.partition("/files")[2]


@needs_e2b("2.55.1", "port=")
@pytest.mark.parametrize("method", ["get_sandbox_url", "get_sandbox_direct_url"])
def test_url_methods_take_a_port_and_the_domain_of_their_argument(method: str) -> None:
    patch_e2b(False)
    url = getattr(e2b.ConnectionConfig(), method)
    assert url("s", "d.example", port=3000) == "http://d.example/kruise/s/3000"
    assert url("s", "d.example", 3000) == "http://d.example/kruise/s/3000"
    assert url(sandbox_id="s", sandbox_domain="d.example") == "http://d.example/kruise/s/49983"


def test_the_url_method_takes_the_domain_of_its_argument() -> None:
    patch_e2b(False)
    config: Any = e2b.ConnectionConfig()
    assert config.get_sandbox_url("s", "d.example") == "http://d.example/kruise/s/49983"
    assert config.get_host("s", "d.example", 3000) == "d.example/kruise/s/3000"
    assert config.get_host("s", None, 3000) == "example.com/kruise/s/3000"


@pytest.mark.skipif(hasattr(e2b.ConnectionConfig, "get_sandbox_direct_url"), reason="this e2b has the method")
def test_a_method_that_the_sdk_does_not_have_is_not_created() -> None:
    patch_e2b()
    assert not hasattr(e2b.ConnectionConfig, "get_sandbox_direct_url")
    assert not hasattr(e2b.Sandbox, "envd_direct_url")


@pytest.mark.parametrize("domain", ["e2b.pro", "e2b-staging.dev"])
def test_the_vendors_shortcut_for_its_own_domains_is_not_taken(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", domain)
    patch_e2b()
    assert build_sandbox().envd_api_url == f"https://{domain}/kruise/sbx/49983"


@pytest.mark.filterwarnings("ignore::kruise_agents.patch_e2b.LeftOverVariableWarning")
@every_sandbox_class
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_stated_sandbox_url_is_used_where_the_sdk_uses_it(
    cls: type, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = "https://p.example"
    if by == "environment":
        monkeypatch.setenv("E2B_SANDBOX_URL", stated)
    patch_e2b(False)
    options: dict[str, Any] = {"sandbox_url": stated} if by == "argument" else {}
    config = e2b.ConnectionConfig(**options)
    found = surfaces_of(cls, config=config)
    assert found["envd"] == found["envd by config"] == found.get("direct", stated) == stated
    assert found["download"] == f"{stated}/files?path=%2Fa%20b"
    assert found["host"] == "example.com/kruise/sbx/3000"
    assert found["mcp"] == "http://example.com/kruise/sbx/50005/mcp"
    assert found["api"] == "http://example.com/kruise/api"
    if "code interpreter" in found:
        assert CODE_INTERPRETER_VERSION is not None
        honoured = CODE_INTERPRETER_VERSION.release >= (2, 9, 0)
        private = "http://example.com/kruise/sbx/49999"
        assert found["code interpreter"] == (stated if honoured else private)


@every_sandbox_class
@pytest.mark.parametrize(
    "sandbox_id",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a?b",
        "a#b",
        "a b",
        "a%2fb",
        "a\\b",
        "a@b",
        "a:b",
        "ä",
        "api",
        "api?b",
        "api\r\nX: y",
    ],
)
def test_an_id_that_an_address_cannot_carry_is_refused(
    cls: type, sandbox_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "example.com")
    patch_e2b()
    with pytest.raises(AddressError, match=r"sandbox ID .* cannot be part of an address"):
        in_loop(lambda: build_sandbox(cls, sandbox_id=sandbox_id))
    with pytest.raises(AddressError, match=r"sandbox ID .* cannot be part of an address"):
        e2b.ConnectionConfig().get_host(sandbox_id, "", 3000)


@pytest.mark.parametrize("sandbox_id", ["i2k9c4", "team-a--web-x7k2p", "i2k9c4-6532622b", "a_b.c~d", "API", "apis"])
def test_every_id_of_a_manager_is_carried(sandbox_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "example.com")
    patch_e2b()
    assert e2b.ConnectionConfig().get_host(sandbox_id, "", 3000) == f"example.com/kruise/{sandbox_id}/3000"
