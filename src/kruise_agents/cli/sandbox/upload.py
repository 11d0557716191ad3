"""Copies of files and folders from this machine into a sandbox."""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Protocol

from .errors import SandboxCommandError
from .sdk import Sandbox, absolute

_MOST_LINES = 200
_MOST_CHARACTERS = 60_000
"""Of one command line, well below the limit of Linux for one argument (128 KiB)."""


class Counter(Protocol):
    """The part of the progress that a copy needs."""

    def expect(self, size: int) -> None:
        """Say how many bytes there are in all."""

    def begin(self, name: str) -> None:
        """Say which file comes now."""

    def advance(self, size: int) -> None:
        """Say how many bytes more were copied."""


class _Counted(io.FileIO):
    """A file that counts what is read from it."""

    def __init__(self, path: Path, counter: Counter) -> None:
        super().__init__(path, "rb")
        self._counter = counter

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size)
        self._counter.advance(len(content or b""))
        return content or b""


class Upload:
    """A copy into a sandbox.

    Args:
        user: the user in the sandbox to whom the files belong; None for the sandbox's own choice.
    """

    def __init__(self, sandbox: Sandbox, user: str | None, counter: Counter) -> None:
        self._sandbox = sandbox
        self._user = {"user": user} if user else {}
        self._counter = counter

    def copy(self, source: str, target: str) -> list[str]:
        """Copy a file or a folder, and return what was left out, a line each."""
        path = Path(source)
        root = absolute(self._sandbox, target, **self._user)
        exists = self._is_folder(root)
        if path.is_dir():
            contents_only = source == "." or source.endswith("/.")
            inside = exists and not contents_only
            return self._folder(path, posixpath.join(root, path.resolve().name) if inside else root)
        if not path.is_file():
            if not path.exists():
                raise SandboxCommandError(f"{source} does not exist")
            raise SandboxCommandError(f"{source} is neither file nor folder")
        if target.endswith("/") and not exists:
            raise SandboxCommandError(f"there is no folder {target} in the sandbox")
        self._counter.expect(path.stat().st_size)
        self._files({path: posixpath.join(root, path.name) if exists else root})
        return []

    def _is_folder(self, target: str) -> bool:
        from e2b import FileType, NotFoundException

        try:
            return bool(self._sandbox.files.get_info(target, **self._user).type == FileType.DIR)
        except NotFoundException:
            return False

    def _folder(self, source: Path, target: str) -> list[str]:
        files, folders, links, left_out = survey(source)
        place = {path: posixpath.join(target, path.relative_to(source)) for path in (*files, *folders, *links)}
        self._counter.expect(sum(path.stat().st_size for path in files))
        self._run([f"mkdir -p -- {quote(name)}" for name in (target, *(place[folder] for folder in folders))])
        self._files({path: place[path] for path in files})
        self._run([f"ln -sfT -- {quote(str(path.readlink()))} {quote(place[path])}" for path in links])
        return left_out

    def _files(self, places: Mapping[Path, str]) -> None:
        """Copy files. Those that their owner may execute become executable in the sandbox too."""
        for path, target in places.items():
            self._counter.begin(path.name)
            with _Counted(path, self._counter) as file:
                self._sandbox.files.write(target, file, **self._user)
        executable = [target for path, target in places.items() if path.stat().st_mode & stat.S_IXUSR]
        self._run([f"chmod a+x -- {quote(target)}" for target in executable])

    def _run(self, lines: list[str]) -> None:
        for batch in _batches(lines):
            self._sandbox.commands.run(" && ".join(batch), timeout=0, **self._user)


def survey(root: Path) -> tuple[list[Path], list[Path], list[Path], list[str]]:
    """Return the files, folders and links below a folder, and what is neither, as a line each. Follow no link."""
    files, folders, links, left_out = [], [], [], []
    waiting = [root]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            path = Path(entry.path)
            if not _is_utf8(entry.name) or (entry.is_symlink() and not _is_utf8(str(path.readlink()))):
                raise SandboxCommandError(
                    f"{str(path)!r} cannot be copied: its name, or the target of the link, is not UTF-8; rename it"
                )
            if entry.is_symlink():
                links.append(path)
            elif entry.is_dir():
                folders.append(path)
                waiting.append(path)
            elif entry.is_file():
                files.append(path)
            else:
                left_out.append(f"{path}: neither file nor folder")
    return files, folders, links, left_out


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _batches(lines: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in lines:
        if len(batch) == _MOST_LINES or sum(map(len, batch)) + len(line) > _MOST_CHARACTERS:
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch
