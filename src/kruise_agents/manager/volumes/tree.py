"""The files of a volume. Their paths are opened with ``openat2``, relative to the volume's folder.

Sandboxes may replace folders by links at any time, and such links must not lead out of the volume.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...protocol.names import USER_ID
from ..runtime.files.identities import FileOwners
from ..runtime.files.openat2 import open_below

MAX_DEPTH = 64
MAX_ENTRIES = 50_000
_PERMISSIONS = 0o1777
"""The permissions that may be set. Setuid and setgid are left out: they have no effect in mounted volumes."""
_FOLDER = os.O_PATH | os.O_DIRECTORY


class OutsideError(ValueError):
    """A request that a volume refuses, for example because its path has ``..``. The message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link. ``uid`` and ``gid`` are the numbers that sandboxes see."""

    path: str  # from "/", the folder of the volume
    facts: os.stat_result
    uid: int
    gid: int
    target: str | None = None  # of a link


@dataclass(frozen=True, slots=True)
class Attributes:
    """The owner and permissions to set. None: the value stays as it is or, for a new file, is the default."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


class VolumeTree:
    """The files below one folder. Methods raise OSError if a file that they need is missing or cannot be reached.

    Args:
        staging: A folder of the manager on the same file system, for files on their way into or out of the volume.
        owners: The translator of owner IDs between sandboxes and the machine.
    """

    def __init__(self, root: Path, staging: Path, owners: FileOwners) -> None:
        self.root = root
        self._staging = staging
        self._owners = owners

    def entry(self, path: str) -> Entry:
        with self._parent(path) as (folder, name):
            return self._entry(folder, name, "/" + "/".join(_parts(path)))

    def entries(self, path: str, depth: int) -> list[Entry]:
        """Return the entries of a folder, ``depth`` levels deep, sorted by path. Do not follow links in the folder."""
        if not 1 <= depth <= MAX_DEPTH:
            raise OutsideError(f"depth must be 1 to {MAX_DEPTH}, got {depth}")
        found: list[Entry] = []
        with self._opened("/".join(_parts(path)) or ".", os.O_RDONLY | os.O_DIRECTORY) as folder:
            self._collect(folder, "/" + "/".join(_parts(path)), depth, found)
        return sorted(found, key=lambda entry: entry.path)

    def make_folder(self, path: str, wanted: Attributes, *, parents: bool) -> Entry:
        """Make a folder. With ``parents``, make missing folders above it too, and accept a folder that exists."""
        if parents:
            self._make_parents(path)
        with self._parent(path) as (folder, name):
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
            except FileExistsError:
                if not parents or not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    raise
                return self.entry(path)
            self._set(folder, name, self._default(wanted, 0o755))
        return self.entry(path)

    def read(self, path: str) -> int:
        """Open a regular file for reading, and return its descriptor. Other files raise OutsideError or OSError."""
        descriptor = self._open("/".join(_parts(path)) or ".", os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OutsideError(f"path is not a regular file: {path}")
        return descriptor

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield a path for a new file. After the block the file is removed unless it has been moved away."""
        path = self._staging / secrets.token_hex(10)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def place(self, draft: Path, path: str, wanted: Attributes, *, parents: bool) -> Entry:
        """Move a draft to ``path``. Attributes that ``wanted`` lacks come from the replaced file or are defaults."""
        if parents:
            self._make_parents(path)
        with self._parent(path) as (folder, name):
            if name == ".":
                raise OutsideError(f"path is not a regular file: {path}")
            attributes = self._default(self._inherited(folder, name, wanted), 0o644)
            with open_folder(self._staging) as staging:
                self._set(staging, draft.name, attributes)
            os.rename(draft, name, dst_dir_fd=folder)
        return self.entry(path)

    def change(self, path: str, wanted: Attributes) -> Entry:
        """Set attributes of a file. Links keep their permissions; owners stay if sandboxes have only one user."""
        with self._parent(path) as (folder, name):
            self._set(folder, name, wanted)
        return self.entry(path)

    def remove(self, path: str, remove: Callable[[Path], bool]) -> None:
        """Move a file or folder out of the volume, then call ``remove`` to delete it, which may take long."""
        gone = self._staging / secrets.token_hex(10)
        with self._parent(path) as (folder, name):
            if name == ".":
                raise OutsideError("the volume's own folder cannot be removed; destroy the volume")
            os.rename(name, gone, src_dir_fd=folder)
        remove(gone)

    def _open(self, path: str, flags: int) -> int:
        with open_folder(self.root) as root:
            return open_below(root, path, flags)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        descriptor = self._open(path, flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the parent folder, and the name in that folder; for ``/``, the root and ``.``."""
        *above, name = _parts(path) or ["."]
        with self._opened("/".join(above) or ".", _FOLDER) as folder:
            yield folder, name

    def _make_parents(self, path: str) -> None:
        above = _parts(path)[:-1]
        for length in range(1, len(above) + 1):
            with self._parent("/".join(above[:length])) as (folder, name):
                try:
                    os.mkdir(name, 0o755, dir_fd=folder)
                except FileExistsError:
                    continue  # the next step fails if this is no folder
                self._set(folder, name, self._default(Attributes(), 0o755))

    def _collect(self, folder: int, path: str, depth: int, found: list[Entry]) -> None:
        with os.scandir(folder) as names:
            listed = [found.name for found in names]
        for name in listed:
            if len(found) >= MAX_ENTRIES:
                raise OutsideError(f"there is too much to list, more than {MAX_ENTRIES} entries; ask for less depth")
            try:
                entry = self._entry(folder, name, f"{path.rstrip('/')}/{name}")
            except FileNotFoundError:
                continue  # removed meanwhile
            found.append(entry)
            if depth > 1 and stat.S_ISDIR(entry.facts.st_mode):
                try:
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # removed or replaced meanwhile
                try:
                    self._collect(inner, entry.path, depth - 1, found)
                finally:
                    os.close(inner)

    def _entry(self, folder: int, name: str, path: str) -> Entry:
        facts = os.lstat(name, dir_fd=folder)
        target = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(facts.st_mode) else None
        return Entry(path, facts, *self._owners.inside(facts.st_uid, facts.st_gid), target)

    def _inherited(self, folder: int, name: str, wanted: Attributes) -> Attributes:
        try:
            facts = os.lstat(name, dir_fd=folder)
        except FileNotFoundError:
            return wanted
        if not stat.S_ISREG(facts.st_mode):
            return wanted
        uid, gid = self._owners.inside(facts.st_uid, facts.st_gid)
        return Attributes(
            uid if wanted.uid is None else wanted.uid,
            gid if wanted.gid is None else wanted.gid,
            stat.S_IMODE(facts.st_mode) if wanted.mode is None else wanted.mode,
        )

    def _default(self, wanted: Attributes, mode: int) -> Attributes:
        """Return ``wanted`` with each None replaced: the mode by ``mode``, owner and group by the default user."""
        uid = USER_ID if wanted.uid is None else wanted.uid
        gid = USER_ID if wanted.gid is None else wanted.gid
        return Attributes(uid, gid, mode if wanted.mode is None else wanted.mode)

    def _set(self, folder: int, name: str, wanted: Attributes) -> None:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            facts = os.fstat(descriptor)
            if self._owners.several and (wanted.uid, wanted.gid) != (None, None):
                uid, gid = self._owners.inside(facts.st_uid, facts.st_gid)
                outside = self._owners.outside(
                    uid if wanted.uid is None else wanted.uid, gid if wanted.gid is None else wanted.gid
                )
                os.chown(name, *outside, dir_fd=folder, follow_symlinks=False)
            if wanted.mode is not None and not stat.S_ISLNK(facts.st_mode):
                Path(f"/proc/self/fd/{descriptor}").chmod(wanted.mode & _PERMISSIONS)
        finally:
            os.close(descriptor)


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder, and yield its descriptor. ``path`` must be a path that sandboxes cannot change."""
    descriptor = os.open(path, _FOLDER | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _parts(path: str) -> list[str]:
    if "\0" in path:
        raise OutsideError("a path has no zero bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise OutsideError(f"a path in a volume has no '..': {path}")
    return parts
