"""Secrets over REST (e2b 2.43.0 and later): set, replaced, listed and destroyed; no answer has a value."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..accounts.keys import Keys
from ..accounts.secrets import SecretNameTakenError, SecretStore, TooManySecretsError
from ..state.tables import SecretRow
from .auth import owner_of, still_valid
from .errors import ApiError
from .reading import Fields, read_fields
from .replies import timestamp
from .sandboxes.listing import page_token, read_limit, read_page_token

MAX_VALUE_BYTES = 65536
MAX_METADATA = 32
_NAME = re.compile(r"[a-z0-9_-]{1,128}")
_RESERVED = "sec_"


class SecretRoutes:
    """The handlers, over the secrets of one manager."""

    def __init__(self, held: SecretStore, keys: Keys) -> None:
        self._held = held
        self._keys = keys

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/secrets", self.list, methods=["GET"]),
            Route("/secrets", self.make, methods=["POST"]),
            Route("/secrets/{secret_id}", self.get, methods=["GET"]),
            Route("/secrets/{secret_id}", self.update, methods=["POST"]),
            Route("/secrets/{secret_id}", self.remove, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """One page of the caller's secrets, oldest first."""
        rows = self._held.all(owner_of(request))
        if token := request.query_params.get("nextToken"):
            after = read_page_token(token)
            rows = [row for row in rows if (row.created_at, row.id) > after]
        limit = read_limit(request.query_params.get("limit"))
        shown = rows[:limit]
        headers = {"X-Next-Token": page_token(shown[-1].created_at, shown[-1].id)} if len(rows) > limit else {}
        return JSONResponse([_shown(row) for row in shown], headers=headers)

    async def make(self, request: Request) -> Response:
        """Keep a new secret: 201."""
        fields = await read_fields(request)
        name = fields.text("name").lower()
        if _NAME.fullmatch(name) is None or name.startswith(_RESERVED):
            raise ApiError(
                400,
                f"Invalid secret name: {name[:60]!r} is not 1 to 128 of a-z, 0-9, '_' and '-', or begins with 'sec_'",
            )
        value, metadata = _value(fields), _metadata(fields)
        try:
            row = self._held.make(still_valid(request, self._keys).id, name, value, metadata)
        except SecretNameTakenError as error:
            raise ApiError(409, str(error)) from None
        except TooManySecretsError as error:
            raise ApiError(400, str(error), error_code="secret_limit_reached") from None
        return JSONResponse(_shown(row), status_code=201)

    async def get(self, request: Request) -> Response:
        """One secret, by id or name."""
        return JSONResponse(_shown(self._found(request)))

    async def update(self, request: Request) -> Response:
        """Keep another value in its place, as the next version."""
        fields = await read_fields(request)
        row = self._found(request)
        metadata = _metadata(fields) if "metadata" in fields.names() else None
        return JSONResponse(_shown(self._held.update(row, _value(fields), metadata)))

    async def remove(self, request: Request) -> Response:
        """Destroy a secret."""
        self._held.remove(self._found(request))
        return Response(status_code=204)

    def _found(self, request: Request) -> SecretRow:
        row = self._held.find(owner_of(request), request.path_params["secret_id"])
        if row is None:
            raise ApiError(404, "Secret not found")
        return row


def _value(fields: Fields) -> str:
    value = fields.text("value")
    size = len(value.encode())
    if not 0 < size <= MAX_VALUE_BYTES:
        raise ApiError(400, f"field 'value' must have 1 to {MAX_VALUE_BYTES} bytes, got {size}")
    return value


def _metadata(fields: Fields) -> dict[str, str]:
    metadata = fields.texts("metadata")
    if len(metadata) > MAX_METADATA:
        raise ApiError(400, f"field 'metadata' has {len(metadata)} entries; it may have {MAX_METADATA}")
    return metadata


def _shown(row: SecretRow) -> dict[str, Any]:
    return {
        "secretID": row.id,
        "name": row.name,
        "currentVersion": row.version,
        "metadata": json.loads(row.metadata),
        "createdAt": timestamp(datetime.fromtimestamp(row.created_at, UTC)),
        "updatedAt": timestamp(datetime.fromtimestamp(row.updated_at, UTC)),
    }
