"""The ASGI application of the code interpreter (port 49999).

Sources: E2B's code interpreter (August 2026) and its clients e2b-code-interpreter 2.4.1 to 2.11.5.
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path

import zmq.asyncio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ...protocol.names import ACCESS_TOKEN_HEADER, SANDBOX_ID_HEADER, SANDBOX_PORT_HEADER, TRAFFIC_TOKEN_HEADER
from ..state import SandboxState
from .contexts import Context, Contexts
from .errors import AccessRefusedError, ContextNotFoundError, InvalidRequestError, KernelError, LanguageError
from .execution import Execution
from .forked_kernel import WaitingKernel
from .languages import JAVASCRIPT, PYTHON
from .launcher import KernelLauncher
from .requests import CreateContextRequest, ExecuteRequest
from .streaming import ExecutionStream

# What a page sends with @e2b/code-interpreter 2.8.0. A page may have any origin, so the SDK sends no cookies.
_METHODS_OF_PAGES = ("GET", "POST", "DELETE")
_HEADERS_OF_PAGES = (
    "Content-Type",
    ACCESS_TOKEN_HEADER,
    TRAFFIC_TOKEN_HEADER,
    SANDBOX_ID_HEADER,
    SANDBOX_PORT_HEADER,
)
CLOSE_SECONDS = 1.0  # at the end, for running answers to report that their kernel was stopped


class CodeInterpreter:
    """The code interpreter of one sandbox; ``app`` is its ASGI application.

    Args:
        kernel_folder: The folder for the kernels' sockets and connection files. The path must be short.
        first: A forked process that becomes the first Python kernel if that kernel's environment variables allow it.
    """

    def __init__(self, state: SandboxState, kernel_folder: Path, first: WaitingKernel | None = None) -> None:
        self._state = state
        self._sockets = zmq.asyncio.Context()
        self._launcher = KernelLauncher(state.python, kernel_folder, self._sockets, first)
        self._contexts = Contexts(state, self._launcher)
        self._executions: set[asyncio.Task[None]] = set()
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/execute", self._execute, methods=["POST"]),
                Route("/contexts", self._create_context, methods=["POST"]),
                Route("/contexts", self._list_contexts),
                Route("/contexts/{id}/restart", self._restart_context, methods=["POST"]),
                Route("/contexts/{id}", self._remove_context, methods=["DELETE"]),
            ],
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=["*"],
                    allow_methods=_METHODS_OF_PAGES,
                    allow_headers=_HEADERS_OF_PAGES,
                )
            ],
            exception_handlers={
                AccessRefusedError: _unauthorized,
                InvalidRequestError: _unprocessable,
                ContextNotFoundError: _not_found,
            },
        )

    async def start(self) -> None:
        """Add the default contexts of Python and JavaScript.

        Raises ConfigurationError if the path of the kernel folder is too long.
        """
        self._launcher.prepare()
        for language in (PYTHON, JAVASCRIPT):
            self._contexts.announce(language)

    def start_kernel(self) -> None:
        """Start Python's kernel in the background if it does not run yet. Its environment should be known by now.

        ``/health`` and executions in the context of Python report a failed start.
        """
        self._contexts.default().start()

    async def failure(self) -> BaseException | None:
        return await self._contexts.failure()

    async def close(self) -> None:
        await self._contexts.close()
        if self._executions:
            await asyncio.wait(self._executions, timeout=CLOSE_SECONDS)
            for task in self._executions:
                task.cancel()
        self._sockets.destroy(linger=0)

    async def _health(self, request: Request) -> Response:
        failure = await self._contexts.failure()
        return JSONResponse("OK") if failure is None else _not_created(failure)

    def _authorize(self, request: Request, *, needs_token: bool = False) -> None:
        """Raise AccessRefusedError for a wrong access token, and with ``needs_token`` for a missing one.

        Every SDK sends the token to ``/execute``. To the routes of contexts, no SDK since 2.9.0 sends a token, and no
        asynchronous SDK ever has.
        """
        expected, given = self._state.access_token, request.headers.get(ACCESS_TOKEN_HEADER)
        if expected is None or (given is None and not needs_token):
            return
        if given is None or not hmac.compare_digest(given.encode(), expected.encode()):
            raise AccessRefusedError(wrong=given is not None)

    async def _execute(self, request: Request) -> ASGIApp:
        self._authorize(request, needs_token=True)
        order = ExecuteRequest.parse(await request.body())
        if order.context_id and order.language:
            return PlainTextResponse("Only one of context_id or language can be provided", status_code=400)
        try:
            if order.context_id:
                context = self._contexts.get(order.context_id)
            else:
                context = self._contexts.default(order.language)
            await context.kernel()
        except KernelError as error:
            return _not_created(error)
        execution = Execution(context, order.code, order.variables)
        # Since 2.9.0, e2b-code-interpreter sends this header and recognises keepalives.
        keepalives = SANDBOX_ID_HEADER in request.headers
        return ExecutionStream(execution, self._executions, keepalives=keepalives)

    async def _create_context(self, request: Request) -> Response:
        self._authorize(request)
        order = CreateContextRequest.parse(await request.body())
        try:
            context = await self._contexts.create(order.language, order.cwd)
        except KernelError as error:
            return _not_created(error)
        return JSONResponse(_description(context))

    async def _list_contexts(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse([_description(context) for context in self._contexts])

    async def _restart_context(self, request: Request) -> Response:
        self._authorize(request)
        context = self._contexts.get(request.path_params["id"])
        try:
            await context.restart()
        except KernelError as error:
            return PlainTextResponse(f"Failed to restart context {context.id}: {error}", status_code=500)
        return JSONResponse(None)

    async def _remove_context(self, request: Request) -> Response:
        self._authorize(request)
        await self._contexts.remove(self._contexts.get(request.path_params["id"]))
        return JSONResponse(None)


def _description(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


def _not_created(failure: BaseException) -> Response:
    # E2B answers 500 to an unknown language too, which programs take for a failure that may pass.
    status = 400 if isinstance(failure, LanguageError) else 500
    return PlainTextResponse(f"Failed to create context: {failure}", status_code=status)


def _unauthorized(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=401)


def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=404)


def _unprocessable(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=422)
