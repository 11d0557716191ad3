"""The routes of volumes, and the reading of the volume mounts in a create call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

from starlette.requests import Request

from ...protocol.fields import Fields
from ..accounts.keys import Keys
from ..sandboxes.sandbox import VolumeMount
from ..state.tables import VolumeRow
from ..volumes import NameTakenError, Volumes, VolumeUsedError
from .auth import owner_of, still_valid
from .errors import ApiError
from .reading import Spec
from .routes import Resource, Topic, operation

MAX_MOUNTS = 20
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_SYSTEM_FOLDERS = (
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
    "/home/user/.local",
)
"""Folders at which, and below which, no volume can be mounted."""
_NEEDED_FOLDERS = ("/", "/code", "/home", "/home/user", "/opt", "/root", "/srv", "/tmp", "/var")  # noqa: S108 - of sandboxes
"""Folders at which no volume can be mounted. Below them, only the system folders are excluded."""
_NEEDED = "is a place that the sandbox needs for itself"


def _check_name(name: str, text: str) -> None:
    if _NAME.fullmatch(text) is None:
        raise ApiError(400, f"Invalid volume name: {text[:60]!r} is not 1 to 128 of a-z, A-Z, 0-9, '_' and '-'")


@dataclass(frozen=True, slots=True)
class _NewVolumeRequest:
    name: Annotated[
        str,
        Spec(
            check=_check_name,
            description="1 to 128 of a-z, A-Z, 0-9, _ and -; the API key has no other volume of that name",
            pattern=f"^{_NAME.pattern}$",
        ),
    ]


@dataclass(frozen=True, slots=True)
class NewVolumeMountRequest:
    """A volume that a create call mounts, and its path in the sandbox."""

    name: Annotated[str, Spec(description="of a volume of the same API key")]
    path: Annotated[str, Spec(description="absolute, in the sandbox, and no folder that the sandbox needs for itself")]


class _ListedVolumeReply(TypedDict):
    volumeID: str
    name: str


class _VolumeReply(_ListedVolumeReply):
    token: Annotated[str, Spec(description="opens the contents of the volume")]


class VolumeRoutes(Resource):
    """The routes that list, create, show and delete volumes."""

    topic = Topic.VOLUMES

    def __init__(self, volumes: Volumes, keys: Keys) -> None:
        self._volumes = volumes
        self._keys = keys

    @operation("GET /volumes", "List volumes, oldest first")
    async def list_all(self, request: Request) -> list[_ListedVolumeReply]:
        rows = self._volumes.all(owner_of(request))
        return [_ListedVolumeReply(volumeID=row.id, name=row.name) for row in rows]

    @operation("POST /volumes", "Create an empty volume", (400, 500, 507), status=201)
    async def make(self, request: Request, body: _NewVolumeRequest) -> _VolumeReply:
        try:
            row = await self._volumes.make(body.name, still_valid(request, self._keys).id)
        except NameTakenError as error:
            raise ApiError(400, str(error)) from None
        return self._shown(row)

    @operation("GET /volumes/{volume_id}", "Get a volume", (404,))
    async def get(self, request: Request) -> _VolumeReply:
        return self._shown(self._found(request))

    @operation(
        "DELETE /volumes/{volume_id}",
        "Delete a volume and its contents",
        (404, 507),
        meanings={409: "The volume is mounted in a sandbox, running or paused"},
    )
    async def remove(self, request: Request) -> None:
        try:
            await self._volumes.remove(self._found(request))
        except VolumeUsedError as error:
            raise ApiError(409, str(error)) from None

    def _found(self, request: Request) -> VolumeRow:
        row = self._volumes.find(owner_of(request), volume_id=request.path_params["volume_id"])
        if row is None:
            raise ApiError(404, "Volume not found")
        return row

    def _shown(self, row: VolumeRow) -> _VolumeReply:
        # No domain: the SDK then looks for the contents where it found this manager.
        return {"volumeID": row.id, "name": row.name, "token": self._volumes.token(row)}


def read_volume_mounts(fields: Fields, name: str) -> list[NewVolumeMountRequest]:
    """Return the volumes in the body of a create call. A wrong entry raises ApiError 400, which names the field."""
    mounts: list[NewVolumeMountRequest] = []
    for number, entry in enumerate(fields.objects(name)):
        where = f"{name}[{number}]"
        if number == MAX_MOUNTS:
            raise ApiError(400, f"{name} has more than {MAX_MOUNTS} entries")
        mount = NewVolumeMountRequest(entry.text("name") or "", entry.text("path") or "")
        if not mount.name:
            raise ApiError(400, f"{where}.name cannot be empty")
        if problem := _problem(mount.path):
            raise ApiError(400, f"{where}.path is invalid: {mount.path[:80]!r} {problem}")
        for other in mounts:
            if other.path == mount.path:
                raise ApiError(400, f'{where}.path "{mount.path}" is duplicated')
            if _is_below(mount.path, other.path) or _is_below(other.path, mount.path):
                raise ApiError(400, f'{where}.path is invalid: "{mount.path}" and "{other.path}" lie in each other')
        mounts.append(mount)
    return mounts


def volume_mounts(
    requested: Sequence[NewVolumeMountRequest], volumes: Volumes, owner: str, reserves: Callable[[str], bool]
) -> tuple[VolumeMount, ...]:
    """Return the mounts of a new sandbox. ``reserves`` tells whether the sandbox needs a path for itself.

    A mount at such a path raises ApiError 400, and a volume that ``owner`` does not have ApiError 404.
    """
    mounts: list[VolumeMount] = []
    for number, mount in enumerate(requested):
        if reserves(mount.path):
            raise ApiError(400, f"volumeMounts[{number}].path is invalid: {mount.path[:80]!r} {_NEEDED}")
        row = volumes.find(owner, name=mount.name)
        if row is None:
            raise ApiError(404, f"volumeMounts[{number}]: volume '{mount.name[:80]}' not found")
        mounts.append(VolumeMount(row.id, row.name, mount.path))
    return tuple(mounts)


def _problem(path: str) -> str | None:
    parts = path.split("/")
    if not path.startswith("/"):
        return "is not absolute"
    if "\0" in path or "." in parts or ".." in parts or "" in parts[1:]:
        return "is not clean: no empty part, '.', '..', zero byte or '/' at its end"
    if len(path.encode("utf-8", "surrogatepass")) > 1024 or any(len(part.encode()) > 255 for part in parts):
        return "is too long"
    if path in _NEEDED_FOLDERS or any(_is_below(path, folder) for folder in _SYSTEM_FOLDERS):
        return _NEEDED
    return None


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")
