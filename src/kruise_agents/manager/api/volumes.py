"""Volumes over REST, and what a create call says about them."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..accounts.keys import Keys
from ..sandboxes.sandbox import VolumeMount
from ..state.tables import VolumeRow
from ..volumes import NameTakenError, Volumes, VolumeUsedError
from .auth import owner_of, still_valid
from .errors import ApiError
from .reading import Fields, read_fields

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_NOT_BELOW = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
)
_NOT_AT = ("/", "/code", "/home", "/home/user", "/opt", "/root", "/srv", "/tmp", "/var")  # noqa: S108 - of sandboxes
_NOT_IN_HOME = ("/home/user/.local",)
MAX_MOUNTS = 20


class VolumeRoutes:
    """The handlers, over the volumes of one manager."""

    def __init__(self, volumes: Volumes, keys: Keys) -> None:
        self._volumes = volumes
        self._keys = keys

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            Route("/volumes", self.list, methods=["GET"]),
            Route("/volumes", self.make, methods=["POST"]),
            Route("/volumes/{volume_id}", self.get, methods=["GET"]),
            Route("/volumes/{volume_id}", self.remove, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """The caller's volumes, oldest first."""
        rows = self._volumes.all(owner_of(request))
        return JSONResponse([{"volumeID": row.id, "name": row.name} for row in rows])

    async def make(self, request: Request) -> Response:
        """Make an empty volume: 201 with the token for its contents."""
        name = (await read_fields(request)).text("name")
        if _NAME.fullmatch(name) is None:
            raise ApiError(400, f"Invalid volume name: {name[:60]!r} is not 1 to 128 of a-z, A-Z, 0-9, '_' and '-'")
        try:
            row = await self._volumes.make(name, still_valid(request, self._keys).id)
        except NameTakenError as error:
            raise ApiError(400, str(error)) from None
        return JSONResponse(self._shown(row), status_code=201)

    async def get(self, request: Request) -> Response:
        """One volume, with the token for its contents."""
        return JSONResponse(self._shown(self._found(request)))

    async def remove(self, request: Request) -> Response:
        """Destroy a volume with all that is in it."""
        try:
            await self._volumes.remove(self._found(request))
        except VolumeUsedError as error:
            raise ApiError(409, str(error)) from None
        return Response(status_code=204)

    def _found(self, request: Request) -> VolumeRow:
        row = self._volumes.find(owner_of(request), volume_id=request.path_params["volume_id"])
        if row is None:
            raise ApiError(404, "Volume not found")
        return row

    def _shown(self, row: VolumeRow) -> dict[str, Any]:
        # No domain: the contents are where the client found the manager.
        return {"volumeID": row.id, "name": row.name, "token": self._volumes.token(row)}


def read_volume_mounts(fields: Fields, volumes: Volumes, owner: str) -> tuple[VolumeMount, ...]:
    """The volumes that a create call names, each with its place in the sandbox.

    Raises:
        ApiError: 400, naming what cannot be; 404 for a volume that the caller does not have.
    """
    mounts: list[VolumeMount] = []
    for number, entry in enumerate(fields.objects("volumeMounts")):
        field = f"volumeMounts[{number}]"
        if number == MAX_MOUNTS:
            raise ApiError(400, f"volumeMounts has more than {MAX_MOUNTS} entries")
        if "name" not in entry.names() or not (name := entry.text("name")):
            raise ApiError(400, f"{field}.name cannot be empty")
        path = entry.text("path") if "path" in entry.names() else ""
        if why := _why_not(path):
            raise ApiError(400, f"{field}.path is invalid: {path[:80]!r} {why}")
        for other in mounts:
            if other.path == path:
                raise ApiError(400, f'{field}.path "{path}" is duplicated')
            if f"{path}/".startswith(f"{other.path}/") or f"{other.path}/".startswith(f"{path}/"):
                raise ApiError(400, f'{field}.path is invalid: "{path}" and "{other.path}" lie in each other')
        row = volumes.find(owner, name=name)
        if row is None:
            raise ApiError(404, f"{field}: volume '{name[:80]}' not found")
        mounts.append(VolumeMount(row.id, row.name, path))
    return tuple(mounts)


def _why_not(path: str) -> str | None:
    parts = path.split("/")
    if not path.startswith("/"):
        return "is not absolute"
    if "\0" in path or "." in parts or ".." in parts or "" in parts[1:]:
        return "is not clean: no empty part, '.', '..', zero byte or '/' at its end"
    if len(path.encode("utf-8", "surrogatepass")) > 1024 or any(len(part.encode()) > 255 for part in parts):
        return "is too long"
    if path in _NOT_AT or any(f"{path}/".startswith(f"{one}/") for one in (*_NOT_BELOW, *_NOT_IN_HOME)):
        return "is a place that the sandbox needs for itself"
    return None
