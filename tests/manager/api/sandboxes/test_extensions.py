"""OpenKruise's metadata keys: what makes sense on one machine is done, the rest is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.managers import running_manager

pytestmark = pytest.mark.live
PREFIX = "e2b.agents.kruise.io/"


def create(api: httpx.Client, **metadata: str) -> httpx.Response:
    return api.post("/v2/sandboxes", json={"templateID": "base", "metadata": metadata})


def shown(api: httpx.Client, **metadata: str) -> dict[str, Any]:
    """The metadata that the API shows of a sandbox that was created with metadata."""
    answer = create(api, **metadata)
    assert answer.status_code == 201, answer.text
    path = f"/sandboxes/{answer.json()['sandboxID']}"
    found: dict[str, Any] = api.get(path).json()["metadata"]
    assert api.delete(path).status_code == 204
    return found


def test_labels_come_back_as_metadata_and_can_be_looked_for(api: httpx.Client) -> None:
    assert shown(api, **{"label:app.example.com/team": "red", "label:x": "", "any key": "é"}) == {
        "app.example.com/team": "red",
        "x": "",
        "any key": "é",
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("agents.kruise.io/x", "v", "label name [agents.kruise.io/x] is reserved"),
        ("kubernetes.io/x", "v", "label name [kubernetes.io/x] is reserved"),
        ("-x", "v", "invalid label name [-x]"),
        ("", "v", "invalid label name []"),
        ("Upper.Example/x", "v", "invalid label name [Upper.Example/x]"),
        ("x" * 64, "v", "invalid label name"),
        ("x", "no blanks", "invalid label value [no blanks]"),
        ("x", "v" * 64, "invalid label value"),
    ],
)
def test_labels_that_cannot_be(name: str, value: str, text: str, api: httpx.Client) -> None:
    answer = create(api, **{f"label:{name}": value})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Bad extension param: ")
    assert text in answer.json()["message"]


def test_keys_that_say_how_to_make_a_sandbox_do_not_come_back(api: httpx.Client) -> None:
    asked = {
        "claim-timeout-seconds": "60",
        "wait-ready-timeout-seconds": "0",
        "create-on-no-stock": "true",
        "never-timeout": "false",
        "skip-init-runtime": "false",
        "reserve-failed-sandbox-for": "never",
    }
    assert shown(api, **{PREFIX + name: value for name, value in asked.items()}) == {}


def test_the_address_of_a_sandbox_in_its_own_network(api: httpx.Client) -> None:
    assert shown(api, **{f"{PREFIX}return-sandbox-ip": "true"}) == {f"{PREFIX}sandbox-ip": "127.0.0.1"}
    assert shown(api, **{f"{PREFIX}return-sandbox-ip": "false"}) == {}


def test_without_a_warm_sandbox_none_is_made_when_that_is_asked_for(api: httpx.Client) -> None:
    answer = create(api, **{f"{PREFIX}create-on-no-stock": "false"})
    assert answer.status_code == 500
    assert "no available sandboxes for template base (no stock)" in answer.json()["message"]
    assert answer.headers["Should-Retry"] == "false"


SLOW = """
import asyncio
from kruise_agents.manager.sandboxes.process import SandboxProcess

async def never(self, *arguments, **options):
    await asyncio.Event().wait()

SandboxProcess.claim = never
"""


def test_a_create_that_takes_longer_than_it_may_leaves_nothing(tmp_path: Path) -> None:
    with running_manager(tmp_path, prelude=SLOW) as manager, manager.api() as api:
        both = {f"{PREFIX}claim-timeout-seconds": "1", f"{PREFIX}wait-ready-timeout-seconds": "600"}
        answer = create(api, **both)
        assert answer.status_code == 500
        assert "not ready within 1 seconds" in answer.json()["message"]
        assert answer.headers["Should-Retry"] == "false"
        assert list((manager.state_dir / "sandboxes").iterdir()) == []


@pytest.mark.parametrize("key", ["claim-timeout-seconds", "wait-ready-timeout-seconds"])
def test_numbers_that_are_none(key: str, api: httpx.Client) -> None:
    for value in ("soon", "1.5", "", "9" * 30):
        answer = create(api, **{PREFIX + key: value})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("Bad extension param: invalid number [")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("cpu-limit", "2", "is not supported by this manager: a running program cannot be given other resources"),
        ("memory-limit", "1Gi", "memory inplace update is not supported"),
        ("image", "other", "is not supported by this manager: a running program"),
        ("csi-volume-name", "v", "there are no CSI volumes"),
        ("csi-volume-config", "[]", "there are no CSI volumes"),
        ("skip-init-runtime", "true", "every sandbox is given its settings"),
        ("reserve-failed-sandbox", "true", "nothing is left of a sandbox that failed"),
        ("sandbox-name", "mine", "ids that nobody can guess"),
    ],
)
def test_what_one_machine_cannot_do_is_refused_by_name(key: str, value: str, text: str, api: httpx.Client) -> None:
    answer = create(api, **{PREFIX + key: value})
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.startswith(f"Bad extension param: {PREFIX}{key}")
    assert text in message


@pytest.mark.parametrize("key", [f"{PREFIX}something", "agents.kruise.io/x", f"{PREFIX}sandbox-ip"])
def test_other_keys_of_openkruise_are_forbidden(key: str, api: httpx.Client) -> None:
    answer = create(api, **{key: "v"})
    assert answer.status_code == 400
    assert answer.json()["message"] == (
        f"Forbidden metadata key [{key}]: cannot contain prefixes: [e2b.agents.kruise.io/ agents.kruise.io/]"
    )
