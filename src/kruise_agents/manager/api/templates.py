"""The read side of templates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..sandboxes.snapshots import DEFAULT_TAG, Reference, Snapshots
from ..templates.model import Templates
from .auth import owner_of
from .errors import ApiError
from .replies import TemplateBuild, template_detail, template_listed, timestamp
from .sandboxes.listing import read_limit


class TemplateRoutes:
    """The handlers, over the templates of one manager, and the snapshots of each caller: they are templates too."""

    def __init__(self, templates: Templates, snapshots: Snapshots) -> None:
        self._templates = templates
        self._snapshots = snapshots

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/templates", self.list, methods=["GET"]),
            Route("/v2/templates", self.pages, methods=["GET"]),
            Route("/templates/aliases/{alias:path}", self.alias, methods=["GET"]),
            Route("/templates/{template_id}", self.get, methods=["GET"]),
            Route("/templates/{template_id}/tags", self.tags, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """Every template, by name."""
        return JSONResponse([template_listed(one, self._templates) for one in self._templates.all()])

    async def pages(self, request: Request) -> Response:
        """The same in pages; the token of the next one is the last name of the one before."""
        limit, after = read_limit(request.query_params.get("limit")), request.query_params.get("nextToken", "")
        found = [one for one in self._templates.all() if one.name > after]
        headers = {"X-Next-Token": found[limit - 1].name} if len(found) > limit else {}
        return JSONResponse([template_listed(one, self._templates) for one in found[:limit]], headers=headers)

    async def get(self, request: Request) -> Response:
        """One template with its builds."""
        return JSONResponse(template_detail(self._builds(request, request.path_params["template_id"])))

    async def alias(self, request: Request) -> Response:
        """Whether a name exists (``Template.exists`` of e2b 2.10.0 and later)."""
        newest = self._builds(request, request.path_params["alias"])[0]
        return JSONResponse({"templateID": newest.template.name, "public": newest.public})

    async def tags(self, request: Request) -> Response:
        """The tags of a template: ``default``, or those of the snapshots with one name."""
        builds = self._builds(request, request.path_params["template_id"])
        return JSONResponse(
            [
                {"tag": build.tag, "buildID": build.template.build_id, "createdAt": timestamp(build.created_at)}
                for build in builds
            ]
        )

    def _builds(self, request: Request, reference: str) -> Sequence[TemplateBuild]:
        """The build of a template, or all of the snapshots that are called so, newest first.

        Raises:
            ApiError: 404.
        """
        template = self._templates.find(reference)
        if template is not None:
            return [TemplateBuild(template, (template.name,), DEFAULT_TAG, self._templates.created_at)]
        rows = self._snapshots.called(reference, owner_of(request))
        if not rows:
            raise ApiError(404, f"template '{reference}' not found")
        return [
            TemplateBuild(
                self._snapshots.template(row)[0],
                (row.name,) if row.name else (),
                (row.name and Reference.read(row.id).tag) or DEFAULT_TAG,
                datetime.fromtimestamp(row.created_at, UTC),
                public=False,
            )
            for row in rows
        ]
