"""The manager's private channel into a sandbox: is it ready, what is it for, and how long does it live.

Served on a Unix socket that is not visible inside the sandbox, so no program in it can reach these routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .end_of_life import EndTime, Leash
from .start_command import NotReadyError, run_start_command
from .state import SandboxState

KernelFailure = Callable[[], Awaitable[BaseException | None]]
"""Waits for the default kernel and gives the reason if it did not start."""


def control_app(
    state: SandboxState,
    end_time: EndTime,
    leash: Leash | None = None,
    tree: Path | None = None,
    kernel_failure: KernelFailure | None = None,
) -> Starlette:
    """The control routes.

    ``POST /init`` takes ``{"accessToken": str | null, "envVars": {str: str}, "secondsLeft": number | null}``, replaces
    all three, and lets go of the leash. Because this socket is served last, its 204 also means that every other one is.
    ``POST /end-time`` takes ``{"secondsLeft": number | null}``; ``GET /variables`` gives ``{"envVars": {str: str}}``.
    ``POST /killing`` takes ``{"pid": int, "why": str}``: that process of the sandbox is about to be killed.
    ``POST /prepare``, before them, takes ``{"envVars": {str: str}, "start": str | null, "ready": ..., "kernel": bool}``
    and answers when a template's start command (:mod:`.start_command`) and, if asked for, the default kernel are ready:
    204, or 500 with the reason as text.

    Args:
        tree: the root of the sandbox's own file tree, where the files that tell what this sandbox is are written.
        kernel_failure: None where there is no code interpreter.
    """

    async def prepare(request: Request) -> Response:
        order = await request.json()
        state.variables = dict(order["envVars"])
        if order["start"] is not None:
            try:
                await run_start_command(state, order)
            except (NotReadyError, OSError) as error:
                return PlainTextResponse(str(error), status_code=500)
        if order["kernel"] and kernel_failure is not None and (failure := await kernel_failure()) is not None:
            return PlainTextResponse(str(failure), status_code=500)
        return Response(status_code=204)

    async def init(request: Request) -> Response:
        settings = await request.json()
        state.access_token = settings["accessToken"]
        state.variables = dict(settings["envVars"])
        if tree is not None:
            _write_identity(tree, state.variables)
        end_time.set(settings["secondsLeft"])
        if leash is not None:
            leash.drop()
        return Response(status_code=204)

    async def set_end_time(request: Request) -> Response:
        end_time.set((await request.json())["secondsLeft"])
        return Response(status_code=204)

    async def variables(request: Request) -> Response:
        return JSONResponse({"envVars": dict(state.variables)})

    async def killing(request: Request) -> Response:
        notice = await request.json()
        state.killing(int(notice["pid"]), str(notice["why"]))
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/prepare", prepare, methods=["POST"]),
            Route("/init", init, methods=["POST"]),
            Route("/end-time", set_end_time, methods=["POST"]),
            Route("/variables", variables, methods=["GET"]),
            Route("/killing", killing, methods=["POST"]),
        ]
    )


def _write_identity(tree: Path, variables: Mapping[str, str]) -> None:
    """``/run/e2b/.E2B_*`` and ``/.e2b``, as E2B's sandboxes have them."""
    folder = tree / "run" / "e2b"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name, value in variables.items():
        if name in ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"):
            (folder / f".{name}").write_text(value, encoding="utf-8")
    template = variables.get("E2B_TEMPLATE_ID", "")
    (tree / ".e2b").write_text(f"ENV_ID={template}\nTEMPLATE_ID={template}\n", encoding="utf-8")
