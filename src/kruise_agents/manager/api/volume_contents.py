"""The contents of volumes over REST, opened by a volume's own token."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..runtime import Runtime
from ..runtime.files.identities import HIGHEST_ID
from ..state.database import space_for
from ..state.tables import VolumeRow
from ..volumes import Entry, OutsideError, VolumeFullError, Volumes, VolumeTree
from ..volumes.tree import Attributes
from .errors import ApiError
from .reading import one_of, read_fields, whole_number
from .replies import timestamp

_PIECE = 256 * 1024
_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})
_REFUSED = {
    errno.EXDEV: (400, "a link on the way leads out of the volume"),
    errno.ELOOP: (400, "there are too many links on the way"),
    errno.EEXIST: (409, "something of that name is there"),
    errno.ENOTEMPTY: (409, "something of that name is there"),
    errno.EISDIR: (400, "it is a folder"),
    errno.ENAMETOOLONG: (400, "a name in it is too long"),
    errno.EACCES: (403, "permission denied"),
    errno.EPERM: (403, "permission denied"),
}
Handler = Callable[[Request, VolumeRow, VolumeTree], Awaitable[Response]]


class VolumeContentRoutes:
    """The handlers, over the volumes of one manager."""

    def __init__(self, volumes: Volumes, runtime: Runtime) -> None:
        self._volumes = volumes
        self._runtime = runtime

    def routes(self) -> list[Route]:
        """Their routes."""
        one = "/volumecontent/{volume_id}"
        return [
            Route(f"{one}/dir", self._opened(self.list), methods=["GET"]),
            Route(f"{one}/dir", self._opened(self.make_folder), methods=["POST"]),
            Route(f"{one}/file", self._opened(self.read), methods=["GET"]),
            Route(f"{one}/file", self._opened(self.write), methods=["PUT"]),
            Route(f"{one}/path", self._opened(self.get), methods=["GET"]),
            Route(f"{one}/path", self._opened(self.change), methods=["PATCH"]),
            Route(f"{one}/path", self._opened(self.remove), methods=["DELETE"]),
        ]

    async def list(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """What is in a folder."""
        depth = whole_number(request.query_params, "depth")
        entries = await asyncio.to_thread(tree.entries, _path(request), 1 if depth is None else depth)
        return JSONResponse([_shown(entry) for entry in entries])

    async def make_folder(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """Make a folder: 201."""
        path, attributes, parents = _path(request), self._attributes(request), _force(request)
        async with self._volumes.room(volume, 0):
            entry = await asyncio.to_thread(tree.make_folder, path, attributes, parents=parents)
        return JSONResponse(_shown(entry), status_code=201)

    async def read(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """The bytes of a file."""
        descriptor = await asyncio.to_thread(tree.read, _path(request))
        return StreamingResponse(_pieces(descriptor), media_type="application/octet-stream")

    async def write(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """Write a file, which is there when all of it has come: 201."""
        path, attributes, parents = _path(request), self._attributes(request), _force(request)
        with tree.draft() as draft, self._volumes.upload(volume) as take:
            try:
                size = await _save(request, draft, take)
            except ClientDisconnect:
                return Response(status_code=499)  # to nobody
            async with self._volumes.room(volume, size):
                entry = await asyncio.to_thread(tree.place, draft, path, attributes, parents=parents)
        return JSONResponse(_shown(entry), status_code=201)

    async def get(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """One file, folder or link."""
        return JSONResponse(_shown(await asyncio.to_thread(tree.entry, _path(request))))

    async def change(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """Set owner, group and permissions."""
        fields = await read_fields(request)
        wanted = self._checked(*(fields.integer(name) for name in ("uid", "gid", "mode")))
        return JSONResponse(_shown(await asyncio.to_thread(tree.change, _path(request), wanted)))

    async def remove(self, request: Request, volume: VolumeRow, tree: VolumeTree) -> Response:
        """Remove a file, or a folder with all that is in it."""
        await asyncio.to_thread(tree.remove, _path(request), self._runtime.remove)
        return Response(status_code=204)

    def _opened(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            volume = self._allowed(request)
            if self._runtime.file_owners is None:
                raise ApiError(
                    400,
                    "contents of volumes: not supported by a manager that is run by an ordinary user and gives "
                    "sandboxes several users, because it cannot read their files; mount the volume in a sandbox",
                )
            tree = self._volumes.tree(volume)
            try:
                with space_for(tree.root):
                    return await handler(request, volume, tree)
            except OutsideError as error:
                raise ApiError(400, str(error)) from None
            except VolumeFullError as error:
                raise ApiError(507, str(error)) from None
            except OSError as error:
                raise _refusal(error, request.query_params.get("path", "")) from error

        return handle

    def _allowed(self, request: Request) -> VolumeRow:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        volume = self._volumes.opened_by(request.path_params["volume_id"], token.strip())
        if scheme.lower() != "bearer" or volume is None:
            raise ApiError(401, "Invalid volume token: it comes with the volume, and is sent as Authorization: Bearer")
        return volume

    def _attributes(self, request: Request) -> Attributes:
        return self._checked(*(whole_number(request.query_params, name) for name in ("uid", "gid", "mode")))

    def _checked(self, uid: int | None, gid: int | None, mode: int | None) -> Attributes:
        for name, value in (("uid", uid), ("gid", gid)):
            if value is not None and not 0 <= value <= HIGHEST_ID:
                raise ApiError(400, f"{name} must be 0 to {HIGHEST_ID}, got {value}")
        if mode is not None and not 0 <= mode <= 0o7777:
            raise ApiError(400, f"mode must be 0 to {0o7777} (0o7777), got {mode}")
        return Attributes(uid, gid, mode)


async def _save(request: Request, draft: Path, take: Callable[[int], None]) -> int:
    size = 0
    with await asyncio.to_thread(open, draft, "xb", opener=_private) as file:
        async for piece in request.stream():
            take(len(piece))
            size += await asyncio.to_thread(file.write, piece)
    return size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(os.read, descriptor, _PIECE):
            yield piece
    finally:
        os.close(descriptor)


def _path(request: Request) -> str:
    path = request.query_params.get("path")
    if path is None:
        raise ApiError(400, "path is missing; it is a place in the volume, such as /folder/file")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ApiError(400, "path is not UTF-8") from None
    return path


def _force(request: Request) -> bool:
    return one_of(request.query_params, "force", ("false", "true")) == "true"


def _refusal(error: OSError, path: str) -> Exception:
    shown = path[:200]
    if error.errno in _MISSING:
        return ApiError(404, f"Path {shown} not found")
    if error.errno in _REFUSED:
        status, text = _REFUSED[error.errno]
        return ApiError(status, f"{shown}: {text}")
    return error


def _shown(entry: Entry) -> dict[str, Any]:
    facts = entry.facts
    return {
        "name": entry.path.rpartition("/")[2],
        "type": _KINDS.get(stat.S_IFMT(facts.st_mode), "unknown"),
        "path": entry.path,
        "size": facts.st_size,
        "mode": stat.S_IMODE(facts.st_mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "atime": timestamp(datetime.fromtimestamp(facts.st_atime, UTC)),
        "mtime": timestamp(datetime.fromtimestamp(facts.st_mtime, UTC)),
        "ctime": timestamp(datetime.fromtimestamp(facts.st_ctime, UTC)),
        **({"target": entry.target} if entry.target is not None else {}),
    }
