"""The read side of templates."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..sandboxes.templates import Template, Templates
from .errors import ApiError
from .replies import template_detail, template_listed, timestamp


class TemplateRoutes:
    """The handlers, over the templates of one manager."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/templates", self.list, methods=["GET"]),
            Route("/v2/templates", self.list, methods=["GET"]),
            Route("/templates/aliases/{alias:path}", self.alias, methods=["GET"]),
            Route("/templates/{template_id}", self.get, methods=["GET"]),
            Route("/templates/{template_id}/tags", self.tags, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """Every template, by name."""
        return JSONResponse([template_listed(one, self._templates) for one in self._templates.all()])

    async def get(self, request: Request) -> Response:
        """One template with its build."""
        template = self._find(request.path_params["template_id"])
        return JSONResponse(template_detail(template, self._templates))

    async def alias(self, request: Request) -> Response:
        """Whether a name exists (``Template.exists`` of e2b 2.10.0 and later)."""
        template = self._find(request.path_params["alias"])
        return JSONResponse({"templateID": template.name, "public": True})

    async def tags(self, request: Request) -> Response:
        """The tags of a template; each has one, ``default``."""
        template = self._find(request.path_params["template_id"])
        created = timestamp(self._templates.created_at)
        return JSONResponse([{"tag": "default", "buildID": template.build_id, "createdAt": created}])

    def _find(self, reference: str) -> Template:
        template = self._templates.find(reference)
        if template is None:
            raise ApiError(404, f"template '{reference}' not found")
        return template
