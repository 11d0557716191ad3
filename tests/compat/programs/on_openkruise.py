"""What an SDK does on a manager like OpenKruise's, which has no v2 routes: works, or is refused by name.

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


@surface("lists")
async def lists(walk: Walk) -> None:
    sandboxes, query = walk.cls("Sandbox"), e2b.SandboxQuery
    queries: dict[str, Any] = {
        "metadata": {"walk": walk.mark},
        "template": (await done(walk.sbx.get_info())).template_id,
        "started_after": datetime.now(UTC) - timedelta(days=1),
    }
    known = inspect.signature(query).parameters
    options: list[dict[str, Any]] = [{name: value} for name, value in queries.items() if name in known]
    if "order" in inspect.signature(sandboxes.list).parameters:
        options.append({"order": "desc"})
    for one in options:
        order = {"order": one.pop("order")} if "order" in one else {}
        wanted: Any = {"metadata": queries["metadata"], **one}
        listed = await done(sandboxes.list(query=query(**wanted), **order).next_items())
        expect((one, [info.sandbox_id for info in listed]), (one, [walk.sbx.sandbox_id]))


@surface("refusals")
async def refusals(walk: Walk) -> None:
    sandboxes = walk.cls("Sandbox")
    await refused(walk.sbx.get_metrics)
    await refused(lambda: sandboxes.create(network={"allow_public_traffic": False}))
    if hasattr(walk.sbx, "fork"):
        await refused(walk.sbx.fork)
    if hasattr(walk.sbx, "update_network"):
        header = {"a.example": [{"transform": {"headers": {"a": "b"}}}]}
        await refused(lambda: walk.sbx.update_network({"rules": header}))


@surface("rules", "2.24.0")
async def rules(walk: Walk) -> None:
    await done(walk.sbx.update_network({"allow_internet_access": False}))
    info = await done(walk.sbx.get_info())
    network = getattr(info, "network", None)
    if network is not None:
        expect(dict(network).get("deny_out"), ["0.0.0.0/0"])


@surface("pause")
async def pause(walk: Walk) -> None:
    """Expect that a pause says once what it loses, and that files are gone afterwards."""
    await done(walk.sbx.files.write("lost.txt", "in the pod"))
    method = walk.sbx.pause if hasattr(walk.sbx, "pause") else walk.sbx.beta_pause
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await done(method())
    if not walk.prefix:  # told once in a process
        expect([one.category for one in told if one.category is OlderManagerWarning], [OlderManagerWarning])
    again = await done(walk.cls("Sandbox").connect(walk.sbx.sandbox_id, timeout=60))
    expect(await done(again.files.exists("lost.txt")), False)


if __name__ == "__main__":
    found = {mode: asyncio.run(walk_through(mode == "async")) for mode in ("sync", "async")}
    print(json.dumps(found), flush=True)
    os._exit(0)
