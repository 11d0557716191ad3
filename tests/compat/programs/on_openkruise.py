"""Calls on a manager like OpenKruise's, which has no v2 routes. Each call works, or is refused by name.

usage: on_openkruise.py http

It prints what ``surfaces.py`` prints. A call that the manager would misread counts as good only if its result is right,
or if the patch refuses it; a result that is silently wrong is a fault.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import e2b
import httpx

# Importing this module calls patch_e2b.
from compat.programs.surfaces import (
    CODE_INTERPRETER,
    SURFACES,
    Walk,
    commands,
    connect,
    done,
    expect,
    files,
    get_host,
    run_code,
    surface,
    walk_through,
)
from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import OlderManagerWarning
from kruise_agents.patch_traffic_token import patch_traffic_access_token, refresh_traffic_access_token

SURFACES.clear()
surface("files")(files)
surface("commands")(commands)
surface("run_code", when=CODE_INTERPRETER)(run_code)
surface("get_host")(get_host)
surface("connect")(connect)


async def refused(call: Any) -> None:
    """Expect that the patch refuses a call by name."""
    try:
        found = await done(call())
    except UnsupportedByManagerError:
        return
    raise AssertionError(f"was not refused, and gave {found!r}")


def seen(sandbox: Any) -> dict[str, Any]:
    """Return the manager's own answer about a sandbox, which older SDKs do not show whole."""
    url = f"http://{os.environ['E2B_DOMAIN']}/kruise/api/sandboxes/{sandbox.sandbox_id}"
    found: dict[str, Any] = httpx.get(url, headers={"X-API-Key": os.environ["E2B_API_KEY"]}).json()
    return found


def denied(sandbox: Any) -> list[str]:
    return list((seen(sandbox).get("network") or {}).get("denyOut") or [])


@surface("lists")
async def lists(walk: Walk) -> None:
    sandboxes, query = walk.cls("Sandbox"), e2b.SandboxQuery
    mine = {"walk": walk.mark}
    other = await done(sandboxes.create(metadata={**mine, "user": "a b@c.example"}, allow_internet_access=False))
    expect(denied(other), ["0.0.0.0/0"])
    # The manager's times are whole seconds.
    pair = (walk.sbx, other)
    ids = [sandbox_id for _, sandbox_id in sorted((seen(one)["startedAt"], one.sandbox_id) for one in pair)]
    later, earlier = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(days=1)
    cases: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
        ({"metadata": {**mine, "user": "a b@c.example"}}, {}, [other.sandbox_id]),
        ({"template": seen(other)["templateID"]}, {}, ids),
        ({"template": "other"}, {}, []),
        ({"started_after": earlier}, {}, ids),
        ({"started_after": later}, {}, []),
        ({}, {"order": "asc"}, ids),
        ({}, {"order": "desc"}, ids[::-1]),
    ]
    known = {*inspect.signature(query).parameters, *inspect.signature(sandboxes.list).parameters}
    for asked, options, wanted in cases:
        if known.issuperset({*asked, *options}):
            fields: Any = {"metadata": mine, **asked}
            listed = await done(sandboxes.list(query=query(**fields), **options).next_items())
            expect((asked, options, [info.sandbox_id for info in listed]), (asked, options, wanted))
    await done(other.kill())


@surface("refusals")
async def refusals(walk: Walk) -> None:
    create = walk.cls("Sandbox").create
    await refused(walk.sbx.get_metrics)
    await refused(lambda: create(network={"allow_public_traffic": False}))
    await refused(lambda: create(network={"mask_request_host": "a.example"}))
    await refused(lambda: create(mcp={"github": {}}))
    if hasattr(walk.sbx, "fork"):
        await refused(walk.sbx.fork)
    expect(
        len(await done(walk.cls("Sandbox").list(query=e2b.SandboxQuery(metadata={"walk": walk.mark})).next_items())), 1
    )


@surface("lifecycle", "2.24.0")
async def lifecycle(walk: Walk) -> None:
    create = walk.cls("Sandbox").create
    await refused(lambda: create(lifecycle={"on_timeout": "pause", "auto_resume": True}))


@surface("rules", "2.24.0")
async def rules(walk: Walk) -> None:
    await done(walk.sbx.update_network({"allow_internet_access": False}))
    expect(denied(walk.sbx), ["0.0.0.0/0"])
    headers = {"a.example": [{"transform": {"headers": {"a": "b"}}}]}
    await refused(lambda: walk.sbx.update_network({"rules": headers}))
    expect(denied(walk.sbx), ["0.0.0.0/0"])


@surface("pause")
async def pause(walk: Walk) -> None:
    """Expect that a pause says once what it loses, and that the files are gone afterwards."""
    await done(walk.sbx.files.write("lost.txt", "in the pod"))
    method = walk.sbx.pause if hasattr(walk.sbx, "pause") else walk.sbx.beta_pause
    if "keep_memory" in inspect.signature(method).parameters:
        await refused(lambda: method(keep_memory=False))
        expect(seen(walk.sbx)["state"], "running")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await done(method())
    if not walk.prefix:  # told once in a process
        expect([one.category for one in told if one.category is OlderManagerWarning], [OlderManagerWarning])
    expect(seen(walk.sbx)["state"], "paused")
    again = await done(walk.cls("Sandbox").connect(walk.sbx.sandbox_id, timeout=60))
    expect(await done(again.files.exists("lost.txt")), False)


@surface("traffic token")
async def traffic_token(walk: Walk) -> None:
    """Expect that the token of a protected sandbox, which is a UUID there, is fetched and sent after ``connect``."""
    protected = {"security.agents.kruise.io/enable-jwt-auth": "true"}
    with patch_traffic_access_token():
        made = await done(walk.cls("Sandbox").create(metadata=protected))
        sandbox = await done(walk.cls("Sandbox").connect(made.sandbox_id))
        await done(sandbox.files.write("a.txt", "text"))
        expect(await done(sandbox.files.read("a.txt")), "text")
        expect((await done(sandbox.commands.run("cat a.txt"))).stdout, "text")
        token = await done(refresh_traffic_access_token(sandbox))
        expect((token, token.count("-")), (sandbox.traffic_access_token, 4))
        await done(sandbox.kill())


if __name__ == "__main__":
    found = {mode: asyncio.run(walk_through(mode == "async")) for mode in ("sync", "async")}
    print(json.dumps(found), flush=True)
    os._exit(0)
