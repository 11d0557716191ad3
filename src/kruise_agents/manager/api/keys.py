"""API keys and teams over REST, as OpenKruise's manager has them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...protocol.keys import encode_key
from ...protocol.names import API_KEY_HEADER
from ..accounts.inheritance import Inheritance
from ..accounts.keys import ADMIN_ID, ApiKey, Keys, raw_key, team_id
from ..accounts.quota import UNLIMITED, Limit, Quota
from .auth import caller_of, still_valid
from .errors import ApiError
from .reading import Fields, read_fields
from .replies import timestamp

MAX_KEYS_OF_A_TEAM = 1000
_MAX_NAME = 256
_TEAM = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MASK = {"maskedValuePrefix": "", "maskedValueSuffix": "", "prefix": "", "valueLength": 0}


class KeyRoutes:
    """The handlers, over the keys of one manager and what belongs to them."""

    def __init__(self, keys: Keys, holdings: Inheritance) -> None:
        self._keys = keys
        self._holdings = holdings

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/teams", self.teams, methods=["GET"]),
            Route("/api-keys/compatible", self.compatible, methods=["GET"]),
            Route("/api-keys", self.list, methods=["GET"]),
            Route("/api-keys", self.make, methods=["POST"]),
            Route("/api-keys/{key_id}", self.remove, methods=["DELETE"]),
        ]

    async def teams(self, request: Request) -> Response:
        """The caller's team; for the admin team every team."""
        caller = caller_of(request)
        teams = self._keys.teams() if caller.is_admin else [caller.team]
        return JSONResponse(
            [{"teamID": team_id(team), "name": team, "apiKey": "", "isDefault": team == caller.team} for team in teams]
        )

    async def compatible(self, request: Request) -> Response:
        """The caller's own key in the form that every SDK accepts."""
        return JSONResponse({"key": encode_key(raw_key(request.headers[API_KEY_HEADER].encode("latin-1")))})

    async def list(self, request: Request) -> Response:
        """The keys of the caller's team, oldest first; the admin team may ask for another with ``teamName``."""
        caller = caller_of(request)
        team = request.query_params.get("teamName", caller.team)
        if team != caller.team and not caller.is_admin:
            raise ApiError(403, "You are not allowed to list the API keys of another team")
        return JSONResponse([self._shown(key) for key in self._keys.of_team(team)])

    async def make(self, request: Request) -> Response:
        """Make a key: 201 with its encoded form, which is never shown again."""
        fields = await read_fields(request)
        fields.allow_only("name", "teamName", "quota")
        caller = still_valid(request, self._keys)
        name = fields.text("name") if "name" in fields.names() else ""
        if not name.strip():
            raise ApiError(400, "api-key name is required")
        if len(name) > _MAX_NAME:
            raise ApiError(400, f"api-key name has {len(name)} characters; it may have {_MAX_NAME}")
        team = _team(fields, caller)
        if caller.quota != UNLIMITED:
            raise ApiError(403, "an api-key that has a quota cannot create others")
        quota = _quota(fields)
        if quota != UNLIMITED and not caller.is_admin:
            raise ApiError(403, "only admin can set api-key quota")
        if len(self._keys.of_team(team)) >= MAX_KEYS_OF_A_TEAM:
            raise ApiError(403, f'the team "{team}" has {MAX_KEYS_OF_A_TEAM} API keys; delete some first')
        key, raw = self._keys.make(name, team, caller, quota)
        shown = {**self._shown(key), "key": encode_key(raw), "team": {"id": team_id(team), "name": team}}
        return JSONResponse(shown, status_code=201)

    async def remove(self, request: Request) -> Response:
        """Delete a key; what belonged to it belongs to the admin key from then on."""
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
        self._holdings.transfer_to_admin(key.id)
        return Response(status_code=204)

    def _shown(self, key: ApiKey) -> dict[str, Any]:
        used = self._keys.last_used(key)
        return {
            "id": key.id,
            "name": key.name,
            "mask": _MASK,
            "createdAt": _moment(key.created_at),
            "createdBy": {"email": "", "id": key.created_by} if key.created_by else None,
            "lastUsed": _moment(used) if used is not None else None,
            **({"quota": key.quota.shown()} if key.quota != UNLIMITED else {}),
        }


def _team(fields: Fields, caller: ApiKey) -> str:
    if "teamName" not in fields.names() or not (team := fields.text("teamName")):
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


def _quota(fields: Fields) -> Quota:
    quota = fields.object("quota")
    quota.allow_only("limits")  # a word spelled wrong would be a key without limits
    entries = quota.objects("limits")
    for entry in entries:
        entry.allow_only("dimension", "scope", "limit")
    try:
        return Quota.read(
            Limit(entry.text("dimension"), entry.text("scope"), entry.required_integer("limit")) for entry in entries
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def _moment(seconds: float) -> str:
    return timestamp(datetime.fromtimestamp(seconds, UTC))
