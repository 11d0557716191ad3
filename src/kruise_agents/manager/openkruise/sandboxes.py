"""The handlers for sandboxes. Each gets the sandbox that the path names, which belongs to the caller's key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ...protocol.fields import FieldError, Fields
from ...protocol.openkruise import DEFAULT_TIMEOUT, LIST
from ..accounts.keys import Keys
from ..api.auth import owner_of, still_valid
from ..api.errors import DO_NOT_RETRY, ApiError
from ..api.formats import MAX_TIMEOUT
from ..api.reading import read_parameters
from ..api.replies import shown_state, token_reply
from ..api.sandboxes.create import check_variables, start_sandbox
from ..api.sandboxes.extensions import read_extensions
from ..api.sandboxes.operations import PauseHeaders
from ..api.snapshots import SnapshotHeaders
from ..sandboxes.control_client import NoAnswerError
from ..sandboxes.lifecycle import RefusedError, State
from ..sandboxes.sandbox import Lifetime, NewSandbox, Sandbox
from ..sandboxes.service import SandboxService
from ..sandboxes.snapshots import Snapshots
from ..sandboxes.sockets import PortClosedError
from ..templates.model import Templates
from . import replies
from .metadata import CLONE_ONLY, read_filter, require_qualified
from .network import read_rules
from .paging import page
from .reading import Refused, read_body, read_query, unmarshal_error

_LEAST_TIMEOUT = 30
_LEAST_RESUME_SECONDS = 300
_STATES = ("running", "paused")
_BROWSER_PORT = "9222"


class SandboxHandlers:
    """The handlers of routes for sandboxes."""

    def __init__(self, sandboxes: SandboxService, snapshots: Snapshots, templates: Templates, keys: Keys) -> None:
        self._sandboxes = sandboxes
        self._operations = sandboxes.operations
        self._snapshots = snapshots
        self._templates = templates
        self._keys = keys

    async def create(self, request: Request) -> Response:
        fields = await _body(request, 500, 0)
        try:
            new, ready_seconds = self._new(request, fields)
        except FieldError as error:
            raise Refused(500, unmarshal_error(error, "NewSandboxRequest"), 0) from None
        sandbox = await start_sandbox(self._sandboxes, new, ready_seconds)
        request.state.sandbox_id = sandbox.id  # for the log
        token = self._sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid) if sandbox.protected else None
        return replies.answer(201, replies.shown(sandbox, request.state.domain, token))

    async def list_all(self, request: Request) -> Response:
        query = read_query(request)
        states = query.get("state", "").split(",") if query.get("state") else _STATES
        for state in states:
            if state not in _STATES:
                raise Refused(400, f"Only 'running' and 'paused' state are supported, not: '{state}'")
        wanted = read_filter(query, LIST)
        entries = []
        for sandbox in self._sandboxes.all(owner_of(request)):
            entry = replies.listed(sandbox, request.state.domain)
            if shown_state(sandbox) in states and wanted.items() <= dict(sandbox.metadata).items():
                entries.append(((entry["startedAt"], sandbox.id), entry))
        shown, headers = page(entries, query)
        return replies.answer(200, shown, headers)

    async def get(self, request: Request, sandbox: Sandbox) -> Response:
        return replies.answer(200, replies.detail(sandbox, request.state.domain))

    async def delete(self, request: Request, sandbox: Sandbox) -> Response:
        await self._sandboxes.kill(sandbox.id)
        return replies.answer(204)

    async def replace_rules(self, request: Request, sandbox: Sandbox) -> Response:
        try:
            rules = read_rules(await read_body(request, request.scope["route"]))
        except FieldError as error:
            reason = unmarshal_error(error, "SandboxNetworkConfig")
            raise Refused(400, f"Failed to decode request body: {reason}") from None
        except ValueError as error:
            raise Refused(400, f"Failed to decode request body: {error}") from None
        try:
            await self._operations.change_rules(sandbox, rules)
        except (OSError, RefusedError) as error:
            raise Refused(500, f"Failed to update network: {error}") from error
        return replies.answer(204)

    async def pause(self, request: Request, sandbox: Sandbox) -> Response:
        kept = read_parameters(PauseHeaders, request.headers).kept
        try:
            await self._operations.pause(sandbox, memory=False, kept=kept)
        except NoAnswerError as error:
            raise Refused(500, f"Failed to pause sandbox: {error}{_resource(sandbox)}") from error
        return replies.answer(204)

    async def connect(self, request: Request, sandbox: Sandbox) -> Response:
        seconds = _seconds(await _body(request, 500, 0), "ConnectSandboxRequest", 0)
        _require_range(seconds, 400)
        resumed = await self._resume(sandbox, seconds, 400)
        return replies.answer(201 if resumed else 200, replies.shown(sandbox, request.state.domain))

    async def resume(self, request: Request, sandbox: Sandbox) -> Response:
        seconds = _seconds(await _body(request, 500), "ResumeSandboxRequest")
        _require_range(seconds, 500)
        await self._resume(sandbox, seconds, 409)
        return replies.answer(204)

    async def set_timeout(self, request: Request, sandbox: Sandbox) -> Response:
        seconds = _seconds(await _body(request, 500), "SetTimeoutRequest")
        _require_range(seconds, 500)
        try:
            await self._operations.set_timeout(sandbox, seconds)
        except RefusedError:
            raise Refused(500, f"sandbox {sandbox.id} is not running{_resource(sandbox)}") from None
        return replies.answer(204)

    async def take_snapshot(self, request: Request, sandbox: Sandbox) -> Response:
        await _body(request, 500, 0)
        headers = read_parameters(SnapshotHeaders, request.headers)
        try:
            row = await self._snapshots.take(sandbox, owner_of(request), seconds=headers.ttl)
        except RefusedError:
            raise Refused(400, f"Sandbox {sandbox.id} is not running{_resource(sandbox)}") from None
        except OSError as error:
            raise Refused(500, f"the files could not be copied: {error.strerror}") from error
        if headers.keep_running == "false":
            await self._operations.pause(sandbox, memory=False)
        return replies.answer(201, {"snapshotID": row.id, "names": None})

    async def new_traffic_token(self, request: Request, sandbox: Sandbox) -> Response:
        if not sandbox.protected:
            raise Refused(409, "Sandbox cannot refresh its traffic access token")
        return replies.answer(200, token_reply(self._sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid)))

    async def browser(self, request: Request, sandbox: Sandbox) -> Response:
        text = read_query(request).get("cdpPort") or _BROWSER_PORT
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
            raise Refused(400, f"Invalid cdpPort: {text}, must be an integer between 1 and 65535")
        try:
            connection = await sandbox.process.connect(int(text))
        except (PortClosedError, OSError):
            raise Refused(
                500,
                f"Failed to proxy request to sandbox port {text}: failed to proxy request to sandbox: Get "
                f'"http://127.0.0.1:{text}/json/version": dial tcp 127.0.0.1:{text}: connect: connection refused'
                f"{_resource(sandbox)}",
                0,
            ) from None
        connection.transport.close()
        raise Refused(400, "the address of a browser: not supported by this manager yet")

    def _new(self, request: Request, fields: Fields) -> tuple[NewSandbox, float | None]:
        """Return the requested sandbox and the longest time for its start. The checks have OpenKruise's order."""
        if fields.objects("volumeMounts"):
            raise Refused(400, "volumeMounts: this manager has no persistent volumes")
        metadata = fields.text_map("metadata")
        extensions = read_extensions({key: value for key, value in metadata.items() if key not in CLONE_ONLY})
        require_qualified(metadata)
        seconds = fields.integer("timeout", allow_float=False) or DEFAULT_TIMEOUT
        if not _LEAST_TIMEOUT <= seconds <= MAX_TIMEOUT:
            raise Refused(400, f"timeout should between {_LEAST_TIMEOUT} and {MAX_TIMEOUT}")
        rules = read_rules(fields.object("network") or Fields({}))
        variables = fields.text_map("envVars")
        check_variables("envVars", variables)
        caller = still_valid(request, self._keys)
        source = self._snapshots.source(fields.text("templateID") or "", caller.id, self._templates)
        if source is None:
            raise Refused(400, "Template or Checkpoint not found")
        template, files = source
        if CLONE_ONLY & metadata.keys():
            if self._templates.find(template.name) is not None:
                raise Refused(400, "sandbox-name and sandbox-generate-name are only supported for clone")
            read_extensions(metadata)  # says why this manager gives no names
        if not extensions.create_on_no_stock and not self._sandboxes.pools.has(template, files):
            message = f"no available sandboxes for template {template.name} (no stock)"
            raise ApiError(500, message, headers=DO_NOT_RETRY)
        new = NewSandbox(
            template=template,
            owner=caller.id,
            lifetime=Lifetime(
                seconds=seconds,
                never_ends=extensions.never_ends,
                pause_at_end=bool(fields.flag("autoPause")),
                pause_keeps_memory=False,
                pause_keeps_files=False,
                paused_seconds=extensions.paused_seconds,
            ),
            metadata=extensions.metadata,
            variables=variables,
            quota=caller.quota,
            files=files,
            rules=rules,
        )
        return new, extensions.ready_seconds

    async def _resume(self, sandbox: Sandbox, seconds: int, status: int) -> bool:
        if sandbox.state.shown_as_paused:
            seconds = max(seconds, _LEAST_RESUME_SECONDS)
        try:
            return await self._operations.resume(sandbox, seconds)
        except RefusedError as error:
            if error.state is not State.PAUSING:
                raise
            message = "Conflict: sandbox is not resumable, reason: SandboxIsPausing"
            raise Refused(status, f"Failed to resume sandbox: {message}{_resource(sandbox)}") from None


async def _body(request: Request, status: int, code: int | None = None) -> Fields:
    try:
        return await read_body(request, request.scope["route"])
    except ValueError as error:
        raise Refused(status, str(error), code) from None


def _seconds(fields: Fields, struct: str, code: int | None = None) -> int:
    try:
        return fields.integer("timeout", allow_float=False) or 0
    except FieldError as error:
        raise Refused(500, unmarshal_error(error, struct), code) from None


def _require_range(seconds: int, status: int) -> None:
    if not 0 < seconds <= MAX_TIMEOUT:
        raise Refused(status, f"timeout should between 0 and {MAX_TIMEOUT}")


def _resource(sandbox: Sandbox) -> str:
    return f"; sandboxResource={replies.resource(sandbox)}"
