"""The routes of snapshots and forks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..accounts.keys import Keys
from ..accounts.quota import QuotaExceededError
from ..sandboxes.lifecycle import RefusedError, State
from ..sandboxes.sandbox import Sandbox
from ..sandboxes.service import ManagerEndingError, SandboxService
from ..sandboxes.snapshots import DEFAULT_TAG, Reference, Snapshots
from ..state.reserve import NoSpaceError
from ..state.tables import SnapshotRow
from ..templates.model import Templates
from .auth import NOT_RUNNING, own_sandbox, owner_of, still_valid
from .errors import DO_NOT_RETRY, ApiError, ErrorReply
from .formats import DURATION, Page, Timeout, page_of, read_duration
from .reading import Spec
from .replies import SandboxReply, created_reply
from .routes import Resource, Topic, operation

DEFAULT_FORK_TIMEOUT = 15
MAX_FORKS = 20

_SANDBOX = "/sandboxes/{sandbox_id}"
_CHANGE = (400, 404, 500, 507)
_HEADER = "x-e2b-kruise-snapshot-"

logger = logging.getLogger(__name__)


def _read_ttl(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        seconds = read_duration(text)
    except ValueError as error:
        raise ApiError(400, f'Bad extension param: invalid snapshot ttl "{text}": {error}') from None
    if seconds <= 0:
        raise ApiError(400, f'Bad extension param: snapshot ttl "{text}" must be positive')
    return seconds


def _check_contents(name: str, contents: str) -> None:
    if set(contents.split(",")) - {"memory", "filesystem"}:
        raise ApiError(
            400, f"Bad extension param: persistent-contents [{contents}] is not 'memory', 'filesystem' or both"
        )


def _check_seconds(name: str, seconds: str) -> None:
    if not (seconds.isascii() and seconds.isdigit()):
        raise ApiError(400, f"Bad extension param: invalid number [{seconds}]: it must be 0 or more seconds")


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise ApiError(400, f"Count must be at least 1, got {count}")
    if count > MAX_FORKS:
        raise ApiError(400, f"Count cannot be greater than {MAX_FORKS}, got {count}")


@dataclass(frozen=True, slots=True)
class SnapshotHeaders:
    """The headers of a snapshot request. ``persistent_contents`` and ``wait_seconds`` are checked, but not used."""

    ttl: Annotated[
        float | None,
        Spec(name=f"{_HEADER}ttl", read=_read_ttl),
        DURATION,
        Spec(description="how long the snapshot can be used, such as 90s, 1.5h, 2h45m; without it for ever"),
    ] = None
    keep_running: Annotated[
        str,
        Spec(
            name=f"{_HEADER}keep-running",
            description="false: pause the sandbox after the snapshot; any other text counts as true",
        ),
    ] = "true"
    persistent_contents: Annotated[
        str,
        Spec(
            name=f"{_HEADER}persistent-contents",
            check=_check_contents,
            description="memory, filesystem, or both with a comma; without effect",
        ),
    ] = ""
    wait_seconds: Annotated[
        str,
        Spec(
            name=f"{_HEADER}wait-success-seconds",
            check=_check_seconds,
            description="a whole number; without effect, because every answer waits for the snapshot",
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class _NewSnapshotRequest:
    name: Annotated[
        str | None,
        Spec(
            description="name or name:tag; a name alone means the tag default. Replaces the caller's snapshot of the "
            "same name and tag. Left out: the snapshot has an ID only"
        ),
    ] = None
    memory: Annotated[bool, Spec(description="without effect: a snapshot keeps only files")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _SnapshotsQuery(Page):
    sandbox_id: Annotated[str, Spec(description="only snapshots of this sandbox")] = ""
    name: Annotated[str, Spec(description="only snapshots of this name; name:tag for one tag")] = ""


@dataclass(frozen=True, slots=True)
class _NewForksRequest:
    count: Annotated[int, Spec(check=_check_count, minimum=1, maximum=MAX_FORKS)] = 1
    timeout: Annotated[Timeout, Spec(description="seconds until the end time of the forks")] = DEFAULT_FORK_TIMEOUT


class _SnapshotReply(TypedDict):
    snapshotID: Annotated[str, Spec(description="what a create names as templateID")]
    names: Sequence[str]


class _ForkedReply(TypedDict):
    sandbox: SandboxReply


class _FailedForkReply(TypedDict):
    error: ErrorReply


class SnapshotRoutes(Resource):
    """The routes of snapshots and forks."""

    topic = Topic.SNAPSHOTS

    def __init__(self, snapshots: Snapshots, sandboxes: SandboxService, templates: Templates, keys: Keys) -> None:
        self._snapshots = snapshots
        self._keys = keys
        self._sandboxes = sandboxes
        self._templates = templates

    @operation(
        f"POST {_SANDBOX}/snapshots",
        "Make a snapshot of the files of a running sandbox",
        _CHANGE,
        meanings={404: NOT_RUNNING},
        status=201,
    )
    async def take(self, request: Request, headers: SnapshotHeaders, body: _NewSnapshotRequest) -> _SnapshotReply:
        reference = self._reference(body.name)
        sandbox = own_sandbox(request, self._sandboxes, State.RUNNING)
        with _copy_errors():
            row = await self._snapshots.take(sandbox, owner_of(request), reference, headers.ttl)
        if headers.keep_running == "false":
            await self._sandboxes.operations.pause(sandbox)
        return _shown(row)

    @operation(
        f"POST {_SANDBOX}/fork",
        "Create sandboxes with copies of the files of a running sandbox",
        _CHANGE,
        meanings={409: "The sandbox is paused"},
        status=201,
        note="The answer has an entry for each fork: its sandbox, or the error that this fork failed with.",
    )
    async def fork(self, request: Request, body: _NewForksRequest) -> list[_ForkedReply | _FailedForkReply]:
        sandbox = own_sandbox(request, self._sandboxes)
        if sandbox.state.shown_as_paused:
            raise _is_paused(sandbox)
        quota = still_valid(request, self._keys).quota
        try:
            with _copy_errors():
                forks = await self._snapshots.fork(sandbox, body.count, body.timeout, quota)
        except RefusedError:
            if sandbox.state.shown_as_paused:  # a pause came before the turn of the fork
                raise _is_paused(sandbox) from None
            raise
        return [self._entry(fork, request.state.domain) for fork in forks]

    @operation("GET /snapshots", "List snapshots, newest first", (400,), answers={200: list[_SnapshotReply]})
    async def list_all(self, request: Request, query: _SnapshotsQuery) -> Response:
        rows = [
            row
            for row in self._snapshots.all(owner_of(request))
            if query.sandbox_id in ("", row.sandbox) and (not query.name or _is_called(row, query.name))
        ]
        shown, headers = page_of(rows, query, lambda row: (row.created_at, row.id), newest_first=True)
        return JSONResponse([_shown(row) for row in shown], headers=headers)

    @operation(
        "DELETE /templates/{template_id:path}",
        "Delete a snapshot",
        (404, 507),
        meanings={400: "The template is no snapshot and belongs to the manager"},
        note="Sandboxes that were created from the snapshot keep their files.",
    )
    async def remove(self, request: Request) -> None:
        reference = request.path_params["template_id"]
        snapshot = self._snapshots.find(reference, owner_of(request))
        if snapshot is not None:
            await self._snapshots.remove(snapshot)
            return
        if self._templates.find(reference) is not None:
            raise ApiError(400, f"template '{reference}' belongs to this manager and cannot be deleted")
        raise ApiError(404, f"snapshot '{reference}' not found")

    def _entry(self, fork: Sandbox | BaseException, domain: str) -> _ForkedReply | _FailedForkReply:
        if isinstance(fork, Sandbox):
            return {"sandbox": created_reply(fork, domain, self._sandboxes)}
        if isinstance(fork, QuotaExceededError):
            return {"error": {"code": 403, "message": str(fork)}}
        if isinstance(fork, ManagerEndingError):
            return {"error": {"code": 503, "message": str(fork)}}
        logger.error("a fork could not be made", exc_info=fork)
        code = 507 if isinstance(fork, NoSpaceError) else 500
        return {"error": {"code": code, "message": f"the sandbox could not be started: {fork}"}}

    def _reference(self, name: str | None) -> Reference | None:
        if name is None:
            return None
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
def _copy_errors() -> Iterator[None]:
    # A failed copy leaves nothing behind, and the client is told the reason.
    try:
        yield
    except OSError as error:
        raise ApiError(500, f"the files could not be copied: {error.strerror}", headers=DO_NOT_RETRY) from error


def _shown(row: SnapshotRow) -> _SnapshotReply:
    return {"snapshotID": row.id, "names": [row.name] if row.name else []}


def _is_called(row: SnapshotRow, text: str) -> bool:
    # A name without a tag means any tag.
    name, colon, tag = text.lower().partition(":")
    return row.name == name and (not colon or row.id == f"{name}:{tag or DEFAULT_TAG}")
