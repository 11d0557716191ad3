"""The installed SDK for tests of the patch: any release, with or without the code interpreter."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import e2b
import pytest
from packaging.version import Version

Result = TypeVar("Result")

E2B_VERSION = Version(importlib.metadata.version("e2b"))
CODE_INTERPRETER_VERSION: Version | None = None
SYNC: list[type] = [e2b.Sandbox]
ASYNC: list[type] = [e2b.AsyncSandbox]

if importlib.util.find_spec("e2b_code_interpreter") is not None:
    code_interpreter: Any = importlib.import_module("e2b_code_interpreter")
    CODE_INTERPRETER_VERSION = Version(importlib.metadata.version("e2b-code-interpreter"))
    SYNC.append(code_interpreter.Sandbox)
    ASYNC.append(code_interpreter.AsyncSandbox)

HTTP_CLIENTS = ("_envd_api", "_envd_health_api", "_envd_api_streaming", "_envd_api_download")
SANDBOX_CLASSES = [*SYNC, *ASYNC]


def class_name(cls: object) -> str:
    """Return a test id for a class: the package and the name, because two packages have a ``Sandbox``."""
    return f"{getattr(cls, '__module__', '?').partition('.')[0]}.{getattr(cls, '__name__', cls)}"


def needs_e2b(version: str, what: str) -> pytest.MarkDecorator:
    """Return the mark that skips a test on releases of e2b before ``version``, which brought ``what``."""
    return pytest.mark.skipif(Version(version) > E2B_VERSION, reason=f"{what} came with e2b {version}")


def build_sandbox(cls: type | None = None, config: Any = None, answer: str | None = None, **other: Any) -> Any:
    """Return the sandbox object that the SDK makes from a reply whose domain is ``answer``, without a request."""
    options = {
        "sandbox_id": "sbx",
        "sandbox_domain": answer,
        "envd_version": Version("0.4.0"),
        "envd_access_token": None,
        "traffic_access_token": None,
        "connection_config": config or e2b.ConnectionConfig(),
    }
    return (cls or e2b.Sandbox)(**{**options, **other})


def in_loop(action: Callable[[], Result]) -> Result:
    """Call ``action`` in a running event loop, which an AsyncSandbox needs from e2b 2.15.2 to 2.37.1."""

    async def run() -> Result:
        return action()

    return asyncio.run(run())


def surfaces(sandbox: Any) -> dict[str, str]:
    """Return all addresses of a sandbox object by their names."""
    config = sandbox.connection_config
    found = {
        "api": config.api_url,
        "api, handed on": e2b.ConnectionConfig(**config.get_api_params()).api_url,
        "host": sandbox.get_host(3000),
        "mcp": sandbox.get_mcp_url(),
        "envd": sandbox.envd_api_url,
        "envd by config": config.get_sandbox_url("sbx", sandbox.sandbox_domain),
        "download": sandbox.download_url("/a b"),
        "upload": sandbox.upload_url("/a b"),
    }
    if hasattr(sandbox, "envd_direct_url"):
        found["direct"] = sandbox.envd_direct_url
        found["direct by config"] = config.get_sandbox_direct_url("sbx", sandbox.sandbox_domain)
    if hasattr(sandbox, "_jupyter_url"):
        found["code interpreter"] = sandbox._jupyter_url
    for name, client in _http_clients(sandbox):
        found[name] = str(client.build_request("GET", "/files").url)
    for name in ("files", "commands", "pty"):
        for url in _urls_in(getattr(sandbox, name)._rpc):
            found[f"rpc of {name}: {url.rpartition('/')[2]}"] = url
    return found


def _http_clients(sandbox: Any) -> Iterator[tuple[str, Any]]:
    for owner in (sandbox, sandbox.files, sandbox.commands):
        for name in HTTP_CLIENTS:
            # From e2b 2.27.0 to 2.37.1 this is a property that makes one client for each thread.
            if (client := getattr(owner, name, None)) is not None:
                yield f"client {type(owner).__name__}.{name}", client


def _urls_in(rpc: Any) -> Iterator[str]:
    """Yield the base URLs of an RPC client. Up to e2b 2.34.0, each method has a base URL of its own."""
    for holder in (rpc, *(value for value in vars(rpc).values() if hasattr(value, "__dict__"))):
        for value in vars(holder).values():
            if isinstance(value, str) and "://" in value:
                yield value
