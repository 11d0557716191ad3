"""The routes of existing sandboxes: get, list, connect, pause, resume, kill, time-outs and traffic tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....protocol.fields import Fields
from ....protocol.names import PROTECT_KEY
from ...sandboxes.lifecycle import RefusedError, State
from ...sandboxes.sandbox import Sandbox
from ...sandboxes.service import SandboxService
from ..auth import NOT_RUNNING, own_sandbox, owner_of
from ..errors import ApiError, sandbox_not_found
from ..formats import DURATION, MAX_TIMEOUT, Timeout
from ..reading import Spec, read_fields
from ..replies import (
    ListedSandboxReply,
    SandboxDetailReply,
    SandboxReply,
    TrafficTokenReply,
    sandbox_detail,
    sandbox_listed,
    sandbox_reply,
    token_reply,
)
from ..routes import Resource, Topic, operation
from .extensions import read_reserved_header
from .listing import ListQuery, RunningListQuery, page

DEFAULT_TIMEOUT = 300
LEAST_REFRESH = 15

_SANDBOX = "/sandboxes/{sandbox_id}"
_CHANGE = (400, 404, 500, 507)
_BEING_PAUSED = "a pause of the sandbox is under way; the request may be repeated"
_NO_EFFECT = "Without effect on a sandbox that never ends."


@dataclass(frozen=True, slots=True)
class _ConnectRequest:
    timeout: Annotated[Timeout | None, Spec(description=f"seconds from now; left out: {DEFAULT_TIMEOUT}")] = None
    memory: Annotated[
        bool,
        Spec(description="false: a paused sandbox boots anew from its files, as after a pause that kept files only"),
    ] = True

    @property
    def seconds(self) -> int:
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout


@dataclass(frozen=True, slots=True)
class _PauseRequest:
    memory: Annotated[bool, Spec(description="false: the pause keeps files only")] = True
    require_healthy_guest: Annotated[
        bool, Spec(description="without effect: a pause does not ask whether envd answers")
    ] = False


@dataclass(frozen=True, slots=True)
class PauseHeaders:
    """The headers of a pause request."""

    kept: Annotated[
        float | None,
        Spec(name="x-e2b-kruise-reserve-paused-sandbox-duration", read=read_reserved_header),
        DURATION,
        Spec(
            description="how long the paused sandbox is kept: forever, or a duration such as 90s, 1.5h, 2h45m; left "
            "out: as the metadata of the create says, or forever"
        ),
    ] = None


def _read_end(fields: Fields, name: str) -> int:
    seconds = fields.integer(name)
    if seconds is None:
        raise ApiError(400, "field 'timeout' is missing; it must be a whole number of seconds")
    return seconds


@dataclass(frozen=True, slots=True)
class _TimeoutRequest:
    timeout: Annotated[
        int,
        Spec(
            read=_read_end,
            description="seconds from now; 0 or less: what the end time does is done now; more than "
            f"{MAX_TIMEOUT:,} count as {MAX_TIMEOUT:,}",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _RefreshRequest:
    duration: Annotated[
        int,
        Spec(
            description=f"seconds from now; fewer than {LEAST_REFRESH} count as {LEAST_REFRESH}, more than "
            f"{MAX_TIMEOUT:,} as {MAX_TIMEOUT:,}"
        ),
    ] = 0


class SandboxRoutes(Resource):
    """The routes of existing sandboxes. Connect has a second path, below ``/v2``, which e2b calls from 2.51.0 on."""

    topic = Topic.SANDBOXES

    def __init__(self, sandboxes: SandboxService) -> None:
        self._sandboxes = sandboxes

    @operation(
        "GET /sandboxes",
        "List running sandboxes",
        (400,),
        answers={200: list[ListedSandboxReply]},
    )
    async def list_running(self, request: Request, query: RunningListQuery) -> Response:
        return self._listed(request, query, frozenset({"running"}))

    @operation(
        "GET /v2/sandboxes",
        "List running and paused sandboxes",
        (400,),
        answers={200: list[ListedSandboxReply]},
    )
    async def list_all(self, request: Request, query: ListQuery) -> Response:
        return self._listed(request, query, query.state)

    @operation(f"GET {_SANDBOX}", "Get a sandbox", (404,))
    async def get(self, request: Request) -> SandboxDetailReply:
        return sandbox_detail(self._found(request), request.state.domain)

    @operation(f"DELETE {_SANDBOX}", "Kill a sandbox", (404,))
    async def kill(self, request: Request) -> None:
        sandbox = self._found(request)
        if not await self._sandboxes.kill(sandbox.id):
            raise sandbox_not_found(sandbox.id)

    @operation(
        f"POST {_SANDBOX}/connect",
        "Connect to a sandbox; resume it if it is paused",
        _CHANGE,
        meanings={400: f"The general meaning, or: {_BEING_PAUSED}"},
        note="200: the sandbox was running, and keeps its end time if that is later. 201: the sandbox was resumed. A "
        "sandbox that never ends stays without an end time.",
        answers={200: SandboxReply, 201: SandboxReply},
        also=f"/v2{_SANDBOX}/connect",
    )
    async def connect(self, request: Request, body: _ConnectRequest) -> Response:
        sandbox = self._found(request)
        resumed = await self._resume(sandbox, body, 400)
        return JSONResponse(sandbox_reply(sandbox, request.state.domain), status_code=201 if resumed else 200)

    @operation(
        f"POST {_SANDBOX}/resume",
        "Resume a paused sandbox",
        _CHANGE,
        meanings={409: f"The sandbox is running, or: {_BEING_PAUSED}"},
        status=201,
    )
    async def resume(self, request: Request, body: _ConnectRequest) -> SandboxReply:
        sandbox = self._found(request)
        if sandbox.state is State.RUNNING:
            raise ApiError(409, f"Sandbox {sandbox.id} is already running")
        await self._resume(sandbox, body, 409)
        return sandbox_reply(sandbox, request.state.domain)

    @operation(
        f"POST {_SANDBOX}/pause",
        "Pause a sandbox, with or without its processes",
        _CHANGE,
        note="A sandbox that is paused already stays as it is, and the answer is 204.",
    )
    async def pause(self, request: Request, headers: PauseHeaders, body: _PauseRequest) -> None:
        await self._sandboxes.operations.pause(self._found(request), memory=body.memory, kept=headers.kept)

    @operation(
        f"POST {_SANDBOX}/timeout",
        "Set the end time of a running sandbox",
        _CHANGE,
        meanings={404: NOT_RUNNING},
        note=_NO_EFFECT,
    )
    async def set_timeout(self, request: Request, body: _TimeoutRequest) -> None:
        sandbox = self._found(request, State.RUNNING)
        if body.timeout <= 0:
            await self._sandboxes.operations.expire(sandbox)
        else:
            await self._sandboxes.operations.set_timeout(sandbox, min(body.timeout, MAX_TIMEOUT))

    @operation(
        f"POST {_SANDBOX}/refreshes",
        "Move the end time of a running sandbox to a later time",
        (400, 500),
        meanings={404: NOT_RUNNING},
        note=f"An end time that is later already stays. {_NO_EFFECT}",
    )
    async def refresh(self, request: Request, body: _RefreshRequest) -> None:
        sandbox = self._found(request, State.RUNNING)
        await self._sandboxes.operations.extend(sandbox, min(max(body.duration, LEAST_REFRESH), MAX_TIMEOUT))

    @operation(
        f"POST {_SANDBOX}/traffic-access-token",
        "Get a new traffic access token for a protected sandbox",
        meanings={
            400: "The body is not a JSON object, or is larger than 4 MiB or too slow",
            404: f"{NOT_RUNNING}, or the path is not below /kruise/api",
            409: "The sandbox is not protected",
        },
        note="Only below /kruise/api. Earlier tokens stay valid until their own end. A sandbox is protected if its "
        f"create had the metadata {PROTECT_KEY} with the value true.",
    )
    async def new_traffic_token(self, request: Request) -> TrafficTokenReply:
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
        return token_reply(self._sandboxes.traffic_tokens.issue(sandbox.id, sandbox.uid))

    async def _resume(self, sandbox: Sandbox, body: _ConnectRequest, status: int) -> bool:
        try:
            return await self._sandboxes.operations.resume(sandbox, body.seconds, memory=body.memory)
        except RefusedError as error:
            if error.state is not State.PAUSING:
                raise
            # OpenKruise's clients look for its text before they try again.
            raise ApiError(
                status,
                "Failed to resume sandbox: Conflict: sandbox is not resumable, reason: SandboxIsPausing; try again in "
                "a moment",
            ) from None

    def _listed(self, request: Request, query: RunningListQuery, states: frozenset[str]) -> Response:
        everything = self._sandboxes.all(owner_of(request))
        shown, token = page(everything, query, states)
        running = sum(sandbox.state is State.RUNNING for sandbox in everything)
        headers = {"X-Total-Running": str(running)} if "running" in states else {}
        if token is not None:
            headers["X-Next-Token"] = token
        return JSONResponse([sandbox_listed(sandbox) for sandbox in shown], headers=headers)

    def _found(self, request: Request, *states: State) -> Sandbox:
        return own_sandbox(request, self._sandboxes, *states)
