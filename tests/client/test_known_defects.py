"""The ways in which patches of this kind have failed, one test each, by their numbers.

D1 to D23 were seen in patches that exist; D24 to D32 are what a patch must keep besides. Most are tested in more detail
elsewhere; here each has its name.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from typing import Any

import e2b
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from kruise_agents.client import patch_set
from kruise_agents.client.addresses.patch import ADDRESS_PATCH
from kruise_agents.client.addresses.table import ADDRESSES
from kruise_agents.client.installed_sdk import WINDOWS, import_sdk, installed_targets
from kruise_agents.client.seams import ABSENT
from kruise_agents.errors import ConfigurationError, DomainError, MissingDomainError, UnsupportedSDKError
from kruise_agents.patch_e2b import patch_e2b
from support.programs import SDK, run_program
from support.recorder import Recorder
from support.sdk import (
    CODE_INTERPRETER_VERSION,
    E2B_VERSION,
    SANDBOX_CLASSES,
    SYNC,
    build_sandbox,
    class_name,
    in_loop,
    needs_e2b,
    surfaces,
)

API = "https://example.com/kruise/api"
ENVD = "http://example.com/kruise/sbx/49983"
Config = e2b.ConnectionConfig
every_class = pytest.mark.parametrize("cls", SANDBOX_CLASSES, ids=class_name)
every_scheme = pytest.mark.parametrize("scheme", ["https", "http"])
native_key_check = pytest.mark.skipif(
    not Version("2.25.0") <= E2B_VERSION <= Version("2.45.1"), reason="this SDK does not check keys"
)


def program(text: str, **variables: str) -> str:
    """Run a program in a process of its own with the given ``E2B_*`` variables, and return what the program prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    done = run_program(text, template=SDK, environment={**kept, "E2B_API_KEY": "e2b_00", **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@every_class
@every_scheme
@pytest.mark.parametrize("token", [None, "secret"])
def test_d1_file_urls_lose_the_sandbox(cls: type, scheme: str, token: str | None) -> None:
    def urls() -> list[str]:
        sandbox = build_sandbox(cls, envd_access_token=token)
        return [sandbox.download_url("/a"), sandbox.upload_url("/a")]

    native = in_loop(urls)
    patch_e2b(scheme == "https")
    for ours, theirs in zip(in_loop(urls), native, strict=True):
        assert ours == f"{scheme}://example.com/kruise/sbx/49983/files?{theirs.partition('?')[2]}"


@needs_e2b("2.25.1", "envd_direct_url")
def test_d2_the_direct_url_stays_https_on_an_http_server() -> None:
    patch_e2b(False)
    assert build_sandbox().envd_direct_url == ENVD


def test_d3_the_mcp_url_stays_https_on_an_http_server() -> None:
    patch_e2b(False)
    assert build_sandbox().get_mcp_url() == "http://example.com/kruise/sbx/50005/mcp"


@needs_e2b("2.55.1", "port=")
def test_d4_urls_of_other_ports_raise_type_errors() -> None:
    patch_e2b(False)
    assert Config().get_sandbox_url("s", "d.example", port=3000) == "http://d.example/kruise/s/3000"
    assert Config().get_sandbox_direct_url("s", "d.example", port=3000) == "http://d.example/kruise/s/3000"


@needs_e2b("2.19.0", "volumes")
@every_scheme
@pytest.mark.parametrize("name", ["Volume", "AsyncVolume"])
def test_d5_a_volumes_token_goes_to_the_native_host(scheme: str, name: str) -> None:
    patch_e2b(scheme == "https")
    volume = getattr(e2b, name)("v", "n", "t")
    assert volume._get_volume_config().api_url == f"{scheme}://example.com/kruise/api"


def test_d6_the_api_url_ignores_the_domain_of_the_call() -> None:
    patch_e2b()
    assert Config(domain="other.example").api_url == "https://other.example/kruise/api"


def test_d6_the_key_of_one_domain_goes_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with Recorder() as at_home, Recorder() as elsewhere:
        monkeypatch.setenv("E2B_DOMAIN", at_home.domain)
        patch_e2b(False)
        sandbox = e2b.Sandbox.create(domain=elsewhere.domain, api_key="e2b_bb")
        for call in (lambda: sandbox.files.write("/a", "x"), lambda: sandbox.commands.run("true"), sandbox.kill):
            with contextlib.suppress(Exception):  # a recorder is no sandbox; it only notes what arrives
                call()
        assert at_home.requests == []
        assert {request.api_key for request in elsewhere.requests} == {"e2b_bb", None}


@needs_e2b("2.44.0", "the E2B client object")
@pytest.mark.parametrize("package", ["e2b", "e2b_code_interpreter", "e2b_desktop"])
def test_d7_a_client_object_talks_to_the_domain_of_the_environment(package: str) -> None:
    patch_e2b()
    client = pytest.importorskip(package).E2B(api_key="e2b_11", domain="other.example")
    names = [f"{kind}{name}" for kind in ("", "Async") for name in ("Sandbox", "Volume", "Template", "Secret")]
    resources = [getattr(client, name) for name in names if hasattr(client, name)]
    assert len(resources) >= (7 if package == "e2b_desktop" else 8)  # a desktop has a sync class only
    for resource in resources:
        assert Config(**resource._resolve_api_params()).api_url == "https://other.example/kruise/api"


def test_d8_a_domain_set_after_the_patch_counts_for_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    monkeypatch.setenv("E2B_DOMAIN", "late.example")
    assert {url.split("/")[2] for url in surfaces(build_sandbox()).values() if "://" in url} == {"late.example"}


def test_d9_patching_without_a_domain_is_a_bare_key_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    with pytest.raises(MissingDomainError, match=r"E2B_DOMAIN.*domain="):
        Config()
    assert Config(domain="x.example").api_url == "https://x.example/kruise/api"


def test_d10_an_empty_domain_gives_urls_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "")
    patch_e2b()
    with pytest.raises(MissingDomainError):
        Config()


@pytest.mark.live
def test_d11_a_stated_api_url_is_overwritten() -> None:
    text = """
        import os
        before = dict(os.environ)
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        from e2b import ConnectionConfig
        print(dict(os.environ) == before, ConnectionConfig().api_url)
    """
    stated = "https://custom.example/v9"
    assert program(text, E2B_DOMAIN="example.com", E2B_API_URL=stated) == f"True {stated}"


def test_d12_switching_to_https_leaves_a_half_on_http() -> None:
    first = patch_e2b(False)
    second = patch_e2b(True)
    assert not [url for url in surfaces(build_sandbox()).values() if url.startswith("http:")]
    second.close()
    assert not [url for url in surfaces(build_sandbox()).values() if url.startswith("https:")]
    first.close()


@pytest.mark.filterwarnings("ignore::kruise_agents.patch_e2b.LeftOverVariableWarning")
@every_class
@every_scheme
@pytest.mark.parametrize("domain", ["example.com", None])
def test_d13_debug_mode_becomes_half_private(
    cls: type, scheme: str, domain: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    if domain is None:
        monkeypatch.delenv("E2B_DOMAIN")
    native = in_loop(lambda: surfaces(build_sandbox(cls)))
    patch_e2b(scheme == "https")
    assert in_loop(lambda: surfaces(build_sandbox(cls))) == native


def test_d14_a_stated_sandbox_url_is_ignored() -> None:
    patch_e2b(False)
    sandbox = build_sandbox(SYNC[-1], Config(sandbox_url="https://p.example"))
    assert sandbox.envd_api_url == "https://p.example"
    assert getattr(sandbox, "envd_direct_url", "https://p.example") == "https://p.example"
    if CODE_INTERPRETER_VERSION is not None and Version("2.9.0") <= CODE_INTERPRETER_VERSION:
        assert sandbox._jupyter_url == "https://p.example"


@needs_e2b("2.25.1", "the vendor's own sandbox host")
def test_d15_a_vendor_domain_gets_a_host_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "e2b.pro")
    patch_e2b()
    assert build_sandbox().envd_api_url == "https://e2b.pro/kruise/sbx/49983"
    for default in ("e2b.app", "e2b.dev"):
        with pytest.raises(MissingDomainError):
            Config(domain=default)


@pytest.mark.live
def test_d16_the_patch_needs_the_code_interpreter() -> None:
    text = """
        import sys
        sys.modules["e2b_code_interpreter"] = sys.modules["e2b_desktop"] = None
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        from e2b import ConnectionConfig
        print(ConnectionConfig().api_url)
    """
    assert program(text, E2B_DOMAIN="example.com") == API


@every_class
def test_d17_objects_from_before_the_patch_become_mixed(cls: type) -> None:
    def both() -> tuple[dict[str, str], dict[str, str]]:
        old = build_sandbox(cls)
        native = surfaces(old)
        with patch_e2b():
            return native, surfaces(old)

    native, later = in_loop(both)
    assert later == native


def test_d18_a_scheme_or_a_slash_in_the_domain_makes_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    monkeypatch.setenv("E2B_DOMAIN", "https://example.com")
    with pytest.raises(DomainError, match=r"use 'example\.com'"):
        Config()
    monkeypatch.setenv("E2B_DOMAIN", "example.com/")
    assert Config().api_url == API
    monkeypatch.setenv("E2B_DOMAIN", "[::1]:8080")
    assert Config().api_url == "https://[::1]:8080/kruise/api"


def test_d19_skipping_the_key_check_leaves_something_behind() -> None:
    import e2b.api

    before = dict(vars(e2b.api))
    with patch_e2b(validate_key=False):
        pass
    assert dict(vars(e2b.api)) == before


@native_key_check
def test_d20_keys_that_are_no_e2b_keys_are_refused() -> None:
    with Recorder() as server:
        patch_e2b(False)
        e2b.Sandbox.kill("sbx", domain=server.domain, api_key="0f8f7a3e-6a1c-4a43-9e2b-2f2a0d3c1b5e")
        assert server.requests[0].api_key == "0f8f7a3e-6a1c-4a43-9e2b-2f2a0d3c1b5e"


@every_scheme
def test_d21_the_desktops_stream_is_always_https(scheme: str) -> None:
    desktop: Any = pytest.importorskip("e2b_desktop.main", reason="e2b-desktop is not installed")
    patch_e2b(scheme == "https")
    url = desktop._VNCServer(build_sandbox(desktop.Sandbox)).get_url()
    assert url.startswith(f"{scheme}://example.com/kruise/sbx/6080/vnc.html?autoconnect=true&resize=scale")


def test_d22_the_packages_ranges_allow_what_cannot_work() -> None:
    """The ranges begin where the tests do, and nothing is needed besides the two packages of the SDK.

    They have no upper end: there the structural check decides and says so (D27). Pairs of SDK packages that cannot run
    code are the SDK's own; `make compat` names them, and no range of ours can keep them out for an SDK that is pinned.
    """
    needed = [Requirement(text) for text in importlib.metadata.requires("kruise-agents") or []]
    base = {one.name: one for one in needed if one.marker is None}
    assert set(base) <= {"e2b", "e2b-code-interpreter"}
    for window in WINDOWS[:2]:
        assert window.oldest in base[window.package].specifier
        older = re.sub(r"\.\d+$", ".dev0", window.oldest)
        assert older not in base[window.package].specifier


@pytest.mark.live
def test_d23_child_processes_inherit_half_a_patch() -> None:
    text = """
        import os, subprocess, sys
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        show = "import os; print(sorted(name for name in os.environ if name.startswith('E2B_')))"
        print(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout)
    """
    assert program(text, E2B_DOMAIN="example.com") == "['E2B_API_KEY', 'E2B_DOMAIN']"


@pytest.mark.skipif(Version("2.25.1") <= E2B_VERSION, reason="this SDK has the method")
def test_d24_methods_are_created_that_the_sdk_does_not_have() -> None:
    patch_e2b()
    assert not hasattr(Config, "get_sandbox_direct_url")


def test_d25_an_objects_key_goes_along_to_another_domain() -> None:
    patch_e2b()
    config = Config()
    for _ in range(2):
        there = Config(**config.get_api_params(domain="other.example", api_key="e2b_11"))
        assert there.api_url == "https://other.example/kruise/api"
        with pytest.raises(ConfigurationError, match="api_key="):
            config.get_api_params(domain="other.example")
        config = Config(**config.get_api_params(domain="example.com"))
        assert config.api_url == API


def slots() -> Iterator[tuple[Any, str, Any]]:
    for installed in installed_targets(import_sdk(ADDRESSES), ADDRESSES):
        name = installed.target.place.attribute
        yield installed.owner, name, vars(installed.owner).get(name, ABSENT)


def test_d26_undoing_leaves_something_else_behind() -> None:
    before = list(slots())
    names = [set(vars(owner)) for owner, _, _ in before]
    patch_e2b().close()
    assert all(vars(owner).get(name, ABSENT) is value for owner, name, value in before)
    assert [set(vars(owner)) for owner, _, _ in before] == names


def test_d27_a_changed_sdk_is_patched_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "get_host", lambda self, region: "")
    with pytest.raises(UnsupportedSDKError) as caught:
        patch_e2b()
    for part in (f"e2b {E2B_VERSION}", "tested: 2.8.0 ... ", "ConnectionConfig.get_host", "nothing was changed"):
        assert part in str(caught.value)
    assert not ADDRESS_PATCH.slots


@pytest.mark.skipif(Version("2.10.0") <= E2B_VERSION, reason="this SDK has no default domain of its own for templates")
def test_d28_template_calls_take_the_key_to_the_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b()
    build = type("Build", (), {"template_id": "t", "build_id": "b"})()
    with pytest.raises(MissingDomainError):
        e2b.Template.get_build_status(build)


@pytest.mark.skipif(CODE_INTERPRETER_VERSION is None, reason="the code interpreter is not installed")
@pytest.mark.parametrize("cls", [cls for cls in SANDBOX_CLASSES if hasattr(cls, "_jupyter_url")], ids=class_name)
def test_d29_one_half_of_the_code_interpreter_is_left_native(cls: type) -> None:
    patch_e2b(False)
    assert in_loop(lambda: build_sandbox(cls)._jupyter_url) == "http://example.com/kruise/sbx/49999"


def test_d30_a_failure_half_way_leaves_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(slots())
    for number in range(len(before)):
        filled = iter(range(len(before)))

        def fill(slot: patch_set.Slot, number: int = number, filled: Iterator[int] = filled) -> None:
            if next(filled) == number:
                raise RuntimeError("injected")
            setattr(slot.owner, slot.attribute, slot.replacement)

        with monkeypatch.context() as patched:
            patched.setattr(patch_set.Slot, "fill", fill)
            with pytest.raises(RuntimeError, match="injected"):
                patch_e2b()
        assert all(vars(owner).get(name, ABSENT) is value for owner, name, value in before)


@pytest.mark.parametrize("first", [0, 1])
def test_d31_the_first_of_two_levels_undoes_both(first: int) -> None:
    levels = [patch_e2b(True), patch_e2b(True)]
    levels.pop(first).close()
    assert Config().api_url == API
    last = levels.pop()
    last.close()
    last.close()
    assert Config().api_url == "https://api.example.com"


@pytest.mark.live
def test_d32_names_imported_before_the_patch_are_missed() -> None:
    text = """
        from e2b import ConnectionConfig, Sandbox
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        print(ConnectionConfig().api_url)
    """
    assert program(text, E2B_DOMAIN="example.com") == API
