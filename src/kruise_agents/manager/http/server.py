"""The server of the manager's port, and the check that the installed uvicorn fits.

The strict reading of requests (:mod:`.connection`) overrides methods that uvicorn does not document. If a release
renamed a method, the override would silently never run. So a manager refuses to start if a method is missing.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import socket
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

import uvicorn

from ...errors import ConfigurationError
from ...serving import Server

if TYPE_CHECKING:
    from .connection import GuardedHttpProtocol
    from .dispatch import ManagerApp
    from .https import Https

TESTED = ("0.34.0", "0.54.0")
"""The oldest and the newest release of uvicorn that the tests of the HTTP server were run on."""

_PROTOCOL = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol"
_CYCLE = "uvicorn.protocols.http.httptools_impl:RequestResponseCycle"
_SERVER = "uvicorn.server:Server"
_CONFIG = "uvicorn.config:Config"

_METHODS = {
    (_PROTOCOL, 0): (
        *("pause_writing", "resume_writing", "on_message_begin", "on_headers_complete", "on_message_complete"),
        *("on_response_complete", "_should_upgrade", "_unsupported_upgrade_warning", "_unset_keepalive_if_required"),
    ),
    (_PROTOCOL, 1): ("connection_made", "connection_lost", "data_received", "on_body", "send_400_response"),
    (_PROTOCOL, 2): ("on_header",),
    ("uvicorn.protocols.http.flow_control:FlowControl", 0): ("pause_reading", "resume_reading"),
    (_SERVER, 0): ("main_loop", "capture_signals"),
    (_SERVER, 1): ("serve", "startup", "on_tick"),
}
"""Methods that are called or overridden, by their class and number of arguments."""

_ATTRIBUTES = {
    _PROTOCOL: ("connections", "cycle", "flow", "loop", "parser", "scope", "tasks", "transport"),
    _CYCLE: (
        *("default_headers", "disconnected", "keep_alive", "message_event", "response_complete", "response_started"),
        *("waiting_for_100_continue", "body", "more_body"),
    ),
    _SERVER: ("config", "server_state"),
}
_OPTIONS = (
    *("loop", "http", "ws", "lifespan", "log_config", "access_log", "proxy_headers", "server_header", "date_header"),
    *("timeout_keep_alive", "timeout_graceful_shutdown"),
)


def front_server(
    app: ManagerApp,
    listeners: Sequence[socket.socket],
    protocol: type[GuardedHttpProtocol] | None = None,
    https: Https | None = None,
) -> Server:
    """Return a server for bound sockets. The server is not started yet. Without ``https`` it speaks plain http only."""
    # Imported here, so that check_uvicorn() can run before: the import fails if uvicorn lacks the class.
    from .connection import GuardedHttpProtocol, everyday_events

    logging.getLogger("uvicorn.error").addFilter(everyday_events)
    # WebSockets are requests like others, until the gateway takes their connection over.
    kind = type("Protocol", (protocol or GuardedHttpProtocol,), {"https": https})
    return Server(app, listeners, http=kind)


def check_uvicorn() -> None:
    """Raise a ConfigurationError if the HTTP server does not fit the installed uvicorn.

    The message names the first place that does not fit, the installed version and the tested versions.
    """
    for place, problem in examine_uvicorn():
        if problem:
            oldest, newest = TESTED
            raise ConfigurationError(
                f"the HTTP server does not fit uvicorn {uvicorn.__version__}: {place} {problem} "
                f"(tested: {oldest} ... {newest}); install a tested release: pip install 'uvicorn>={oldest},<={newest}'"
            )


def examine_uvicorn() -> Iterator[tuple[str, str]]:
    """Yield each name in uvicorn that the server needs, and the problem with that name; "" means no problem."""
    for (owner, count), names in _METHODS.items():
        for name in names:
            yield _place(owner, name), _problem_of_method(owner, name, count)
    for owner, names in _ATTRIBUTES.items():
        for name in names:
            yield _place(owner, name), "" if _mentions(owner, name) else "is missing"
    config = _class(_CONFIG)
    parameters = inspect.signature(config).parameters if config is not None else {}
    for name in _OPTIONS:
        yield _place(_CONFIG, name), "" if name in parameters else "is missing"


def _problem_of_method(owner: str, name: str, count: int) -> str:
    method = getattr(_class(owner), name, None)
    if method is None:
        return "is missing"
    try:
        inspect.signature(method).bind(*[None] * (count + 1))
    except TypeError:
        return f"does not take {count} arguments"
    return ""


def _mentions(owner: str, name: str) -> bool:
    """Return whether a method of the class ``owner`` uses ``name``. ``hasattr`` would miss attributes of instances."""
    functions = [value for value in vars(_class(owner) or object).values() if isinstance(value, FunctionType)]
    return any(name in function.__code__.co_names for function in functions)


def _class(owner: str) -> Any:
    module, _, name = owner.partition(":")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _place(owner: str, name: str) -> str:
    return f"{owner.replace(':', '.')}.{name}"
