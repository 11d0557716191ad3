"""The route ``POST /sandboxes``: the body of a create call, and the handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....protocol.fields import Fields
from ...accounts.keys import ApiKey, Keys
from ...accounts.quota import QuotaExceededError
from ...sandboxes.control_client import StartError
from ...sandboxes.sandbox import Lifetime, NewSandbox, Sandbox
from ...sandboxes.service import ManagerEndingError, SandboxService
from ...sandboxes.snapshots import Snapshots
from ...templates.model import Template, Templates, is_variable
from ...volumes import Volumes
from ..auth import owner_of, still_valid
from ..errors import DO_NOT_RETRY, RETRY, ApiError
from ..formats import Timeout
from ..reading import Spec, refuse
from ..replies import SandboxReply, created_reply
from ..routes import Resource, Topic, operation
from ..volumes import MAX_MOUNTS, NewVolumeMountRequest, read_volume_mounts, volume_mounts
from .extensions import read_extensions
from .idempotency import IdempotencyHeaders, IdempotentCreates, OnIdAssigned
from .network import NO_INTERNET, NO_RULES, NewNetworkRequest, egress_rules
from .operations import DEFAULT_TIMEOUT

MAX_VARIABLE_BYTES = 128 * 1024  # Linux: MAX_ARG_STRLEN
MAX_VARIABLES_BYTES = 1024 * 1024
"""The limit for all variables together. Linux usually allows 2 MiB, of which commands need some for themselves."""

logger = logging.getLogger(__name__)


def check_variables(name: str, variables: Mapping[str, str]) -> None:
    """Raise ApiError 400 for variables that no program can be started with."""
    total = 0
    for variable, value in variables.items():
        if not is_variable(variable, value):
            raise ApiError(400, f"field '{name}.{variable}' cannot be an environment variable")
        size = len(variable.encode()) + len(value.encode()) + 2
        if size > MAX_VARIABLE_BYTES:
            raise ApiError(
                400, f"field '{name}.{variable}' has {size} bytes; programs can be given {MAX_VARIABLE_BYTES} at most"
            )
        total += size
    if total > MAX_VARIABLES_BYTES:
        raise ApiError(
            400, f"field '{name}' has {total} bytes; it may have {MAX_VARIABLES_BYTES}, or no program starts"
        )


def _read_enabled(fields: Fields, name: str) -> bool | None:
    # e2b 2.14 sends {"policy": "any"}.
    policy = fields.required_text("policy") if fields.has("policy") else None
    if policy is None:
        return fields.flag(name)
    if policy not in ("any", "off"):
        raise ApiError(400, f"field 'autoResume.policy' must be 'any' or 'off', got '{policy}'")
    return policy == "any"


@dataclass(frozen=True, slots=True)
class _AutoResumeRequest:
    enabled: Annotated[bool, Spec(read=_read_enabled, description="traffic resumes the sandbox when it is paused")] = (
        False
    )


@dataclass(frozen=True, slots=True)
class _NewSandboxRequest:
    template_id: Annotated[
        str,
        Spec(
            description="the name of a template, or the ID of a snapshot; where the ID is name:tag, the name alone "
            "means the tag default",
            examples=["base"],
        ),
    ]
    timeout: Annotated[Timeout, Spec(description="seconds until the end time of the sandbox")] = DEFAULT_TIMEOUT
    metadata: Annotated[
        dict[str, str],
        Spec(description="text that stays with the sandbox; OpenKruise's keys are settings, or are refused"),
    ] = field(default_factory=dict)
    env_vars: Annotated[
        dict[str, str],
        Spec(check=check_variables, description="environment variables of commands and code in the sandbox"),
    ] = field(default_factory=dict)
    secure: Annotated[bool, Spec(description="whether files, commands and code need an access token")] = True
    allow_internet_access: Annotated[bool | None, Spec(name="allow_internet_access", description=NO_INTERNET)] = None
    volume_mounts: Annotated[list[NewVolumeMountRequest], Spec(read=read_volume_mounts, maxItems=MAX_MOUNTS)] = field(
        default_factory=list
    )
    network: Annotated[NewNetworkRequest, Spec(description=NO_RULES)] = field(default_factory=NewNetworkRequest)
    auto_pause: Annotated[bool, Spec(description="at the end time, pause the sandbox instead of ending it")] = False
    auto_pause_memory: Annotated[
        bool, Spec(description="false: that pause keeps files only; needs autoPause, and excludes autoResume")
    ] = True
    auto_resume: _AutoResumeRequest = field(default_factory=_AutoResumeRequest)

    @staticmethod
    def check(fields: Fields) -> None:
        """Refuse a body that asks for features that this manager lacks, because clients might not notice the lack."""
        refuse(fields, {"iam": "there is no identity provider", "mcp": "there is no MCP gateway"})

    def __post_init__(self) -> None:
        if not self.auto_pause_memory and not self.auto_pause:
            raise ApiError(400, "autoPauseMemory=false only applies when autoPause is true.")
        if not self.auto_pause_memory and self.auto_resume.enabled:
            raise ApiError(
                400,
                "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume: a "
                "filesystem-only snapshot cannot be auto-resumed by traffic and must be resumed explicitly.",
            )
        if not self.network.allow_public_traffic and not self.secure:
            # Without public traffic, every port but envd's asks for the traffic token. envd asks for its own token only
            # if the sandbox is secure.
            raise ApiError(
                400,
                "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' "
                "flag.",
            )


class CreateRoutes(Resource):
    """The route of create calls. e2b up to 2.50.0 calls ``/sandboxes``, later releases call ``/v2/sandboxes``."""

    topic = Topic.SANDBOXES

    def __init__(
        self, sandboxes: SandboxService, templates: Templates, snapshots: Snapshots, volumes: Volumes, keys: Keys
    ) -> None:
        self._sandboxes = sandboxes
        self._templates = templates
        self._snapshots = snapshots
        self._volumes = volumes
        self._keys = keys
        self._creates = IdempotentCreates(sandboxes.store, sandboxes.secret)

    @operation(
        "POST /sandboxes",
        "Create a sandbox from a template or a snapshot",
        (400, 500, 503, 507),
        meanings={
            403: "The quota of the API key is used up",
            404: "There is no such template, snapshot or volume",
            409: "An earlier create with the same Idempotency-Key crashed, or its sandbox is gone",
            422: "The Idempotency-Key came with another body before",
        },
        answers={201: SandboxReply},
        also="/v2/sandboxes",
    )
    async def create(
        self, request: Request, headers: IdempotencyHeaders, body: _NewSandboxRequest, fields: Fields
    ) -> Response:
        owner = owner_of(request)

        async def create(on_id_assigned: OnIdAssigned) -> Response:
            caller = still_valid(request, self._keys)
            sandbox = await self._create(body, caller, on_id_assigned)
            request.state.sandbox_id = sandbox.id  # for the log
            if headers.key is None and await request.is_disconnected():
                # The client left without the id. Without an idempotency key it cannot ask for the sandbox again.
                await self._sandboxes.kill(sandbox.id)
            return self._answer(request, sandbox)

        def replay(sandbox_id: str) -> Response | None:
            sandbox = self._sandboxes.find(sandbox_id)
            return self._answer(request, sandbox) if sandbox is not None and sandbox.owner == owner else None

        return await self._creates.answer(owner, headers.key, fields.values, create, replay)

    def _answer(self, request: Request, sandbox: Sandbox) -> Response:
        return JSONResponse(created_reply(sandbox, request.state.domain, self._sandboxes), status_code=201)

    async def _create(self, body: _NewSandboxRequest, caller: ApiKey, on_id_assigned: OnIdAssigned) -> Sandbox:
        extensions = read_extensions(body.metadata)
        network = body.network
        rules = egress_rules(network.allow_out, network.deny_out, body.allow_internet_access, self._sandboxes)
        template, files = self._template(body.template_id, caller.id)
        runtime = self._sandboxes.runtime
        mounts = volume_mounts(
            body.volume_mounts, self._volumes, caller.id, lambda path: runtime.reserves(path, template.rootfs_folder)
        )
        if mounts and not runtime.mounts_volumes:
            raise ApiError(400, f"field 'volumeMounts' is not supported by the runtime '{runtime.name}'")
        if not extensions.create_on_no_stock and (mounts or not self._sandboxes.pools.has(template, files)):
            raise ApiError(500, f"no available sandboxes for template {template.name} (no stock)", headers=DO_NOT_RETRY)
        lifetime = Lifetime(
            seconds=body.timeout,
            never_ends=extensions.never_ends,
            pause_at_end=body.auto_pause,
            pause_keeps_memory=body.auto_pause_memory,
            wakes_on_traffic=body.auto_resume.enabled,
            paused_seconds=extensions.paused_seconds,
        )
        new = NewSandbox(
            template=template,
            owner=caller.id,
            lifetime=lifetime,
            secure=body.secure,
            metadata=extensions.metadata,
            variables=body.env_vars,
            quota=caller.quota,
            files=files,
            volume_mounts=mounts,
            rules=rules,
            public=network.allow_public_traffic,
        )
        return await start_sandbox(self._sandboxes, new, extensions.ready_seconds, on_id_assigned)

    def _template(self, reference: str, owner: str) -> tuple[Template, Path | None]:
        found = self._snapshots.source(reference, owner, self._templates)
        if found is None:
            names = ", ".join(template.name for template in self._templates.all())
            raise ApiError(404, f"template '{reference}' not found; this manager has: {names} (--templates adds more)")
        return found


async def start_sandbox(
    sandboxes: SandboxService,
    new: NewSandbox,
    seconds: float | None,
    on_id_assigned: OnIdAssigned = lambda sandbox_id: None,
) -> Sandbox:
    """Create a sandbox within ``seconds``, if given. Every failure but a full disk raises an ApiError."""
    try:
        async with asyncio.timeout(seconds):
            return await sandboxes.create(new, on_id_assigned)
    except QuotaExceededError as error:
        raise ApiError(403, str(error)) from None
    except TimeoutError:
        message = f"the sandbox was not ready within {seconds} seconds, as the metadata asks; it was ended"
        raise ApiError(500, message, headers=DO_NOT_RETRY) from None
    except ManagerEndingError as error:
        raise ApiError(503, str(error), headers=RETRY) from None
    except (StartError, OSError) as error:
        logger.exception("no sandbox could be made")
        raise ApiError(500, f"the sandbox could not be started: {error}", headers=DO_NOT_RETRY) from error
