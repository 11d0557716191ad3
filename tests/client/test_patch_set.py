"""Patching and unpatching: all or nothing, exact, nested, from many threads."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import threading
from typing import Any

import e2b
import pytest

from kruise_agents.client import patch_set
from kruise_agents.client.addresses.patch import ADDRESS_PATCH
from kruise_agents.client.addresses.table import ADDRESSES
from kruise_agents.client.installed_sdk import Owner, import_sdk, installed_targets
from kruise_agents.client.patch_set import PatchSet
from kruise_agents.client.seams import E2B, Kind, Place, Table, Target
from kruise_agents.errors import PatchConflictError, UnsupportedSDKError
from kruise_agents.patch_e2b import patch_e2b, unpatch_e2b
from support.sdk import build_sandbox, surfaces

Slots = dict[tuple[Owner, str], Any]


def owners() -> list[Owner]:
    return [installed.owner for installed in installed_targets(import_sdk(ADDRESSES), ADDRESSES)]


def contents(classes: list[Owner]) -> Slots:
    """Return the raw descriptors of the classes, which include differences that ``getattr`` would hide."""
    return {(owner, name): value for owner in classes for name, value in vars(owner).items()}


def assert_untouched(before: Slots, classes: list[Owner]) -> None:
    after = contents(classes)
    assert after.keys() == before.keys()
    assert [key for key in before if after[key] is not before[key]] == []


def test_closing_restores_the_identical_objects() -> None:
    classes = owners()
    before = contents(classes)
    for https in (True, False, True):
        with patch_e2b(https) as patch:
            changed = {key for key, value in contents(classes).items() if value is not before.get(key)}
            targets = installed_targets_of_patch()
            assert changed == targets
            assert not patch.closed
        assert patch.closed
        assert_untouched(before, classes)


def installed_targets_of_patch() -> set[tuple[Owner, str]]:
    return {(slot.owner, slot.attribute) for slot in ADDRESS_PATCH.slots}


def test_patching_changes_nothing_but_the_table_says() -> None:
    classes = owners()
    names = contents(classes).keys()
    patch_e2b()
    assert contents(classes).keys() == names | installed_targets_of_patch()


def test_name_documentation_and_signature_stay() -> None:
    import inspect

    def looks() -> list[Any]:
        return [
            (member.__name__, member.__doc__, member.__module__, inspect.signature(member))
            for member in (e2b.ConnectionConfig.get_host, e2b.ConnectionConfig.__init__, e2b.Sandbox._file_url)
        ]

    before = looks()
    patch_e2b()
    assert looks() == before


@pytest.mark.parametrize("first_closed", ["inner", "outer"])
def test_nested_handles_can_be_closed_in_any_order(first_closed: str) -> None:
    classes = owners()
    before = contents(classes)
    outer, inner = patch_e2b(), patch_e2b()
    first, second = (inner, outer) if first_closed == "inner" else (outer, inner)
    first.close()
    first.close()
    assert e2b.ConnectionConfig().api_url == "https://example.com/kruise/api"
    second.close()
    assert_untouched(before, classes)
    first.close()
    second.close()
    assert_untouched(before, classes)


def test_another_scheme_switches_everything_and_closing_it_switches_back() -> None:
    patch_e2b(False)
    plain = surfaces(build_sandbox())
    second = patch_e2b(True)
    secure = surfaces(build_sandbox())
    assert {name: url.replace("http:", "https:") for name, url in plain.items()} == secure
    assert all("http:" not in url for url in secure.values())
    second.close()
    assert surfaces(build_sandbox()) == plain


def test_closing_in_the_wrong_order_never_brings_a_patch_back() -> None:
    first, second = patch_e2b(False), patch_e2b(True)
    first.close()
    assert e2b.ConnectionConfig().api_url == "https://example.com/kruise/api"
    second.close()
    assert e2b.ConnectionConfig().api_url == "https://api.example.com"


def test_unpatch_removes_every_level() -> None:
    classes = owners()
    before = contents(classes)
    handles = [patch_e2b(), patch_e2b(False), patch_e2b()]
    unpatch_e2b()
    assert_untouched(before, classes)
    assert all(handle.closed for handle in handles)
    unpatch_e2b()
    handles[0].close()
    assert_untouched(before, classes)


def test_a_handle_closes_when_its_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), patch_e2b() as patch:
        raise ZeroDivisionError
    assert patch.closed
    assert e2b.ConnectionConfig().api_url == "https://api.example.com"


def test_dropping_a_handle_keeps_the_patch() -> None:
    patch_e2b()
    import gc

    gc.collect()
    assert e2b.ConnectionConfig().api_url == "https://example.com/kruise/api"


@pytest.mark.parametrize("after_write", [False, True])
def test_a_fault_at_any_target_restores_all_of_them(after_write: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = owners()
    before = contents(classes)
    fill = patch_set.Slot.fill
    for broken in range(len(classes)):
        writes = iter(range(len(classes)))

        def failing(slot: patch_set.Slot, broken: int = broken, writes: Any = writes) -> None:
            fails = next(writes) == broken
            if after_write or not fails:
                fill(slot)
            if fails:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(patch_set.Slot, "fill", failing)
            with pytest.raises(KeyboardInterrupt):
                patch_e2b()
        assert_untouched(before, classes)
        assert e2b.ConnectionConfig().api_url == "https://api.example.com"
    with patch_e2b():
        assert e2b.ConnectionConfig().api_url == "https://example.com/kruise/api"


def test_a_patch_that_somebody_put_over_ours_is_never_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = patch_e2b()
    ours = vars(e2b.ConnectionConfig)["get_host"]
    with monkeypatch.context() as somebody:
        somebody.setattr(e2b.ConnectionConfig, "get_host", lambda *_: "theirs")
        for undo in (patch.close, unpatch_e2b):
            with pytest.raises(PatchConflictError, match=r"ConnectionConfig\.get_host"):
                undo()
            assert not patch.closed
            assert e2b.ConnectionConfig().api_url == "https://example.com/kruise/api"
    assert vars(e2b.ConnectionConfig)["get_host"] is ours
    patch.close()
    assert e2b.ConnectionConfig().get_host("s", "d", 1) == "1-s.d"


def test_a_patch_over_ours_does_not_hinder_another_level(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_e2b()
    with monkeypatch.context() as somebody:
        somebody.setattr(e2b.ConnectionConfig, "get_host", lambda *_: "theirs")
        with patch_e2b(False):
            assert e2b.ConnectionConfig().api_url == "http://example.com/kruise/api"


@pytest.mark.live
def test_the_environment_is_left_alone_and_children_see_it_as_it_was() -> None:
    before = dict(os.environ)
    with patch_e2b():
        build_sandbox()
        assert dict(os.environ) == before
        code = "import os; print(sorted((k, v) for k, v in os.environ.items() if k.startswith('E2B_')))"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[('E2B_API_KEY', 'e2b_00'), ('E2B_DOMAIN', 'example.com')]"
    assert dict(os.environ) == before


def test_an_object_that_outlives_the_patch_keeps_what_it_computed() -> None:
    with patch_e2b():
        sandbox = build_sandbox()
    assert sandbox.envd_api_url == "https://example.com/kruise/sbx/49983"
    assert sandbox.get_host(1) == "1-sbx.example.com"


def tag(original: Any) -> Any:
    @functools.wraps(original)
    def tagged(*args: Any, **kwargs: Any) -> Any:
        return f"{original(*args, **kwargs)} by {in_force[-1]}"

    return tagged


in_force: list[str | None] = []
OTHER_TARGETS = (
    Target("T1", Place(E2B, "e2b.sandbox.main", "SandboxBase", "download_url", Kind.FUNCTION, "2.8.0"), tag),
    Target("T2", Place(E2B, "e2b.sandbox.signature", None, "get_signature", Kind.FUNCTION, "2.8.0"), tag),
)
RELIED_ON_TOO = (Place(E2B, "e2b.connection_config", "ConnectionConfig", "api_url", Kind.INSTANCE_ATTRIBUTE, "2.8.0"),)


@pytest.mark.parametrize("first", ["ours", "other"])
@pytest.mark.parametrize("first_closed", ["ours", "other"])
def test_two_patches_with_tables_of_their_own_come_and_go_in_any_order(first: str, first_closed: str) -> None:
    other_set: PatchSet[str] = PatchSet(Table(OTHER_TARGETS, RELIED_ON_TOO), in_force.append)
    classes: list[Owner] = [*owners(), sys.modules["e2b.sandbox.signature"]]
    before = contents(classes)
    opened = {}
    for name in ["ours", "other"] if first == "ours" else ["other", "ours"]:
        opened[name] = patch_e2b() if name == "ours" else other_set.open("them")
    url = build_sandbox().download_url("/a")
    assert url.startswith("https://example.com/kruise/sbx/49983/files?path=%2Fa")
    assert url.endswith(" by them")
    second = other_set.open("us")
    assert build_sandbox().download_url("/a").endswith(" by us")
    second.close()
    opened[first_closed].close()
    url = build_sandbox().download_url("/a")
    assert (url.endswith(" by them"), "/kruise/" in url) == (first_closed == "ours", first_closed != "ours")
    for handle in opened.values():
        handle.close()
    assert_untouched(before, classes)
    assert in_force[-1] is None


def test_a_global_name_of_a_module_is_patched_checked_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("e2b.sandbox.signature")
    original = vars(module)["get_signature"]
    patches: PatchSet[str] = PatchSet(Table(OTHER_TARGETS[1:]), in_force.append)
    with patches.open("x"):
        assert [str(slot) for slot in patches.slots] == ["e2b.sandbox.signature.get_signature"]
        assert vars(module)["get_signature"] is not original
    assert vars(module)["get_signature"] is original
    monkeypatch.delattr(module, "get_signature")
    expected = r"T2 e2b\.sandbox\.signature\.get_signature: expected a function \(\.\.\.\); found nothing .* module"
    with pytest.raises(UnsupportedSDKError, match=expected):
        patches.open("x")


def run_threads(*bodies: Any) -> None:
    """Run the bodies at once and raise what the first of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(bodies))

    def run(body: Any) -> None:
        start.wait()
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_threads_that_patch_and_unpatch_leave_a_native_sdk_and_never_a_private_sandbox_of_a_native_api() -> None:
    classes = owners()
    before = contents(classes)
    seen: set[tuple[bool, bool]] = set()

    def toggle() -> None:
        for round_ in range(150):
            with patch_e2b(round_ % 2 == 0):
                pass

    def build() -> None:
        for _ in range(150):
            config = e2b.ConnectionConfig()
            sandbox = build_sandbox(config=config)
            seen.add(("/kruise/" in config.api_url, "/kruise/" in sandbox.envd_api_url))

    run_threads(toggle, toggle, build, build)
    assert (False, True) not in seen
    assert_untouched(before, classes)


def test_threads_that_switch_the_scheme_never_mix_it_in_one_object() -> None:
    def switch() -> None:
        for round_ in range(150):
            with patch_e2b(round_ % 2 == 0):
                pass

    def build() -> None:
        for _ in range(150):
            found = surfaces(build_sandbox())
            schemes = {url.partition("://")[0] for name, url in found.items() if name != "host"}
            assert len(schemes) == 1
            assert all("/kruise/" in url for url in found.values())

    with patch_e2b():
        run_threads(switch, switch, build, build)


@pytest.mark.parametrize("https", [None, "http", "false", 1])
def test_a_scheme_is_true_or_false(https: Any) -> None:
    with pytest.raises(TypeError, match="True"):
        patch_e2b(https)
    assert not ADDRESS_PATCH.slots


def fail_with_a_foreign_patch(config: Any) -> None:
    with patch_e2b():
        config.get_host = lambda *_: "theirs"
        raise KeyError("the program's own")


def test_an_exception_of_a_block_is_not_hidden_by_a_conflict() -> None:
    config: Any = e2b.ConnectionConfig
    with pytest.raises(KeyError) as caught:
        fail_with_a_foreign_patch(config)
    assert "could not be undone" in caught.value.__notes__[0]
    (ours,) = (slot.replacement for slot in ADDRESS_PATCH.slots if slot.attribute == "get_host")
    config.get_host = ours
    unpatch_e2b()
    assert not ADDRESS_PATCH.slots


def test_a_subclass_that_overrides_the_host_is_heard() -> None:
    class Elsewhere(e2b.ConnectionConfig):
        def get_host(self, sandbox_id: str, sandbox_domain: str | None, port: int) -> str:
            return f"elsewhere.example/{port}"

    patch_e2b()
    assert Elsewhere().get_sandbox_url("sbx", "example.com") == "https://elsewhere.example/49983"
