"""Every surface of the SDK at the wire, on three generations of it; `make compat` does the same on every release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from support.environments import sdk_environment
from support.managers import RunningManager, reads_volumes, running_manager
from support.matrix import run_surfaces
from support.recorder import Recorder


@pytest.fixture(scope="module")
def managers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningManager]]:
    with ExitStack() as stack:
        yield {
            "http": stack.enter_context(running_manager(tmp_path_factory.mktemp("http"))),
            "https": stack.enter_context(running_manager(tmp_path_factory.mktemp("https"), "--tls")),
            "like": stack.enter_context(running_manager(tmp_path_factory.mktemp("like"), "--like", "openkruise")),
        }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("pair", ["oldest", "2.38", "newest"])
def test_every_surface_works_and_no_request_leaves_the_prefix(
    pair: str, scheme: str, managers: dict[str, RunningManager]
) -> None:
    results, _ = run_surfaces(sdk_environment(pair), scheme, managers[scheme])
    assert {mode: wrong(found) for mode, found in results.items()} == {"sync": {}, "async": {}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["oldest", "2.38", "2.51", "newest"])
def test_nothing_is_silently_wrong_on_a_manager_like_openkruises(
    pair: str, managers: dict[str, RunningManager]
) -> None:
    results, _ = run_surfaces(sdk_environment(pair), "http", managers["like"], program="on_openkruise.py")
    assert {mode: wrong(found) for mode, found in results.items()} == {"sync": {}, "async": {}}


def wrong(results: dict[str, str]) -> dict[str, str]:
    """Return what went wrong, apart from refusals of what a manager cannot do on this machine."""
    wrong = {surface: found for surface, found in results.items() if found != "ok"}
    if not reads_volumes() and "contents of volumes: not supported by" in wrong.get("volumes", ""):
        del wrong["volumes"]
    return wrong


def test_a_request_outside_of_the_prefix_is_seen(managers: dict[str, RunningManager]) -> None:
    manager = managers["http"]
    with Recorder(upstream=manager.port) as wire:
        httpx.get(f"http://{wire.domain}/kruise/api/health")
        httpx.get(f"http://{wire.domain}/health")
        httpx.get(f"http://{wire.domain}/kruise/api/health", headers={"Host": "api.example.com"})
    assert wire.outside("/kruise/") == [
        f"GET {wire.domain}/health",
        "GET api.example.com/kruise/api/health",
    ]
