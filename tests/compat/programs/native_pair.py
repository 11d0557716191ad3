"""A check that an SDK pair works unpatched: both sandbox classes, and their HTTP client for running code.

Prints the first thing that fails, or "works". Sends nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import e2b
from e2b_code_interpreter import AsyncSandbox, Sandbox
from packaging.version import Version


async def try_both() -> str:
    for cls in (Sandbox, AsyncSandbox):
        config = e2b.ConnectionConfig(domain="example.com", api_key="e2b_00")
        answer: dict[str, Any] = {"sandbox_id": "sbx", "sandbox_domain": None, "envd_version": Version("0.4.0")}
        answer |= {"envd_access_token": None, "traffic_access_token": None, "connection_config": config}
        try:
            sandbox: Any = cls(**answer)
            sandbox._client  # noqa: B018 - made when it is read
            sandbox._jupyter_url  # noqa: B018 - as above
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "works"


print(asyncio.run(try_both()))
