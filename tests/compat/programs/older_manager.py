"""Calls that OpenKruise's manager would misread, on the installed e2b and a manager like OpenKruise's.

Prints "works", or ends with the first call that had another effect than it should.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import urllib.request
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import e2b
from packaging.version import Version

from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import OlderManagerWarning, patch_e2b


def since(release: str) -> bool:
    return Version(release) <= Version(version("e2b"))


def seen(sandbox: Any) -> dict[str, Any]:
    """Return the manager's own answer about a sandbox, which older SDKs do not show whole."""
    url = f"http://{os.environ['E2B_DOMAIN']}/kruise/api/sandboxes/{sandbox.sandbox_id}"
    request = urllib.request.Request(url, headers={"X-API-Key": os.environ["E2B_API_KEY"]})
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def listed(**options: Any) -> list[str]:
    paginator = e2b.Sandbox.list(**options)
    found = []
    while paginator.has_next:
        found += [info.sandbox_id for info in paginator.next_items()]
    return found


def refused(call: Callable[[], object]) -> None:
    try:
        call()
    except UnsupportedByManagerError:
        return
    raise AssertionError("it was not refused")


def denied(sandbox: Any) -> list[str]:
    network = seen(sandbox).get("network") or {}
    return list(network.get("denyOut") or [])


def creates() -> None:
    create: Any = e2b.Sandbox.create
    refused(lambda: create(network={"allow_public_traffic": False}))
    refused(lambda: create(network={"mask_request_host": "a.example"}))
    refused(lambda: asyncio.run(e2b.AsyncSandbox.create(mcp={"github": {}})))
    if since("2.24.0"):
        refused(lambda: create(lifecycle={"on_timeout": "pause", "auto_resume": True}))
    assert listed() == []


def lists(first: Any, second: Any) -> None:
    query: Any = e2b.SandboxQuery
    assert listed(query=query(metadata={"user": "a b@c.example"})) == [first.sandbox_id]
    # The manager's times are whole seconds.
    ids = [sandbox_id for _, sandbox_id in sorted((seen(one)["startedAt"], one.sandbox_id) for one in (first, second))]
    if since("2.50.0"):
        assert listed(order="asc", limit=1) == ids
        assert listed(order="desc", limit=1) == ids[::-1]
        assert listed(query=query(template=seen(first)["templateID"])) == ids
        assert listed(query=query(template="other")) == []
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        assert listed(query=query(started_after=later)) == []


def rules(first: Any, second: Any) -> None:
    assert denied(first) == ["0.0.0.0/0"]
    if since("2.24.0"):
        assert denied(second) == []
        second.update_network({"allow_internet_access": False})
        assert denied(second) == ["0.0.0.0/0"]
        refused(lambda: second.update_network({"rules": {"a.example": [{"transform": {"headers": {"a": "b"}}}]}}))
        assert denied(second) == ["0.0.0.0/0"]


def pauses(sandbox: Any) -> None:
    pause = sandbox.pause if hasattr(sandbox, "pause") else sandbox.beta_pause
    if since("2.37.1"):
        refused(lambda: pause(keep_memory=False))
        assert seen(sandbox)["state"] == "running"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pause()
    assert [warning.category for warning in told] == [OlderManagerWarning], told
    assert seen(sandbox)["state"] == "paused"


patch_e2b(False)
creates()
one: Any = e2b.Sandbox.create(allow_internet_access=False, metadata={"user": "a b@c.example"})
two: Any = e2b.Sandbox.create()
lists(one, two)
rules(one, two)
pauses(one)
one.kill()
two.kill()
print("works")
