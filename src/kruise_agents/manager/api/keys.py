"""API keys and teams over REST, as OpenKruise's manager has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NotRequired, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...protocol.fields import Fields
from ...protocol.keys import encode_key
from ...protocol.names import API_KEY_HEADER
from ..accounts.inheritance import Inheritance
from ..accounts.keys import ADMIN_ID, ApiKey, Keys, raw_key, team_id
from ..accounts.quota import DIMENSIONS, SCOPES, UNLIMITED, Limit, Quota
from .auth import caller_of, still_valid
from .errors import ApiError
from .formats import Timestamp, timestamp
from .reading import Read, Schema, allow_only
from .routes import Resource, operation

MAX_KEYS_OF_A_TEAM = 1000
_MAX_NAME = 256
_TEAM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _read_name(fields: Fields, name: str) -> str:
    text = fields.text(name) or ""
    if not text.strip():
        raise ApiError(400, "api-key name is required")
    if len(text) > _MAX_NAME:
        raise ApiError(400, f"api-key name has {len(text)} characters; it may have {_MAX_NAME}")
    return text


@dataclass(frozen=True, slots=True)
class NewLimitRequest:
    """A limit of a quota."""

    dimension: Annotated[str, Schema(enum=list(DIMENSIONS))]
    scope: Annotated[str, Schema(enum=list(SCOPES))]
    limit: Annotated[int, Schema(minimum=0)]

    @staticmethod
    def check(fields: Fields) -> None:
        """Refuse members with other names."""
        allow_only(fields, "dimension", "scope", "limit")


@dataclass(frozen=True, slots=True)
class NewQuotaRequest:
    """The quota of a new key."""

    limits: list[NewLimitRequest] = field(default_factory=list)

    @staticmethod
    def check(fields: Fields) -> None:
        """Refuse members with other names: a misspelled name would make a key without limits."""
        allow_only(fields, "limits")

    def quota(self) -> Quota:
        """Return the quota.

        Raises:
            ApiError: 400.
        """
        try:
            return Quota.read(Limit(limit.dimension, limit.scope, limit.limit) for limit in self.limits)
        except ValueError as error:
            raise ApiError(400, str(error)) from None


@dataclass(frozen=True, slots=True)
class NewApiKeyRequest:
    """The body of a new key."""

    name: Annotated[str, Read(_read_name), Schema(minLength=1, maxLength=_MAX_NAME)]
    team_name: Annotated[str, Schema(pattern=f"^{_TEAM.pattern}$")] = ""
    quota: NewQuotaRequest = field(default_factory=NewQuotaRequest)

    @staticmethod
    def check(fields: Fields) -> None:
        """Refuse members with other names."""
        allow_only(fields, "name", "teamName", "quota")


@dataclass(frozen=True, slots=True)
class ApiKeysQuery:
    """The query of a list of keys."""

    team_name: str | None = None


class TeamReply(TypedDict):
    """A team of the caller."""

    teamID: str
    name: str
    apiKey: Literal[""]
    isDefault: bool


class CompatibleKeyReply(TypedDict):
    """A key in the form that every SDK accepts."""

    key: str


class MaskReply(TypedDict):
    """The hint at a key's value, which is always empty."""

    maskedValuePrefix: Literal[""]
    maskedValueSuffix: Literal[""]
    prefix: Literal[""]
    valueLength: Literal[0]


class CreatorReply(TypedDict):
    """The key that made a key."""

    email: Literal[""]
    id: str


class LimitReply(TypedDict):
    """A limit of a quota."""

    dimension: Annotated[str, Schema(enum=list(DIMENSIONS))]
    scope: Annotated[str, Schema(enum=list(SCOPES))]
    limit: Annotated[int, Schema(minimum=0)]


class QuotaReply(TypedDict):
    """The quota of a key."""

    limits: Sequence[LimitReply]


class ApiKeyReply(TypedDict):
    """A key without its value."""

    id: str
    name: str
    mask: MaskReply
    createdAt: Timestamp
    createdBy: CreatorReply | None
    lastUsed: Timestamp | None
    quota: NotRequired[QuotaReply]


class KeyTeamReply(TypedDict):
    """The team of a new key."""

    id: str
    name: str


class MadeApiKeyReply(ApiKeyReply):
    """A new key with its value."""

    key: str
    team: KeyTeamReply


class KeyRoutes(Resource):
    """The routes of keys and teams, over the keys of one manager and what belongs to them."""

    def __init__(self, keys: Keys, inheritance: Inheritance) -> None:
        self._keys = keys
        self._inheritance = inheritance

    @operation(
        "GET",
        "/teams",
        summary="The caller's team; for the admin team every team",
        answers={200: list[TeamReply]},
    )
    async def teams(self, request: Request) -> Response:
        caller = caller_of(request)
        shown: list[TeamReply] = [
            {"teamID": team_id(team), "name": team, "apiKey": "", "isDefault": team == caller.team}
            for team in (self._keys.teams() if caller.is_admin else [caller.team])
        ]
        return JSONResponse(shown)

    @operation(
        "GET",
        "/api-keys/compatible",
        summary="The caller's own key in the form that every SDK accepts",
        answers={200: CompatibleKeyReply},
    )
    async def compatible(self, request: Request) -> Response:
        key = encode_key(raw_key(request.headers[API_KEY_HEADER].encode("latin-1")))
        return JSONResponse(CompatibleKeyReply(key=key))

    @operation(
        "GET",
        "/api-keys",
        summary="List the keys of a team, oldest first",
        answers={200: list[ApiKeyReply]},
        refusals=(403,),
        note="Only the admin team may ask for another team than its own.",
    )
    async def list_all(self, request: Request, query: ApiKeysQuery) -> Response:
        caller = caller_of(request)
        team = caller.team if query.team_name is None else query.team_name
        if team != caller.team and not caller.is_admin:
            raise ApiError(403, "You are not allowed to list the API keys of another team")
        return JSONResponse([self._shown(key) for key in self._keys.of_team(team)])

    @operation(
        "POST",
        "/api-keys",
        summary="Make a key, which is told this once",
        answers={201: MadeApiKeyReply},
        refusals=(400, 403, 507),
    )
    async def make(self, request: Request, body: NewApiKeyRequest) -> Response:
        caller = still_valid(request, self._keys)
        team = _team(body.team_name, caller)
        if caller.quota != UNLIMITED:
            raise ApiError(403, "an api-key that has a quota cannot create others")
        quota = body.quota.quota()
        if quota != UNLIMITED and not caller.is_admin:
            raise ApiError(403, "only admin can set api-key quota")
        if len(self._keys.of_team(team)) >= MAX_KEYS_OF_A_TEAM:
            raise ApiError(403, f'the team "{team}" has {MAX_KEYS_OF_A_TEAM} API keys; delete some first')
        key, raw = self._keys.make(body.name, team, caller, quota)
        shown: MadeApiKeyReply = {
            **self._shown(key),
            "key": encode_key(raw),
            "team": {"id": team_id(team), "name": team},
        }
        return JSONResponse(shown, status_code=201)

    @operation(
        "DELETE",
        "/api-keys/{key_id}",
        summary="Delete a key; what belonged to it belongs to the admin key",
        answers={204: None},
        refusals=(403, 404, 507),
    )
    async def remove(self, request: Request) -> Response:
        caller = caller_of(request)
        key = self._keys.get(request.path_params["key_id"])
        if key is None:
            raise ApiError(404, "API key not found")
        if not caller.is_admin and key.team != caller.team:
            raise ApiError(403, "You are not allowed to delete this API key")
        if key.id == ADMIN_ID:
            raise ApiError(403, "the well-known admin api-key cannot be deleted")
        if key.created_by is None:
            raise ApiError(403, "this api-key was given when the manager was started; start it without to end it")
        self._keys.remove(key)
        self._inheritance.transfer_to_admin(key.id)
        return Response(status_code=204)

    def _shown(self, key: ApiKey) -> ApiKeyReply:
        used = self._keys.last_used(key)
        shown: ApiKeyReply = {
            "id": key.id,
            "name": key.name,
            "mask": {"maskedValuePrefix": "", "maskedValueSuffix": "", "prefix": "", "valueLength": 0},
            "createdAt": timestamp(key.created_at),
            "createdBy": {"email": "", "id": key.created_by} if key.created_by else None,
            "lastUsed": timestamp(used) if used is not None else None,
        }
        if key.quota != UNLIMITED:
            shown["quota"] = {
                "limits": [
                    {"dimension": limit.dimension, "scope": limit.scope, "limit": limit.limit}
                    for limit in key.quota.limits
                ]
            }
        return shown


def _team(team: str, caller: ApiKey) -> str:
    if not team:
        return caller.team
    if team != caller.team and not caller.is_admin:
        raise ApiError(403, "You are not allowed to create an API key for another team")
    if "--" in team:
        raise ApiError(
            400, f'namespace "{team}" must not contain "--": this sequence is reserved as the sandbox ID separator'
        )
    if _TEAM.fullmatch(team) is None:
        raise ApiError(
            400, f"team name \"{team[:80]}\" must be 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        )
    return team
