"""The routes that create, list, replace and delete secrets (e2b 2.43.0 and later). No answer has a secret's value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...protocol.fields import Fields
from ..accounts.keys import Keys
from ..accounts.secrets import SecretNameTakenError, SecretStore, TooManySecretsError
from ..state.tables import SecretRow
from .auth import owner_of, still_valid
from .errors import ApiError
from .formats import Page, Timestamp, page_of, timestamp
from .reading import Spec
from .routes import Resource, Topic, operation

MAX_VALUE_BYTES = 65536
MAX_METADATA = 32
_NAME = re.compile(r"[a-z0-9_-]{1,128}")
_RESERVED = "sec_"


def _read_name(fields: Fields, name: str) -> str:
    text = fields.required_text(name).lower()
    if _NAME.fullmatch(text) is None or text.startswith(_RESERVED):
        raise ApiError(
            400,
            f"Invalid secret name: {text[:60]!r} is not 1 to 128 of a-z, 0-9, '_' and '-', or begins with 'sec_'",
        )
    return text


def _check_value(name: str, value: str) -> None:
    size = len(value.encode())
    if not 0 < size <= MAX_VALUE_BYTES:
        raise ApiError(400, f"field '{name}' must have 1 to {MAX_VALUE_BYTES} bytes, got {size}")


def _check_metadata(name: str, metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA:
        raise ApiError(400, f"field '{name}' has {len(metadata)} entries; it may have {MAX_METADATA}")


Value = Annotated[
    str, Spec(check=_check_value, minLength=1, description=f"1 to {MAX_VALUE_BYTES} bytes; no answer has it")
]
Metadata = Annotated[
    dict[str, str],
    Spec(check=_check_metadata, maxProperties=MAX_METADATA),
]


@dataclass(frozen=True, slots=True)
class _NewSecretRequest:
    name: Annotated[
        str,
        Spec(
            read=_read_name,
            pattern=f"^(?!{_RESERVED}){_NAME.pattern}$",
            description="1 to 128 of a-z, 0-9, _ and -; A-Z become a-z; does not begin with sec_",
        ),
    ]
    value: Value
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _SecretUpdateRequest:
    value: Value
    metadata: Annotated[Metadata | None, Spec(description="left out: as before")] = None


class _SecretReply(TypedDict):
    secretID: str
    name: str
    currentVersion: Annotated[int, Spec(minimum=1)]
    metadata: Mapping[str, str]
    createdAt: Timestamp
    updatedAt: Timestamp


class SecretRoutes(Resource):
    """The routes of secrets."""

    topic = Topic.SECRETS

    def __init__(self, secrets: SecretStore, keys: Keys) -> None:
        self._secrets = secrets
        self._keys = keys

    @operation("GET /secrets", "List secrets, oldest first, in pages", (400,), answers={200: list[_SecretReply]})
    async def list_all(self, request: Request, query: Page) -> Response:
        rows = self._secrets.all(owner_of(request))
        shown, headers = page_of(rows, query, lambda row: (row.created_at, row.id))
        return JSONResponse([_shown(row) for row in shown], headers=headers)

    @operation(
        "POST /secrets",
        "Create a secret",
        (400, 507),
        meanings={409: "The API key has a secret of that name"},
        status=201,
    )
    async def make(self, request: Request, body: _NewSecretRequest) -> _SecretReply:
        try:
            row = self._secrets.make(still_valid(request, self._keys).id, body.name, body.value, body.metadata)
        except SecretNameTakenError as error:
            raise ApiError(409, str(error)) from None
        except TooManySecretsError as error:
            raise ApiError(400, str(error), error_code="secret_limit_reached") from None
        return _shown(row)

    @operation("GET /secrets/{secret_id}", "Get a secret, by ID or name, without its value", (404,))
    async def get(self, request: Request) -> _SecretReply:
        return _shown(self._found(request))

    @operation("POST /secrets/{secret_id}", "Replace the value of a secret, by ID or name", (400, 404, 507))
    async def update(self, request: Request, body: _SecretUpdateRequest) -> _SecretReply:
        return _shown(self._secrets.update(self._found(request), body.value, body.metadata))

    @operation("DELETE /secrets/{secret_id}", "Delete a secret, by ID or name", (404, 507))
    async def remove(self, request: Request) -> None:
        self._secrets.remove(self._found(request))

    def _found(self, request: Request) -> SecretRow:
        row = self._secrets.find(owner_of(request), request.path_params["secret_id"])
        if row is None:
            raise ApiError(404, "Secret not found")
        return row


def _shown(row: SecretRow) -> _SecretReply:
    return {
        "secretID": row.id,
        "name": row.name,
        "currentVersion": row.version,
        "metadata": json.loads(row.metadata),
        "createdAt": timestamp(row.created_at),
        "updatedAt": timestamp(row.updated_at),
    }
