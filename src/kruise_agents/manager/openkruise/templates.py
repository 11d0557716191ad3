"""The handlers for templates and snapshots. A list shows templates only; a delete removes snapshots only."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from ..api.auth import owner_of
from ..sandboxes.snapshots import Snapshots
from ..templates.model import Templates
from . import replies
from .paging import page
from .reading import Refused, read_query


class TemplateHandlers:
    """The handlers of routes for templates and snapshots."""

    def __init__(self, templates: Templates, snapshots: Snapshots) -> None:
        self._templates = templates
        self._snapshots = snapshots

    async def list_all(self, request: Request) -> Response:
        created_at = self._templates.created_at
        return replies.answer(
            200, [replies.template_listed(template.name, created_at) for template in self._templates.all()]
        )

    async def get(self, request: Request, name: str) -> Response:
        template = self._templates.find(name)
        if template is None:
            raise Refused(404, f"Template not found: {name}")
        return replies.answer(200, replies.template_detail(template.name, self._templates.created_at))

    async def delete(self, request: Request, name: str) -> Response:
        if self._templates.find(name) is not None:
            raise Refused(401, "Deleting SandboxSet-backed templates through the E2B API is not supported")
        snapshot = self._snapshots.find(name, owner_of(request))
        if snapshot is not None:
            await self._snapshots.remove(snapshot)
        return replies.answer(204)

    async def list_snapshots(self, request: Request) -> Response:
        query = read_query(request)
        rows = self._snapshots.all(owner_of(request))
        entries = [
            ((replies.moment(datetime.fromtimestamp(row.created_at, UTC)), row.id), row.id)
            for row in rows
            if query.get("sandboxID") in (None, "", row.sandbox)
        ]
        shown, headers = page(entries, query)
        return replies.answer(200, [{"snapshotID": row_id, "names": None} for row_id in shown], headers)
