"""Calls of the SDK that the commands share: sandboxes by ID, methods by release, and routes that the SDK lacks."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...protocol.names import CODE_INTERPRETER_PORT, ENVD_PORT
from .errors import SandboxCommandError

# What the SDK gives has other types in every release, so this module hands it on as Any.
Sandbox = Any
Info = Any

PORTS_OF_SERVERS = {ENVD_PORT: "envd", CODE_INTERPRETER_PORT: "code interpreter"}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]*")
_LEAST_TIME = 60
"""Seconds that a sandbox has left at least when a command enters it. A longer time is never shortened."""
_NO_ROUTE = (404, 405, 501)
_PAGE = 100


def sandbox_class() -> Any:
    """Return the class of the code interpreter, or the class of the SDK alone where it is not installed."""
    try:
        from e2b_code_interpreter import Sandbox as Class
    except ModuleNotFoundError:
        from e2b import Sandbox as Class
    return Class


def is_id(text: str) -> bool:
    """Return whether a text may be the ID of a sandbox: no option, no path, and nothing that a shell expands."""
    return _ID.fullmatch(text) is not None


def list_sandboxes(states: tuple[str, ...] = (), metadata: Mapping[str, str] | None = None) -> Iterator[Info]:
    """Yield the sandboxes of the key, page by page; both states where ``states`` is empty."""
    from e2b import SandboxQuery, SandboxState

    wanted = [SandboxState(state) for state in states or ("running", "paused")]
    query = SandboxQuery(metadata=dict(metadata) if metadata else None, state=wanted)
    pages = sandbox_class().list(query=query, limit=_PAGE)
    while pages.has_next:
        yield from pages.next_items()


def find(text: str) -> Info:
    """Return the information about the sandbox whose ID is ``text``, or whose ID alone begins with ``text``."""
    from e2b import NotFoundException

    if not is_id(text):
        raise SandboxCommandError(f"{text!r} is not the ID of a sandbox; 'kruise-agents sandbox list' shows the IDs")
    try:
        return sandbox_class().get_info(text)
    except NotFoundException:
        pass
    found = sorted(info.sandbox_id for info in list_sandboxes() if info.sandbox_id.startswith(text))
    if not found:
        raise SandboxCommandError(f"no sandbox has the ID {text!r}; 'kruise-agents sandbox list' shows the IDs")
    if len(found) > 1:
        raise SandboxCommandError(f"{len(found)} IDs begin with {text!r}: {', '.join(found)}; write more of one")
    return sandbox_class().get_info(found[0])


def state_of(info: Info) -> str:
    """Return ``running`` or ``paused``."""
    return str(getattr(info.state, "value", info.state))


def enter(text: str) -> Sandbox:
    """Return the running sandbox of an ID or of its beginning. A paused sandbox is not resumed, but refused."""
    info = find(text)
    if state_of(info) == "paused":
        raise SandboxCommandError(
            f"sandbox {info.sandbox_id} is paused; 'kruise-agents sandbox resume {info.sandbox_id}' resumes it"
        )
    return sandbox_class().connect(info.sandbox_id, timeout=_LEAST_TIME)


def absolute(sandbox: Sandbox, path: str, **user: str) -> str:
    """Return a path in a sandbox as an absolute path without ``.`` and ``..``. Other paths begin at the user's home."""
    if path.startswith("/"):
        return posixpath.normpath(path)
    home, rest = path.partition("/")[::2] if path.startswith("~") else (".", path)
    return posixpath.normpath(posixpath.join(sandbox.files.get_info(home, **user).path, rest))


def method(owner: Any, name: str, since: str, older: str | None = None) -> Any:
    """Return a method of the SDK, or say which release of e2b has it. ``older`` is its name in earlier releases."""
    for known in filter(None, (name, older)):
        if hasattr(owner, known):
            return getattr(owner, known)
    from importlib.metadata import version

    raise SandboxCommandError(f"e2b {version('e2b')} has no {name}; the command needs e2b {since} or later")


def takes(function: Any, parameter: str) -> bool:
    """Return whether a function of the installed SDK has a parameter."""
    return parameter in inspect.signature(function).parameters


def api_get(path: str, ability: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """Return the JSON answer of a route of the API for which the SDK has no method.

    Args:
        ability: what the route is for, as the sentence "this manager does not …" goes on.
    """
    from e2b import ConnectionConfig
    from e2b.api import handle_api_exception
    from e2b.api.client_sync import get_api_client

    client = get_api_client(ConnectionConfig())
    response = client.get_httpx_client().request("GET", path, params=dict(parameters or {}))
    if response.status_code in _NO_ROUTE:
        raise SandboxCommandError(f"this manager does not {ability} (HTTP {response.status_code})")
    if not response.is_success:
        raise handle_api_exception(response)
    try:
        return response.json()
    except ValueError:
        raise SandboxCommandError(f"this manager does not {ability}: its answer is not JSON") from None
