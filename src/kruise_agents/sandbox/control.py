"""The manager's private channel into a sandbox: is it ready, and what is it for.

Served on a Unix socket that is not visible inside the sandbox, so no program in it can reach these routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .state import SandboxState


def control_app(state: SandboxState, tree: Path | None = None) -> Starlette:
    """The control routes.

    ``POST /init`` takes ``{"accessToken": str | null, "envVars": {str: str}}``, replaces both in ``state``.
    ``POST /killing`` takes ``{"pid": int, "why": str}``: that process of the sandbox is about to be killed.
    Because this socket is served last, its 204 also means that every other one is.

    Args:
        tree: the root of the sandbox's own file tree, where the files that tell what this sandbox is are written.
    """

    async def init(request: Request) -> Response:
        settings = await request.json()
        state.access_token = settings["accessToken"]
        state.variables = dict(settings["envVars"])
        if tree is not None:
            _write_identity(tree, state.variables)
        return Response(status_code=204)

    async def killing(request: Request) -> Response:
        notice = await request.json()
        state.killing(int(notice["pid"]), str(notice["why"]))
        return Response(status_code=204)

    return Starlette(
        routes=[Route("/init", init, methods=["POST"]), Route("/killing", killing, methods=["POST"])],
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
