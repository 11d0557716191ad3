"""The routes that show templates: built-in templates, templates from files, and snapshots of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..sandboxes.snapshots import DEFAULT_TAG, Reference, Snapshots
from ..templates.model import Template, Templates
from .auth import owner_of
from .errors import ApiError
from .formats import Page, Timestamp, timestamp
from .reading import Spec
from .replies import ENVD_VERSION
from .routes import Resource, Topic, operation

BuildID = Annotated[str, Spec(format="uuid")]


class _TemplateReply(TypedDict):
    templateID: str
    public: Annotated[bool, Spec(description="false: a snapshot of the caller, which lists leave out")]
    aliases: Sequence[str]
    names: Sequence[str]
    createdAt: Annotated[Timestamp, Spec(description="of a template of the manager, the start of the manager")]
    updatedAt: Annotated[Timestamp, Spec(description="as createdAt")]
    lastSpawnedAt: Annotated[Timestamp | None, Spec(description="always null; SDKs require it")]
    spawnCount: Annotated[int, Spec(description="always 0; SDKs require it")]


class _ListedTemplateReply(_TemplateReply):
    buildID: BuildID
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    envdVersion: str
    createdBy: None
    buildCount: int
    buildStatus: Literal["ready"]


class _BuildReply(TypedDict):
    buildID: BuildID
    status: Literal["ready"]
    createdAt: Timestamp
    updatedAt: Timestamp
    finishedAt: Timestamp
    cpuCount: int
    memoryMB: int
    diskSizeMB: int
    envdVersion: str


class _TemplateDetailReply(_TemplateReply):
    builds: Sequence[_BuildReply]


class _TemplateAliasReply(TypedDict):
    templateID: str
    public: bool


class _TemplateTagReply(TypedDict):
    tag: str
    buildID: str
    createdAt: Timestamp


@dataclass(frozen=True, slots=True)
class _TemplateBuild:
    template: Template
    names: tuple[str, ...]
    tag: str
    created_at: datetime
    public: bool = True


class TemplateRoutes(Resource):
    """The routes that show templates."""

    topic = Topic.TEMPLATES

    def __init__(self, templates: Templates, snapshots: Snapshots) -> None:
        self._templates = templates
        self._snapshots = snapshots

    @operation("GET /templates", "List templates, by name")
    async def list_all(self, request: Request) -> list[_ListedTemplateReply]:
        return [self._listed(template) for template in self._templates.all()]

    @operation(
        "GET /v2/templates", "List templates, by name, in pages", (400,), answers={200: list[_ListedTemplateReply]}
    )
    async def pages(self, request: Request, query: Page) -> Response:
        # The token of a page is the last name on the page before.
        found = [template for template in self._templates.all() if template.name > query.next_token]
        shown = found[: query.limit]
        headers = {"X-Next-Token": shown[-1].name} if len(found) > len(shown) else {}
        return JSONResponse([self._listed(template) for template in shown], headers=headers)

    @operation(
        "GET /templates/aliases/{alias:path}", "Say whether a template or snapshot of that name or ID exists", (404,)
    )
    async def alias(self, request: Request) -> _TemplateAliasReply:
        # Template.exists calls this route in e2b 2.10.0 and later.
        newest = self._builds(request, request.path_params["alias"])[0]
        return _TemplateAliasReply(templateID=newest.template.name, public=newest.public)

    @operation("GET /templates/{template_id}", "Get a template with its build, or the snapshots of one name", (404,))
    async def get(self, request: Request) -> _TemplateDetailReply:
        builds = self._builds(request, request.path_params["template_id"])
        newest = builds[0]
        reply: _TemplateDetailReply = {
            **_template(newest.template.name, newest.names, newest.created_at, public=newest.public),
            "builds": [_build(build) for build in builds],
        }
        return reply

    @operation(
        "GET /templates/{template_id}/tags", "List the tags of a template, or of the snapshots of one name", (404,)
    )
    async def tags(self, request: Request) -> list[_TemplateTagReply]:
        shown: list[_TemplateTagReply] = [
            {"tag": build.tag, "buildID": build.template.build_id, "createdAt": timestamp(build.created_at)}
            for build in self._builds(request, request.path_params["template_id"])
        ]
        return shown

    def _listed(self, template: Template) -> _ListedTemplateReply:
        return {
            **_template(template.name, (template.name,), self._templates.created_at),
            "buildID": template.build_id,
            "cpuCount": template.cpu_count,
            "memoryMB": template.memory_mb,
            "diskSizeMB": template.disk_size_mb,
            "envdVersion": ENVD_VERSION,
            "createdBy": None,
            "buildCount": 1,
            "buildStatus": "ready",
        }

    def _builds(self, request: Request, reference: str) -> Sequence[_TemplateBuild]:
        """Return the builds that ``reference`` names, newest first. An unknown reference raises ApiError 404."""
        template = self._templates.find(reference)
        if template is not None:
            return [_TemplateBuild(template, (template.name,), DEFAULT_TAG, self._templates.created_at)]
        rows = self._snapshots.called(reference, owner_of(request))
        if not rows:
            raise ApiError(404, f"template '{reference}' not found")
        return [
            _TemplateBuild(
                self._snapshots.template(row)[0],
                (row.name,) if row.name else (),
                (row.name and Reference.read(row.id).tag) or DEFAULT_TAG,
                datetime.fromtimestamp(row.created_at, UTC),
                public=False,
            )
            for row in rows
        ]


def _template(name: str, names: Sequence[str], created_at: datetime, *, public: bool = True) -> _TemplateReply:
    created = timestamp(created_at)
    return {
        "templateID": name,
        "public": public,
        "aliases": list(names),
        "names": list(names),
        "createdAt": created,
        "updatedAt": created,
        "lastSpawnedAt": None,
        "spawnCount": 0,
    }


def _build(build: _TemplateBuild) -> _BuildReply:
    created = timestamp(build.created_at)
    return {
        "buildID": build.template.build_id,
        "status": "ready",
        "createdAt": created,
        "updatedAt": created,
        "finishedAt": created,
        "cpuCount": build.template.cpu_count,
        "memoryMB": build.template.memory_mb,
        "diskSizeMB": build.template.disk_size_mb,
        "envdVersion": ENVD_VERSION,
    }
