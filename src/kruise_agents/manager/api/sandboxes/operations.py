"""Sandboxes over REST: create, connect, get, list, pause, resume, kill, time-outs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...accounts.keys import Keys
from ...accounts.quota import QuotaExceededError
from ...sandboxes.control_client import StartError
from ...sandboxes.lifecycle import State
from ...sandboxes.sandbox import NewSandbox, Sandbox
from ...sandboxes.service import ManagerEndingError, SandboxService
from ...sandboxes.snapshots import Snapshots
from ...templates.model import Template, Templates
from ...volumes import Volumes
from ..auth import own_sandbox, owner_of, still_valid
from ..errors import DO_NOT_RETRY, RETRY, ApiError, being_killed, sandbox_not_found
from ..reading import Fields, read_fields
from ..replies import new_token_fields, sandbox_detail, sandbox_listed, sandbox_reply, token_fields
from ..volumes import read_volume_mounts
from .extensions import MAX_TIMEOUT, RESERVE_PAUSED_HEADER, read_extensions, read_lifetime, read_reserved_header
from .idempotency import Chosen, IdempotentCreates
from .listing import ListQuery, page, read_query
from .network import egress_of_create, is_public, require_a_way_out

DEFAULT_TIMEOUT = 300
LEAST_REFRESH = 15
MAX_VARIABLE_BYTES = 128 * 1024  # Linux: MAX_ARG_STRLEN
MAX_VARIABLES_BYTES = 1024 * 1024
"""Of all together. Linux gives a program's arguments and variables 2 MiB, and commands bring some of their own."""

logger = logging.getLogger(__name__)


class SandboxRoutes:
    """The handlers, over the sandboxes and templates of one manager."""

    def __init__(
        self,
        sandboxes: SandboxService,
        templates: Templates,
        snapshots: Snapshots,
        volumes: Volumes,
        keys: Keys,
        *,
        v1_only: bool = False,
    ) -> None:
        self._sandboxes = sandboxes
        self._templates = templates
        self._snapshots = snapshots
        self._volumes = volumes
        self._keys = keys
        self._v1_only = v1_only
        self._creates = IdempotentCreates(sandboxes.store, sandboxes.secret)

    def routes(self) -> list[Route]:
        """Their routes. Create and connect exist twice: e2b up to 2.50.0 calls v1, from 2.51.0 on v2."""
        one = "/sandboxes/{sandbox_id}"
        return [
            Route("/sandboxes", self.create, methods=["POST"]),
            Route("/v2/sandboxes", self.create, methods=["POST"]),
            Route("/sandboxes", self.list_running, methods=["GET"]),
            Route("/v2/sandboxes", self.list, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.kill, methods=["DELETE"]),
            Route(f"{one}/connect", self.connect, methods=["POST"]),
            Route(f"/v2{one}/connect", self.connect, methods=["POST"]),
            Route(f"{one}/pause", self.pause, methods=["POST"]),
            Route(f"{one}/resume", self.resume, methods=["POST"]),
            Route(f"{one}/timeout", self.set_timeout, methods=["POST"]),
            Route(f"{one}/refreshes", self.refresh, methods=["POST"]),
            Route(f"{one}/traffic-access-token", self.new_traffic_token, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Make a sandbox: 201 when it answers; the same one for the same idempotency key."""
        fields = await read_fields(request)
        owner = owner_of(request)

        def again(sandbox_id: str) -> Response | None:
            sandbox = self._sandboxes.find(sandbox_id)
            return self._created(request, sandbox) if sandbox is not None and sandbox.owner == owner else None

        return await self._creates.answer(
            owner, request.headers, fields, lambda chosen: self._create(request, fields, chosen), again
        )

    async def _create(self, request: Request, fields: Fields, chosen: Chosen) -> Response:
        _refuse_unsupported(fields)
        given = fields.texts("metadata")
        extensions = read_extensions(given)
        lifetime = read_lifetime(fields, given, _positive_timeout(fields))
        variables = _variables(fields)
        secure = fields.flag("secure") is not False
        rules = egress_of_create(fields)
        public = is_public(fields, secure=secure)
        require_a_way_out(rules, self._sandboxes)
        caller = still_valid(request, self._keys)
        template, files = self._template(fields.text("templateID"), caller.id)
        volume_mounts = read_volume_mounts(fields, self._volumes, caller.id)
        if volume_mounts and not self._sandboxes.runtime.mounts_volumes:
            raise ApiError(
                400, f"field 'volumeMounts' is not supported by the runtime '{self._sandboxes.runtime.name}'"
            )
        stock = not volume_mounts and self._sandboxes.pools.has(template, files)
        if not extensions.create_on_no_stock and not stock:
            raise ApiError(500, f"no available sandboxes for template {template.name} (no stock)", headers=DO_NOT_RETRY)
        new = NewSandbox(
            template=template,
            owner=caller.id,
            lifetime=lifetime,
            secure=secure,
            metadata=extensions.metadata,
            variables=variables,
            quota=caller.quota,
            files=files,
            volume_mounts=tuple(volume_mounts),
            rules=rules,
            public=public,
        )
        try:
            async with asyncio.timeout(extensions.seconds):
                sandbox = await self._sandboxes.create(new, chosen)
        except QuotaExceededError as error:
            raise ApiError(403, str(error)) from None
        except TimeoutError:
            message = (
                f"the sandbox was not ready within {extensions.seconds} seconds, as the metadata asks; it was ended"
            )
            raise ApiError(500, message, headers=DO_NOT_RETRY) from None
        except ManagerEndingError as error:
            raise ApiError(503, str(error), headers=RETRY) from None
        except (StartError, OSError) as error:
            logger.exception("no sandbox could be made")
            raise ApiError(500, f"the sandbox could not be started: {error}", headers=DO_NOT_RETRY) from error
        if "idempotency-key" not in request.headers and await request.is_disconnected():
            # Nobody has learned its id, and nobody can ask for it again.
            await self._sandboxes.kill(sandbox.id)
        return self._created(request, sandbox)

    def _created(self, request: Request, sandbox: Sandbox) -> Response:
        request.state.sandbox_id = sandbox.id  # for the log
        reply = {**sandbox_reply(sandbox, request.state.domain), **new_token_fields(self._sandboxes, sandbox)}
        return JSONResponse(reply, status_code=201)

    async def connect(self, request: Request) -> Response:
        """Join a running sandbox; its life is only ever prolonged."""
        fields = await read_fields(request)
        if self._v1_only and fields.integer("timeout") is None:
            raise ApiError(400, f"timeout should between 0 and {MAX_TIMEOUT}")
        timeout = _positive_timeout(fields)
        sandbox_id = request.path_params["sandbox_id"]
        if self._sandboxes.is_ending(sandbox_id, owner_of(request)):
            raise being_killed(sandbox_id)
        sandbox = self._found(request)
        resumed = await self._sandboxes.operations.resume(sandbox, timeout, memory=fields.flag("memory") is not False)
        return JSONResponse(sandbox_reply(sandbox, request.state.domain), status_code=201 if resumed else 200)

    async def resume(self, request: Request) -> Response:
        """Let a paused sandbox go on; the route of SDKs before ``connect`` did this."""
        fields = await read_fields(request)
        timeout = _positive_timeout(fields)
        sandbox = self._found(request)
        if sandbox.state is State.RUNNING:
            raise ApiError(409, f"Sandbox {sandbox.id} is already running")
        await self._sandboxes.operations.resume(sandbox, timeout, memory=fields.flag("memory") is not False)
        return JSONResponse(sandbox_reply(sandbox, request.state.domain), status_code=201)

    async def pause(self, request: Request) -> Response:
        """Stop everything in a sandbox, as it is; 204 when that is done, and for one that is paused already."""
        kept = read_reserved_header(request.headers.get(RESERVE_PAUSED_HEADER))
        fields = await read_fields(request)
        memory = fields.flag("memory") is not False
        fields.flag("requireHealthyGuest")  # a program that does not answer is refused anyway
        await self._sandboxes.operations.pause(self._found(request), memory=memory, kept=kept)
        return Response(status_code=204)

    async def get(self, request: Request) -> Response:
        """One sandbox in full."""
        return JSONResponse(sandbox_detail(self._found(request), request.state.domain))

    async def list_running(self, request: Request) -> Response:
        """One page of running sandboxes: E2B's older list, whose programs know of no paused ones."""
        return self._listed(request, replace(read_query(request.query_params), states=frozenset({"running"})))

    async def list(self, request: Request) -> Response:
        """One page of sandboxes, newest first unless asked otherwise."""
        return self._listed(request, read_query(request.query_params))

    def _listed(self, request: Request, query: ListQuery) -> Response:
        everything = self._sandboxes.all(owner_of(request))
        shown, token = page(everything, query)
        running = sum(sandbox.state is State.RUNNING for sandbox in everything)
        headers = {"X-Total-Running": str(running)} if "running" in query.states else {}
        if token is not None:
            headers["X-Next-Token"] = token
        return JSONResponse([sandbox_listed(sandbox) for sandbox in shown], headers=headers)

    async def kill(self, request: Request) -> Response:
        """End a sandbox: 204 when everything in it has ended."""
        sandbox = self._found(request)
        if not await self._sandboxes.kill(sandbox.id):
            raise sandbox_not_found(sandbox.id)
        return Response(status_code=204)

    async def set_timeout(self, request: Request) -> Response:
        """Set the end time, sooner or later than before; 0 ends the sandbox now."""
        timeout = (await read_fields(request)).integer("timeout")
        if timeout is None:
            raise ApiError(400, "field 'timeout' is missing; it must be a whole number of seconds")
        sandbox = self._found(request, State.RUNNING)
        if timeout <= 0:
            await self._sandboxes.operations.expire(sandbox)
        else:
            await self._sandboxes.operations.set_timeout(sandbox, min(timeout, MAX_TIMEOUT))
        return Response(status_code=204)

    async def refresh(self, request: Request) -> Response:
        """Let a sandbox live at least some seconds more."""
        duration = (await read_fields(request)).integer("duration") or 0
        sandbox = self._found(request, State.RUNNING)
        await self._sandboxes.operations.extend(sandbox, min(max(duration, LEAST_REFRESH), MAX_TIMEOUT))
        return Response(status_code=204)

    async def new_traffic_token(self, request: Request) -> Response:
        """A new token; the earlier ones stay valid until their own end."""
        if not request.state.private:
            raise ApiError(404, "traffic access tokens are only served below /kruise/api")
        try:
            await read_fields(request)
        except ApiError as error:
            raise ApiError(400, "Invalid traffic access token refresh request") from error
        sandbox_id = request.path_params["sandbox_id"]
        sandbox = self._sandboxes.running(sandbox_id)
        if sandbox is None or sandbox.owner != owner_of(request):
            raise ApiError(404, f"Sandbox route not found, maybe it is crashed or killed: {sandbox_id}")
        if not sandbox.protected:
            raise ApiError(409, "Sandbox cannot refresh its traffic access token")
        return JSONResponse(token_fields(self._sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid)))

    def _found(self, request: Request, *states: State) -> Sandbox:
        return own_sandbox(request, self._sandboxes, *states)

    def _template(self, reference: str, owner: str) -> tuple[Template, Path | None]:
        """The template, and the files that its sandboxes begin with."""
        prepared = self._templates.prepared(reference)
        if prepared is not None:
            return prepared.template, prepared.files
        snapshot = self._snapshots.find(reference, owner)
        if snapshot is not None:
            return self._snapshots.template(snapshot)
        names = ", ".join(one.name for one in self._templates.all())
        raise ApiError(404, f"template '{reference}' not found; this manager has: {names}")


def _positive_timeout(fields: Fields) -> int:
    timeout = fields.integer("timeout")
    if timeout is None:
        return DEFAULT_TIMEOUT
    if timeout <= 0:
        raise ApiError(400, f"Timeout must be greater than 0, got {timeout}")
    if timeout > MAX_TIMEOUT:
        raise ApiError(400, f"Timeout cannot be greater than {MAX_TIMEOUT // 3600} hours, got {timeout} seconds")
    return timeout


def _variables(fields: Fields) -> dict[str, str]:
    variables = fields.texts("envVars")
    total = 0
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            raise ApiError(400, f"field 'envVars.{name}' cannot be an environment variable")
        size = len(name.encode()) + len(value.encode()) + 2
        if size > MAX_VARIABLE_BYTES:
            raise ApiError(
                400, f"field 'envVars.{name}' has {size} bytes; programs can be given {MAX_VARIABLE_BYTES} at most"
            )
        total += size
    if total > MAX_VARIABLES_BYTES:
        raise ApiError(
            400, f"field 'envVars' has {total} bytes; it may have {MAX_VARIABLES_BYTES}, or no program starts"
        )
    return variables


def _refuse_unsupported(fields: Fields) -> None:
    """Refuse what would be silently ignored otherwise and changes what the sandbox may do or how long it lives."""
    fields.refuse("iam", "there is no identity provider")
    fields.refuse("mcp", "there is no MCP gateway")
