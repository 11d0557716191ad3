"""Copies of files and folders out of a sandbox, onto this machine.

A sandbox is a stranger: it chooses names, kinds and contents of what it lists. So every folder on this machine is
opened by its one name below the folder before, and no symbolic link there is followed; a name that is more than one
name is refused; and a file is made new, or, with ``force``, put in place of another file by a rename.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SandboxCommandError
from .output import plain
from .sdk import Sandbox, absolute
from .upload import Counter

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777

Parts = tuple[str, ...]
"""The names that lead from the root of a copy to something in it."""


def checked_name(name: str) -> str:
    """Return the name of something in a folder of a sandbox, if it is one name."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise SandboxCommandError(f"the sandbox names a file {plain(repr(name))}, which is no name of a file")
    return name


@dataclass
class _Tree:
    """The folders, files and links below a folder of a sandbox, in the order in which they are made here."""

    folders: list[Parts] = field(default_factory=list)
    files: list[tuple[Parts, Any]] = field(default_factory=list)
    links: list[tuple[Parts, str]] = field(default_factory=list)


class Target:
    """A folder on this machine, below which files are made and nothing else is changed."""

    def __init__(self, root: int, shown: Path, *, force: bool) -> None:
        self._root = root
        self._shown = shown
        self._force = force
        self._made: set[tuple[int, int]] = set()
        """Device and inode of what this copy made, because a file system may take two names for one."""

    @contextlib.contextmanager
    def folder(self, parts: Parts) -> Iterator[int]:
        """Yield the descriptor of a folder below the root."""
        descriptor = os.dup(self._root)
        try:
            for name in parts:
                below = self._open(checked_name(name), descriptor, parts)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def make_folder(self, parts: Parts) -> None:
        """Make a folder, or use the one that is there, unless this copy made it under another name."""
        with self.folder(parts[:-1]) as parent:
            name = checked_name(parts[-1])
            try:
                os.mkdir(name, dir_fd=parent)
            except FileExistsError:
                self._refuse_twin(parts, os.stat(name, dir_fd=parent, follow_symlinks=False))
            with self.folder(parts) as made:
                self._remember(os.fstat(made))

    def write(self, parts: Parts, mode: int, chunks: Iterable[bytes]) -> None:
        """Make a file with the permissions of ``mode``, as far as the umask permits them."""
        name = checked_name(parts[-1])
        with self.folder(parts[:-1]) as parent:
            there = _status(name, parent)
            if there is not None:
                self._refuse_twin(parts, there)
                if stat.S_ISDIR(there.st_mode):
                    raise SandboxCommandError(f"{self._name(parts)} is a folder, but a file in the sandbox")
                if not self._force:
                    raise SandboxCommandError(f"{self._name(parts)} exists; --force replaces files")
            written = name if there is None else f".kruise-agents-{secrets.token_hex(8)}"
            descriptor = os.open(written, _NEW_FILE, stat.S_IMODE(mode) & _PERMISSIONS | stat.S_IWUSR, dir_fd=parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    self._remember(os.fstat(file.fileno()))
                if written != name:
                    os.replace(written, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(written, dir_fd=parent)
                raise

    def link(self, parts: Parts, destination: str) -> bool:
        """Make a symbolic link, and return False if something else is there."""
        with self.folder(parts[:-1]) as parent:
            try:
                os.symlink(destination, checked_name(parts[-1]), dir_fd=parent)
            except FileExistsError:
                return False
        return True

    def _remember(self, status: os.stat_result) -> None:
        self._made.add((status.st_dev, status.st_ino))

    def _refuse_twin(self, parts: Parts, status: os.stat_result) -> None:
        if (status.st_dev, status.st_ino) in self._made:
            raise SandboxCommandError(f"{self._name(parts)} is here the same file as another one of the sandbox")

    def _open(self, name: str, folder: int, parts: Parts) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            raise SandboxCommandError(f"{self._name(parts)} cannot be used as a folder: {error.strerror}") from None

    def _name(self, parts: Parts) -> str:
        return plain(self._shown.joinpath(*parts))


class Download:
    """A copy out of a sandbox.

    Args:
        user: the user in the sandbox who reads the files; None for the sandbox's own choice.
        force: replace files that exist.
    """

    def __init__(self, sandbox: Sandbox, user: str | None, counter: Counter, *, force: bool) -> None:
        self._files = sandbox.files
        self._sandbox = sandbox
        self._user = {"user": user} if user else {}
        self._counter = counter
        self._force = force

    def copy(self, source: str, target: str) -> list[str]:
        """Copy a file or a folder, and return what was left out, a line each."""
        from e2b import FileType

        root = absolute(self._sandbox, source, **self._user)
        name = posixpath.basename(root)
        info = self._files.get_info(root, **self._user)
        if info.symlink_target:  # a link that the user names is followed
            root = posixpath.normpath(info.symlink_target)
            info = self._files.get_info(root, **self._user)
        path = Path(target or ".")
        if info.type == FileType.DIR:
            inside = path.is_dir() and not source.endswith("/.") and source != "."
            if inside:
                path = path / checked_name(name)
                if path.is_symlink():
                    raise SandboxCommandError(
                        f"{path} is a symbolic link, which a copy does not follow; to copy into its folder, write "
                        f"{source.rstrip('/')}/. and the link as the target"
                    )
            return self._folder(root, path)
        if info.type != FileType.FILE:
            raise SandboxCommandError(f"{source} is neither file nor folder")
        if path.is_dir():
            path = path / checked_name(name)
        elif target.endswith("/"):
            raise SandboxCommandError(f"there is no folder {target} here")
        self._counter.expect(info.size)
        with self._target(path.parent) as folder:
            self._write(folder, (path.name,), root, info)
        return []

    def _folder(self, root: str, path: Path) -> list[str]:
        tree = self._survey(root)
        self._counter.expect(sum(info.size for _, info in tree.files))
        if not path.is_dir():
            path.mkdir()
        left_out = []
        with self._target(path) as target:
            for parts in tree.folders:
                target.make_folder(parts)
            for parts, info in tree.files:
                self._write(target, parts, posixpath.join(root, *parts), info)
            # Links come last, so that no file is ever written through one of them.
            for parts, destination in tree.links:
                if not _is_below(destination, root):
                    left_out.append(f"{'/'.join(parts)}: a symbolic link out of the folder, to {destination}")
                    continue
                inside = posixpath.relpath(destination, posixpath.dirname(posixpath.join(root, *parts)))
                if not target.link(parts, inside):
                    left_out.append(f"{'/'.join(parts)}: a symbolic link, and something is here already")
        return left_out

    def _survey(self, root: str) -> _Tree:
        from e2b import FileType

        tree = _Tree()
        waiting: list[Parts] = [()]
        while waiting:
            folder = waiting.pop()
            for info in self._files.list(posixpath.join(root, *folder), **self._user):
                parts = (*folder, checked_name(info.name))
                if info.symlink_target:
                    tree.links.append((parts, posixpath.normpath(info.symlink_target)))
                elif info.type == FileType.DIR:
                    tree.folders.append(parts)
                    waiting.append(parts)
                elif info.type == FileType.FILE:
                    tree.files.append((parts, info))
        return tree

    @contextlib.contextmanager
    def _target(self, path: Path) -> Iterator[Target]:
        # The user's own folder may be reached through links; below it, nothing is.
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Target(root, path, force=self._force)
        finally:
            os.close(root)

    def _write(self, target: Target, parts: Parts, source: str, info: Any) -> None:
        self._counter.begin(parts[-1])
        target.write(parts, info.mode, self._chunks(source))

    def _chunks(self, source: str) -> Iterator[bytes]:
        for chunk in self._files.read(source, format="stream", **self._user):
            self._counter.advance(len(chunk))
            yield chunk


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip('/')}/")


def _status(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
