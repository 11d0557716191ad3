"""The handlers for API keys and teams of ``--like openkruise``, which differ only in the texts of some errors."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ...protocol.fields import FieldError, Fields
from ..accounts.inheritance import Inheritance
from ..accounts.keys import Keys
from ..accounts.quota import DIMENSIONS, SCOPES
from ..api.keys import ApiKeysQuery, KeyRoutes, NewApiKeyRequest
from ..api.reading import read_body as read_declared
from . import replies
from .reading import Refused, read_object, unmarshal_error


class KeyHandlers:
    """The handlers of routes for API keys and teams.

    In a cluster, a team is a namespace, which must exist before it gets a key. Here, a new name makes a team.
    """

    def __init__(self, keys: Keys, inheritance: Inheritance) -> None:
        self._routes = KeyRoutes(keys, inheritance)

    async def teams(self, request: Request) -> Response:
        return replies.answer(200, await self._routes.teams(request))

    async def compatible(self, request: Request) -> Response:
        return replies.answer(200, await self._routes.compatible(request))

    async def list_all(self, request: Request) -> Response:
        return replies.answer(200, await self._routes.list_all(request, ApiKeysQuery()))

    async def make(self, request: Request) -> Response:
        try:
            fields = Fields(await read_object(request))
            for name in fields.unknown(request.scope["route"].reads):
                raise Refused(400, f'json: unknown field "{name}"')
            _check_quota(fields)
            body = read_declared(NewApiKeyRequest, fields)
        except FieldError as error:
            raise Refused(400, unmarshal_error(error, "NewTeamAPIKey")) from None
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return replies.answer(201, await self._routes.make(request, body))

    async def remove(self, request: Request) -> Response:
        await self._routes.remove(request)
        return replies.answer(204)


def _check_quota(fields: Fields) -> None:
    quota = fields.object("quota")
    for entry in quota.objects("limits") if quota is not None else ():
        for name, known in (("dimension", DIMENSIONS), ("scope", SCOPES)):
            value = entry.text(name) or ""
            if value not in known:
                raise Refused(400, f'unsupported quota {name} "{value}"')
        if (entry.integer("limit") or 0) < 0:
            raise Refused(400, "quota limit must be non-negative")
