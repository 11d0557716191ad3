"""The routes of the contents of volumes. A request carries the token of the volume instead of an API key."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...protocol.names import HIGHEST_ID, USER_ID
from ..request_log import CLIENT_LEFT
from ..runtime import Runtime
from ..state.database import space_for
from ..state.tables import VolumeRow
from ..volumes import Entry, OutsideError, VolumeFullError, Volumes, VolumeTree
from ..volumes.tree import MAX_DEPTH, MAX_ENTRIES, Attributes
from .errors import ApiError
from .formats import Timestamp, timestamp
from .reading import Spec
from .routes import Access, Handler, Resource, Topic, operation

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
_DIR, _FILE, _PATH = (f"/volumecontent/{{volume_id}}/{part}" for part in ("dir", "file", "path"))
_ALSO = "a parameter is wrong, or this manager cannot read the contents of volumes"
_REFUSALS = {
    400: f"The path leads out of the volume, {_ALSO}",
    403: "The permissions of a file or folder forbid it",
    404: "There is nothing at the path",
}
_CHANGE_REFUSALS = {**_REFUSALS, 507: ""}
_LIST_REFUSALS = {
    **_REFUSALS,
    400: f"The path leads out of the volume, the list would have more than {MAX_ENTRIES:,} entries, {_ALSO}",
    404: "There is no folder at the path",
}
_READ_REFUSALS = {**_REFUSALS, 400: f"The path leads out of the volume or to something other than a file, {_ALSO}"}
_CREATE_REFUSALS = {
    **_REFUSALS,
    404: "A part of the path above its last does not exist, or is not a folder",
    507: "The volume or the disk is full",
}
_FOLDER_REFUSALS = {**_CREATE_REFUSALS, 409: "Something of that name exists"}
_WRITE_REFUSALS = {**_CREATE_REFUSALS, 400: f"The path leads out of the volume or to a folder, {_ALSO}"}
_REMOVE_REFUSALS = {
    **_CHANGE_REFUSALS,
    400: f"The path leads out of the volume or is the volume's own folder, {_ALSO}",
}
_TOKEN = Access.VOLUME_TOKEN
_OWNER = "ID of the owner in sandboxes; without effect where sandboxes have one user; left out"
_GROUP = "ID of the group in sandboxes; without effect where sandboxes have one user; left out"
_MODE = "permissions, as a decimal number; the bits for set-user-ID and set-group-ID are dropped; left out"
_REPLACED = "that of the file that is replaced, if any, otherwise"


def _read_path(query: Mapping[str, str], name: str) -> str:
    path = query.get(name)
    if path is None:
        raise ApiError(400, "path is missing; it is a place in the volume, such as /folder/file")
    return path


def _check_owner(name: str, number: int) -> None:
    if not 0 <= number <= HIGHEST_ID:
        raise ApiError(400, f"{name} must be 0 to {HIGHEST_ID}, got {number}")


def _check_mode(name: str, mode: int) -> None:
    if not 0 <= mode <= 0o7777:
        raise ApiError(400, f"{name} must be 0 to {0o7777} (0o7777), got {mode}")


Owner = Annotated[int, Spec(check=_check_owner, minimum=0, maximum=HIGHEST_ID)]
VolumePath = Annotated[str, Spec(read=_read_path, description="a place in the volume, such as /folder/file")]
Mode = Annotated[int, Spec(check=_check_mode, minimum=0, maximum=0o7777)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _VolumeAttributesRequest:
    uid: Annotated[Owner | None, Spec(description=f"{_OWNER}: as before")] = None
    gid: Annotated[Owner | None, Spec(description=f"{_GROUP}: as before")] = None
    mode: Annotated[Mode | None, Spec(description=f"{_MODE}: as before")] = None

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.uid, self.gid, self.mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PathQuery:
    path: VolumePath


@dataclass(frozen=True, slots=True, kw_only=True)
class _FolderQuery(_PathQuery):
    depth: Annotated[int, Spec(minimum=1, maximum=MAX_DEPTH, description="levels of folders in the answer")] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewFileQuery(_VolumeAttributesRequest):
    uid: Annotated[Owner | None, Spec(description=f"{_OWNER}: {_REPLACED} {USER_ID}")] = None
    gid: Annotated[Owner | None, Spec(description=f"{_GROUP}: {_REPLACED} {USER_ID}")] = None
    mode: Annotated[Mode | None, Spec(description=f"{_MODE}: {_REPLACED} {0o644} (644 in octal)")] = None
    path: VolumePath
    force: Annotated[Literal["false", "true"], Spec(description="true: create missing folders above the path")] = (
        "false"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewFolderQuery(_VolumeAttributesRequest):
    uid: Annotated[Owner | None, Spec(description=f"{_OWNER}: {USER_ID}")] = None
    gid: Annotated[Owner | None, Spec(description=f"{_GROUP}: {USER_ID}")] = None
    mode: Annotated[Mode | None, Spec(description=f"{_MODE}: {0o755} (755 in octal)")] = None
    path: VolumePath
    force: Annotated[
        Literal["false", "true"],
        Spec(
            description="true: create missing folders above the path; a folder that exists is no error, and stays as "
            "it is"
        ),
    ] = "false"


class _VolumeEntryReply(TypedDict):
    name: str
    type: Annotated[str, Spec(enum=[*_KINDS.values(), "unknown"])]
    path: Annotated[str, Spec(description="from the folder of the volume, which is /")]
    size: Annotated[int, Spec(description="bytes")]
    mode: Annotated[int, Spec(description="permissions, as a decimal number")]
    uid: Annotated[int, Spec(description="ID of the owner in sandboxes")]
    gid: Annotated[int, Spec(description="ID of the group in sandboxes")]
    atime: Timestamp
    mtime: Timestamp
    ctime: Timestamp
    target: NotRequired[Annotated[str, Spec(description="of a link")]]


class VolumeContentRoutes(Resource):
    """The routes of the contents of volumes. Every handler gets the file tree of the volume as ``tree``."""

    topic = Topic.VOLUME_CONTENTS

    def __init__(self, volumes: Volumes, runtime: Runtime) -> None:
        self._volumes = volumes
        self._runtime = runtime

    async def call(self, handler: Handler, request: Request, reads: Mapping[str, Any]) -> Any:
        if self._runtime.file_owners is None:
            raise ApiError(
                400,
                "contents of volumes: not supported by a manager that is run by an ordinary user and gives "
                "sandboxes several users, because it cannot read their files; mount the volume in a sandbox",
            )
        tree = self._volumes.tree(request.state.volume)
        try:
            with space_for(tree.root):
                return await handler(self, request, tree=tree, **reads)
        except OutsideError as error:
            raise ApiError(400, str(error)) from None
        except VolumeFullError as error:
            raise ApiError(507, str(error)) from None
        except OSError as error:
            raise _refusal(error, request.query_params.get("path", "")) from error

    @operation(f"GET {_DIR}", "List a folder of a volume", meanings=_LIST_REFUSALS, access=_TOKEN)
    async def entries(self, request: Request, query: _FolderQuery, tree: VolumeTree) -> list[_VolumeEntryReply]:
        entries = await asyncio.to_thread(tree.entries, query.path, query.depth)
        return [_shown(entry) for entry in entries]

    @operation(f"POST {_DIR}", "Create a folder", meanings=_FOLDER_REFUSALS, status=201, access=_TOKEN)
    async def make_folder(self, request: Request, query: _NewFolderQuery, tree: VolumeTree) -> _VolumeEntryReply:
        async with self._volumes.room(request.state.volume, 0):
            entry = await asyncio.to_thread(
                tree.make_folder, query.path, query.attributes, parents=query.force == "true"
            )
        return _shown(entry)

    @operation(
        f"GET {_FILE}",
        "Read a file",
        meanings=_READ_REFUSALS,
        answers={200: {"application/octet-stream": bytes}},
        access=_TOKEN,
    )
    async def read(self, request: Request, query: _PathQuery, tree: VolumeTree) -> Response:
        descriptor = await asyncio.to_thread(tree.read, query.path)
        return StreamingResponse(_pieces(descriptor), media_type="application/octet-stream")

    @operation(
        f"PUT {_FILE}",
        "Write a file",
        meanings=_WRITE_REFUSALS,
        answers={201: _VolumeEntryReply},
        access=_TOKEN,
        note="The body is the contents. The file appears when all of the body has arrived.",
    )
    async def write(self, request: Request, query: _NewFileQuery, tree: VolumeTree) -> Response:
        volume: VolumeRow = request.state.volume
        with tree.draft() as draft, self._volumes.upload(volume) as take:
            try:
                size = await _save(request, draft, take)
            except ClientDisconnect:
                return Response(status_code=CLIENT_LEFT)  # for the log; the client gets no answer
            async with self._volumes.room(volume, size):
                entry = await asyncio.to_thread(
                    tree.place, draft, query.path, query.attributes, parents=query.force == "true"
                )
        return JSONResponse(_shown(entry), status_code=201)

    @operation(f"GET {_PATH}", "Get a file, folder or link", meanings=_REFUSALS, access=_TOKEN)
    async def get(self, request: Request, query: _PathQuery, tree: VolumeTree) -> _VolumeEntryReply:
        return _shown(await asyncio.to_thread(tree.entry, query.path))

    @operation(f"PATCH {_PATH}", "Change owner, group and permissions", meanings=_CHANGE_REFUSALS, access=_TOKEN)
    async def change(
        self, request: Request, query: _PathQuery, body: _VolumeAttributesRequest, tree: VolumeTree
    ) -> _VolumeEntryReply:
        return _shown(await asyncio.to_thread(tree.change, query.path, body.attributes))

    @operation(
        f"DELETE {_PATH}",
        "Delete a file or link, or a folder with its contents",
        meanings=_REMOVE_REFUSALS,
        access=_TOKEN,
    )
    async def remove(self, request: Request, query: _PathQuery, tree: VolumeTree) -> None:
        await asyncio.to_thread(tree.remove, query.path, self._runtime.remove)


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


def _refusal(error: OSError, path: str) -> Exception:
    shown = path[:200]
    if error.errno in _MISSING:
        return ApiError(404, f"Path {shown} not found")
    if error.errno in _REFUSED:
        status, text = _REFUSED[error.errno]
        return ApiError(status, f"{shown}: {text}")
    return error


def _shown(entry: Entry) -> _VolumeEntryReply:
    facts = entry.facts
    reply: _VolumeEntryReply = {
        "name": entry.path.rpartition("/")[2],
        "type": _KINDS.get(stat.S_IFMT(facts.st_mode), "unknown"),
        "path": entry.path,
        "size": facts.st_size,
        "mode": stat.S_IMODE(facts.st_mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "atime": timestamp(facts.st_atime),
        "mtime": timestamp(facts.st_mtime),
        "ctime": timestamp(facts.st_ctime),
    }
    if entry.target is not None:
        reply["target"] = entry.target
    return reply
