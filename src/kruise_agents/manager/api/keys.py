"""The routes of API keys and teams, as OpenKruise's manager serves them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from starlette.requests import Request

from ...protocol.fields import Fields
from ...protocol.keys import encode_key
from ...protocol.names import API_KEY_HEADER
from ..accounts.inheritance import Inheritance
from ..accounts.keys import ADMIN_ID, ApiKey, Keys, raw_key, team_id
from ..accounts.quota import DIMENSIONS, SCOPES, UNLIMITED, Limit, Quota
from .auth import caller_of, still_valid
from .errors import ApiError
from .formats import Timestamp, timestamp
from .reading import Spec, allow_only
from .routes import Resource, Topic, operation

MAX_KEYS_OF_A_TEAM = 1000
_MAX_NAME = 256
_TEAM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MASK = {"maskedValuePrefix": "", "maskedValueSuffix": "", "prefix": "", "valueLength": 0}
_LIMIT = {
    "type": "object",
    "required": ["dimension", "limit", "scope"],
    "properties": {
        "dimension": {"enum": list(DIMENSIONS)},
        "scope": {"enum": list(SCOPES)},
        "limit": {
            "type": "integer",
            "minimum": 0,
            "description": "sandboxes, thousandths of a processor, or MiB, by the dimension",
        },
    },
}
_QUOTA = Spec(type="object", properties={"limits": {"type": "array", "items": _LIMIT}})


def _read_name(fields: Fields, name: str) -> str:
    text = fields.text(name) or ""
    if not text.strip():
        raise ApiError(400, "api-key name is required")
    if len(text) > _MAX_NAME:
        raise ApiError(400, f"api-key name has {len(text)} characters; it may have {_MAX_NAME}")
    return text


def _read_quota(fields: Fields, name: str) -> Quota | None:
    quota = fields.object(name)
    if quota is None:
        return None
    allow_only(quota, "limits")  # a misspelled "limits" would make a key without limits
    entries = quota.objects("limits")
    for entry in entries:
        allow_only(entry, "dimension", "scope", "limit")
    try:
        return Quota.read(
            Limit(entry.required_text("dimension"), entry.required_text("scope"), entry.required_integer("limit"))
            for entry in entries
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None


@dataclass(frozen=True, slots=True)
class NewApiKeyRequest:
    """The body of a request for a new API key."""

    name: Annotated[str, Spec(read=_read_name, minLength=1, maxLength=_MAX_NAME, description="for people; not blank")]
    team_name: Annotated[
        str,
        Spec(
            pattern=f"^{_TEAM.pattern}$",
            description="1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends and without --; left out: the "
            "team of the caller",
        ),
    ] = ""
    quota: Annotated[Quota, _QUOTA, Spec(read=_read_quota, description="limits for all sandboxes of the key")] = (
        UNLIMITED
    )

    @staticmethod
    def check(fields: Fields) -> None:
        allow_only(fields, "name", "teamName", "quota")


@dataclass(frozen=True, slots=True)
class ApiKeysQuery:
    """The query of a list of API keys."""

    team_name: Annotated[str | None, Spec(description="left out: the team of the caller")] = None


class _TeamReply(TypedDict):
    teamID: str
    name: str
    apiKey: Annotated[Literal[""], Spec(description="always empty; SDKs require it")]
    isDefault: Annotated[bool, Spec(description="true: the team of the caller")]


class _CompatibleKeyReply(TypedDict):
    key: str


class _CreatorReply(TypedDict):
    email: Annotated[Literal[""], Spec(description="always empty; SDKs require it")]
    id: Annotated[str, Spec(description="of the API key")]


class _ApiKeyReply(TypedDict):
    id: str
    name: str
    mask: Annotated[dict[str, Any], Spec(description="without meaning; SDKs require it")]
    createdAt: Annotated[Timestamp, Spec(description="of a key given at the start of the manager, that start")]
    createdBy: Annotated[_CreatorReply | None, Spec(description="null: the key was given at the start of the manager")]
    lastUsed: Annotated[
        Timestamp | None,
        Spec(description="null: not used yet; of a key given at the start of the manager, not since that start"),
    ]
    quota: NotRequired[Annotated[dict[str, Any], _QUOTA, Spec(description="missing: the key has no limits")]]


class _KeyTeamReply(TypedDict):
    id: str
    name: str


class _MadeApiKeyReply(_ApiKeyReply):
    key: Annotated[str, Spec(description="the key itself, in the form that every SDK accepts")]
    team: _KeyTeamReply


class KeyRoutes(Resource):
    """The routes of API keys and teams."""

    topic = Topic.KEYS

    def __init__(self, keys: Keys, inheritance: Inheritance) -> None:
        self._keys = keys
        self._inheritance = inheritance

    @operation("GET /teams", "List the team of the caller; for the admin team, every team that has keys")
    async def teams(self, request: Request) -> list[_TeamReply]:
        caller = caller_of(request)
        shown: list[_TeamReply] = [
            {"teamID": team_id(team), "name": team, "apiKey": "", "isDefault": team == caller.team}
            for team in (self._keys.teams() if caller.is_admin else [caller.team])
        ]
        return shown

    @operation("GET /api-keys/compatible", "Get the caller's own key in the form that every SDK accepts")
    async def compatible(self, request: Request) -> _CompatibleKeyReply:
        key = encode_key(raw_key(request.headers[API_KEY_HEADER].encode("latin-1")))
        return _CompatibleKeyReply(key=key)

    @operation(
        "GET /api-keys",
        "List the API keys of a team, oldest first",
        (400,),
        meanings={403: "Only the admin team may name another team"},
    )
    async def list_all(self, request: Request, query: ApiKeysQuery) -> list[_ApiKeyReply]:
        caller = caller_of(request)
        team = caller.team if query.team_name is None else query.team_name
        if team != caller.team and not caller.is_admin:
            raise ApiError(403, "You are not allowed to list the API keys of another team")
        return [self._shown(key) for key in self._keys.of_team(team)]

    @operation(
        "POST /api-keys",
        "Create an API key",
        (400, 507),
        meanings={
            403: "Only the admin team may name another team or a quota; a key with a quota creates none; a team may "
            f"have {MAX_KEYS_OF_A_TEAM} keys at most"
        },
        status=201,
        note="The answer has the key, which the manager does not keep. No other key can read it later.",
    )
    async def make(self, request: Request, body: NewApiKeyRequest) -> _MadeApiKeyReply:
        caller = still_valid(request, self._keys)
        team = _team(body.team_name, caller)
        if caller.quota != UNLIMITED:
            raise ApiError(403, "an api-key that has a quota cannot create others")
        if body.quota != UNLIMITED and not caller.is_admin:
            raise ApiError(403, "only admin can set api-key quota")
        if len(self._keys.of_team(team)) >= MAX_KEYS_OF_A_TEAM:
            raise ApiError(403, f'the team "{team}" has {MAX_KEYS_OF_A_TEAM} API keys; delete some first')
        key, raw = self._keys.make(body.name, team, caller, body.quota)
        shown: _MadeApiKeyReply = {
            **self._shown(key),
            "key": encode_key(raw),
            "team": {"id": team_id(team), "name": team},
        }
        return shown

    @operation(
        "DELETE /api-keys/{key_id}",
        "Delete an API key",
        (404, 507),
        meanings={
            403: "The key is of another team and the caller not of the admin team, or it was given at the start of the "
            "manager"
        },
        note="Whatever belonged to the key belongs to the admin key from then on.",
    )
    async def remove(self, request: Request) -> None:
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

    def _shown(self, key: ApiKey) -> _ApiKeyReply:
        used = self._keys.last_used(key)
        shown: _ApiKeyReply = {
            "id": key.id,
            "name": key.name,
            "mask": _MASK,
            "createdAt": timestamp(key.created_at),
            "createdBy": {"email": "", "id": key.created_by} if key.created_by else None,
            "lastUsed": timestamp(used) if used is not None else None,
        }
        if key.quota != UNLIMITED:
            shown["quota"] = key.quota.shown()
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
