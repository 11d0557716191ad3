"""The routes of the control socket, on which the manager sends requests to the sandbox program.

:mod:`.protocol.control` defines the requests. Under bubblewrap the socket's path does not exist inside the sandbox, so
programs in the sandbox cannot connect to this socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..protocol.control import (
    ANNOUNCE_KILL,
    GET_VARIABLES,
    INIT,
    PREPARE,
    SET_END_TIME,
    EndTime,
    InitSettings,
    KillNotice,
    PrepareOrder,
    Variables,
)
from ..protocol.names import INTERNAL_VARIABLES, TEMPLATE_VARIABLE
from .end_of_life import EndTimer, ParentPipe
from .start_command import NotReadyError, run_start_command
from .state import SandboxState


class DefaultKernel(Protocol):
    """The kernel of the code interpreter in which clients run code by default."""

    def start_kernel(self) -> None:
        """Start the kernel in the background if it does not run yet."""

    async def failure(self) -> BaseException | None:
        """Wait if the kernel is being started. Return the error if it did not start, or None."""


class ControlRoutes:
    """The routes of the control socket, as an ASGI application.

    Args:
        tree: The root of the sandbox's own file tree, which gets the files that name the sandbox and its template.
            None: the sandbox has no file tree of its own, and no such files are written.
        kernel: The default kernel, started when its environment variables are known. None: the sandbox has none.
    """

    def __init__(
        self,
        state: SandboxState,
        end_timer: EndTimer,
        parent_pipe: ParentPipe,
        tree: Path | None = None,
        kernel: DefaultKernel | None = None,
    ) -> None:
        self._state = state
        self._end_timer = end_timer
        self._parent_pipe = parent_pipe
        self._tree = tree
        self._kernel = kernel

    def app(self) -> Starlette:
        handlers = {
            PREPARE: self._prepare,
            INIT: self._init,
            SET_END_TIME: self._set_end_time,
            GET_VARIABLES: self._variables,
            ANNOUNCE_KILL: self._announce_kill,
        }
        return Starlette(routes=[Route(at.path, handler, methods=[at.method]) for at, handler in handlers.items()])

    async def _prepare(self, request: Request) -> Response:
        order = PrepareOrder.from_json(await request.body())
        self._state.variables = order.variables
        if self._kernel is not None:
            self._kernel.start_kernel()
        if order.start is not None:
            try:
                await run_start_command(self._state, order.start, order.ready)
            except (NotReadyError, OSError) as error:
                return PlainTextResponse(str(error), status_code=500)
        if order.kernel and self._kernel is not None and (failure := await self._kernel.failure()) is not None:
            return PlainTextResponse(str(failure), status_code=500)
        return Response(status_code=204)

    async def _init(self, request: Request) -> Response:
        settings = InitSettings.from_json(await request.body())
        self._state.access_token = settings.access_token
        self._state.variables = settings.variables
        if self._tree is not None:
            _write_identity(self._tree, settings.variables)
        if self._kernel is not None:
            self._kernel.start_kernel()
        self._end_timer.set(settings.seconds_left)
        self._parent_pipe.close()
        return Response(status_code=204)

    async def _set_end_time(self, request: Request) -> Response:
        self._end_timer.set(EndTime.from_json(await request.body()).seconds_left)
        return Response(status_code=204)

    async def _variables(self, request: Request) -> Response:
        return Response(Variables(dict(self._state.variables)).to_json(), media_type="application/json")

    async def _announce_kill(self, request: Request) -> Response:
        notice = KillNotice.from_json(await request.body())
        self._state.note_kill(notice.pid, notice.reason)
        return Response(status_code=204)


def _write_identity(tree: Path, variables: Mapping[str, str]) -> None:
    """Write the files ``/run/e2b/.E2B_*`` and ``/.e2b``, which E2B's sandboxes have too."""
    folder = tree / "run" / "e2b"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name in INTERNAL_VARIABLES:
        if name in variables:
            (folder / f".{name}").write_text(variables[name], encoding="utf-8")
    template = variables.get(TEMPLATE_VARIABLE, "")
    (tree / ".e2b").write_text(f"ENV_ID={template}\nTEMPLATE_ID={template}\n", encoding="utf-8")
