"""Snapshots and forks over REST."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..accounts.keys import Keys
from ..accounts.quota import QuotaExceededError
from ..sandboxes.lifecycle import RefusedError, State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import ManagerEndingError, SandboxService
from ..sandboxes.snapshots import DEFAULT_TAG, Reference, Snapshots
from ..state.database import NoSpaceError
from ..state.tables import SnapshotRow
from ..templates.model import Templates
from .auth import own_sandbox, owner_of, still_valid
from .errors import DO_NOT_RETRY, ApiError
from .reading import Fields, read_duration, read_fields
from .replies import new_token_fields, sandbox_reply
from .sandboxes.extensions import MAX_TIMEOUT
from .sandboxes.listing import page_token, read_limit, read_page_token

DEFAULT_FORK_TIMEOUT = 15
MAX_FORKS = 20
_HEADER = "x-e2b-kruise-snapshot-"

logger = logging.getLogger(__name__)


class SnapshotRoutes:
    """The handlers, over the snapshots, sandboxes and templates of one manager."""

    def __init__(self, snapshots: Snapshots, sandboxes: SandboxService, templates: Templates, keys: Keys) -> None:
        self._snapshots = snapshots
        self._keys = keys
        self._sandboxes = sandboxes
        self._templates = templates

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/sandboxes/{sandbox_id}/snapshots", self.take, methods=["POST"]),
            Route("/sandboxes/{sandbox_id}/fork", self.fork, methods=["POST"]),
            Route("/snapshots", self.list, methods=["GET"]),
            Route("/templates/{template_id:path}", self.remove, methods=["DELETE"]),
        ]

    async def take(self, request: Request) -> Response:
        """Make a snapshot of a running sandbox: 201 when it is whole."""
        fields = await read_fields(request)
        fields.flag("memory")  # files are what a snapshot keeps here, whatever is asked for
        reference = self._reference(fields)
        seconds = _ttl(request)
        _check_headers(request)
        sandbox = own_sandbox(request, self._sandboxes, State.RUNNING)
        with _told():
            row = await self._snapshots.take(sandbox, owner_of(request), reference, seconds)
        if request.headers.get(f"{_HEADER}keep-running") == "false":
            await self._sandboxes.operations.pause(sandbox)
        return JSONResponse(_shown(row), status_code=201)

    async def list(self, request: Request) -> Response:
        """One page of snapshots, newest first."""
        query = request.query_params
        rows = self._snapshots.all(owner_of(request))
        if sandbox_id := query.get("sandboxID"):
            rows = [row for row in rows if row.sandbox == sandbox_id]
        if name := query.get("name"):
            rows = [row for row in rows if _is_called(row, name)]
        if token := query.get("nextToken"):
            after = read_page_token(token)
            rows = [row for row in rows if (row.created_at, row.id) < after]
        limit = read_limit(query.get("limit"))
        shown = rows[:limit]
        headers = {"X-Next-Token": page_token(shown[-1].created_at, shown[-1].id)} if len(rows) > limit else {}
        return JSONResponse([_shown(row) for row in shown], headers=headers)

    async def remove(self, request: Request) -> Response:
        """Remove a snapshot. Sandboxes that were made from it have files of their own."""
        reference = request.path_params["template_id"]
        snapshot = self._snapshots.find(reference, owner_of(request))
        if snapshot is not None:
            await self._snapshots.remove(snapshot)
            return Response(status_code=204)
        if self._templates.find(reference) is not None:
            raise ApiError(400, f"template '{reference}' belongs to this manager and cannot be deleted")
        raise ApiError(404, f"snapshot '{reference}' not found")

    async def fork(self, request: Request) -> Response:
        """Make sandboxes with the files of another: 201 with one entry for each, made or not."""
        fields = await read_fields(request)
        count = fields.integer("count")
        count = 1 if count is None else count
        if count < 1:
            raise ApiError(400, f"Count must be at least 1, got {count}")
        if count > MAX_FORKS:
            raise ApiError(400, f"Count cannot be greater than {MAX_FORKS}, got {count}")
        timeout = fields.integer("timeout")
        timeout = DEFAULT_FORK_TIMEOUT if timeout is None else timeout
        if timeout <= 0:
            raise ApiError(400, f"Timeout must be greater than 0, got {timeout}")
        if timeout > MAX_TIMEOUT:
            raise ApiError(400, f"Timeout cannot be greater than {MAX_TIMEOUT // 3600} hours, got {timeout} seconds")
        sandbox = own_sandbox(request, self._sandboxes)
        if sandbox.state.resting:
            raise _is_paused(sandbox)
        quota = still_valid(request, self._keys).quota
        try:
            with _told():
                forks = await self._snapshots.fork(sandbox, count, timeout, quota)
        except RefusedError:
            if sandbox.state.resting:  # a pause came first
                raise _is_paused(sandbox) from None
            raise
        return JSONResponse([self._entry(fork, request.state.domain) for fork in forks], status_code=201)

    def _entry(self, fork: Sandbox | BaseException, domain: str) -> dict[str, Any]:
        if isinstance(fork, Sandbox):
            return {"sandbox": {**sandbox_reply(fork, domain), **new_token_fields(self._sandboxes, fork)}}
        if isinstance(fork, QuotaExceededError):
            return {"error": {"code": 403, "message": str(fork)}}
        if isinstance(fork, ManagerEndingError):
            return {"error": {"code": 503, "message": str(fork)}}
        logger.error("a fork could not be made", exc_info=fork)
        code = 507 if isinstance(fork, NoSpaceError) else 500
        return {"error": {"code": code, "message": f"the sandbox could not be started: {fork}"}}

    def _reference(self, fields: Fields) -> Reference | None:
        if "name" not in fields.names():
            return None
        name = fields.text("name")
        try:
            reference = Reference.read(name)
        except ValueError as error:
            raise ApiError(400, f"Invalid name: {name!r}; {error}") from None
        if self._templates.find(reference.name) is not None:
            raise ApiError(400, f"Invalid name: {name!r} is a template of this manager")
        return reference


def _is_paused(sandbox: Sandbox) -> ApiError:
    return ApiError(409, f"Sandbox '{sandbox.id}' is paused and cannot be forked; resume it first")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A copy that failed is no crash: nothing is left of it, and the client is told why."""
    try:
        yield
    except OSError as error:
        raise ApiError(500, f"the files could not be copied: {error.strerror}", headers=DO_NOT_RETRY) from error


def _shown(row: SnapshotRow) -> dict[str, Any]:
    return {"snapshotID": row.id, "names": [row.name] if row.name else []}


def _is_called(row: SnapshotRow, text: str) -> bool:
    """A bare name means any tag."""
    name, colon, tag = text.lower().partition(":")
    return row.name == name and (not colon or row.id == f"{name}:{tag or DEFAULT_TAG}")


def _ttl(request: Request) -> float | None:
    text = request.headers.get(f"{_HEADER}ttl")
    if text is None:
        return None
    try:
        seconds = read_duration(text)
    except ValueError as error:
        raise ApiError(400, f'Bad extension param: invalid snapshot ttl "{text}": {error}') from None
    if seconds <= 0:
        raise ApiError(400, f'Bad extension param: snapshot ttl "{text}" must be positive')
    return seconds


def _check_headers(request: Request) -> None:
    """Headers that change nothing here, because a snapshot is whole when it is answered, are still read."""
    contents = request.headers.get(f"{_HEADER}persistent-contents")
    if contents is not None and set(contents.split(",")) - {"memory", "filesystem"}:
        raise ApiError(
            400, f"Bad extension param: persistent-contents [{contents}] is not 'memory', 'filesystem' or both"
        )
    seconds = request.headers.get(f"{_HEADER}wait-success-seconds")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit()):
        raise ApiError(400, f"Bad extension param: invalid number [{seconds}]: it must be 0 or more seconds")
